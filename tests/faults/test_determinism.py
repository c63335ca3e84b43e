"""Same seed, same machine, same result: after a resume, from the command line, and in Python.

That it does not depend on the workers of a benchmark is in tests/agents/bench/test_grid.py.
"""

from __future__ import annotations

from typing import Any

import pytest

import mru_rl
import mru_rl.envs
from mru_rl.agents import training, training_loop
from mru_rl.agents.algorithms import config_class, config_from_json, make_trainer
from mru_rl.agents.cli.main import _parse_config
from mru_rl.agents.evaluate import params_sha256
from mru_rl.agents.records.checkpoint import load_checkpoint, save_checkpoint
from mru_rl.agents.trainer import Trainer
from rig.runs import without_clock

UPDATES = 4
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"minibatches": 2, "epochs": 1},
    "r2d2": {
        "sequence": 4,
        "burn_in": 2,
        "overlap": 2,
        "batch": 4,
        "learning_starts": 6,
        "replay_sequences": 20,
        "target_period": 2,
        "samples_per_insert": 0.25,
    },
}


def trainer(algorithm: str, env: str, core: str, **changes: Any) -> Trainer:
    common = {"env": env, "core": core, "num_envs": 4, "hidden_size": 8, "segment": 8, "steps": 32 * 2 * UPDATES}
    return make_trainer(config_from_json({"algorithm": algorithm, **common, **SMALL[algorithm], **changes}))


def learn(agent: Trainer, updates: int) -> list[dict[str, float]]:
    return without_clock([agent.record(*agent.update(), 0.0) for _ in range(updates)])


def assert_exact_resume(algorithm: str, env: str, core: str, folder: Any, **changes: Any) -> None:
    whole = trainer(algorithm, env, core, **changes)
    learn(whole, UPDATES)
    save_checkpoint(folder / "saved.pt", whole.state_dict())
    records = learn(whole, UPDATES)
    resumed = trainer(algorithm, env, core, **changes)
    assert resumed.load_state_dict(load_checkpoint(folder / "saved.pt")) == []
    assert learn(resumed, UPDATES) == records
    assert params_sha256(resumed.policy) == params_sha256(whole.policy)


@pytest.mark.parametrize("algorithm", SMALL)
@pytest.mark.parametrize("core", [*mru_rl.list_cells(), "bmru+mingru", "bmru,lru"])
def test_every_core_resumes_exactly(core, algorithm, tmp_path):
    assert_exact_resume(algorithm, "popgym-RepeatPreviousEasy-v0", core, tmp_path)


@pytest.mark.parametrize("env", mru_rl.envs.list_ids())
def test_every_batched_env_resumes_exactly(env, tmp_path):
    assert_exact_resume("ppo", env, "bmru", tmp_path)


@pytest.mark.parametrize("changes", [{"replay_storage": "disk"}, {"stored_state": "signs"}, {"priority_exponent": 0.0}])
def test_replay_resumes_exactly_however_it_is_kept(changes, tmp_path):
    assert_exact_resume("r2d2", "mru_rl/TMaze-v0", "bmru+mingru", tmp_path, run_dir=str(tmp_path), **changes)


@pytest.mark.parametrize("algorithm", SMALL)
def test_a_curriculum_resumes_exactly(algorithm, tmp_path):
    assert_exact_resume(algorithm, "mru_rl/TMaze-v0", "bmru", tmp_path, env_kwargs={"length": "2..8"})


@pytest.mark.parametrize("algorithm", SMALL)
def test_the_command_line_and_python_give_the_same_run(algorithm, task_and_end, tmp_path, monkeypatch):
    task, end = task_and_end(algorithm)
    config = _parse_config(config_class(algorithm), task.words(tmp_path / "here")[2:], "mru-rl train")
    monkeypatch.setattr(training_loop, "_LOG_SECONDS", 0.0)
    run, agent = training.start(config)
    training.run_to_end(run, agent)
    assert without_clock(run.records()) == end["records"]
    assert params_sha256(agent.policy) == end["evaluation"]["params_sha256"]
