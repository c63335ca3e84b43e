"""Every kind of observation space through training, evaluation, resuming, acting, export and the collectors."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import mru_rl.envs
from mru_rl.agents import PPOConfig, R2D2Config, load, resume, train
from mru_rl.agents.acting.behavior import Sampling
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.acting.torchrl import TorchRLCollector
from mru_rl.agents.evaluate import params_sha256
from mru_rl.agents.export import export_onnx
from mru_rl.agents.inspection.inspect_run import inspect_run
from mru_rl.agents.ppo.trainer import PPOTrainer
from mru_rl.envs import registry
from mru_rl.envs.encoding import unpack
from mru_rl.envs.native import from_native
from mru_rl.envs.to_gymnasium.adapter import to_native

ENV = "mru_rl-tests/Shows-v0"
REMEMBERING = "mru_rl-tests/RemembersAndShows-v0"


def image(*shape, high=255):
    return spaces.Box(0, high, shape, np.uint8)


SPACES = {
    "numbers from elsewhere": spaces.Discrete(3, start=-1),
    "a large number": spaces.Discrete(60_000),
    "large numbers": spaces.MultiDiscrete([20_000, 3]),
    "bits": spaces.MultiBinary([2, 2]),
    "a scalar": spaces.Box(-2, 2, ()),
    "halves": spaces.Box(-1, 1, (3,), np.float16),
    "doubles": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "whole numbers": spaces.Box(-1000, 1000, (2,), np.int16),
    "memory of a machine": image(16),
    "a grid": image(7, 7, 3),
    "pixels": image(3, 24, 24),
    "grey pixels": image(40, 36),
    "stacked pixels": image(4, 36, 36, 1),
    "pixels as floats": spaces.Box(0, 1, (24, 24, 3)),
    "a text": spaces.Text(8, charset="abc"),
    "a nest": spaces.Dict(
        {
            "image": image(5, 5, 2),
            "mission": spaces.Text(6, min_length=0, charset="ab "),
            "body": spaces.Tuple(
                [spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(3, start=1), spaces.MultiBinary(2)]
            ),
            "place": spaces.Discrete(700),
        }
    ),
}
SMALL = {
    PPOConfig: {"segment": 8, "minibatches": 2, "epochs": 1, "steps": 128, "num_envs": 4},
    R2D2Config: {"steps": 160, "num_envs": 4, "learning_starts": 4, "batch": 4},
}
KINDS = [(kind, name) for kind in SMALL for name in SPACES]


class Shows(gymnasium.Env):
    """Shows what its space has, drawn anew at every step, and pays for one of two actions; episodes of 5 steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, name):
        self.observation_space = copy.deepcopy(SPACES[name])  # a space draws from a generator of its own

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(action), self.t == 5, False, {}


class RemembersAndShows(mru_rl.envs.TensorEnv):
    """A batched env that can save its state and shows bytes and numbers; episodes of 5 steps."""

    def __init__(self, **common):
        space = spaces.Dict({"image": image(3, 24, 24), "speed": spaces.Box(-np.inf, np.inf, (2,))})
        super().__init__(observation_space=space, action_space=spaces.Discrete(2), **common)
        self.horizon, self.credit_horizon = 5, 0
        self.register_state("t", torch.zeros(self.num_envs, dtype=torch.int64))
        self.register_state("bytes", torch.zeros(self.num_envs, 1728, dtype=torch.uint8))
        self.register_state("speed", torch.zeros(self.num_envs, 2))

    def _reset(self, mask):
        self.t[mask] = 0
        count = int(mask.sum())
        self.bytes[mask] = torch.randint(256, (count, 1728), dtype=torch.uint8, generator=self.generator)
        self.speed[mask] = 100 + 30 * torch.randn(count, 2, generator=self.generator)

    def _step(self, action):
        self.t += 1
        return action.float(), self.t == 5, torch.zeros(self.num_envs, dtype=torch.bool)

    def _observe(self):
        return torch.cat((self.speed.view(torch.uint8), self.bytes), dim=1)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Both envs have their ids for as long as a test runs."""
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    gymnasium.register(ENV, Shows, disable_env_checker=True)
    mru_rl.envs.register_env(REMEMBERING, RemembersAndShows)
    yield
    for env_id in (ENV, REMEMBERING):
        gymnasium.registry.pop(env_id, None)


def config(kind, name, folder, **changes):
    shared = {"env": ENV, "env_kwargs": {"name": name}, "core": "bmru", "hidden_size": 8, "tensorboard": False}
    return kind(**shared | {"previous_action": True} | SMALL[kind] | {"run_dir": folder} | changes)


@pytest.mark.parametrize(
    ("kind", "name"), KINDS, ids=lambda value: value if isinstance(value, str) else value.algorithm
)
def test_every_observation_space_trains_evaluates_resumes_and_acts(kind, name, tmp_path):
    steps = SMALL[kind]["steps"]
    half = train(config(kind, name, tmp_path / "run", steps=steps // 2), progress=False)
    whole = resume(half, steps=steps, progress=False)
    found = whole.evaluate(episodes=8, progress=False)
    assert (found.episodes, found.length_mean) == (8, 5)
    agent, env = load(whole), gymnasium.make(ENV, name=name)
    assert agent.observation_space == SPACES[name]
    (obs, _), state, start, over = env.reset(seed=0), agent.initial_state(), True, False
    while not over:
        action, state = agent.act(obs, state, start)
        obs, _, over, _, _ = env.step(action)
        start = False


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.algorithm)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(kind, tmp_path):
    changes = {"env": REMEMBERING, "env_kwargs": {}}
    if kind is PPOConfig:
        changes["schedule"] = "constant"
    steps = SMALL[kind]["steps"]
    straight = train(config(kind, "", tmp_path / "straight", **changes), progress=False)
    part = train(config(kind, "", tmp_path / "part", **changes | {"steps": steps // 2}), progress=False)
    again = resume(part, steps=steps, progress=False)
    assert load(again).steps == load(straight).steps
    assert params_sha256(load(again).policy) == params_sha256(load(straight).policy)
    assert load(again).policy.encoder.norm.active
    assert torch.equal(load(again).policy.encoder.norm.mean, load(straight).policy.encoder.norm.mean)


@pytest.mark.parametrize("name", ["a large number", "pixels", "a nest", "doubles"])
def test_torchrls_collector_gives_our_own_rollouts(name):
    inputs = {"flatten": True, "previous_action": True, "start_flag": True}
    own, other = (mru_rl.envs.make(ENV, 3, seed=1, name=name, **inputs) for _ in range(2))
    head, policy = PPOTrainer.make_agent(PPOConfig(core="bmru", hidden_size=8), own.rules)
    torch.nn.init.normal_(policy.actor[-1].weight)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    ours = ActingLoop(own, policy, head, generators[0], Sampling())
    theirs = TorchRLCollector(other, policy, head, generators[1], 7)
    for _ in range(3):
        want, got = ours.collect(7).data, theirs.collect(7).data
        for key in want.keys(include_nested=True, leaves_only=True):
            assert torch.equal(got[key], want[key]), key
    theirs.close()


def test_collectors_give_equal_agents_where_observations_are_normalized():
    runs = {}
    for collector in ("own", "torchrl"):
        made = PPOTrainer(
            PPOConfig(
                env=ENV,
                env_kwargs={"name": "a nest"},
                core="bmru",
                hidden_size=8,
                num_envs=4,
                segment=8,
                collector=collector,
            )
        )
        for _ in range(3):
            made.update()
        runs[collector] = made.policy.state_dict()
        made.collector.close()
    assert runs["own"]["encoder.norm.on"].any()
    for name, want in runs["own"].items():
        assert torch.equal(runs["torchrl"][name], want), name


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("name", ["pixels", "a nest"])
def test_a_vector_env_shows_what_single_envs_show(name, mode):
    env = mru_rl.envs.from_object(SyncVectorEnv([lambda: Shows(name)] * 3, autoreset_mode=mode), 3)
    singles = mru_rl.envs.from_object(lambda: Shows(name), 3)
    assert env.reset().dtype == singles.reset().dtype == torch.uint8
    for _ in range(7):
        got, want = env.step(torch.zeros(3, dtype=torch.int64)), singles.step(torch.zeros(3, dtype=torch.int64))
        assert got.obs.shape == want.obs.shape
        assert torch.equal(got.terminated, want.terminated)
    env.close()


class Words(gymnasium.Space):
    """A space of strings that is no gymnasium Text, as MiniGrid's of missions."""

    def __init__(self):
        super().__init__((), str)

    def sample(self, mask=None, probability=None):
        return "go to the red ball"

    def contains(self, x):
        return isinstance(x, str)


def test_strings_of_another_space_than_text_are_texts_too():
    class Told(gymnasium.Env):
        observation_space = spaces.Dict({"mission": Words(), "way": spaces.Discrete(2)})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return {"mission": "open the door", "way": 1}, {}

        def step(self, action):
            return {"mission": "go to the red ball", "way": 0}, 0.0, True, False, {}

    env = mru_rl.envs.from_object(Told, 1)
    assert env.reset().shape == (1, 4 + 128)
    assert to_native(env.observation_space, env.reset()[0])["mission"] == "open the door"


def test_worker_processes_send_bytes():
    class Sent(gymnasium.Env):  # in here, so that the worker need not import this file
        observation_space, action_space = SPACES["a nest"], spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.observation_space.seed(1)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, False, {}

    with mru_rl.envs.from_object(Sent, 2, workers="process") as env:
        here = mru_rl.envs.from_object(Sent, 1)
        assert torch.equal(env.reset()[1:], here.reset())


@pytest.mark.parametrize("name", SPACES)
def test_an_observation_comes_back_as_it_went_in(name):
    space = SPACES[name]
    space.seed(0)
    value = space.sample()
    zeroed = mru_rl.envs.from_object(lambda: Shows(name), 1).observation_space
    row, _ = from_native(space, value, batched=False)
    back, _ = from_native(zeroed, to_native(zeroed, row[0]), batched=False)
    assert torch.equal(back, row)


@pytest.mark.parametrize("name", ["a large number", "a grid", "pixels", "pixels as floats", "a text", "a nest"])
def test_an_exported_agent_acts_as_torch_does(name, tmp_path):
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    agent = load(train(config(PPOConfig, name, tmp_path / "run"), progress=False))
    export_onnx(agent, tmp_path / "agent.onnx")
    session = ort.InferenceSession(str(tmp_path / "agent.onnx"), providers=["CPUExecutionProvider"])
    space = agent.observation_space
    rows = torch.cat([from_native(space, space.sample(), batched=False)[0] for _ in range(3)])
    state, flags = agent.initial_state(3), torch.tensor([True, False, True])
    shown = {"observation": rows}
    if agent.step.rules.obs_floats:
        numbers, rest = unpack(rows, agent.step.rules.obs_floats)
        shown = {"observation": numbers, "observation_bytes": rest}
    feed = {key: value.numpy() for key, value in (shown | {"state": state, "is_init": flags}).items()}
    action, after = session.run(None, feed)
    want, want_after = agent.step(rows, state, flags)
    assert action.tolist() == want.tolist()
    np.testing.assert_allclose(after, want_after.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["pixels", "a nest"])
def test_an_episode_of_bytes_can_be_looked_at(name, tmp_path):
    run = train(config(PPOConfig, name, tmp_path / "run"), progress=False)
    inspect_run(run, seed=0, out=tmp_path / "episode.png", npz=tmp_path / "episode.npz")
    assert (tmp_path / "episode.png").stat().st_size > 1000
