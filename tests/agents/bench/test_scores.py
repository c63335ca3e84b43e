"""The scores that come with the package can be measured again, and are written as they are read."""

from __future__ import annotations

import json

import pytest

from mru_rl.agents.bench.scores import IDS, measure
from mru_rl.agents.cli.main import main
from mru_rl.envs.scores import scores


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if "Easy" in env_id and "Labyrinth" not in env_id])
def test_stored_means_are_found_again_with_another_seed(env_id):
    score, again = scores()[env_id], measure(env_id, seed=1, episodes=128)
    for name, want in {"random": score.random, **score.players}.items():
        mean, low, high, _ = again["random"] if name == "random" else again["players"][name]
        assert abs(mean - want.mean) <= 2 * (high - low) / 2 + (want.high - want.low) / 2


def test_bench_scores_writes_what_scores_reads_and_keeps_the_ids_it_was_not_asked_for(tmp_path):
    file = tmp_path / "scores.json"
    for env_id in ("popgym-CountRecallEasy-v0", "popgym-BattleshipEasy-v0"):
        main(["bench", "scores", "--out", str(file), "--episodes", "4", "--seed", "7", "--ids", env_id])
    data = json.loads(file.read_text())
    assert list(data["scores"]) == ["popgym-CountRecallEasy-v0", "popgym-BattleshipEasy-v0"]
    assert data["made_by"]["seed"] == 7
    assert data["made_by"]["command"].startswith("mru-rl bench scores --out")
    assert data["scores"]["popgym-BattleshipEasy-v0"]["random"][3] == 4
