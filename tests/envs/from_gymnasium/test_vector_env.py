"""gymnasium's vector envs as batched envs: the same transitions in every autoreset mode, each one of a single env."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics

from mru_rl.envs import VectorEnvAsBatched, as_gymnasium, describe, from_object, make
from mru_rl.envs.base import NonFiniteError, derive_seeds
from mru_rl.envs.from_gymnasium.rows import EnvError
from mru_rl.envs.native import layout

MODES = list(AutoresetMode)


class Walk(gymnasium.Env):
    """Shows a dict with numbers that start at 5, and ends after as many steps as its own random numbers say."""

    observation_space = spaces.Dict({"place": spaces.Discrete(20, start=5), "view": spaces.Box(-1, 1, (2, 2))})
    action_space = spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.time, self.place = int(self.np_random.integers(1, 6)), 0, 10
        return self._see(), {}

    def step(self, action):
        assert self.time < self.length, "stepped after its end"
        assert self.action_space.contains(action), action
        self.time += 1
        self.place += int(action)
        ended = self.time == self.length
        return self._see(), float(self.place), ended and self.length % 2 == 0, ended and self.length % 2 == 1, {}

    def _see(self):
        return {"place": np.int64(self.place), "view": self.np_random.random((2, 2), dtype=np.float32)}


def cart():
    return gymnasium.make("CartPole-v1", max_episode_steps=25)


def vector_env(mode, make_one=cart, rows=3):
    return SyncVectorEnv([make_one] * rows, autoreset_mode=mode)


def play(env, steps, random_action, seed=0):
    generator = torch.Generator().manual_seed(seed)
    actions = [random_action(env, generator) for _ in range(steps)]
    return [env.reset()], [env.step(action) for action in actions], actions


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make_one", [cart, Walk])
def test_every_transition_is_one_of_a_single_env_and_final_obs_is_the_true_one(mode, make_one, random_action):
    env = from_object(vector_env(mode, make_one), 3, seed=7)
    assert isinstance(env, VectorEnvAsBatched)
    singles = [make_one() for _ in range(3)]
    space, first = singles[0].observation_space, int(derive_seeds(7, 1)[0])
    start = getattr(singles[0].action_space, "start", 0)
    (obs,), steps, actions = play(env, 150, random_action)
    want = [layout(space, single.reset(seed=first + row)[0])[0] for row, single in enumerate(singles)]
    assert torch.equal(obs, torch.cat(want))
    ends = [0, 0]
    for step, action in zip(steps, actions, strict=True):
        for row, single in enumerate(singles):
            native, reward, terminated, truncated, _ = single.step(int(action[row]) + int(start))
            assert torch.equal(step.final_obs[row : row + 1], layout(space, native)[0])
            assert (step.reward[row], step.terminated[row], step.truncated[row]) == (reward, terminated, truncated)
            if terminated or truncated:
                ends[truncated] += 1
                native, _ = single.reset()
            assert torch.equal(step.obs[row : row + 1], layout(space, native)[0])
        assert (step.final_obs is step.obs) == (not (step.terminated | step.truncated).any())
    assert min(ends) > 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shared", [True, False])
def test_worker_processes_of_gymnasium_give_the_same_transitions(mode, shared, random_action):
    vector = AsyncVectorEnv([Walk] * 2, autoreset_mode=mode, shared_memory=shared, context="spawn")
    if mode is AutoresetMode.NEXT_STEP and not shared:
        with pytest.raises(
            ValueError, match=r"got AsyncVectorEnv with 2 rows; make it with autoreset_mode SAME_STEP or DISABLED"
        ):
            from_object(vector, 2)
        vector.close()
        return
    with from_object(vector, 2) as env:
        _, got, _ = play(env, 25, random_action)
    _, want, _ = play(from_object(vector_env(mode, Walk, 2), 2), 25, random_action)
    for one, other in zip(got, want, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_wrappers_of_vector_envs_see_the_same_episodes(random_action):
    wrapped = RecordEpisodeStatistics(vector_env(AutoresetMode.NEXT_STEP, Walk))
    _, got, _ = play(from_object(wrapped, 3), 20, random_action)
    _, want, _ = play(from_object(vector_env(AutoresetMode.DISABLED, Walk), 3), 20, random_action)
    for one, other in zip(got, want, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_our_own_vector_env_goes_there_and_back(random_action):
    inside = make("popgym-RepeatFirstEasy-v0", 2)
    inside.reseed(int(derive_seeds(3, 1)[0]))
    (first,), got, _ = play(
        from_object(as_gymnasium(make("popgym-RepeatFirstEasy-v0", 2)), 2, seed=3), 60, random_action
    )
    (want_first,), want, _ = play(inside, 60, random_action)
    assert torch.equal(first, want_first)
    for one, other in zip(got, want, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_vector_env_of_one_row_that_plans_its_reset_is_stepped_once_more(random_action):
    env = from_object(gymnasium.make_vec("CartPole-v1", 1, max_episode_steps=12), 1, seed=2)
    assert type(env.env.unwrapped).__name__ == "CartPoleVectorEnv"
    assert env.horizon == 12
    _, steps, _ = play(env, 100, random_action)
    lengths, length = [], 0
    for step in steps:
        length += 1
        assert step.reward.item() == 1, "the step that only resets pays 0"
        if step.terminated or step.truncated:
            lengths.append(length)
            length = 0
            assert step.obs.abs().max() <= 0.05
            assert step.final_obs.abs().max() > 0.05
        else:
            assert step.final_obs is step.obs
    assert len(lengths) >= 8
    assert max(lengths) == 12
    assert env.reset_rows(torch.tensor([True])).abs().max() <= 0.05


@pytest.mark.parametrize(
    "vector",
    [
        lambda: gymnasium.make_vec("CartPole-v1", 2),
        lambda: NormalizeObservation(vector_env(AutoresetMode.NEXT_STEP, rows=2)),
    ],
    ids=["own", "normalized"],
)
def test_a_planned_reset_that_cannot_be_forestalled_is_refused_before_anything_is_stepped(vector):
    with pytest.raises(
        ValueError, match="resets a finished row in the step after its last .* make it with autoreset_mode SAME"
    ):
        from_object(vector(), 2)


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_a_mask_restart_and_all_others_go_on(mode):
    env = from_object(vector_env(mode), 3)
    with pytest.raises(RuntimeError, match="resets single rows only after a full reset"):
        env.reset_rows(torch.tensor([True, False, False]))
    env.reset()
    before = env.step(torch.tensor([0, 1, 0])).obs
    fresh = env.reset_rows(torch.tensor([False, True, False]))
    assert fresh.shape == (1, 4)
    assert fresh.abs().max() <= 0.05
    assert env.reset_rows(torch.zeros(3, dtype=torch.bool)).shape == (0, 4)
    after = env.step(torch.tensor([0, 0, 0])).obs
    assert (after[[0, 2]] - before[[0, 2]]).abs().max() < 1
    assert (after[1] - fresh[0]).abs().max() < 0.5


def test_seeds_decide_everything():
    env = from_object(vector_env(AutoresetMode.SAME_STEP), 3, seed=5)
    first = env.reset()
    assert not torch.equal(env.reset(), first)
    env.reseed(5)
    assert torch.equal(env.reset(), first)
    env.reseed(6)
    assert not torch.equal(env.reset(), first)


def test_returned_tensors_alias_nothing(random_action):
    vectors = [SyncVectorEnv([cart] * 2, copy=False, autoreset_mode=AutoresetMode.DISABLED) for _ in range(2)]
    env, twin = (from_object(vector, 2) for vector in vectors)
    env.reset().fill_(9)
    twin.reset()
    for _ in range(40):
        action = random_action(env)
        got, want = env.step(action), twin.step(action.clone())
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        for tensor in {id(t): t for t in got}.values():
            tensor.fill_(1)


def test_spaces_are_told_as_they_are_on_both_sides():
    env = from_object(vector_env(AutoresetMode.SAME_STEP, Walk), 3)
    assert env.action_space == spaces.Discrete(3)
    assert env.native_action_space == Walk.action_space
    assert env.observation_space["place"] == spaces.Discrete(20)
    assert env.native_observation_space == Walk.observation_space
    assert (env.id, env.horizon, env.saves_state) == ("Walk", None, False)
    limited = from_object(vector_env(AutoresetMode.SAME_STEP), 3)
    assert (limited.id, limited.horizon, limited.success_return) == ("CartPole-v1", 25, 475.0)


class Broken(SyncVectorEnv):
    """A vector env that does not do what it says."""

    fault = ""

    def reset(self, **arguments):
        if self.fault == "forgets the mask" and arguments.get("options"):
            arguments["options"] = None
        obs, info = super().reset(**arguments)
        return (obs, info) if self.fault != "returns no pair" else obs

    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        if self.fault == "raises":
            raise KeyError("door")
        if self.fault == "loses rows":
            obs = obs[:1]
        if self.fault == "pays words":
            reward = np.array(["much", "much"])
        if self.fault == "pays infinity":
            reward = np.full(2, np.inf)
        if self.fault == "keeps the last obs":
            info = {}
        if self.fault == "returns four":
            return obs, reward, terminated, info
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("fault", "mode", "error", "words"),
    [
        (
            "forgets the mask",
            "DISABLED",
            EnvError,
            r"must leave all other rows as they are, got a change of row 1; mend",
        ),
        ("returns no pair", "DISABLED", EnvError, r"reset\(\) must return \(obs, info\)"),
        ("raises", "DISABLED", EnvError, r"step\(\) of CartPole-v1 raised KeyError: 'door'"),
        ("loses rows", "DISABLED", EnvError, "an obs must have 2 rows, got 1"),
        ("pays words", "DISABLED", EnvError, r"reward must be one number per row \[2\], got <U4 \[2\]"),
        (
            "pays infinity",
            "DISABLED",
            NonFiniteError,
            "CartPole-v1 returned reward values that are NaN or infinite in row 0",
        ),
        ("keeps the last obs", "SAME_STEP", EnvError, "info must hold 'final_obs' in a step that ends an episode"),
        ("returns four", "DISABLED", EnvError, "must return .*got a tuple of 4"),
    ],
)
def test_a_vector_env_that_breaks_its_contract_is_named(fault, mode, error, words):
    vector = Broken([cart, lambda: gymnasium.make("CartPole-v1")], autoreset_mode=AutoresetMode[mode])
    env = from_object(vector, 2)
    vector.fault = fault
    with pytest.raises(error, match=words):
        steps_both_ways(env)


def steps_both_ways(env) -> None:
    env.reset()
    for _ in range(60):  # row 0 falls earlier than row 1
        env.step(torch.tensor([0, int(env._seen[1, 2] > 0)]))


def test_only_vector_envs_are_taken_and_a_wrong_step_is_said():
    with pytest.raises(TypeError, match=r"VectorEnvAsBatched takes a gymnasium VectorEnv, got .*from_object"):
        VectorEnvAsBatched(cart())
    env = from_object(vector_env(AutoresetMode.SAME_STEP), 3)
    with pytest.raises(RuntimeError, match="CartPole-v1 steps only after a reset"):
        env.step(torch.tensor([0, 0, 0]))
    env.reset()
    with pytest.raises(ValueError, match="got 2 in row 1; number choices from 0"):
        env.step(torch.tensor([0, 2, 0]))
    with pytest.raises(RuntimeError, match="cannot save its state"):
        env.state_dict()
    unsupported = SyncVectorEnv([cart])
    unsupported.single_action_space = spaces.Text(2)
    with pytest.raises(ValueError, match=r"action space Text.* is not supported"):
        from_object(unsupported, 1)


@pytest.fixture
def vector_only(request):
    """The id of a vector env without a single one, in a mode."""
    env_id = "mru_rl_test/VectorOnly-v0"

    def sync(num_envs, **options):
        assert options == {"max_episode_steps": 7} or not options
        return vector_env(request.param, Walk, num_envs)

    entry = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv" if request.param == "own" else sync
    gymnasium.register(env_id, vector_entry_point=entry, max_episode_steps=7 if request.param == "own" else None)
    yield env_id
    del gymnasium.registry[env_id]


@pytest.mark.parametrize("vector_only", [*MODES, "own"], indirect=True)
def test_an_id_that_is_only_a_vector_env_is_made(vector_only, random_action):
    with make(vector_only, 3, seed=4) as env:
        assert (env.id, env.num_envs) == (vector_only, 3)
        _, steps, _ = play(env, 40, random_action)
        assert sum(int((step.terminated | step.truncated).sum()) for step in steps) > 10
        if env.horizon is not None:  # CartPole's own, which pays 0 in a step that only resets
            assert env.horizon == 7
            assert all((step.reward == 1).all() for step in steps)
        again = make(env.id, 3, seed=4, **env.options)
        _, same, _ = play(again, 40, random_action)
        assert all(torch.equal(a.obs, b.obs) for a, b in zip(steps, same, strict=True))
    assert describe(vector_only).backend == "gymnasium"


@pytest.mark.parametrize("vector_only", ["own"], indirect=True)
def test_options_of_a_vector_env_reach_it_and_wrong_ones_are_named(vector_only):
    env = make(vector_only, 2, sutton_barto_reward=True)
    env.reset()
    assert env.step(torch.tensor([0, 1])).reward.tolist() == [0, 0]
    assert env.options["sutton_barto_reward"] is True
    with pytest.raises(ValueError, match="does not take the options {'gravity': 2}"):
        make(vector_only, 2, gravity=2)
    with pytest.raises(ValueError, match="is a vector env and steps its rows itself, got workers; leave it out"):
        make(vector_only, 1, workers="process")
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        make(vector_only, 0)
