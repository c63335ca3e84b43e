from __future__ import annotations

import importlib.util
import itertools
import re
import subprocess
import sys
import textwrap
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

import mru_rl

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("rooms", ROOT / "tests" / "rooms.py")
assert _spec is not None
assert _spec.loader is not None
rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rooms)


def test_every_public_name_can_be_had_and_a_wrong_one_is_answered():
    assert all(getattr(mru_rl, name) is not None for name in mru_rl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lineer_scan'.*linear_scan"):
        mru_rl.lineer_scan  # noqa: B018


def test_import_mru_rl_alone_reaches_envs_and_agents_and_no_package_twice():
    code = """
        import pkgutil, sys, mru_rl
        assert "torch" not in sys.modules
        assert {"envs", "agents"} <= set(dir(mru_rl))
        assert mru_rl.envs.list_ids() and mru_rl.agents.train
        assert "mru_rl" not in [found.name for found in pkgutil.iter_modules(mru_rl.__path__)]
        try:
            import mru_rl.mru_rl
        except ModuleNotFoundError:
            print("fine")
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert ran.stdout == "fine\n"


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


ORDER = {
    "mru_rl": ["mru_rl", "mru_rl/scan", "mru_rl/cells", "mru_rl/cells/mru", "mru_rl/blocks", "mru_rl/torchrl"],
    "envs": ["envs", "envs/popgym envs/horizon envs/from_gymnasium envs/to_gymnasium", "envs/players"],
    "agents": [
        "agents/console",
        "agents/records",
        "agents/nets",
        "agents/acting",
        "agents",
        "agents/ppo agents/r2d2",
        "agents/inspection agents/report",
        "agents/bench",
        "agents/cli",
    ],
}
"""Folders of a tree from the lowest up: each may import those before it; those in one string not each other."""
LEVEL = {folder: level for tree in ORDER.values() for level, some in enumerate(tree) for folder in some.split()}
DOORS = {"envs/registry.py"}
"""Files at a root that stand above the folders of their tree: from an id or an object to what makes it."""
MOST_FILES = 16


@pytest.fixture(scope="module")
def files() -> rooms.Arrows:
    """The files of this checkout and what each imports."""
    return rooms.imports()


def may_import(folder: str, target: str) -> bool:
    """Return True if the order lets files of `folder` import files of `target`: agents all of the other trees, envs only
    the front of mru_rl."""
    tree, other = folder.split("/")[0], target.split("/")[0]
    if tree == other:
        return folder == target or LEVEL[target] < LEVEL[folder]
    return tree == "agents" or target == "mru_rl"


@pytest.mark.parametrize("group", [None, rooms.room], ids=["files", "rooms"])
def test_imports_form_no_circle(files, group):
    found = rooms.circles(rooms.grouped(files, group) if group else files)
    assert not found, "\n".join(" -> ".join(circle) for circle in found)


def test_imports_go_down_the_order(files):
    assert {rooms.folder(file) for file in files} == LEVEL.keys()
    against = [
        f"{file} imports {target}"
        for file, targets in files.items()
        for target in sorted(targets)
        if file not in DOORS and not may_import(rooms.folder(file), rooms.folder(target))
    ]
    assert not against, "\n".join(against)


def test_no_folder_is_crowded(files):
    count = Counter(rooms.folder(file) for file in files if not file.endswith("__init__.py"))
    crowded = {folder for folder, number in count.items() if number > MOST_FILES}
    assert crowded <= {"envs/popgym", "mru_rl/cells"}, "only where each file is a task or a cell"


def test_imports_are_those_that_run_led_to_where_a_name_is_defined(tmp_path):
    for name, text in {
        "mru_rl/__init__.py": "_HOME = {'linear_scan': 'mru_rl.scan.fast'}\n__version__ = '1'\n",
        "mru_rl/scan/__init__.py": "",
        "mru_rl/scan/fast.py": "import torch",
        "envs/__init__.py": "_HOME = {'make': 'registry', 'Base': 'base'}",
        "envs/registry.py": "def make():\n    from mru_rl.envs.base import Base",
        "envs/base.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mru_rl.envs import registry",
        "envs/front.py": "import mru_rl\nimport mru_rl.envs\nprint(mru_rl.__version__, mru_rl.envs.Base)",
        "agents/__init__.py": "",
        "agents/a.py": "from mru_rl import linear_scan, envs\nenvs.make()\nimport mru_rl.agents.b as other",
        "agents/b.py": "import mru_rl.envs",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {file: targets for file, targets in rooms.imports(tmp_path).items() if targets}
    assert found == {
        "envs/registry.py": {"envs/base.py"},
        "envs/front.py": {"mru_rl/__init__.py", "envs/base.py"},
        "agents/a.py": {"mru_rl/scan/fast.py", "envs/registry.py", "agents/b.py"},
        "agents/b.py": {"envs/__init__.py"},
    }


def test_circles_levels_and_direct_arrows_are_those_counted_by_hand():
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e2"}, "e2": {"e3"}, "e3": {"e"}}
    assert rooms.circles(arrows) == [["b", "c", "b"], ["e", "e2", "e3", "e"]]
    assert rooms.levels(arrows) == {"d": 0, "b": 1, "c": 1, "a": 2, "e": 0, "e2": 0, "e3": 0}
    assert rooms.direct(arrows)["a"] == {"b", "c"}, "d lies below c"
    grouped = rooms.grouped({"x/a/1.py": {"x/a/2.py", "x/b.py"}, "x/a/2.py": set(), "x/b.py": set()}, rooms.room)
    assert grouped == {"x/a": {"x/b.py"}, "x/b.py": set()}


def test_no_two_labels_of_the_picture_overlap(files):
    figure = rooms.picture(files)
    texts = figure.axes[0].texts
    figure.draw_without_rendering()
    places = [text.get_window_extent() for text in texts]
    assert len(texts) == len({rooms.room(file) for file in files}) + 3 + 1, "a label a room, a tree, and the caption"
    assert not [pair for pair in itertools.combinations(places, 2) if pair[0].overlaps(pair[1])]
    assert all(figure.bbox.contains(*corner) for place in places for corner in (place.min, place.max))


def _readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", _readme_blocks("python"))
def test_readme_code_runs(code, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an example trains
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
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if name.endswith((".py", ".md", ".toml", ".json", ".txt")) and (ROOT / name).is_file():
            text = (ROOT / name).read_text()
            assert not re.search(r"(?<![\w.])/(work|root|home|farm)/\w", text), name
