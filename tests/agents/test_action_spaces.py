"""Every kind of action space through training, evaluation, resuming, acting and export."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, iterate

import mru_rl
import mru_rl.envs
from mru_rl.agents import PPOConfig, R2D2Config, load, resume, train
from mru_rl.agents.acting.behavior import Sampling
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.acting.torchrl import TorchRLCollector
from mru_rl.agents.console.errors import OptionError
from mru_rl.agents.evaluate import params_sha256
from mru_rl.agents.export import export_onnx
from mru_rl.agents.inspection.inspect_run import inspect_run
from mru_rl.agents.nets.heads import action_head
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.envs import registry
from mru_rl.envs.actions import action_layout
from mru_rl.envs.to_gymnasium.adapter import GymnasiumSingleEnv

ENV = "mru_rl-tests/Actions-v0"
REMEMBERING = "mru_rl-tests/Remembering-v0"
COUNTED = {
    "a start": spaces.Discrete(3, start=-1),
    "two axes": spaces.MultiDiscrete([[2, 3], [2, 2]], start=[[1, 0], [0, -5]]),
    "bits": spaces.MultiBinary(3),
    "whole numbers": spaces.Box(-3, 3, (2,), np.int8),
    "a nest": spaces.Dict({"b": spaces.Tuple([spaces.Discrete(4, start=1), spaces.MultiBinary(2)]), "a": spaces.Discrete(2)}),
}  # fmt: skip
FLOATS = {
    "a scalar": spaces.Box(-2, 2, ()),
    "halves": spaces.Box(-0.1, 0.1, (2,), np.float16),
    "doubles on two axes": spaces.Box(-0.1, 0.1, (2, 1), np.float64),
    "one bound": spaces.Box(np.float32([5, -np.inf]), np.float32([np.inf, -5])),
    "far bounds": spaces.Box(-1e10, 1e10, (1,)),
    "boxes": spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Box(0, 9, (), np.float64)]),
    "a mixture": spaces.Dict(
        {"gear": spaces.Discrete(5, start=-1), "steer": spaces.Box(-1, 1, (2, 1)), "lamps": spaces.MultiBinary([1, 2])}
    ),
}  # fmt: skip
ALL = COUNTED | FLOATS
KINDS = [(PPOConfig, name) for name in ALL] + [(R2D2Config, name) for name in COUNTED]
SMALL = {
    PPOConfig: {"segment": 8, "minibatches": 2, "epochs": 1, "steps": 128, "num_envs": 4},
    R2D2Config: {"steps": 256, "num_envs": 4},
}


class Actions(gymnasium.Env):
    """Takes actions of any space and pays for their numbers; episodes of 5 steps."""

    observation_space = spaces.Box(0, 5, (1,))

    def __init__(self, name):
        self.action_space = ALL[name]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        numbers = spaces.flatten(self.action_space, action)
        assert np.isfinite(numbers).all()
        return np.float32([self.t]), float(np.clip(numbers, -1, 1).sum()), self.t == 5, False, {}


def config(kind, name, folder, **changes):
    shared = {"env": ENV, "env_kwargs": {"name": name}, "core": "bmru", "hidden_size": 8, "tensorboard": False}
    inputs = {"previous_action": True, "previous_reward": True}
    return kind(**shared | inputs | SMALL[kind] | {"run_dir": folder} | changes)


@pytest.mark.parametrize(
    ("kind", "name"), KINDS, ids=lambda value: value if isinstance(value, str) else value.algorithm
)
def test_every_action_space_trains_evaluates_resumes_and_acts(kind, name, tmp_path):
    steps = SMALL[kind]["steps"]
    constant = {"schedule": "constant"} if kind is PPOConfig else {}
    half = train(config(kind, name, tmp_path / "run", **constant | {"steps": steps // 2}), progress=False)
    whole = resume(half, steps=steps, progress=False)
    found = whole.evaluate(episodes=8, progress=False)
    assert (found.episodes, found.length_mean) == (8, 5)
    agent, env = load(whole), gymnasium.make(ENV, name=name)
    assert agent.action_space == ALL[name]
    for sample in (False, True) if kind is PPOConfig else (False,):
        (obs, _), state, start, reward, over = env.reset(seed=0), agent.initial_state(), True, 0.0, False
        while not over:
            action, state = agent.act(obs, state, start, reward=reward, sample=sample)
            obs, reward, over, _, _ = env.step(action)
            start = False
    batch = batch_space(ALL[name], 3)
    many, _ = agent.act(np.zeros((3, 1), np.float32), agent.initial_state(3), True, reward=np.zeros(3))
    assert batch.contains(many)


class Remembering(mru_rl.envs.TensorEnv):
    """An env that saves its state, with any action space: pays what a row's action sums up to."""

    def __init__(self, *, name="bits", **common):
        super().__init__(
            observation_space=spaces.Box(0, 1, (1,)), action_space=ALL[name], options={"name": name}, **common
        )
        self.horizon, self.credit_horizon = 5, 0
        self.register_state("shown", torch.zeros(self.num_envs, device=self.device))
        self.register_state("t", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def _reset(self, mask):
        self.t[mask] = 0
        self.shown[mask] = torch.rand(int(mask.sum()), generator=self.generator, device=self.device)

    def _step(self, action):
        self.t += 1
        over = self.t == 5
        return action.reshape(self.num_envs, -1).float().clamp(-1, 1).sum(1) * self.shown, over, torch.zeros_like(over)

    def _observe(self):
        return self.shown.clone().unsqueeze(1)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Both envs have their ids for as long as a test runs."""
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    gymnasium.register(ENV, Actions, disable_env_checker=True)
    mru_rl.envs.register_env(REMEMBERING, Remembering)
    yield
    for env_id in (ENV, REMEMBERING):
        gymnasium.registry.pop(env_id, None)


@pytest.mark.parametrize(
    ("kind", "name", "changes"),
    [
        (PPOConfig, "a mixture", {"squash": True, "gaussian_std": "learned"}),
        (PPOConfig, "a nest", {}),
        (R2D2Config, "a nest", {}),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(kind, name, changes, tmp_path):
    changes = changes | {"env": REMEMBERING, "env_kwargs": {"name": name}}
    if kind is PPOConfig:
        changes["schedule"] = "constant"
    steps = SMALL[kind]["steps"]
    straight = train(config(kind, name, tmp_path / "straight", warm_up=False, **changes), progress=False)
    part = train(
        config(kind, name, tmp_path / "part", warm_up=False, **changes | {"steps": steps // 2}), progress=False
    )
    again = resume(part, steps=steps, progress=False)
    assert load(again).steps == load(straight).steps
    assert params_sha256(load(again).policy) == params_sha256(load(straight).policy)


@pytest.mark.parametrize("name", ["a nest", "a mixture", "halves", "bits", "one bound"])
def test_torchrls_collector_gives_our_own_rollouts(name):
    inputs = {"flatten": True, "previous_action": True, "start_flag": True}
    own, other = (mru_rl.envs.make(ENV, 3, seed=1, name=name, **inputs) for _ in range(2))
    head = action_head(own.action_space)
    policy = ActorCritic(mru_rl.make_core("bmru", own.obs_size, 8), head.num_params)
    torch.nn.init.normal_(policy.actor[-1].weight)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    ours = ActingLoop(own, policy, head, generators[0], Sampling())
    theirs = TorchRLCollector(other, policy, head, generators[1], 7)
    for _ in range(3):
        want, got = ours.collect(7).data, theirs.collect(7).data
        for key in want.keys(include_nested=True, leaves_only=True):
            assert torch.equal(got[key], want[key]), key
    theirs.close()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("name", ["a nest", "a mixture", "two axes"])
def test_a_vector_env_gets_its_own_nested_actions(name, mode):
    vector = SyncVectorEnv([lambda: Actions(name)] * 3, autoreset_mode=mode)
    env = mru_rl.envs.from_object(vector, 3)
    singles = mru_rl.envs.from_object(lambda: Actions(name), 3)
    head, generator = action_head(env.action_space), torch.Generator().manual_seed(0)
    env.reset(), singles.reset()
    for _ in range(12):
        action = head.to_env(head.sample(torch.zeros(3, head.num_params), generator))
        for got, want in zip(env.step(action), singles.step(action), strict=True):
            assert torch.equal(got, want)
    env.close()


def test_worker_processes_get_nested_actions():
    class Sent(gymnasium.Env):  # in here, so that the worker need not import this file
        observation_space, action_space = spaces.Discrete(2), ALL["a mixture"]

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return int(self.action_space.contains(action)), 0.0, False, False, {}

    with mru_rl.envs.from_object(Sent, 2, workers="process") as env:
        env.reset()
        assert env.step(torch.tensor([[4.0, 1, 0, 0.5, -0.5]] * 2)).obs.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["a nest", "a mixture", "a start"])
def test_gymnasium_sees_the_simple_space_and_gives_its_actions(name):
    def made(rows):
        return mru_rl.envs.make(REMEMBERING, rows, seed=0, name=name)

    vector, twin = mru_rl.envs.as_gymnasium(made(3)), made(3)
    single, lone = GymnasiumSingleEnv(REMEMBERING, seed=0, name=name), made(1)
    assert vector.single_action_space == single.action_space == twin.action_space
    for env in (vector, twin, single, lone):
        env.reset()
    vector.action_space.seed(0)
    for _ in range(4):
        action = vector.action_space.sample()
        parts = action if isinstance(action, tuple) else (action,)
        flat = torch.cat([torch.as_tensor(part).reshape(3, -1) for part in parts], 1)
        rows = flat.reshape(twin._check_action.shape).to(twin._check_action.dtype)
        assert vector.step(action)[1].tolist() == twin.step(rows).reward.tolist()
        first = next(iter(iterate(vector.action_space, action)))
        assert single.step(first)[1] == lone.step(rows[:1]).reward.item()


def test_a_wrong_tuple_of_actions_is_one_line():
    vector = mru_rl.envs.as_gymnasium(mru_rl.envs.make(REMEMBERING, 2, name="a mixture"))
    vector.reset()
    with pytest.raises(TypeError, match="are a tuple of one array per part, got a tuple of 2"):
        vector.step((np.zeros(2), np.zeros(2)))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(
    ("name", "changes"),
    [("a mixture", {"squash": True, "gaussian_std": "learned"}), ("a nest", {}), ("a scalar", {"squash": True})],
)
def test_an_exported_agent_takes_the_same_actions(name, changes, tmp_path):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="needs the extra `export`, which the extra `test` brings along"
    )
    agent = load(train(config(PPOConfig, name, tmp_path / "run", **changes), progress=False))
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    export_onnx(agent, tmp_path / "agent.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "agent.onnx"), providers=["CPUExecutionProvider"])
    ours, theirs = agent.initial_state(3), agent.initial_state(3).numpy()
    for t in range(20):
        obs, start, reward = torch.full((3, 1), float(t % 5)), torch.full((3,), t % 5 == 0), torch.ones(3)
        action, ours = agent.act(obs, ours, start, reward=reward)
        given = {"observation": obs, "is_init": start, "reward": reward}
        got, theirs = session.run(None, {"state": theirs} | {key: value.numpy() for key, value in given.items()})
        np.testing.assert_allclose(got, action.numpy(), atol=1e-5)


@pytest.mark.parametrize("changes", [{"squash": True}, {"gaussian_std": "learned"}])
def test_box_options_are_refused_for_other_actions(changes, tmp_path):
    with pytest.raises(OptionError, match="is for Box actions, got"):
        train(config(PPOConfig, "bits", tmp_path / "run", **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_r2d2_names_what_it_cannot_value(tmp_path):
    with pytest.raises(ValueError, match="actions must be whole numbers.*use `mru-rl train ppo`"):
        train(config(R2D2Config, "a mixture", tmp_path / "run"), progress=False)


@pytest.mark.parametrize("name", ["a mixture", "a nest", "a scalar"])
def test_an_episode_is_inspected_with_the_actions_it_took(name, tmp_path):
    run = train(config(PPOConfig, name, tmp_path / "run"), progress=False)
    path, lines = inspect_run(run, seed=0, npz=tmp_path / "episode.npz")
    assert path.exists()
    assert "5 steps" in "".join(lines)
    action = np.load(tmp_path / "episode.npz")["action"]
    assert action.shape == (5, *action_layout(ALL[name])[1])


def test_far_bounds_are_noted_before_the_run(tmp_path, capsys):
    train(config(PPOConfig, "far bounds", tmp_path / "run"))
    assert "bounds beyond 1,000,000" in "".join(capsys.readouterr())
