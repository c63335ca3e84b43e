"""`mru-rl bench envs`: what it writes, not how fast anything is."""

from __future__ import annotations

import json

import pytest

from mru_rl.agents.bench import env_speed
from mru_rl.agents.cli.main import main


def test_bench_envs_writes_speeds_ratios_and_what_made_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(env_speed, "ROUNDS", 1)
    id = "popgym-MineSweeperEasy-v0"
    env_speed.main(["--ids", id, "--seconds", "0.01", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "env_speed.json").read_text())
    speed = result["steps_per_second"][id]
    assert list(speed)[:4] == ["port, 64 envs", "port, 1024 envs", "port, 4096 envs", "upstream, bare"]
    assert all(value > 0 for value in speed.values())
    assert {"commit", "versions", "machine", "command", "threads"} <= set(result)
    page = (tmp_path / "env_speed.md").read_text()
    assert f"| {speed['port, 1024 envs'] / speed['upstream, bare']:.0f} |" in page
    assert "| 20: " in page  # the goal that goes with the ratio
    assert page.startswith(capsys.readouterr().out.split("\n", 1)[1][:200])


def test_an_id_without_a_port_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "envs", "--ids", "CartPole-v1"])
    assert "there is no port of CartPole-v1; --ids are popgym-" in capsys.readouterr().err
