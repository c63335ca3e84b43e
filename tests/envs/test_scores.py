"""Floors, references and normalized scores of the popgym tasks."""

from __future__ import annotations

import pytest

from mru_rl.envs import list_ids, make
from mru_rl.envs.players.popgym import PLAYERS
from mru_rl.envs.scores import mmer, normalized_score, scores

IDS = [env_id for env_id in list_ids() if env_id.startswith("popgym-")]
MEMORY = ("RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall")


@pytest.mark.parametrize("env_id", IDS)
def test_random_floor_lies_clearly_below_the_reference_and_the_score_runs_from_0_to_1(env_id):
    score = scores()[env_id]
    reference = score.players[score.reference]
    assert score.reference == next(iter(next(rules for name, rules in PLAYERS.items() if name in env_id)))
    assert score.random.low <= score.random.mean <= score.random.high < reference.low
    assert score.random.episodes == reference.episodes >= 512
    assert normalized_score(env_id, score.random.mean) == 0
    assert normalized_score(env_id, reference.mean) == 1
    assert normalized_score(env_id, score.random.mean - 0.1) < 0  # not clipped


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


def test_an_id_without_scores_is_named_with_those_that_have_some():
    with pytest.raises(ValueError, match=r"no scores for 'CartPole-v1'; there are some for popgym-RepeatFirstEasy-v0"):
        normalized_score("CartPole-v1", 1.0)


def test_a_score_takes_options_only_where_an_id_leaves_some_open():
    assert normalized_score("mru_rl/FlipFlop-v0", 0.5, length=10, hold=10) == (0.5 - 0.19) / (1 - 0.19)
    with pytest.raises(ValueError, match=r"popgym-RepeatFirstEasy-v0 has no options left to choose here, got length"):
        normalized_score("popgym-RepeatFirstEasy-v0", 0.5, length=10)
    with pytest.raises(ValueError, match="FlipFlop-v0 has no options left to choose here, got length; leave them out"):
        normalized_score(make("mru_rl/FlipFlop-v0", 1), 0.5, length=10)
    with pytest.raises(ValueError, match="no scores for 'CartPole-v1'; there are some for popgym-RepeatFirstEasy-v0"):
        normalized_score(make("CartPole-v1", 1), 0.5)


def test_mmer_is_the_best_epoch_and_not_the_last():
    assert mmer([-0.5, 0.8, 0.1]) == 0.8
