"""Nothing in this package opens a connection or listens: every kind of work is done with sockets blocked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

BLOCK = """
import os, socket, sys

def refuse(event, args):
    if not event.startswith("socket."):
        return
    local = event in ("socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg") and args[0].family == socket.AF_UNIX
    if not (local or event in ("socket.__new__", "socket.gethostname")):
        with open(os.environ["SOCKET_LOG"], "a") as log:
            log.write(f"{event} {args[1:]}\\n")
        raise PermissionError(f"no network in this test: {event} {args[1:]}")

sys.addaudithook(refuse)
with open(os.environ["SOCKET_LOG"] + ".hooked", "a") as log:
    log.write("here\\n")
"""  # sitecustomize.py: every Python process of the test runs it first

WORK = """
import socket, sys
from mru_rl.agents.cli.main import main

def run(*words):
    print(*words, flush=True)
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code in (0, None), (words, stop.code)

if __name__ == "__main__":
    for words in sys.argv[1].splitlines():
        run(*words.split())
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except PermissionError as error:
        print("blocked:", error)
"""


SMALL = "--steps 256 --num-envs 4 --hidden-size 8"
HERE = f"""
train ppo {SMALL} --segment 16 --run-dir ppo
resume ppo
eval ppo --episodes 4 --json
inspect ppo
report ppo
"""
WITH_PROCESSES = f"""
train r2d2 {SMALL} --learning-starts 4 --batch 4 --run-dir r2d2
train ppo --env CartPole-v1 --workers process {SMALL} --segment 16 --run-dir workers
bench custom --env mru_rl/TMaze-v0 --env-kwargs length=5 --cores bmru --seeds 1 --trials 1 --steps 256 --episodes 32 \\
  --workers 1 --settings num_envs=4 minibatches=2 --out bench
report bench
envs
cores
""".replace("\\\n", "")
IPV6_IS_THERE = "socket.bind (('::1', 0),)"
"""urllib3, if something imports it, asks this once; it does not listen"""


@pytest.mark.parametrize(
    ("work", "processes"), [(HERE, 1), pytest.param(WITH_PROCESSES, 4, marks=pytest.mark.slow)], ids=["here", "workers"]
)
def test_training_evaluation_benchmarks_and_reports_need_no_network(work, processes, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    (tmp_path / "work.py").write_text(WORK)
    log = tmp_path / "sockets"
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "SOCKET_LOG": str(log), "OMP_NUM_THREADS": "1"}
    apart = ["unshare", "--map-root-user", "--net"]  # if it is allowed, the system itself then has no network
    may = shutil.which("unshare") and not subprocess.run([*apart, "true"], capture_output=True, check=False).returncode
    command = [*(apart if may else []), sys.executable, "work.py", work.strip()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "blocked: no network in this test" in done.stdout, "the block works"
    *before, last = log.read_text().splitlines()
    assert last.startswith("socket.getaddrinfo (9"), "the try that shows the block"
    assert set(before) <= {IPV6_IS_THERE}
    assert len((tmp_path / "sockets.hooked").read_text().splitlines()) >= processes, "its workers were blocked too"


def requirements(*extras: str) -> list[Requirement]:
    tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != "mru_rl"]


def pins() -> dict[str, str]:
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pairs = (re.fullmatch(r"([\w.-]+)==([\w.+]+)", line) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs if pair}


def test_every_dependency_is_bounded_on_both_sides_and_pinned_inside_its_bounds():
    pinned = pins()
    for requirement in requirements("test", "bench", "compare", "export"):
        operators = {spec.operator for spec in requirement.specifier}
        assert operators == {"=="} or (">=" in operators and "<" in operators), f"{requirement} has no bounds"
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_what_the_dependencies_need_in_turn_is_pinned_too():
    pinned, seen = pins(), set()
    left = [(requirement.name, requirement.extras) for requirement in requirements("test", "export")]
    while left:
        name, extras = left.pop()
        name = canonicalize_name(name)
        if name in seen:
            continue
        seen.add(name)
        assert name in pinned, f"{name} is needed and not in constraints.txt"
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                left.append((requirement.name, requirement.extras))
    assert len(seen) > 20
