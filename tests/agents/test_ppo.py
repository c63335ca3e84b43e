from __future__ import annotations

import copy

import torch

from mru_rl.agents.train import Trainer


def test_steps_that_move_the_policy_too_far_are_taken_back_to_the_bit(small):
    trainer = Trainer(small(warm_up=False, max_kl=1e-9, learning_rate=1e-2))
    rollout = trainer.collector.collect(trainer.config.segment)
    before = copy.deepcopy(trainer.policy.state_dict())
    metrics = trainer.learner.update(rollout, 0.0)
    assert metrics["undone_steps"] == trainer.config.epochs * trainer.config.minibatches
    assert all(torch.equal(before[name], value) for name, value in trainer.policy.state_dict().items())


def test_adams_moments_are_taken_back_with_the_step(small):
    trainer = Trainer(small(warm_up=False, learning_rate=1e-2))
    trainer.update()
    moments = copy.deepcopy(trainer.learner.optimizer.state_dict()["state"])
    rollout = trainer.collector.collect(trainer.config.segment)
    trainer.learner.config = small("other", warm_up=False, max_kl=1e-9)
    trainer.learner.update(rollout, 0.0)
    now = trainer.learner.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[i][k], now[i][k]) for i in moments for k in moments[i])


def test_ordinary_updates_take_nothing_back(small):
    trainer = Trainer(small(warm_up=False))
    before = copy.deepcopy(trainer.policy.state_dict())
    metrics, _ = trainer.update()
    assert metrics["undone_steps"] == 0
    assert any(not torch.equal(before[name], value) for name, value in trainer.policy.state_dict().items())
