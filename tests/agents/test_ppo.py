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


def test_momentum_starts_anew_after_a_step_that_is_taken_back(small):
    trainer = Trainer(small(warm_up=False, max_kl=1e-9, learning_rate=1e-2))
    trainer.learner.update(trainer.collector.collect(trainer.config.segment), 0.0)
    state = trainer.learner.optimizer.state_dict()["state"].values()
    assert all(moments["exp_avg"].eq(0).all() for moments in state)
    assert any(moments["exp_avg_sq"].gt(0).any() for moments in state)


def test_ordinary_updates_take_nothing_back(small):
    trainer = Trainer(small(warm_up=False))
    before = copy.deepcopy(trainer.policy.state_dict())
    metrics, _ = trainer.update()
    assert metrics["undone_steps"] == 0
    assert any(not torch.equal(before[name], value) for name, value in trainer.policy.state_dict().items())
