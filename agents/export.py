"""A trained agent for programs without this library: one step as an ONNX graph, and a JSON file that says what it takes and gives."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mru_rl.agents.agent import Agent, AgentStep
from mru_rl.agents.config import env_name
from mru_rl.agents.console.errors import require, require_package
from mru_rl.agents.evaluate import params_sha256
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.envs.encoding import Encoding

OPSET = 18


def export_onnx(agent: Agent, path: str | Path) -> Path:
    """Write one step of an agent to an ONNX file, the batch size left open; returns the path of the JSON file beside it.

    Inputs: observation [B, ...] as a batched env lays it out (numbers count from 0; where it holds bytes and numbers, the
    numbers alone, and the bytes as observation_bytes), state float32 [B, N], is_init bool [B],
    and reward float32 [B] where the agent sees its previous reward. Outputs: action [B, ...], the most likely one as the
    batched env takes it, and next_state [B, N]. The state starts as zeros. The JSON file says names, shapes, dtypes and spaces.
    States of a BMRU are the same bits as torch's.
    Needs the packages onnx and onnxscript. Raises ValueError where they are absent, where the path cannot be a file, and for
    a core that ONNX cannot hold, as one with complex numbers.
    """
    path = Path(path)
    require(
        path.parent.is_dir() and not path.is_dir(), f"{{out}} is the file to write, in a folder that exists, got {path}"
    )
    for package in ("onnx", "onnxscript"):
        require_package(package, "export", "export")
    agent.core.require_exportable()
    step = agent.step.eval()
    sees_reward = step.rules.previous_reward
    apart = ["observation_bytes"] if step.rules.obs_floats else []
    names = ["observation", *apart, "state", "is_init", *(["reward"] if sees_reward else [])]
    example = _example(agent, 2)
    batch = torch.export.Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; nothing a caller could mend
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            _Apart(step) if apart else step,
            tuple(example[name] for name in names),
            str(path),
            input_names=names,
            output_names=["action", "next_state"],
            dynamic_shapes=tuple({0: batch} for _ in names),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    described = path.with_suffix(".json")
    write_atomically(described, (json.dumps(describe(agent, names), indent=2) + "\n").encode())
    return described


def describe(agent: Agent, names: list[str]) -> dict[str, Any]:
    """What the file beside an exported agent says: its inputs and outputs, its spaces, and where it comes from."""
    example = _example(agent, 1)
    step = _Apart(agent.step) if "observation_bytes" in names else agent.step
    action, state = step(*(example[name] for name in names))
    meanings = {
        "observation": "what the env shows; its leaves laid side by side, numbers counted from 0",
        "observation_bytes": "the images and texts of it, laid side by side; a character counts from 1 among the sorted ones",
        "state": "zeros before the first step, then next_state",
        "is_init": "true on the first step of an episode: memory and previous action start anew",
        "reward": "what the last action earned; 0 on the first step",
        "action": "the most likely action; numbers counted from 0",
        "next_state": "to give back as state",
    }

    def said(name: str, tensor: Tensor) -> dict[str, Any]:
        dtype = str(tensor.dtype).removeprefix("torch.")
        return {"name": name, "dtype": dtype, "shape": ["batch", *tensor.shape[1:]], "meaning": meanings[name]}

    return {
        "made_from": {
            "algorithm": agent.config.algorithm,
            "core": agent.config.core,
            "env": env_name(agent.config.env),
            "env_kwargs": agent.config.env_kwargs,
            "steps": agent.steps,
            "params_sha256": params_sha256(agent.policy),
        },
        "inputs": [said(name, example[name]) for name in names],
        "outputs": [said("action", action), said("next_state", state)],
        "observation_space": agent.spaces["observation"],
        "action_space": agent.spaces["action"],
    }


class _Apart(nn.Module):
    """A step whose observation comes as numbers and bytes apart: a graph has no views of one as the other."""

    def __init__(self, step: AgentStep) -> None:
        super().__init__()
        self.step = step

    def forward(
        self, numbers: Tensor, bytes: Tensor, state: Tensor, is_init: Tensor, reward: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.step((numbers, bytes), state, is_init, reward)


def _example(agent: Agent, rows: int) -> dict[str, Tensor]:
    """Inputs of a step of so many rows by name: zeros."""
    rules = agent.step.rules
    raw = Encoding(agent.step.observation_space, device=torch.device("cpu"))
    shown = {"observation": torch.zeros(rows, *raw.shape, dtype=raw.dtype)}
    if rules.obs_floats:
        numbers, rest = raw.split(shown["observation"])
        assert rest is not None
        shown = {"observation": numbers, "observation_bytes": rest}
    beside = {
        "state": agent.initial_state(rows),
        "is_init": torch.zeros(rows, dtype=torch.bool),
        "reward": torch.zeros(rows),
    }
    return shown | beside
