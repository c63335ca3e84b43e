from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from mru_rl.agents import training, training_loop
from mru_rl.agents.config import Task, to_json
from mru_rl.agents.evaluate import evaluate_run, params_sha256
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.records.metrics import GLOSSARY
from mru_rl.agents.run import Run


@pytest.mark.parametrize("core", ["bmru+mingru", "bmru", "gru"])
def test_ppo_learns_to_repeat_the_first_card(small, core):
    run, trainer = training.start(
        small(
            core=core,
            steps=150_000,
            num_envs=64,
            minibatches=8,
            epochs=4,
            hidden_size=64,
            segment=102,
            checkpoint_seconds=60,
        )
    )
    training.run_to_end(run, trainer)
    result = evaluate_run(run, episodes=64, env_kwargs={}, seed=99, sample=False)
    assert result.return_mean > 0.8  # without memory the best is -0.5; three seeds reach 0.9 and more


def test_a_run_leaves_everything_it_promises_and_only_documented_metrics(trained):
    run, trainer = trained(tensorboard=True)
    assert {p.name for p in run.path.iterdir()} == {
        "config.json", "spaces.json", "provenance.json", "metrics.jsonl", "checkpoints", "learning_curve.png", "tensorboard",
    }  # fmt: skip
    assert (run.path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    records = run.records()
    assert records[-1]["steps"] == trainer.steps >= 4096
    assert {name for record in records for name in record} <= set(GLOSSARY)
    assert "write_rate" in records[-1]
    provenance = json.loads((run.path / "provenance.json").read_text())
    assert {"command", "commit", "versions", "machine", "seed"} <= set(provenance)


def test_the_config_comes_back_from_disk_as_it_was(trained):
    run, trainer = trained(env="mru_rl/TMaze-v0", env_kwargs={"length": 9, "noise": 0.5})
    assert to_json(run.config) == to_json(trainer.config)


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others(small):
    hashes = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run, trainer = training.start(small(name, seed=seed, steps=1500))
        training.run_to_end(run, trainer)
        hashes.append(params_sha256(trainer.policy))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("env", ["popgym-RepeatPreviousEasy-v0", "mru_rl/TMaze-v0"])
def test_a_run_resumed_from_a_checkpoint_ends_with_the_same_parameters(small, env):
    whole_run, whole = training.start(small("whole", env=env, core="bmru+mingru"))
    training.run_to_end(whole_run, whole)

    run, trainer = training.start(small("cut", env=env, core="bmru+mingru"))
    for _ in range(3):
        trainer.update()
    training.Training(run, trainer)._save()
    resumed, lost = training.take_up(Run.open(run.path), Run.open(run.path).config)
    assert not lost
    assert resumed.steps == trainer.steps > 0
    training.run_to_end(run, resumed)
    assert params_sha256(resumed.policy) == params_sha256(whole.policy)


def _start(config: PPOConfig) -> subprocess.Popen:
    options = [
        "--env", config.env, "--core", config.core, "--steps", str(config.steps), "--num-envs", str(config.num_envs),
        "--minibatches", str(config.minibatches), "--epochs", str(config.epochs), "--hidden-size", str(config.hidden_size),
        "--segment", str(config.segment), "--checkpoint-seconds", "0", "--no-tensorboard", "--run-dir", str(config.run_dir),
    ]  # fmt: skip
    command = [sys.executable, "-m", "mru_rl.agents.cli", "train", "ppo", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_run_killed_at_any_moment_and_resumed_ends_with_the_same_parameters(small):
    steps = 40_000
    whole_run, whole = training.start(small("whole", steps=steps))
    training.run_to_end(whole_run, whole)

    config = small("killed", steps=steps)
    process = _start(config)
    checkpoints = config.run_dir / "checkpoints"
    deadline = time.monotonic() + 120
    while len(list(checkpoints.glob("step_*.pt"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.003 * (os.getpid() % 17))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was to be killed before it ended"

    run = Run.open(config.run_dir)
    trainer, lost = training.take_up(run, run.config)
    assert not lost
    assert 0 < trainer.steps < steps
    training.run_to_end(run, trainer)
    assert params_sha256(trainer.policy) == params_sha256(whole.policy)
    steps_seen = [record["steps"] for record in run.records()]
    assert steps_seen == sorted(set(steps_seen)), "no record twice"


def test_an_env_that_cannot_save_its_state_starts_fresh_episodes_on_resume(small):
    run, trainer = training.start(small(env="CartPole-v1", steps=3000))
    trainer.update()
    training.Training(run, trainer)._save()
    trainer.env.close()
    resumed, lost = training.take_up(run, run.config)
    assert "start fresh episodes" in lost[0]
    assert resumed.collector.is_init.all()
    assert resumed.steps == trainer.steps
    training.run_to_end(run, resumed)
    assert resumed.steps >= 3000


@pytest.mark.parametrize("workers", ["sync", "process"])
@pytest.mark.parametrize("env", ["CartPole-v1", "popgym-PositionOnlyPendulumEasy-v0", "popgym-BattleshipEasy-v0"])
def test_other_gymnasium_envs_train_in_this_process_and_in_workers(small, env, workers):
    run, trainer = training.start(small(env=env, workers=workers, backend="upstream", steps=1024, num_envs=4))
    training.run_to_end(run, trainer)
    assert run.records()[-1]["steps"] >= 1024
    assert all(torch.isfinite(p).all() for p in trainer.policy.parameters())


def test_defaults_follow_the_task():
    corridor, _ = PPOConfig().resolve(Task(horizon=1001, credit_horizon=0, open_loop=True))
    assert (corridor.segment, corridor.discount, corridor.previous_action) == (1001, 0.5, False)
    assert corridor.entropy == pytest.approx(1 / 1001)
    cards, _ = PPOConfig().resolve(Task(horizon=51, credit_horizon=0, open_loop=True))
    assert (cards.segment, cards.entropy) == (102, 0.01)
    unknown, why = PPOConfig().resolve(Task(horizon=None, credit_horizon=None, open_loop=False))
    assert (unknown.segment, unknown.discount, unknown.previous_action) == (128, 0.99, True)
    assert set(why) == {"segment", "minibatches", "discount", "entropy", "previous_action"}
    asked = PPOConfig(segment=7, minibatches=4, discount=0.9, entropy=0.0, previous_action=True)
    for horizon, discount in ((200, 0.95), (400, 0.975), (1000, 0.99), (50, 0.95), (None, 0.99)):
        control, _ = PPOConfig().resolve(Task(horizon, None, False, continuous=True))
        assert control.discount == pytest.approx(discount)
    resolved, reasons = asked.resolve(Task(horizon=51, credit_horizon=0, open_loop=True))
    assert (to_json(resolved), reasons) == (to_json(asked), {})


LIMIT = "the env's time limit (max_episode_steps)"


@pytest.mark.parametrize(
    ("horizon", "num_envs", "steps", "segment", "why"),
    [
        (301, 64, 600_000, 301, f"one episode of 301 steps, from {LIMIT}"),  # bsuite's memory_len 300
        (300, 64, 600_000, 300, f"one episode of 300 steps, from {LIMIT}"),
        (200, 64, 600_000, 200, f"one episode of 200 steps, from {LIMIT}"),  # Pendulum-v1
        (50, 64, 600_000, 150, f"3 episodes of 50 steps, from {LIMIT}"),
        (50, 64, 100_000, 128, f"more than an episode, of 50 steps, from {LIMIT}"),
        (500, 64, 600_000, 128, "would make 18.8 rollouts of 32,000 steps, not 30 of at most 32,768"),  # CartPole-v1
        (500, 64, 1_000_000, 500, f"one episode of 500 steps, from {LIMIT}"),
        (1000, 64, 10**7, 128, "give --segment 1000 or fewer --num-envs"),  # MuJoCo
        (1000, 16, 600_000, 1000, f"one episode of 1000 steps, from {LIMIT}"),
        (10**6, 1, 10**9, 128, "where a cue lies further than 128 steps from its use"),
        (None, 64, 600_000, 128, "the env does not say how far a cue lies from its use"),
    ],
)
def test_a_time_limit_alone_gives_whole_episodes_where_the_run_can_afford_them(horizon, num_envs, steps, segment, why):
    task = Task(horizon, None, False, {} if horizon is None else {"horizon": LIMIT})
    config, reasons = PPOConfig(num_envs=num_envs, steps=steps).resolve(task)
    assert config.segment == segment
    assert why in reasons["segment"]
    assert (LIMIT in reasons["segment"]) == (horizon is not None)


def test_fewer_and_longer_rollouts_are_learned_from_in_more_steps():
    def minibatches(horizon):
        return PPOConfig().resolve(Task(horizon, None, False, {"horizon": LIMIT}))[0].minibatches

    assert [minibatches(horizon) for horizon in (301, 200, 50, 64, 500, None)] == [32, 32, 16, 8, 8, 8]


def test_reasons_name_what_an_env_from_elsewhere_says():
    said = {"horizon": "the env (Mine.horizon)", "credit_horizon": "the env (Mine.credit_horizon)", "open_loop": "it"}
    config, why = PPOConfig().resolve(Task(301, 300, True, said))
    assert (config.segment, config.previous_action) == (301, False)
    assert why["segment"] == "1 episode(s) of 301 steps, at most 16,384, from the env (Mine.horizon)"
    assert why["discount"].endswith("from the env (Mine.credit_horizon)")
    assert why["previous_action"] == "observations do not depend on actions, from it"


@pytest.mark.parametrize(
    ("num_envs", "segment", "minibatches"),
    [
        (64, 102, 8),
        (64, 501, 16),
        (64, 831, 32),
        (64, 10_001, 32),
        (10, 101, 5),
        (48, 1000, 24),
        (2, 500, 1),
        (1, 50, 1),
    ],
)
def test_minibatches_have_about_1024_steps_and_two_rows_where_they_can(num_envs, segment, minibatches):
    config, why = PPOConfig(num_envs=num_envs, segment=segment).resolve(
        Task(horizon=segment, credit_horizon=0, open_loop=True)
    )
    assert config.minibatches == minibatches
    assert why["minibatches"] == f"{num_envs // minibatches} rows of {segment} steps each"


def test_warm_up_spreads_the_write_rates_before_the_first_gradient_step(small):
    _, trainer = training.start(small(env="mru_rl/TMaze-v0", num_envs=64, segment=101))
    trainer.update()
    trace = trainer.policy.core.trace(
        trainer.collector.collect(101).data["observation"],
        trainer.policy.core.initial_state(64),
        torch.zeros(64, 101, dtype=torch.bool),
    )
    rates = trace["layer_0", "bmru", "writes"].float().mean((0, 1))
    assert rates.max() > 0.2
    assert rates.min() < 0.05


@pytest.mark.parametrize(
    ("core", "first", "share"), [("carry-bmru", 0.5, 0.5), ("carry-bmru:carry=0.2", 0.2, 1.0), ("carry-bmru", 0.5, 0.0)]
)
def test_the_carry_of_a_carry_bmru_falls_from_where_it_was_made_to_nothing(small, core, first, share):
    _, trainer = training.start(small(core=core, steps=4096, warm_up=False, carry_share=share))
    cell = trainer.policy.core.blocks[0].cell
    while trainer.steps < 4096:
        assert cell.carry == pytest.approx(first * max(0.0, 1 - trainer.progress / share) if share else 0.0)
        trainer.update()
    assert cell.carry == 0.0, "the agent that is kept is a BMRU"


@pytest.mark.parametrize("share", [-0.5, 5.0])
def test_a_share_of_the_run_that_is_none_is_refused(small, share):
    with pytest.raises(ValueError, match=r"carry_share must lie in \[0, 1\]"):
        small(carry_share=share)


@pytest.mark.parametrize(("core", "warmed_up"), [("gru", True), ("bmru", False), ("mingru,bmru", False)])
def test_only_cores_with_write_rates_spend_a_rollout_on_setting_them(small, core, warmed_up):
    _, trainer = training.start(small(core=core))
    assert trainer.warmed_up is warmed_up


def test_a_run_of_few_rollouts_says_so(small, tmp_path):
    _, trainer = training.start(small(steps=600))
    assert "few to learn from; give more --steps" in "".join(trainer.notes())
    _, trainer = training.start(small(steps=60_000, run_dir=tmp_path / "long"))
    (note,) = trainer.notes()
    assert re.fullmatch(r"memory: about [\d,]+ MiB \(rollout [\d,]+, learning [\d,]+\)", note)


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("KeyDoor", {"colors": "2..4", "length": 4}),
        ("EventCount", {"modulus": "2..8"}),
        ("FlipFlop", {"bits": "1..4"}),
    ],
)
def test_a_curriculum_whose_levels_look_different_to_the_network_is_refused(small, env, options):
    with pytest.raises(ValueError, match="the levels of a curriculum must look alike to one network"):
        training.start(small(env=f"mru_rl/{env}-v0", env_kwargs=options))


def test_checkpoints_that_take_long_are_a_twentieth_of_the_run():
    assert training_loop.seconds_between_saves(30.0, took=0.9) == 30.0
    assert training_loop.seconds_between_saves(0.0, took=0.9) == 0.0
    assert training_loop.seconds_between_saves(30.0, took=1.2) == 30.0
    assert training_loop.seconds_between_saves(0.0, took=1.2) == pytest.approx(24)
    assert training_loop.seconds_between_saves(30.0, took=9.0) == pytest.approx(180)


def test_a_run_whose_checkpoints_take_long_writes_fewer_and_the_last_one_all_the_same(small, monkeypatch):
    saved = []
    monkeypatch.setattr(training_loop, "_LONG_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training_loop, "_SAVE_SHARE", 1e-9)
    monkeypatch.setattr(training_loop, "save_checkpoint", lambda path, content: saved.append(content["steps"]))
    run, trainer = training.start(small(steps=2048))
    training.run_to_end(run, trainer)
    assert len(saved) == 3, "the first, one that was found to take long, and the last"
    assert (saved[0], saved[-1]) == (0, trainer.steps)


def test_warm_up_keeps_nothing_for_a_gradient(small, monkeypatch):
    _, trainer = training.start(small(env="mru_rl/TMaze-v0", num_envs=2, segment=8, encoder=Features))
    seen = []
    monkeypatch.setattr(trainer.policy.core, "warm_up", lambda x, *_: seen.append(x.requires_grad))
    trainer.update()
    assert seen == [False]


class Features(torch.nn.Linear):
    def __init__(self, space):
        super().__init__(space.shape[0], 4)
