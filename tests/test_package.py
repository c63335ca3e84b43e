from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

import mru_rl

ROOT = Path(__file__).resolve().parent.parent


def test_every_public_name_can_be_had_and_a_wrong_one_is_answered():
    assert all(getattr(mru_rl, name) is not None for name in mru_rl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lineer_scan'.*linear_scan"):
        mru_rl.lineer_scan  # noqa: B018


def test_the_version_is_the_same_everywhere():
    assert mru_rl.__version__ == metadata.version("mru_rl")
    assert f"## {mru_rl.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_on_disk_is_packaged():
    listed = set(re.findall(r'^    "(mru_rl[\w.]*)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    found = set()
    for room, name in (("mru_rl", "mru_rl"), ("envs", "mru_rl.envs"), ("agents", "mru_rl.agents")):
        for init in (ROOT / room).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / room).parts]))
    assert listed == found


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("mru_rl/scan", ["cells", "blocks", "torchrl", "envs", "agents"]),
        ("mru_rl/cells", ["blocks", "torchrl", "envs", "agents"]),
        ("mru_rl/blocks", ["torchrl", "envs", "agents"]),
        ("mru_rl/torchrl", ["envs", "agents"]),
        ("envs", ["scan", "cells", "blocks", "torchrl", "agents"]),
    ],
)
def test_imports_go_one_way(room, forbidden):
    for file in (ROOT / room).rglob("*.py"):
        for name in re.findall(r"^\s*(?:from|import) mru_rl\.(\w+)", file.read_text(), re.MULTILINE):
            assert name not in forbidden, f"{file.relative_to(ROOT)} imports mru_rl.{name}"


def _readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", _readme_blocks("python"))
def test_readme_code_runs(code, monkeypatch):
    from mru_rl.cells import registry

    monkeypatch.setattr(registry, "_CELLS", dict(registry._CELLS))  # an example registers a cell of its own
    exec(compile(code, "README.md", "exec"), {})


def test_the_readme_explains_every_metric():
    from mru_rl.agents.records.metrics import GLOSSARY

    text = (ROOT / "README.md").read_text()
    for name, meaning in GLOSSARY.items():
        assert f"| `{name}` | {meaning} |" in text


def test_the_readme_names_every_env_and_every_core():
    import mru_rl.envs

    text = (ROOT / "README.md").read_text()
    for name in mru_rl.list_cells():
        assert f"`{name}`" in text
    for env_id in mru_rl.envs.list_ids():
        assert re.sub(r"(Easy|Medium|Hard)-v0$", "", env_id).removesuffix("-v0") in text


def test_nothing_committed_names_an_absolute_path_of_a_machine():
    import subprocess

    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if name.endswith((".py", ".md", ".toml", ".json", ".txt")) and (ROOT / name).is_file():
            text = (ROOT / name).read_text()
            assert not re.search(r"(?<![\w.])/(work|root|home|farm)/\w", text), name
