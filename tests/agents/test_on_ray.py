"""Where Ray comes from, and what is said where it does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mru_rl.agents.cli import main

WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # as if it were not installed
from mru_rl.agents.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("words", [["bench", "custom", "--env", "mru_rl/TMaze-v0", "--engine", "ray"]])
def test_without_ray_it_is_said_how_to_install_it(words, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 2
    assert run.stderr == "mru-rl: error: Ray is not installed; run `pip install 'mru_rl[ray]'`, or work without it\n"


def test_an_address_where_nothing_answers_is_named():
    script = "from mru_rl.agents.on_ray import ray_session\nwith ray_session(1):\n    pass\n"
    env = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)
    assert (
        "RAY_ADDRESS is '127.0.0.1:1', and no Ray cluster answers there ([Errno 111] Connection refused)" in run.stderr
    )


def test_more_processes_than_the_cluster_has_cpus_are_refused(ray_here, tmp_path, capsys):
    words = ["bench", "custom", "--env", "mru_rl/TMaze-v0", "--engine", "ray", "--workers", "3", "--seeds", "3"]
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert (
        said == "mru-rl: error: the Ray cluster has 2 CPUs, 3 processes need one each; ask for fewer or add machines\n"
    )
