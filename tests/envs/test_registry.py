"""From ids to envs, and what is said when there is no way."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest
import torch

from mru_rl import envs
from mru_rl.envs import describe, list_ids, list_upstream_ids, make


def test_ids_of_the_batched_envs_are_listed():
    levels = ("Easy", "Medium", "Hard")
    repeat = [f"popgym-Repeat{which}{level}-v0" for which in ("First", "Previous") for level in levels]
    assert {*repeat, "mru_rl/TMaze-v0"} <= set(list_ids())
    assert set(repeat) < set(list_upstream_ids())
    assert len(list_upstream_ids()) >= 42


def test_every_public_name_resolves():
    assert all(getattr(envs, name) is not None for name in envs.__all__)
    assert set(envs.__all__) <= set(dir(envs))
    with pytest.raises(AttributeError, match="no attribute 'mak'; it has AgentInput"):
        envs.mak  # noqa: B018


def test_listing_ids_imports_neither_torch_nor_popgym():
    heavy = "{'torch', 'popgym'}"
    code = f"import sys, mru_rl.envs; mru_rl.envs.list_ids(); sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_description_has_what_the_env_table_shows():
    line = describe("popgym-RepeatPreviousEasy-v0")
    assert (line.horizon, line.credit_horizon, line.obs_size, line.backend) == (51, 0, 4, "batched")
    assert line.summary == "Name the suit of the card shown k - 1 steps before the one on show."
    assert (line.obs, line.action) == ("Discrete(4)", "Discrete(4)")
    assert describe("mru_rl/TMaze-v0", length=9).horizon == 10
    upstream = describe("CartPole-v1")
    assert (upstream.horizon, upstream.obs_size, upstream.backend) == (500, 4, "gymnasium")


def test_backend_chooses_between_port_and_original():
    assert make("popgym-RepeatFirstEasy-v0", 1).saves_state
    assert make("popgym-RepeatFirstEasy-v0", 1, backend="batched").saves_state
    assert not make("popgym-RepeatFirstEasy-v0", 1, backend="upstream").saves_state
    assert not make("CartPole-v1", 1).saves_state


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("popgym-RepeatFrstEasy-v0", {}, "no env has the id .*FrstEasy-v0'; did you mean 'popgym-RepeatFirstEasy-v0'"),
        ("mru_rl/tmaze-v0", {}, "did you mean 'mru_rl/TMaze-v0'"),
        ("popgym-AutoencodeEsy-v0", {}, "did you mean 'popgym-AutoencodeEasy-v0'"),
        ("popgym-RepeatFirst", {}, "did you mean 'popgym-RepeatFirstEasy-v0'. It exists as Easy, Medium and Hard$"),
        ("RepeatPrevious-v0", {}, "did you mean 'popgym-RepeatPreviousEasy-v0'. It exists as Easy, Medium and Hard$"),
        (
            "popgym-VelocityOnlyCartpole",
            {},
            "'popgym-VelocityOnlyCartpoleEasy-v0'. It exists as Easy, Medium and Hard$",
        ),
        ("popgym-RepeatFirstHard", {}, "did you mean 'popgym-RepeatFirstHard-v0'.$"),
        ("TMaze", {}, "did you mean 'mru_rl/TMaze-v0'.$"),
        (
            "me/Pong-v5",
            {},
            "import the package that registers it first: PACKAGE:ID does, as in --env PACKAGE:ID, and --import",
        ),
        ("cartpole", {}, "did you mean 'CartPole-v[01]'"),
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxx", {}, "see `mru-rl envs`, or import the package that registers it first"),
        ("no_such_module:Env-v0", {}, "no module 'no_such_module' to register 'Env-v0'"),
        ("", {}, "no env has the id ''"),
        ("CartPole-v1", {"backend": "batched"}, "has no batched port; use backend='auto', or one of: popgym-"),
        ("mru_rl/TMaze-v0", {"backend": "upstream"}, "mru_rl/TMaze-v0 has no upstream"),
        ("mru_rl/TMaze-v0", {"backend": "fast"}, "backend must be one of auto, batched, upstream, got 'fast'"),
        (
            "mru_rl/TMaze-v0",
            {"lenght": 5},
            "TMaze-v0 has no option 'lenght'; it has length, noise, rewards, pixels, flatten",
        ),
        ("popgym-RepeatFirstEasy-v0", {"num_decks": 2}, "has no option 'num_decks'; it has flatten, previous_action"),
        (
            "CartPole-v1",
            {"gravity": 2},
            "has no option 'gravity'; it has .*sutton_barto_reward, worker_restarts, worker_seconds, workers, and .*max_ep",
        ),
        ("popgym-BattleshipEasy-v0", {"board_size": 3, "backend": "upstream"}, "no option 'board_size'; it has work"),
        ("CartPole-v1", {"workers": "threads"}, r"workers must be one of \['process', 'sync'\], got 'threads'"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_next_move(id, options, message):
    with pytest.raises(ValueError, match=message):
        make(id, 2, **options)


def test_a_module_named_before_the_id_is_imported_first():
    assert make("popgym:popgym-BattleshipEasy-v0", 1).id == "popgym-BattleshipEasy-v0"
    assert make("mru_rl.envs:mru_rl/TMaze-v0", 1).saves_state


@pytest.mark.parametrize(
    ("entry_point", "words"),
    [
        ("no_box2d:Lander", r"needs another package: Box2D is not installed, run `pip install gymnasium\[box2d\]`$"),
        ("no_jax:Cart", "needs another package: No module named 'jax'; install the package that holds it$"),
        ("not_here:Cart", "needs another package: No module named 'not_here'; install"),
        ("late:Cart", r"needs another package: OpenCV is missing, run `pip install 'gymnasium\[other\]'`$"),
    ],
)
@pytest.mark.parametrize("kind", ["entry_point", "vector_entry_point"])
def test_a_package_that_is_missing_is_one_line_with_the_command_that_is_named(
    tmp_path, monkeypatch, entry_point, words, kind
):
    needs = "from gymnasium.error import DependencyNotInstalled\n"
    box2d = "raise DependencyNotInstalled('Box2D is not installed,\\nrun `pip install gymnasium[box2d]`')\n"
    late = "def Cart(**_):\n    raise DependencyNotInstalled(\"OpenCV is missing, run `pip install 'gymnasium[other]'`\")\n"
    for name, text in {"no_box2d": needs + box2d, "no_jax": "import jax\n", "late": needs + late}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("mru_rl_test/Needy-v0", **{kind: entry_point})
    with pytest.raises(ValueError, match="^mru_rl_test/Needy-v0 " + words):
        make("mru_rl_test/Needy-v0", 1)


def test_options_of_a_gymnasium_env_reach_its_constructor_and_make():
    env = make("CartPole-v1", 1, sutton_barto_reward=True, max_episode_steps=7)
    assert env.horizon == 7
    env.reset()
    assert env.step(torch.tensor([0])).reward.item() == 0.0  # 1.0 without the option
