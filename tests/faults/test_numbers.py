"""NaN and infinity are caught where they appear, named, and never reach a parameter or a checkpoint."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mru_rl.agents import training
from mru_rl.agents.acting.guards import STATE_BOUND, Guard, all_finite, require_finite_parameters
from mru_rl.agents.cli.main import main
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.r2d2.config import R2D2Config
from mru_rl.agents.records.checkpoint import list_checkpoints, load_checkpoint
from mru_rl.agents.run import Run
from mru_rl.envs.base import NonFiniteError

NAN = float("nan")
BAD = ["reward=nan", "reward=inf", "reward=-inf", "obs=nan", "obs=inf"]


@pytest.fixture
def configure(misbehaving, tmp_path):
    """A config of either algorithm for a second of training in an env that misbehaves; keyword arguments change it."""

    def build(algorithm: str, fault: str = "none", *, once: str = "", at: int = 10, length: int = 1000, **changes):
        settings = {
            "env": misbehaving,
            "env_kwargs": {"fault": fault, "once": once, "at": at, "length": length},
            "core": "bmru+gru",
            "steps": 512,
            "num_envs": 4,
            "segment": 16,
            "hidden_size": 8,
            "run_dir": tmp_path / "run",
            "tensorboard": False,
            "checkpoint_seconds": 0.0,
        }
        if algorithm == "ppo":
            return PPOConfig(**{**settings, "minibatches": 2, "epochs": 2, **changes})
        learning = {"sequence": 8, "burn_in": 2, "overlap": 4, "batch": 4, "learning_starts": 4}
        return R2D2Config(**{**settings, **learning, **changes})

    return build


def newest(run: Run) -> dict:
    return load_checkpoint(list_checkpoints(run.checkpoints)[0])


def all_parameters_finite(values: dict[str, torch.Tensor]) -> bool:
    return all(bool(v.isfinite().all()) for v in values.values())


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_a_bad_number_from_an_env_stops_the_run_with_its_name_row_and_step(configure, once, algorithm, fault):
    run, trainer = training.start(configure(algorithm, fault, once=once, at=70))
    what = "reward" if fault.startswith("reward") else "observation"
    words = rf"Misbehaving-v0: {what} values that are NaN or infinite in row \d, step 5 of the segment"
    with pytest.raises(NonFiniteError, match=words + r".*on_nonfinite drop.*After 256 steps; .*step_000000000256\.pt"):
        training.run_to_end(run, trainer)
    saved = newest(run)
    assert saved["steps"] == 256
    assert all_parameters_finite(saved["policy"])


@pytest.mark.parametrize("fault", ["reward=inf", "obs=nan"])
@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_dropped_rows_are_counted_and_the_run_goes_on_without_them(configure, algorithm, fault):
    run, trainer = training.start(configure(algorithm, fault, at=40, on_nonfinite="drop", steps=1024))
    seen = []
    learn = trainer.learn
    trainer.learn = lambda rollout: (seen.append(rollout), learn(rollout))[1]
    training.run_to_end(run, trainer)
    assert seen
    assert all(all_finite(*(v.float() for v in rollout.data.values(True, True))) for rollout in seen)
    last = run.records()[-1]
    assert last["dropped_rows"] == 4 * (1024 // 4 // 40), "each row, at step 40 of every episode"
    assert last["skipped_steps"] == 0
    assert trainer.collector.episodes == 0, "an episode that was dropped has not finished"
    assert all_parameters_finite(trainer.policy.state_dict())


def test_a_row_that_is_dropped_starts_afresh_and_the_others_learn_what_they_would_have(configure, once):
    _, broken = training.start(configure("ppo", "obs=nan", once=once, at=3, on_nonfinite="drop"))
    rollout = broken.collector.collect(16)
    (row,) = (~rollout.finite_rows).nonzero().flatten().tolist()
    assert rollout.kept().data.batch_size == (3, 16)
    counted = rollout.data["observation"][row, :, 0].tolist()
    assert counted == [0, 1, 2, *range(13)]
    assert rollout.data["is_init"][row].nonzero().flatten().tolist() == [0, 3]
    assert broken.collector.collect(16).finite_rows is None


def poison(trainer, name: str, value: float) -> None:
    with torch.no_grad():
        dict(trainer.policy.named_parameters())[name].view(-1)[0] = value


@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_a_poisoned_parameter_is_named_and_never_saved(configure, algorithm):
    run, trainer = training.start(configure(algorithm))
    training.Training(run, trainer)._save()
    learn = trainer.learn
    trainer.learn = lambda rollout: (learn(rollout), poison(trainer, "core.encoder.weight", NAN))[0]
    with pytest.raises(NonFiniteError, match=r"parameter core\.encoder\.weight is no longer finite.*learning_rate"):
        training.run_to_end(run, trainer)
    assert all(all_parameters_finite(load_checkpoint(path)["policy"]) for path in list_checkpoints(run.checkpoints))


@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_a_gradient_that_is_not_finite_changes_no_parameter(configure, algorithm):
    unscaled = {"normalize_reward": False} if algorithm == "ppo" else {}  # a new unit of values changes the critic
    _, trainer = training.start(configure(algorithm, warm_up=False, **unscaled))
    while not trainer.updates or (algorithm == "r2d2" and trainer.learner.gradient_steps == 0):
        trainer.update()
    parameter = dict(trainer.policy.named_parameters())["core.encoder.bias"]
    parameter.register_hook(lambda gradient: gradient * NAN)
    before = {name: value.clone() for name, value in trainer.policy.named_parameters()}
    with pytest.raises(
        NonFiniteError, match="the gradient of core.encoder.bias is not finite; no parameter was changed"
    ):
        trainer.update()
    assert all(torch.equal(value, before[name]) for name, value in trainer.policy.named_parameters())

    trainer.guard.drops = True
    metrics, _ = trainer.update()
    assert "grad_norm" not in metrics, "nothing was learned, so nothing is said of it"
    assert trainer.guard.skipped_steps > 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.policy.named_parameters())


def test_a_loss_that_is_not_finite_names_what_it_was_made_of():
    parameter = torch.nn.Linear(1, 1)
    parts = {"target": torch.zeros(2, 3), "value": torch.tensor([[0, 0, 0], [0, NAN, 0.0]])}
    parameter(torch.tensor([NAN])).backward()
    with pytest.raises(NonFiniteError, match="value is nan in row 1 of the minibatch, step 1"):
        Guard("stop").clip(parameter, 1.0, parts)


def test_clipping_is_that_of_torch():
    ours, torchs = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3)
    for module in (ours, torchs):
        module(x).square().sum().backward()
    norm = Guard().clip(ours, 0.5, {})
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(torchs.parameters(), 0.5))
    for a, b in zip(ours.parameters(), torchs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_run_whose_rows_were_all_dropped_learns_from_the_next_ones(configure):
    _, trainer = training.start(configure("ppo", "obs=nan", at=10, on_nonfinite="drop"))
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    for _ in range(2):
        trainer.update()
    assert trainer.guard.dropped_rows == 8
    assert not trainer.warmed_up
    assert all(torch.equal(value, before[name]) for name, value in trainer.policy.state_dict().items())


def test_huge_rewards_end_in_words_and_not_in_poisoned_parameters(configure):
    as_they_are = {"normalize_obs": False, "normalize_reward": False}
    run, trainer = training.start(configure("ppo", "reward=3e38", at=3, warm_up=False, minibatches=1, **as_they_are))
    with pytest.raises(NonFiniteError, match=r"(target|advantage) is .* in row \d of the minibatch, step \d"):
        training.run_to_end(run, trainer)
    require_finite_parameters(trainer.policy)


# memories that explode


def explode(trainer, row: int) -> None:
    state = trainer.collector.state.clone()
    state[row] = 2 * STATE_BOUND
    trainer.collector.state = state


@pytest.mark.parametrize("core", ["cmru", "acmru"])
@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_an_exploded_memory_stops_the_run_or_starts_afresh(configure, algorithm, core):
    _, trainer = training.start(configure(algorithm, core=core))
    trainer.update()
    explode(trainer, row=2)
    with pytest.raises(NonFiniteError, match=r"memory state has grown to 2e\+06, beyond 1e\+06, in row 2"):
        trainer.update()

    _, trainer = training.start(
        configure(algorithm, core=core, on_nonfinite="drop", run_dir=trainer.config.run_dir / "b")
    )
    trainer.update()
    explode(trainer, row=2)
    _, rollout = trainer.update()
    assert rollout.finite_rows.tolist() == [True, True, False, True]
    assert trainer.guard.state_max > STATE_BOUND
    assert trainer.collector.state[2].eq(0).all()
    assert trainer.collector.is_init.tolist() == [False, False, True, False]
    trainer.update()
    assert trainer.guard.state_max < STATE_BOUND


@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_a_memory_that_is_not_finite_is_caught_before_an_action_comes_of_it(configure, algorithm):
    _, trainer = training.start(configure(algorithm, core="cmru"))
    state = trainer.collector.state.clone()
    state[1] = float("inf")
    trainer.collector.state, trainer.collector.is_init = state, torch.zeros(4, dtype=torch.bool)
    with pytest.raises(
        NonFiniteError, match="memory state no longer finite, after inputs of up to .* in row 1, step 0"
    ):
        trainer.update()


def test_the_largest_state_is_a_metric_and_counts_survive_a_checkpoint(configure, tmp_path):
    run, trainer = training.start(configure("ppo", "obs=nan", at=40, on_nonfinite="drop", steps=512))
    training.run_to_end(run, trainer)
    record = run.records()[-1]
    assert record["state_max"] == trainer.collector.state.abs().max().item() > 0
    assert record["dropped_rows"] > 0
    again, _ = training.take_up(run, trainer.config)
    assert again.guard.dropped_rows == record["dropped_rows"]


def test_the_command_says_it_in_one_line(configure, misbehaving, tmp_path, capsys):
    words = ["--env", misbehaving, "--env-kwargs", "fault=obs=nan", "--num-envs", "2", "--no-tensorboard"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *words, "--run-dir", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith(
        "mru-rl: error: env mru_rl-faults/Misbehaving-v0: observation values that are NaN or infinite"
    )
    assert said.count("\n") == 1
    assert "step_000000000000.pt, is from before" in said


def test_only_our_own_acting_loop_can_drop_rows(configure):
    config = configure("ppo")
    with pytest.raises(ValueError, match="only collector own can drop rows"):
        dataclasses.replace(config, on_nonfinite="drop", collector="torchrl")


def test_a_sum_that_overflows_is_not_taken_for_a_bad_number():
    assert all_finite(torch.full((4,), 3e38))
    assert not all_finite(torch.tensor([3e38, float("inf")]))
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))
