"""The labyrinth ports need no mazelib; upstream's do, and that is said."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_MAZELIB = """
import sys
sys.modules["mazelib"] = None  # as if it were not installed
import torch
from mru_rl.envs import list_ids, list_upstream_ids, make

assert len(list_upstream_ids()) == 42
assert sum("Labyrinth" in env_id for env_id in list_ids()) == 6
env = make("popgym-LabyrinthEscapeEasy-v0", 2)
env.reset()
env.step(torch.zeros(2, dtype=torch.int64))
try:
    make("popgym-LabyrinthEscapeEasy-v0", 2, backend="upstream")
except ValueError as error:
    print(error)
"""


def test_without_mazelib_the_ports_run_and_upstream_says_what_to_install():
    run = subprocess.run([sys.executable, "-c", WITHOUT_MAZELIB], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "only where mazelib is installed; run `pip install mazelib`, or use backend='auto'" in run.stdout
