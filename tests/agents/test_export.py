"""An exported agent against the agent itself, over many steps with resets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import mru_rl.envs
from mru_rl.agents import PPOConfig, R2D2Config, load, train
from mru_rl.agents.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`, which the extra `test` brings along")
pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own

CASES = {
    "floats, a choice": (PPOConfig, "mru_rl/TMaze-v0", {"length": 9}, "bmru", {}),
    "numbers, a choice": (PPOConfig, "popgym-RepeatFirstEasy-v0", {}, "bmru+mingru", {"previous_action": True}),
    "several choices": (PPOConfig, "popgym-BattleshipEasy-v0", {}, "bmru", {}),
    "a box": (PPOConfig, "popgym-PositionOnlyPendulumEasy-v0", {}, "gru", {"previous_reward": True}),
    "action values": (R2D2Config, "popgym-BattleshipEasy-v0", {}, "bmru,bmru", {}),
}


def trained(kind, env, env_kwargs, core, changes, folder):
    small = {"segment": 16, "minibatches": 2, "epochs": 1} if kind is PPOConfig else {}
    return load(
        train(
            kind(
                env=env, env_kwargs=env_kwargs, core=core, steps=512, num_envs=4, hidden_size=16, tensorboard=False,
                run_dir=folder / "run", **small, **changes,
            ),
            progress=False,
        )
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_exported_step_acts_as_the_agent_over_1000_steps(case, tmp_path):
    agent = trained(*CASES[case], tmp_path)
    core = agent.core.spec
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    described = json.loads(export_onnx(agent, tmp_path / "agent.onnx").read_text())
    session = onnxruntime.InferenceSession(str(tmp_path / "agent.onnx"), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    assert names == [entry["name"] for entry in described["inputs"]]
    env = mru_rl.envs.make(CASES[case][1], 5, seed=3, **CASES[case][2])
    obs, start, reward = env.reset(), torch.ones(5, dtype=torch.bool), torch.zeros(5)
    ours, theirs, memories = agent.initial_state(5), agent.initial_state(5).numpy(), set()
    memory = agent.step.memory_size
    for _ in range(1000):
        action, ours = agent.act(obs, ours, start, reward=reward if agent.config.previous_reward else None)
        given = {"observation": obs.numpy(), "state": theirs, "is_init": start.numpy(), "reward": reward.numpy()}
        got, theirs = session.run(None, {name: given[name] for name in names})
        if np.issubdtype(got.dtype, np.integer):
            assert got.tolist() == action.tolist()
        else:
            np.testing.assert_allclose(got, action.numpy(), atol=1e-4)
        if set(core) <= set("bmru,"):
            assert (theirs[:, :memory] == ours[:, :memory].numpy()).all(), "memories of a BMRU are the same bits"
        memories.add(ours[:, :memory].numpy().tobytes())
        step = env.step(action)
        obs, reward, start = step.obs, step.reward, step.terminated | step.truncated
    assert len(memories) > 10, "the memory moved"


def test_the_file_beside_it_says_what_goes_in_and_comes_out(tmp_path):
    agent = trained(*CASES["numbers, a choice"], tmp_path)
    described = json.loads(export_onnx(agent, tmp_path / "agent.onnx").read_text())
    shapes = {entry["name"]: (entry["dtype"], entry["shape"]) for entry in described["inputs"] + described["outputs"]}
    width = agent.step.state_size
    assert shapes == {
        "observation": ("int64", ["batch"]),
        "state": ("float32", ["batch", width]),
        "is_init": ("bool", ["batch"]),
        "action": ("int64", ["batch"]),
        "next_state": ("float32", ["batch", width]),
    }
    assert described["made_from"]["steps"] == agent.steps
    assert described["action_space"] == agent.spaces["action"]


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(tmp_path):
    agent = trained(PPOConfig, "mru_rl/TMaze-v0", {"length": 9}, "bmru+lru", {}, tmp_path)
    with pytest.raises(ValueError, match="no complex numbers, which lru needs"):
        export_onnx(agent, tmp_path / "agent.onnx")
    with pytest.raises(ValueError, match="in a folder that exists"):
        export_onnx(agent, tmp_path / "absent" / "agent.onnx")
    assert not list(tmp_path.glob("*.onnx"))
