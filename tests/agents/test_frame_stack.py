"""Agents that see the last images: training, resuming, acting one image at a time, export, inspection and the collectors."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import mru_rl.envs
from mru_rl.agents import PPOConfig, R2D2Config, load, resume, train
from mru_rl.agents.acting.behavior import Sampling
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.acting.torchrl import TorchRLCollector
from mru_rl.agents.build import make_env
from mru_rl.agents.evaluate import params_sha256
from mru_rl.agents.export import export_onnx
from mru_rl.agents.inspection.inspect_run import inspect_run
from mru_rl.agents.ppo.trainer import PPOTrainer
from mru_rl.envs import registry
from mru_rl.envs.encoding import unpack

ENV = "mru_rl-tests/Runs-v0"
REMEMBERING = "mru_rl-tests/RemembersAndRuns-v0"
IMAGE = spaces.Box(0, 255, (18, 20, 3), np.uint8)
SPACE = spaces.Dict({"image": IMAGE, "speed": spaces.Box(-9, 9, (2,))})
SMALL = {
    PPOConfig: {"segment": 8, "minibatches": 2, "epochs": 1, "steps": 128, "num_envs": 4, "schedule": "constant"},
    R2D2Config: {"steps": 160, "num_envs": 4, "learning_starts": 4, "batch": 4, "sequence": 4, "burn_in": 2},
}


class Runs(gymnasium.Env):
    """Draws an image at every step, with a vector where asked, and pays for one of two actions; episodes of 10 steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, beside=False):
        self.observation_space = SPACE if beside else IMAGE
        self.beside = beside

    def _shown(self):
        image = self.np_random.integers(256, size=IMAGE.shape, dtype=np.uint8)
        return {"image": image, "speed": self.np_random.normal(size=2).astype(np.float32)} if self.beside else image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._shown(), {}

    def step(self, action):
        self.t += 1
        return self._shown(), float(action), self.t == 10, False, {}


class RemembersAndRuns(mru_rl.envs.TensorEnv):
    """The same as a batched env that can save its state."""

    def __init__(self, **common):
        super().__init__(observation_space=IMAGE, action_space=spaces.Discrete(2), **common)
        self.horizon, self.credit_horizon = 10, 0
        self.register_state("t", torch.zeros(self.num_envs, dtype=torch.int64))
        self.register_state("image", torch.zeros(self.num_envs, 1080, dtype=torch.uint8))

    def _draw(self, count):
        return torch.randint(256, (count, 1080), dtype=torch.uint8, generator=self.generator)

    def _reset(self, mask):
        self.t[mask], self.image[mask] = 0, self._draw(int(mask.sum()))

    def _step(self, action):
        self.t += 1
        self.image.copy_(self._draw(self.num_envs))
        return action.float(), self.t == 10, torch.zeros(self.num_envs, dtype=torch.bool)

    def _observe(self):
        return self.image.clone()


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Both envs have their ids for as long as a test runs."""
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    gymnasium.register(ENV, Runs, disable_env_checker=True)
    mru_rl.envs.register_env(REMEMBERING, RemembersAndRuns)
    yield
    for env_id in (ENV, REMEMBERING):
        gymnasium.registry.pop(env_id, None)


def config(kind, folder, **changes):
    shared = {"env": ENV, "core": "bmru", "hidden_size": 8, "tensorboard": False, "frame_stack": 3}
    return kind(**shared | {"previous_action": True} | SMALL[kind] | {"run_dir": folder} | changes)


@pytest.mark.parametrize("beside", [False, True], ids=["image", "image and vector"])
@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.algorithm)
def test_an_agent_given_one_image_at_a_time_acts_as_it_did_in_its_env(kind, beside, tmp_path):
    changes = {"env_kwargs": {"beside": beside}, "frame_skip": 2}
    run = train(config(kind, tmp_path / "run", **changes), progress=False)
    assert run.evaluate(episodes=4, progress=False).length_mean == 5
    load(run).save(tmp_path / "agent.pt")
    agent = load(tmp_path / "agent.pt")
    assert agent.observation_space == (SPACE if beside else IMAGE)
    batched = make_env(run.config, 2, 7)
    single = make_env(run.config, 2, 7).env
    seen, shown = batched.reset(), single.reset()
    memory, state = agent.policy.core.initial_state(2), agent.initial_state(2)
    start = torch.ones(2, dtype=torch.bool)
    for _ in range(12):
        out = agent.policy.step(seen, memory, start)
        action, state = agent.act(shown, state, start)
        assert torch.equal(action, agent.head.to_env(agent.head.mode(out.params)))
        torch.testing.assert_close(state[:, : agent.step.memory_size], out.state.flatten(1), rtol=0, atol=0)
        after = batched.step(action)
        shown, seen, memory, start = single.step(action).obs, after.obs, out.state, after.terminated | after.truncated


def test_one_env_is_acted_in_with_what_it_returns(tmp_path):
    agent = load(train(config(PPOConfig, tmp_path / "run"), progress=False))
    env, state, start, over = gymnasium.make(ENV), agent.initial_state(), True, False
    assert state.shape == (1, 8 + 1 + 2 * 1080)
    obs, _ = env.reset(seed=0)
    while not over:
        action, state = agent.act(obs, state, start)
        obs, _, over, _, _ = env.step(action)
        assert 0 <= int(action) < 2
        start = False


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.algorithm)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(kind, tmp_path):
    steps = SMALL[kind]["steps"]
    straight = train(config(kind, tmp_path / "straight", env=REMEMBERING), progress=False)
    part = train(config(kind, tmp_path / "part", env=REMEMBERING, steps=steps // 2), progress=False)
    again = resume(part, steps=steps, progress=False)
    assert load(again).steps == load(straight).steps
    assert params_sha256(load(again).policy) == params_sha256(load(straight).policy)


def test_torchrls_collector_gives_our_own_rollouts():
    inputs = {"flatten": True, "previous_action": True, "start_flag": True, "frame_stack": 3}
    own, other = (mru_rl.envs.make(ENV, 3, seed=1, beside=True, **inputs) for _ in range(2))
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


@pytest.mark.parametrize("beside", [False, True], ids=["image", "image and vector"])
def test_an_exported_agent_acts_as_torch_does(beside, tmp_path):
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    agent = load(train(config(PPOConfig, tmp_path / "run", env_kwargs={"beside": beside}), progress=False))
    export_onnx(agent, tmp_path / "agent.onnx")
    session = ort.InferenceSession(str(tmp_path / "agent.onnx"), providers=["CPUExecutionProvider"])
    env = mru_rl.envs.make(ENV, 3, beside=beside)
    rows, state = env.reset(), agent.initial_state(3).numpy()
    flags = torch.ones(3, dtype=torch.bool)
    for _ in range(4):
        shown = {"observation": rows}
        if beside:
            numbers, rest = unpack(rows, 2)
            shown = {"observation": numbers, "observation_bytes": rest}
        feed = {key: value.numpy() for key, value in (shown | {"is_init": flags}).items()}
        action, after = session.run(None, feed | {"state": state})
        want, want_after = agent.step(rows, torch.from_numpy(state), flags)
        assert action.tolist() == want.tolist()
        np.testing.assert_allclose(after, want_after.detach().numpy(), atol=1e-5)
        np.testing.assert_array_equal(after[:, 9:], want_after[:, 9:].detach().numpy())
        rows, state, flags = env.step(want).obs, after, torch.tensor([False, True, False])


def test_an_episode_of_stacks_can_be_looked_at(tmp_path):
    run = train(config(PPOConfig, tmp_path / "run"), progress=False)
    inspect_run(run, seed=0, out=tmp_path / "episode.png", npz=tmp_path / "episode.npz")
    assert (tmp_path / "episode.png").stat().st_size > 1000


def test_a_stack_of_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="frame_stack stacks images, .*; leave it out"):
        make_env(PPOConfig(env="CartPole-v1", frame_stack=4), 1, 0)
