"""From Python: train, look, act, deploy. What a notebook or a script of somebody's own relies on."""

from __future__ import annotations

import doctest
import json
import signal
import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest
import torch

import mru_rl
import mru_rl.agents as agents
from mru_rl.agents import Callback, CallbackError, PPOConfig, R2D2Config, Run, load, resume, train
from mru_rl.agents.console.errors import OptionError
from mru_rl.agents.evaluate import params_sha256
from mru_rl.agents.records.checkpoint import CheckpointError, save_checkpoint

SMALL = {
    "num_envs": 4,
    "segment": 16,
    "hidden_size": 8,
    "minibatches": 2,
    "epochs": 1,
    "checkpoint_seconds": 0.0,
    "tensorboard": False,
}


class Signs(gymnasium.Env):
    """Show a sign once, ask for it three steps later; spaces as people have them: dicts, an action that starts at 1."""

    observation_space = gymnasium.spaces.Dict(
        {"cue": gymnasium.spaces.Discrete(3, start=-1), "clock": gymnasium.spaces.Box(0.0, 4.0, (2,), np.float64)}
    )
    action_space = gymnasium.spaces.Discrete(2, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign, self.t = int(self.np_random.integers(2)) * 2 - 1, 0
        return self._see(), {}

    def _see(self):
        return {"cue": np.int64(self.sign if self.t == 0 else 0), "clock": np.array([self.t, 1.0])}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        right = (action == 2) == (self.sign == 1)
        return self._see(), float(right) if self.t == 4 else 0.0, self.t == 4, False, {}


@pytest.fixture
def config(tmp_path):
    def build(kind=PPOConfig, **changes):
        options = dict(SMALL) if kind is PPOConfig else {"num_envs": 4, "hidden_size": 8, "tensorboard": False}
        return kind(**{"env": "mru_rl/TMaze-v0", "env_kwargs": {"length": 6}, "steps": 512, "core": "bmru", **options,
                       "run_dir": tmp_path / "run", **changes})  # fmt: skip

    return build


def quiet(config, **options) -> Run:
    return train(config, progress=False, **options)


# training


def test_train_returns_the_run_and_what_it_holds(config):
    run = quiet(config())
    assert isinstance(run, Run)
    assert run.config.steps == 512
    assert run.config.discount == pytest.approx(1 - 1 / 2)
    columns = run.metrics()
    assert columns["steps"][-1] == 512
    assert {len(column) for column in columns.values()} == {len(columns["steps"])}
    found = run.evaluate(env_kwargs={"length": 9}, episodes=32, progress=False)
    assert found.episodes == 32
    assert found.length_mean == 10
    assert 0 <= found.success_rate <= 1
    assert found.return_ci95[0] <= found.return_mean <= found.return_ci95[1]
    assert found.params_sha256 == params_sha256(load(run).policy)
    json.dumps(found.to_json())


def test_python_and_the_command_line_make_the_same_run(config, tmp_path):
    ours = quiet(config())
    words = [
        "--env",
        "mru_rl/TMaze-v0",
        "--env-kwargs",
        "length=6",
        "--core",
        "bmru",
        "--steps",
        "512",
        "--num-envs",
        "4",
    ]
    words += ["--segment", "16", "--hidden-size", "8", "--minibatches", "2", "--epochs", "1", "--no-tensorboard"]
    command = [sys.executable, "-m", "mru_rl.agents.cli", "train", "ppo", *words, "--run-dir", str(tmp_path / "theirs")]
    subprocess.run(command, check=True, capture_output=True)
    theirs = Run.open(tmp_path / "theirs")
    assert params_sha256(load(theirs).policy) == params_sha256(load(ours).policy)


def test_the_callers_torch_settings_and_random_numbers_are_left_alone(config):
    torch.set_num_threads(2)
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    run = quiet(config())
    run.evaluate(episodes=8, progress=False)
    assert torch.equal(torch.rand(3), want)
    assert torch.get_num_threads() == 2
    torch.set_default_dtype(torch.float64)
    try:
        again = quiet(config(run_dir=run.path.parent / "again"))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert params_sha256(load(again).policy) == params_sha256(load(run).policy)


def test_an_env_alone_is_enough_and_fields_can_be_changed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runs = [train("CartPole-v1", progress=False, steps=128, num_envs=2, segment=16, hidden_size=8) for _ in range(2)]
    assert [run.path.name for run in runs] == ["seed_0", "seed_0-2"], (
        "twice in one process: a directory of its own each"
    )
    with pytest.raises(ValueError, match="no field 'lr'.*"):
        train("CartPole-v1", lr=1e-3)


@pytest.mark.parametrize("how", ["factory", "class", "batched", "vector"])
@pytest.mark.parametrize("kind", [PPOConfig, R2D2Config])
def test_an_env_may_be_an_object(config, how, kind):
    envs = {
        "factory": lambda: lambda: Signs(),
        "class": lambda: Signs,
        "batched": lambda: mru_rl.envs.make("mru_rl/TMaze-v0", 4, length=5),
        "vector": lambda: gymnasium.vector.SyncVectorEnv(
            [Signs] * 4, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
        ),
    }
    run = quiet(config(kind, env=envs[how](), env_kwargs={}, steps=256, previous_action=True))
    assert run.records()[-1]["steps"] >= 256
    if how == "batched":
        assert (
            run.evaluate(episodes=8, env=mru_rl.envs.make("mru_rl/TMaze-v0", 8, length=5), progress=False).episodes == 8
        )
        return
    with pytest.raises(ValueError, match="given from Python as an object"):
        run.evaluate(episodes=8, progress=False)
    assert run.evaluate(env=Signs, episodes=8, progress=False).episodes == 8
    with pytest.raises(ValueError, match="given from Python as an object"):
        resume(run, steps=512, progress=False)
    if how != "vector":
        assert resume(run, steps=512, env=Signs, progress=False).records()[-1]["steps"] == 512


def test_errors_name_the_field_and_the_command_line_puts_dashes_before_it():
    for wrong, message in {
        "num_envs": "num_envs must be at least 1, got 0",
        "steps": "steps must be at least 1, got 0",
    }.items():
        with pytest.raises(OptionError, match=message) as caught:
            PPOConfig(**{wrong: 0})
        assert caught.value.typed == f"--{message.replace('num_envs', 'num-envs')}"
    with pytest.raises(ValueError, match="num_envs must be a multiple of minibatches"):
        PPOConfig(num_envs=4, minibatches=3)
    with pytest.raises(ValueError, match="env must be an env id"):
        PPOConfig(env=3)


def test_ctrl_c_ends_a_run_with_a_checkpoint_and_a_second_one_is_pythons_own(config):
    def press(training):
        if training.steps == 128:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"stopped after 128 of 512 steps, with a checkpoint; `mru-rl resume"):
        quiet(config(), callbacks=[press])
    run = Run.open(config().run_dir)
    assert run.checkpoint()["steps"] == 128

    def press_twice(training):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        resume(run, progress=False, callbacks=[press_twice])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert resume(run, progress=False).records()[-1]["steps"] == 512


def test_it_trains_in_a_thread(config):
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(quiet(config())))
    thread.start()
    thread.join()
    assert runs[0].records()[-1]["steps"] == 512


# while it trains


class Notes(Callback):
    def __init__(self):
        self.updates, self.evaluations, self.checkpoints = [], [], []

    def on_update(self, training):
        self.updates.append(training.steps)
        assert "policy_loss" in training.metrics or training.trainer.updates == 1

    def on_evaluation(self, training, evaluation):
        self.evaluations.append((training.steps, evaluation.sampled))

    def on_checkpoint(self, training, path):
        self.checkpoints.append(path.name)


def test_callbacks_see_updates_evaluations_and_checkpoints(config):
    notes = Notes()
    run = quiet(config(eval_every=256, eval_episodes=8), callbacks=[notes])
    assert notes.updates == list(range(64, 513, 64))
    assert notes.evaluations == [(256, True), (512, True)], "what counts for a policy that draws its actions is sampled"
    assert notes.checkpoints[-1] == "step_000000000512.pt"
    evaluated = [record for record in run.records() if "eval_return_greedy" in record]
    assert [record["steps"] for record in evaluated] == [256, 512]
    assert "eval_success_sampled" in evaluated[0]


def test_evaluation_does_not_change_what_is_trained(config):
    with_it = quiet(config(eval_every=128, eval_episodes=8, run_dir=config().run_dir.parent / "with"))
    without = quiet(config())
    assert params_sha256(load(with_it).policy) == params_sha256(load(without).policy)


@pytest.mark.parametrize("stops", [lambda training: training.steps >= 256, lambda training: training.stop("enough")])
def test_a_callback_may_stop_the_run_and_it_goes_on_to_the_same_end(config, stops):
    whole = quiet(config(run_dir=config().run_dir.parent / "whole"))
    run = quiet(config(), callbacks=[stops])
    assert run.records()[-1]["steps"] < 512
    resume(run, progress=False)
    assert params_sha256(load(run).policy) == params_sha256(load(whole).policy)


def test_a_callback_that_raises_ends_the_run_with_a_checkpoint_and_shows_its_traceback(config):
    def broken(training):
        if training.steps >= 128:
            raise KeyError("my mistake")

    with pytest.raises(CallbackError, match="broken raised KeyError.*128 of 512 steps with a checkpoint") as caught:
        quiet(config(), callbacks=[broken])
    assert isinstance(caught.value.__cause__, KeyError)
    run = Run.open(config().run_dir)
    assert run.checkpoint()["steps"] == 128
    assert resume(run, progress=False).records()[-1]["steps"] == 512


@pytest.mark.parametrize("wrong", [3, Notes])
def test_what_is_no_callback_is_refused(config, wrong):
    with pytest.raises(TypeError, match="a callback is"):
        quiet(config(), callbacks=[wrong])


def test_a_run_stops_where_it_has_reached_what_it_is_to_reach(config):
    run = quiet(config(eval_every=64, eval_episodes=8, stop_at_return=-100.0))
    assert run.records()[-1]["steps"] == 64
    assert run.best.is_file()
    assert (run.path / "learning_curve.png").is_file()


def test_the_best_agent_is_kept_and_can_be_asked_for(config):
    run = quiet(config(eval_every=128, eval_episodes=16))
    best = load(run, checkpoint="best")
    returns = {r["steps"]: r["eval_return_sampled"] for r in run.records() if "eval_return_sampled" in r}
    assert returns[best.steps] == max(returns.values())
    assert run.evaluate(checkpoint="best", episodes=8, progress=False).steps == best.steps
    assert run.evaluate(checkpoint="step_512", episodes=8, progress=False).steps == 512
    with pytest.raises(CheckpointError, match=r"no checkpoint step_7; it has step_512.*"):
        load(run, checkpoint="step_7")
    with pytest.raises(CheckpointError, match="last, best or step_N"):
        load(run, checkpoint="newest")


def test_weights_of_another_run_are_a_start(config):
    first = quiet(config())
    second = quiet(config(init_from=first.path, steps=64, learning_rate=1e-12, run_dir=first.path.parent / "second"))
    for name, theirs in load(first).policy.state_dict().items():
        torch.testing.assert_close(load(second).policy.state_dict()[name], theirs, rtol=0, atol=1e-6)
    core = quiet(config(init_from=first.path, init_part="core", steps=64, learning_rate=1e-12, seed=3,
                        run_dir=first.path.parent / "third"))  # fmt: skip
    states = [load(run).policy.state_dict() for run in (first, core)]
    torch.testing.assert_close(states[0]["core.encoder.weight"], states[1]["core.encoder.weight"], rtol=0, atol=1e-6)
    assert not torch.allclose(states[0]["actor.0.weight"], states[1]["actor.0.weight"])
    with pytest.raises(ValueError, match=r"core.encoder.weight \(\[8, .*there, \[6, .*here\)"):
        quiet(config(init_from=first.path, hidden_size=6, run_dir=first.path.parent / "other"))


def test_a_run_trains_on_and_its_learning_rate_makes_no_jump(config):
    run = quiet(config(steps=512, learning_rate=1e-2))
    rates = [rate for rate in run.metrics()["learning_rate"] if rate == rate]
    resume(
        run, steps=2048, progress=False, callbacks=[lambda training: rates.append(training.metrics["learning_rate"])]
    )
    assert run.config.steps == 2048
    assert run.records()[-1]["steps"] == 2048
    jumps = np.abs(np.diff(rates[-24:]))
    assert rates[-24] < 2e-3, "a run that had ended goes on slowly at first"
    assert max(rates[-24:]) > 5e-3
    assert jumps.max() < 1e-2
    with pytest.raises(ValueError, match="has done 2,048; got 1,000"):
        resume(run, steps=1000, progress=False)


def test_a_logger_of_ones_own_gets_every_record(config):
    class Kept:
        def __init__(self):
            self.records, self.closed = [], False

        def log(self, record):
            self.records.append(dict(record))

        def close(self):
            self.closed = True

    kept = Kept()
    run = quiet(config(logger=("csv",)), loggers=[kept])
    assert kept.records == run.records()
    assert kept.closed
    lines = (run.path / "csv" / "scalars" / "return_mean.csv").read_text().split()
    assert lines[-1].split(",")[0] == "512"
    with pytest.raises(TypeError, match=r"log\(record\) and close"):
        quiet(config(run_dir=run.path.parent / "x"), loggers=[print])
    with pytest.raises(ValueError, match="no logger 'wandbb'; did you mean wandb"):
        quiet(config(logger=("wandbb",), run_dir=run.path.parent / "y"))


# acting


@pytest.mark.parametrize("core", ["bmru+mingru", "gru"])
@pytest.mark.parametrize("previous", [{}, {"previous_action": True, "previous_reward": True}])
def test_an_agent_acts_in_a_loop_of_ones_own_as_mru_rl_eval_does(config, core, previous):
    run = quiet(config(core=core, env=Signs, env_kwargs={}, steps=256, **previous))
    found = run.evaluate(env=Signs, episodes=8, progress=False)
    agent = load(run)
    env = mru_rl.envs.from_object(Signs, 8, seed=1_000_003)  # the rows that evaluate steps, seeded in the same way
    env.reset()
    rows = [row.env for row in env._rows.rows]
    seeds = mru_rl.envs.base.derive_seeds(1_000_003, 8).tolist()
    returns = []
    for row, seed in zip(rows, seeds, strict=True):
        obs, _ = row.reset(seed=seed)
        state, start, over, total, reward = agent.initial_state(), True, False, 0.0, 0.0
        while not over:
            action, state = agent.act(obs, state, start, reward=reward)
            obs, reward, terminated, truncated, _ = row.step(action)
            start, over, total = False, terminated or truncated, total + reward
        returns.append(total)
    assert sorted(returns) == sorted(found.returns)


def test_an_agent_takes_one_obs_or_a_batch_numpy_or_torch(config):
    run = quiet(config())
    agent = load(run)
    env = mru_rl.envs.make("mru_rl/TMaze-v0", 5, length=6, seed=3)
    obs, state, start = env.reset(), agent.initial_state(5), torch.ones(5, dtype=torch.bool)
    singles = [agent.initial_state() for _ in range(5)]
    for _ in range(12):
        action, after = agent.act(obs, state, start)
        as_numpy, _ = agent.act(obs.numpy(), state, start.numpy())
        assert isinstance(action, torch.Tensor)
        assert action.dtype == torch.int64
        assert isinstance(as_numpy, np.ndarray)
        assert action.tolist() == as_numpy.tolist()
        for row in range(5):
            one, singles[row] = agent.act(obs[row].numpy(), singles[row], bool(start[row]))
            assert one == action[row].item()
            torch.testing.assert_close(singles[row][0], after[row])
        step = env.step(action)
        obs, state, start = step.obs, after, step.terminated | step.truncated


def test_an_agent_refuses_what_does_not_fit(config):
    agent = load(quiet(config()))
    obs = np.zeros(agent.observation_space.shape, np.float32)
    with pytest.raises(ValueError, match="start with agent.initial_state"):
        agent.act(obs, agent.initial_state(3))
    with pytest.raises(ValueError, match="obs"):
        agent.act(np.zeros(77, np.float32), agent.initial_state())
    with pytest.raises(ValueError, match="obs"):
        agent.act("a word", agent.initial_state())
    with pytest.raises(ValueError, match="is_init is True on the first step"):
        agent.act(obs, agent.initial_state(), np.array([1, 0]))


def test_a_sampled_action_is_drawn_from_a_generator_and_q_values_are_not_drawn_from(config):
    agent = load(quiet(config()))
    obs = np.zeros((64, *agent.observation_space.shape), np.float32)
    draws = [
        agent.act(obs, agent.initial_state(64), sample=True, generator=torch.Generator().manual_seed(seed))[0].tolist()
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    values = load(quiet(config(R2D2Config, run_dir=agent.config.run_dir.parent / "r2d2", steps=64)))
    with pytest.raises(ValueError, match="values actions"):
        values.act(obs, values.initial_state(64), sample=True)


def test_no_env_is_built_to_load_an_agent(config, monkeypatch):
    run = quiet(config())
    monkeypatch.setattr("mru_rl.envs.registry.make", lambda *a, **k: pytest.fail("an env was made"))
    agent = load(str(run.path))
    assert agent.policy is agent.step.policy
    assert agent.core is agent.policy.core


# deploying


def test_an_agent_survives_in_one_file(config, tmp_path):
    agent = load(quiet(config(previous_action=True)))
    agent.save(tmp_path / "agent.pt")
    again = load(tmp_path / "agent.pt")
    assert params_sha256(again.policy) == params_sha256(agent.policy)
    obs = np.random.default_rng(0).normal(size=(7, *agent.observation_space.shape)).astype(np.float32)
    states = agent.initial_state(7), again.initial_state(7)
    for start in (True, False, False):
        (a, first), (b, second) = agent.act(obs, states[0], start), again.act(obs, states[1], start)
        assert a.tolist() == b.tolist()
        assert torch.equal(first, second)
        states = first, second


def test_a_file_that_is_no_agent_is_named(config, tmp_path):
    run = quiet(config())
    for path, message in {
        run.path / "metrics.jsonl": "does not begin with its header",
        next(run.checkpoints.glob("step_*.pt")): "checkpoint of a run",
        tmp_path: "not a run directory",
    }.items():
        with pytest.raises(ValueError, match=message):
            load(path)
    load(run).save(tmp_path / "agent.pt")
    content = (tmp_path / "agent.pt").read_bytes()
    (tmp_path / "agent.pt").write_bytes(content.replace(b"mru_rl checkpoint 1 ", b"mru_rl checkpoint 9 ", 1))
    with pytest.raises(ValueError, match="format 9, this version of mru_rl reads format 1"):
        load(tmp_path / "agent.pt")
    (tmp_path / "agent.pt").write_bytes(content[:-20])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load(tmp_path / "agent.pt")


def test_an_agent_file_runs_no_code_and_says_what_it_needs(config, tmp_path):
    agent = load(quiet(config()))
    agent.save(tmp_path / "agent.pt")
    from mru_rl.agents.records.checkpoint import load_checkpoint

    content = load_checkpoint(tmp_path / "agent.pt")
    content["config"] |= {"core": "somebodys", "imports": ["somebodys_cells"]}
    save_checkpoint(tmp_path / "agent.pt", content)
    with pytest.raises(ValueError, match="no cell named 'somebodys'.*made with somebodys_cells, import that first"):
        load(tmp_path / "agent.pt")
    assert "somebodys_cells" not in sys.modules


# the page that teaches


def test_every_public_object_has_an_example_that_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    finder = doctest.DocTestFinder(recurse=False)
    for name in agents.__all__:
        found = getattr(agents, name)
        assert ">>>" in (found.__doc__ or ""), f"{name} has no example"
        for test in finder.find(found, name, globs={}):
            runner.run(test)
    assert runner.failures == 0


def test_help_teaches(capsys):
    help(agents)
    text = capsys.readouterr().out
    for name in ("train(", "load(", "PPOConfig", "register_algorithm", "class Callback"):
        assert name in text
