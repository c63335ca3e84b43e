"""Floors, references and normalised scores of the popgym tasks."""

from __future__ import annotations

import json

import pytest

from mru_rl.envs import list_ids, make
from mru_rl.envs.players.popgym import PLAYERS
from mru_rl.envs.scores import main, measure, mmer, normalised_score, scores

IDS = [env_id for env_id in list_ids() if env_id.startswith("popgym-")]
MEMORY = ("RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall")


@pytest.mark.parametrize("env_id", IDS)
def test_random_floor_lies_clearly_below_the_reference_and_the_score_runs_from_0_to_1(env_id):
    score = scores()[env_id]
    reference = score.players[score.reference]
    assert score.reference == next(iter(next(rules for name, rules in PLAYERS.items() if name in env_id)))
    assert score.random.low <= score.random.mean <= score.random.high < reference.low
    assert score.random.episodes == reference.episodes >= 512
    assert normalised_score(env_id, score.random.mean) == 0
    assert normalised_score(env_id, reference.mean) == 1
    assert normalised_score(env_id, score.random.mean - 0.1) < 0  # not clipped


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if any(name in env_id for name in MEMORY)])
def test_perfect_memory_earns_one(env_id):
    assert scores()[env_id].players["perfect memory"].mean == 1


@pytest.mark.parametrize(
    ("env_id", "player", "known"),
    [
        ("popgym-RepeatFirstHard-v0", "random", -1 / 2),
        ("popgym-AutoencodeEasy-v0", "random", -1 / 2),
        ("popgym-CountRecallEasy-v0", "random", 2 / 27 - 1),
        ("popgym-HigherLowerMedium-v0", "random", 0),
        ("popgym-MultiarmedBanditEasy-v0", "random", 0),
        ("popgym-MultiarmedBanditEasy-v0", "best arm (oracle)", 9 / 11),
        ("popgym-MultiarmedBanditMedium-v0", "best arm (oracle)", 19 / 21),
        ("popgym-MultiarmedBanditHard-v0", "best arm (oracle)", 29 / 31),
        ("popgym-BattleshipEasy-v0", "oracle", 1),
        ("popgym-MineSweeperHard-v0", "oracle", 1),
        ("popgym-ConcentrationMedium-v0", "oracle", 1),
    ],
)
def test_stored_means_agree_with_what_is_known_exactly(env_id, player, known):
    score = scores()[env_id]
    mean = score.random if player == "random" else score.players[player]
    assert abs(mean.mean - known) <= 2 * (mean.high - mean.low) / 2 + 1e-9


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if "Easy" in env_id and "Labyrinth" not in env_id])
def test_stored_means_are_found_again_with_another_seed(env_id):
    score, again = scores()[env_id], measure(env_id, seed=1, episodes=128)
    for name, want in {"random": score.random, **score.players}.items():
        mean, low, high, _ = again["random"] if name == "random" else again["players"][name]
        assert abs(mean - want.mean) <= 2 * (high - low) / 2 + (want.high - want.low) / 2


def test_an_id_without_scores_is_named_with_those_that_have_some():
    with pytest.raises(ValueError, match=r"no scores for 'CartPole-v1'; there are some for popgym-RepeatFirstEasy-v0"):
        normalised_score("CartPole-v1", 1.0)


def test_a_score_takes_options_only_where_an_id_leaves_some_open():
    assert normalised_score("mru_rl/FlipFlop-v0", 0.5, length=10, hold=10) == (0.5 - 0.19) / (1 - 0.19)
    with pytest.raises(ValueError, match=r"popgym-RepeatFirstEasy-v0 has no options left to choose here, got length"):
        normalised_score("popgym-RepeatFirstEasy-v0", 0.5, length=10)
    with pytest.raises(ValueError, match="FlipFlop-v0 has no options left to choose here, got length; leave them out"):
        normalised_score(make("mru_rl/FlipFlop-v0", 1), 0.5, length=10)
    with pytest.raises(ValueError, match="no scores for 'CartPole-v1'; there are some for popgym-RepeatFirstEasy-v0"):
        normalised_score(make("CartPole-v1", 1), 0.5)


def test_mmer_is_the_best_epoch_and_not_the_last():
    assert mmer([-0.5, 0.8, 0.1]) == 0.8


def test_script_writes_what_scores_reads_and_keeps_the_ids_it_was_not_asked_for(tmp_path, monkeypatch):
    file = tmp_path / "scores.json"
    for env_id in ("popgym-CountRecallEasy-v0", "popgym-BattleshipEasy-v0"):
        monkeypatch.setattr(
            "sys.argv", ["scores", "--out", str(file), "--episodes", "4", "--seed", "7", "--ids", env_id]
        )
        main()
    data = json.loads(file.read_text())
    assert list(data["scores"]) == ["popgym-CountRecallEasy-v0", "popgym-BattleshipEasy-v0"]
    assert data["made_by"]["seed"] == 7
    assert data["made_by"]["command"].startswith("python -m mru_rl.envs.scores")
    assert data["scores"]["popgym-BattleshipEasy-v0"]["random"][3] == 4
