"""Laws that every batched env of the registry obeys, with and without the extra inputs of AgentInput."""

from __future__ import annotations

import io

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mru_rl.envs import BatchedEnv, list_ids, make
from mru_rl.envs.encoding import leaves

INPUTS = {"flatten": True, "previous_action": True, "start_flag": True, "previous_reward": True}


@pytest.fixture(params=list_ids())
def env_id(request):
    return request.param


@pytest.fixture(params=[{}, INPUTS], ids=["raw", "inputs"])
def options(request, env_id, short):
    return short(env_id) | request.param


def tensors_of(env) -> list[torch.Tensor]:
    return list(getattr(env, "env", env)._state.values())


def contains(space: gymnasium.Space, row: torch.Tensor) -> bool:
    """Whether a row of an obs is inside the space of a single env; each part of a Tuple stands in columns of its own."""
    if not isinstance(space, spaces.Tuple):
        return space.contains(row.numpy())
    parts = [part.space for part in leaves(space)]
    columns = row.split([part.columns for part in leaves(space)])
    return all(
        part.contains(value.numpy().astype(part.dtype).reshape(part.shape))
        for part, value in zip(parts, columns, strict=True)
    )


def trajectory(env, random_action, steps: int) -> list[torch.Tensor]:
    return [tensor for _ in range(steps) for tensor in env.step(random_action(env))]


def assert_same(got, want) -> None:
    assert len(got) == len(want)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_env_has_the_public_attributes_and_emits_what_its_contract_says(env_id, options, random_action):
    env = make(env_id, 6, **options)
    assert isinstance(env, BatchedEnv)
    assert (env.id, env.num_envs, env.device.type, env.saves_state) == (env_id, 6, "cpu", True)
    assert isinstance(env.generator, torch.Generator)
    assert isinstance(env.observation_space, gymnasium.Space)
    obs = env.reset()
    for _ in range(12):
        assert env.encode(obs).shape == (6, env.obs_size)
        assert env.encode(obs).dtype == torch.float32
        assert all(contains(env.observation_space, row) for row in obs)
        obs, reward, terminated, truncated, final_obs = env.step(random_action(env))
        assert (reward.dtype, terminated.dtype, truncated.dtype) == (torch.float32, torch.bool, torch.bool)
        assert reward.shape == terminated.shape == truncated.shape == (6,)
        assert final_obs.shape == obs.shape
        assert final_obs.dtype == obs.dtype


def test_options_of_an_env_make_the_same_env_again(env_id, options):
    env = make(env_id, 2, **options)
    again = make(env.id, 2, **env.options)
    assert again.options == env.options
    assert torch.equal(again.reset(), env.reset())


def test_finished_rows_restart_in_the_same_step_and_final_obs_is_the_last_of_the_old_episode(
    env_id, short, random_action
):
    env = make(env_id, 4, **short(env_id))
    env.reset()
    late = torch.tensor([False, True, False, True])
    env.step(random_action(env))
    env._reset(late)  # rows 1 and 3 now end one step after 0 and 2, where all episodes are equally long
    steps, ended = torch.where(late, 0, 1), torch.zeros(4, dtype=torch.bool)
    while not ended.all():
        before, action = env.state_dict(), random_action(env)
        step = env.step(action)
        steps += 1
        done = step.terminated | step.truncated
        assert (steps <= env.horizon).all()
        if env.open_loop:
            assert torch.equal(done, steps == env.horizon)
        assert torch.equal(step.obs[~done], step.final_obs[~done])
        assert torch.equal(step.obs, env._show())
        assert (step.final_obs is step.obs) == (not done.any())
        steps[done] = 0
        ended |= done
        if done.any():
            env.load_state_dict(before)  # the same step without any restart
            env._step(action)
            assert torch.equal(env._show()[done], step.final_obs[done])
            env._reset(done)


def test_partial_reset_touches_only_its_rows(env_id, short, random_action):
    env = make(env_id, 5, **short(env_id))
    env.reset()
    trajectory(env, random_action, 3)
    before = env.state_dict()["tensors"]
    mask = torch.tensor([True, False, False, True, False])
    env._reset(mask)
    for name, tensor in env.state_dict()["tensors"].items():
        assert torch.equal(tensor[~mask], before[name][~mask]), name
    after = env.state_dict()["tensors"]
    assert all(any(not torch.equal(after[n][row], before[n][row]) for n in after) for row in mask.nonzero())


def test_returned_tensors_alias_neither_the_state_nor_the_saved_state(env_id, options, random_action):
    env, twin = make(env_id, 4, **options), make(env_id, 4, **options)
    assert torch.equal(env.reset().clone(), twin.reset())
    saved = env.state_dict()
    for _ in range(2 * env.horizon if env.horizon < 60 else 8):
        action = random_action(env)
        got, want = env.step(action), twin.step(action.clone())
        assert_same(got, want)
        for tensor in {id(t): t for t in [*got, action]}.values():
            tensor.fill_(1)
    for tensor in saved["tensors"].values():
        tensor.fill_(9)
    assert_same(tensors_of(env), tensors_of(twin))


def test_state_dict_round_trip_continues_identically(env_id, options, random_action):
    env = make(env_id, 4, seed=3, **options)
    env.reset()
    trajectory(env, random_action, 5)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    actions = [random_action(env) for _ in range(min(2 * env.horizon, 120))]
    want = [tensor for action in actions for tensor in env.step(action)]
    file.seek(0)
    other = make(env_id, 4, seed=99, **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same([tensor for action in actions for tensor in other.step(action)], want)
    assert torch.equal(other.reset(), env.reset())


def test_seed_decides_everything_and_nothing_global_is_touched(env_id, options, random_action):
    def run(seed: int) -> list[torch.Tensor]:
        env = make(env_id, 16, seed=seed, **options)
        out = [env.reset()]
        generator = torch.Generator().manual_seed(0)
        for _ in range(min(env.horizon + 3, 60)):
            out += env.step(random_action(env, generator))
        return out

    torch.manual_seed(5)
    np_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = run(0)
    assert np.array_equal(np_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.get_rng_state())
    torch.manual_seed(6)
    assert_same(run(0), first)
    assert any(not torch.equal(a, b) for a, b in zip(run(1), first, strict=True))


def test_env_and_policy_with_the_same_seed_share_no_random_stream():
    env = make("popgym-RepeatFirstEasy-v0", 2, seed=0)
    policy = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert not torch.isclose(torch.rand(50, generator=env.generator), policy).any()


def test_step_before_reset_says_what_to_do(env_id, options, random_action):
    env = make(env_id, 2, **options)
    with pytest.raises(RuntimeError, match=r"steps only after a reset.*call env\.reset\(\) once"):
        env.step(random_action(env))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda a: torch.cat([a, a]), ValueError, r"\[2.*got shape \[4.*; give one action per env"),
        (lambda a: a.unsqueeze(1), ValueError, r"got shape \[2, 1"),
        (
            lambda a: a.double(),
            TypeError,
            r"got dtype torch\.float64; convert it with action\.to\(torch\.(int64|float32)\)",
        ),
        (lambda a: a.numpy(), TypeError, r"got ndarray; convert it with torch\.as_tensor"),
        (lambda a: a.index_fill(0, torch.tensor(1), 999), ValueError, r"got \[?999.* in row 1; number choices from 0"),
        (lambda a: a.index_fill(0, torch.tensor(0), -9), ValueError, r"got \[?-9.* in row 0; number choices from 0"),
    ],
    ids=["rows", "shape", "dtype", "numpy", "high", "low"],
)
def test_wrong_action_is_refused_before_anything_moves(env_id, spoil, error, message, random_action):
    env = make(env_id, 2)
    env.reset()
    before = [tensor.clone() for tensor in tensors_of(env)]
    with pytest.raises(error, match=message):
        env.step(spoil(random_action(env)))
    assert_same(tensors_of(env), before)


@pytest.mark.parametrize(
    ("num_envs", "error", "message"),
    [
        (0, ValueError, "num_envs must be at least 1, got 0"),
        (-3, ValueError, "num_envs must be at least 1, got -3"),
        (2.5, TypeError, r"num_envs must be a whole number, got 2\.5"),
        (True, TypeError, "num_envs must be a whole number, got True"),
    ],
)
def test_impossible_num_envs_is_refused(num_envs, error, message):
    with pytest.raises(error, match=message):
        make("mru_rl/TMaze-v0", num_envs)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        make("mru_rl/TMaze-v0", 1, seed=-1)


def test_state_of_another_env_is_refused_and_both_sides_are_named():
    state = make("mru_rl/TMaze-v0", 2, length=5).state_dict()
    with pytest.raises(ValueError, match=r"id 'mru_rl/TMaze-v0' but this one has 'popgym-RepeatFirstEasy-v0'"):
        make("popgym-RepeatFirstEasy-v0", 2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"options \{'length': 5.*but this one has \{'length': 6"):
        make("mru_rl/TMaze-v0", 2, length=6).load_state_dict(state)
    with pytest.raises(ValueError, match="num_envs 2 but this one has 3"):
        make("mru_rl/TMaze-v0", 3, length=5).load_state_dict(state)
    with pytest.raises(ValueError, match=r"an env state has the keys .*got \['id'\]"):
        make("mru_rl/TMaze-v0", 3, length=5).load_state_dict({"id": "mru_rl/TMaze-v0"})
    state["tensors"]["cue"] = state["tensors"]["cue"].float()
    env = make("mru_rl/TMaze-v0", 2, length=5)
    before = [tensor.clone() for tensor in tensors_of(env)]
    with pytest.raises(ValueError, match=r"tensor 'cue' of the state is torch\.float32 \[2\] but this env holds"):
        env.load_state_dict(state)
    assert_same(tensors_of(env), before)
