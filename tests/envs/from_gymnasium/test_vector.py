"""The gymnasium adapter against single gymnasium envs: every transition real, every final obs the true one."""

from __future__ import annotations

import multiprocessing

import gymnasium
import numpy as np
import popgym.envs
import pytest
import torch
from gymnasium import spaces
from popgym.wrappers import Antialias, Flatten, PreviousAction

from mru_rl.envs import GymnasiumEnv, list_upstream_ids, make
from mru_rl.envs.base import NonFiniteError, derive_seeds

UPSTREAM = {entry["id"]: cls for cls, entry in popgym.envs.ALL.items()}
FLAT = {"flatten": True, "previous_action": True, "start_flag": True}


class Scripted(gymnasium.Env):
    """Shows what it was told to; records the actions it got."""

    def __init__(self, observation_space=spaces.Discrete(2), action_space=spaces.Discrete(2), obs=0, reward=0.0):  # noqa: B008
        self.observation_space, self.action_space = observation_space, action_space
        self.obs, self.reward, self.got = obs, reward, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.obs, {}

    def step(self, action):
        self.got.append(action)
        return self.obs, self.reward, False, False, {}


gymnasium.register("mru_rl_test/Scripted-v0", entry_point=Scripted, disable_env_checker=True)


@pytest.mark.parametrize("workers", ["sync", "process"])
def test_every_transition_is_one_of_a_single_env_and_final_obs_is_the_true_one(workers, random_action):
    with make("CartPole-v1", 3, seed=7, workers=workers) as env:
        assert isinstance(env, GymnasiumEnv)
        assert (env.horizon, env.success_return, env.credit_horizon, env.open_loop) == (500, 475.0, None, False)
        singles = [gymnasium.make("CartPole-v1") for _ in range(3)]
        want = [single.reset(seed=seed)[0] for single, seed in zip(singles, derive_seeds(7, 3).tolist(), strict=True)]
        assert env.reset().tolist() == np.stack(want).tolist()
        ends = 0
        for _ in range(120):
            action = random_action(env)
            step = env.step(action)
            for row, single in enumerate(singles):
                obs, reward, terminated, truncated, _ = single.step(int(action[row]))
                assert step.final_obs[row].tolist() == obs.tolist()
                assert (step.reward[row], step.terminated[row], step.truncated[row]) == (reward, terminated, truncated)
                if terminated or truncated:
                    ends += 1
                    obs, _ = single.reset()
                assert step.obs[row].tolist() == obs.tolist()
        assert ends > 6


def test_truncation_is_kept_apart_from_termination():
    env = make("CartPole-v1", 2, max_episode_steps=3)
    env.reset()
    steps = [env.step(torch.tensor([i % 2, i % 2])) for i in range(3)]
    assert [step.truncated.tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2]
    assert not any(step.terminated.any() for step in steps)
    assert (steps[0].final_obs is steps[0].obs, steps[2].final_obs is steps[2].obs) == (True, False)


def test_processes_end_with_the_env_and_a_later_reset_opens_new_ones():
    env = make("CartPole-v1", 2, workers="process")
    before = set(multiprocessing.active_children())
    env.reset()
    children = set(multiprocessing.active_children()) - before
    assert len(children) == 2
    assert all(child.daemon for child in children)
    env.close()
    assert not children & set(multiprocessing.active_children())
    assert env.reset().shape == (2, 4)
    env.close()


@pytest.mark.parametrize(
    ("env_id", "horizon", "flat_size"),
    [
        ("popgym-PositionOnlyPendulumEasy-v0", 200, 5),
        ("popgym-BattleshipEasy-v0", 64, 20),
        ("popgym-RepeatFirstEasy-v0", 51, 10),
        ("popgym-AutoencodeEasy-v0", 103, 12),
    ],
)
def test_upstream_popgym_flat_inputs_equal_its_own_wrappers(env_id, horizon, flat_size, random_action):
    env = make(env_id, 2, seed=4, backend="upstream", **FLAT)
    assert (env.horizon, env.obs_size, env.success_return) == (horizon, flat_size, None)
    singles = [Flatten(Antialias(PreviousAction(UPSTREAM[env_id]()))) for _ in range(2)]
    want = [single.reset(seed=seed)[0] for single, seed in zip(singles, derive_seeds(4, 2).tolist(), strict=True)]
    obs = env.reset()
    for _ in range(horizon + 5):
        np.testing.assert_array_equal(obs.numpy(), np.stack(want).astype(np.float32))
        action = random_action(env)
        obs, reward, terminated, truncated, final_obs = env.step(action)
        for row, single in enumerate(singles):
            native = int(action[row]) if action.ndim == 1 else action[row].numpy()
            want[row], want_reward, *want_ends, _ = single.step(native)
            assert final_obs[row].tolist() == np.float32(want[row]).tolist()
            assert reward[row] == np.float32(want_reward)
            assert [terminated[row], truncated[row]] == want_ends
            if any(want_ends):
                want[row] = single.reset()[0]


@pytest.mark.filterwarnings("ignore:Maze environments have been shown:DeprecationWarning")
@pytest.mark.parametrize("env_id", list_upstream_ids())
def test_flat_size_of_every_popgym_id_equals_upstream(env_id):
    env = make(env_id, 1, backend="upstream", **FLAT)
    assert env.obs_size == Flatten(Antialias(PreviousAction(UPSTREAM[env_id]()))).observation_space.shape[0]


def test_seed_decides_everything_and_rows_differ():
    first, same, other = (make("CartPole-v1", 3, seed=seed).reset() for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.unique(dim=0).shape[0] == 3


def test_returned_tensors_alias_nothing():
    env, twin = make("CartPole-v1", 2), make("CartPole-v1", 2)
    env.reset().fill_(9)
    twin.reset()
    for _ in range(30):
        action = torch.zeros(2, dtype=torch.int64)
        got, want = env.step(action), twin.step(action.clone())
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        for tensor in {id(t): t for t in got}.values():
            tensor.fill_(1)


def test_numbers_start_at_zero_on_both_sides_where_the_envs_own_do_not():
    native = spaces.Tuple([spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 2], start=[1, -1])])
    options = {"observation_space": native, "action_space": spaces.Discrete(3, start=-1), "obs": (7, np.array([2, -1]))}
    env = make("mru_rl_test/Scripted-v0", 1, **options)
    assert env.action_space == spaces.Discrete(3)
    assert env.observation_space == spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 2])])
    assert env.reset().tolist() == [[2, 1, 0]]
    env.step(torch.tensor([2]))
    assert env._rows.rows[0].env.unwrapped.got == [1]


def test_a_dict_with_an_image_becomes_one_tensor_of_bytes_numbers_first():
    space = spaces.Dict({"z": spaces.Discrete(3), "a": spaces.Box(0, 255, (2, 2), np.uint8)})
    obs = {"z": 2, "a": np.array([[1, 2], [3, 255]], dtype=np.uint8)}
    env = make("mru_rl_test/Scripted-v0", 2, observation_space=space, obs=obs)
    seen = env.reset()
    two, picture = np.array([2.0], dtype=np.float32).view(np.uint8).tolist(), [1, 2, 3, 255]
    assert seen.dtype == torch.uint8
    assert seen.tolist() == [[*two, *picture]] * 2
    one_hot = np.array([0, 0, 1], dtype=np.float32).view(np.uint8).tolist()
    assert env.encode(seen).tolist() == [[*one_hot, *picture]] * 2
    assert env.obs_size == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"observation_space": spaces.Sequence(spaces.Discrete(2))},
            r"space Sequence.*not supported; supported are Discrete",
        ),
        ({"action_space": spaces.Text(2)}, r"action space Text.*is not supported; supported are Discrete"),
        ({"action_space": spaces.Box(0, 5000, (1,), np.int32)}, r"action space Box.*int32\) is not supported"),
    ],
)
def test_unsupported_spaces_are_named_with_what_is_supported(options, message):
    with pytest.raises(ValueError, match=message):
        make("mru_rl_test/Scripted-v0", 1, **options)


def test_nan_from_an_env_is_an_error_and_not_a_transition():
    space = spaces.Box(-1, 1, (2,))
    env = make("mru_rl_test/Scripted-v0", 1, observation_space=space, obs=np.array([0, np.nan], dtype=np.float32))
    with pytest.raises(
        NonFiniteError, match=r"returned observation values that are NaN or infinite in row \d; mend the env"
    ):
        env.reset()
    env = make("mru_rl_test/Scripted-v0", 1, reward=float("inf"))
    env.reset()
    with pytest.raises(
        NonFiniteError, match=r"returned reward values that are NaN or infinite in row \d; mend the env"
    ):
        env.step(torch.tensor([0]))


@pytest.mark.parametrize(
    ("env_id", "action", "error", "message"),
    [
        ("popgym-PositionOnlyPendulumEasy-v0", torch.tensor([[2.5]]), ValueError, r"got \[2\.5\] in row 0.*clip"),
        ("popgym-PositionOnlyPendulumEasy-v0", torch.tensor([[float("nan")]]), ValueError, r"got \[nan\] in row 0"),
        ("popgym-PositionOnlyPendulumEasy-v0", torch.tensor([0.0]), ValueError, r"float32 \[1, 1\].*got shape \[1\]"),
        ("popgym-BattleshipEasy-v0", torch.tensor([[0, 8]]), ValueError, r"got \[0, 8\] in row 0; number choices"),
        ("popgym-BattleshipEasy-v0", torch.tensor([[0.0, 1.0]]), TypeError, r"got dtype torch\.float32"),
        ("CartPole-v1", torch.tensor([2]), ValueError, r"Discrete\(2\) must be .*got 2 in row 0"),
    ],
)
def test_wrong_actions_are_refused(env_id, action, error, message):
    env = make(env_id, 1, backend="upstream")
    env.reset()
    with pytest.raises(error, match=message):
        env.step(action)


def test_what_it_cannot_do_is_said_with_the_next_move():
    env = make("CartPole-v1", 1, previous_reward=True)
    assert not env.saves_state
    with pytest.raises(RuntimeError, match=r"CartPole-v1 cannot save its state; check `env\.saves_state`"):
        env.state_dict()
    with pytest.raises(RuntimeError, match=r"CartPole-v1 cannot load a state"):
        env.load_state_dict({})
    with pytest.raises(RuntimeError, match=r"steps only after a reset"):
        env.step(torch.tensor([0]))
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        make("CartPole-v1", 0)
