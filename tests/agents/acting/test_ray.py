"""Training with collectors on Ray: the same numbers, and a collector that dies costs a segment of its own acting."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from mru_rl.agents import training
from mru_rl.agents.evaluate import params_sha256
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.trainer import Trainer

pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def two(ray_here, tmp_path_factory) -> Iterator[Trainer]:
    """A trainer with two collectors of four envs; a test that kills one leaves the next to replace it."""
    config = PPOConfig(
        collector="ray", num_collectors=2, num_envs=8, minibatches=2, core="bmru", hidden_size=16, segment=51, warm_up=False,
        tensorboard=False, run_dir=tmp_path_factory.mktemp("two") / "run",
    )  # fmt: skip
    _, trainer = training.start(config)
    yield trainer
    trainer.collector.close()


def pids_of(trainer: Trainer) -> list[int]:
    """The processes of a trainer's collectors; they are there once one segment was collected."""
    ray, actors = trainer.collector._ray, trainer.collector._collectors.remote_collectors
    return ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in actors])


@pytest.mark.parametrize("collector", ["torchrl", "ray"])
def test_one_collector_trains_to_the_parameters_of_our_own_loop(small, collector):
    options = {"env": "mru_rl/TMaze-v0", "env_kwargs": {"length": 9}, "core": "carry-bmru", "steps": 2048}
    hashes = []
    for name in ("own", collector):
        run, trainer = training.start(small(name, collector=name, **options))
        training.run_to_end(run, trainer)
        hashes.append((params_sha256(trainer.policy), trainer.collector.episodes))
    assert hashes[0] == hashes[1]
    assert hashes[0][1] > 0


def test_collectors_share_the_envs_on_seeds_of_their_own_and_a_killed_one_is_replaced(two):
    _, first = two.update()
    assert first.data.shape == (8, 51)
    assert not torch.equal(first.data["observation"][:4], first.data["observation"][4:])
    pids = pids_of(two)
    assert len(set(pids)) == 2
    counted, before = two.collector.episodes, params_sha256(two.policy)
    os.kill(pids[1], signal.SIGKILL)
    _, second = two.update()
    assert pids_of(two)[0] == pids[0]
    assert pids_of(two)[1] != pids[1]
    assert params_sha256(two.policy) != before, "the rollout was whole, and learned from"
    assert two.collector.episodes == counted + 8
    assert second.data["is_init"][:, 0].all()
    cards = [rollout.data["observation"] for rollout in (first, second)]
    assert not torch.equal(cards[1][4:], cards[0][4:]), "the replacement drew the episodes of the dead one again"


def test_all_collectors_act_with_the_newest_weights(two):
    two.update()
    data, start_state = two.collector.collect(51)
    out = two.policy(data["observation"], start_state, data["is_init"])
    log_prob, _ = two.head.log_prob_and_entropy(out.params, data["action"])
    torch.testing.assert_close(log_prob, data["action_log_prob"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.value, data["state_value"], atol=1e-5, rtol=1e-5)


def test_a_collector_that_always_dies_ends_the_run_with_one_message(two, monkeypatch):
    two.update()
    dead = two.collector._collectors.remote_collectors[0]
    os.kill(pids_of(two)[0], signal.SIGKILL)
    monkeypatch.setattr(two.collector, "_replace", lambda place: dead)
    with pytest.raises(
        ChildProcessError, match=r"collector 0 on Ray died 3 times over one segment of popgym-RepeatFirst"
    ):
        two.update()


def test_what_fails_in_a_collector_is_raised_here(two, monkeypatch):
    monkeypatch.setattr(two.policy, "state_dict", dict)
    with pytest.raises(RuntimeError, match="Missing key"):
        two.collector.collect(51)


def test_collectors_that_cannot_begin_say_why(small):
    _, trainer = training.start(small(collector="ray", env="mru_rl/TMaze-v0"))
    trainer.collector.env.options["pace"] = 3
    with pytest.raises(ChildProcessError, match="collectors on Ray cannot begin: .*has no option 'pace'"):
        trainer.update()
    trainer.collector.close()


def test_a_resumed_run_and_a_new_level_start_fresh_episodes_on_ray(small):
    options = {"env": "mru_rl/TMaze-v0", "env_kwargs": {"length": "3..6"}, "steps": 1024}
    run, trainer = training.start(small(collector="ray", **options))
    _, first = trainer.update()
    training.Training(run, trainer)._save()
    trainer._set_level(6)
    _, longer = trainer.update()
    assert {length for _, length, _ in trainer.collector.recent} == {7}
    assert longer.data["is_init"][:, 0].all()
    trainer.collector.close()
    resumed, lost = training.take_up(run, run.config)
    assert lost == ["a collector on Ray cannot save its state: all envs start fresh episodes"]
    assert resumed.collector.episodes > 0
    _, again = resumed.update()
    assert again.data["is_init"][:, 0].all()
    assert not torch.equal(again.data["observation"], first.data["observation"])
    resumed.collector.close()
