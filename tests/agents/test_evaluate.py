"""Evaluation in long stretches against evaluation step by step."""

from __future__ import annotations

import pytest
import torch

from mru_rl.agents.build import make_env
from mru_rl.agents.evaluate import episodes_for, evaluate, evaluate_open_loop, evaluate_run
from mru_rl.agents.nets.heads import action_head
from mru_rl.agents.ppo.trainer import PPOTrainer

TASKS = [
    ("mru_rl/TMaze-v0", {"length": 40}),
    ("mru_rl/TMaze-v0", {"length": 40, "rewards": "bakker"}),
    ("mru_rl/RecallFirst-v0", {"length": 30, "ask": "always"}),
    ("mru_rl/FlipFlop-v0", {"length": 50}),
    ("popgym-HigherLowerEasy-v0", {}),
    ("popgym-AutoencodeEasy-v0", {}),
]


class Recorder:
    """An env that notes the actions [B, ...] it takes at every step and, where it knows, which rows were asked."""

    def __init__(self, env) -> None:
        self.env, self.actions, self.asked, self.stretches = env, [], [], []

    def __getattr__(self, name):
        return getattr(self.env, name)

    def step(self, action):
        self.actions.append(action)
        return self.env.step(action)

    def unroll(self, steps):
        stretch = self.env.unroll(steps)
        self.asked += stretch.asked.unbind(1)
        self.stretches.append(stretch.asked.shape[1])
        self.actions += [None] * stretch.asked.shape[1]

        def pay(action):
            self.actions[-action.shape[1] :] = action.unbind(1)
            return stretch.pay(action)

        return stretch._replace(pay=pay)


def opinionated_policy(config):
    """An untrained policy whose choices differ: logits centred and spread to 1 over what it is asked.

    Rounding, 1e-6 of that, then decides one choice in a million.
    """
    torch.manual_seed(3)
    env = make_env(config, 16, seed=6)
    policy = PPOTrainer.make_agent(config, env.rules)[1].eval()
    env.reset()
    stretch = env.unroll(100)
    with torch.no_grad():
        is_init = torch.zeros_like(stretch.asked)
        y, _ = policy.core(stretch.obs, policy.core.initial_state(16), is_init)
        logits = policy.actor(y[stretch.asked])
        last = policy.actor[-1]
        last.weight.div_(logits.std())
        last.bias.copy_(-logits.mean(0) / logits.std())
    return policy


@pytest.mark.parametrize("core", ["bmru", "bmru+mingru", "gru", "lru"])
@pytest.mark.parametrize(("env_id", "options"), TASKS)
def test_evaluating_in_stretches_takes_the_actions_and_earns_the_returns_of_single_steps(small, core, env_id, options):
    """A few thousand decisions, none of them within rounding of a tie for these seeds; a write of a memory recurrent
    unit, likewise decided by a comparison, would show in the actions after it.
    """
    config = small(env=env_id, env_kwargs=options, core=core)
    stepped, unrolled = (Recorder(make_env(config, 6, seed=5)) for _ in range(2))
    policy, head = opinionated_policy(config), action_head(stepped.action_space)
    want = evaluate(policy, head, stepped, 12)
    got = evaluate_open_loop(policy, head, unrolled, 12, stretch_numbers=6 * 16 * 13)  # 13 steps a stretch
    assert got.lengths == want.lengths
    assert got.returns == pytest.approx(want.returns, abs=1e-6)
    assert (got.success_return, got.success_rate) == (want.success_return, want.success_rate)
    choices = set()
    for mine, theirs, asked in zip(unrolled.actions, stepped.actions, unrolled.asked, strict=True):
        if asked.any():
            assert torch.equal(mine[asked], theirs[asked])
            choices |= {str(choice) for choice in mine[asked].tolist()}
    assert len(choices) > 1


def test_the_length_of_stretches_is_bounded_and_changes_nothing(small):
    config = small(env="mru_rl/FlipFlop-v0", env_kwargs={"length": 64}, core="bmru+mingru")
    policy, results = opinionated_policy(config), []
    for steps, longest in ((1, 1), (7, 7), (64, 64), (1000, 64)):
        env = Recorder(make_env(config, 4, seed=5))
        head = action_head(env.action_space)
        results.append(evaluate_open_loop(policy, head, env, 8, stretch_numbers=4 * 16 * steps).returns)
        assert max(env.stretches) == longest
    assert all(result == pytest.approx(results[0], abs=1e-6) for result in results)


def test_longer_episodes_are_fewer_unless_told_otherwise(trained):
    assert [episodes_for(length) for length in (1, 10_000, 20_000, 10**6)] == [128, 128, 64, 32]
    run, _ = trained(env="mru_rl/TMaze-v0", env_kwargs={"length": 9}, steps=512)
    assert evaluate_run(run, env_kwargs={}, seed=3, sample=False).episodes == 128
    assert evaluate_run(run, env_kwargs={}, seed=3, sample=False, episodes=5).episodes == 5


def test_a_run_is_evaluated_in_stretches_where_that_can_be_and_step_by_step_elsewhere(trained, monkeypatch):
    taken = []
    for function in (evaluate, evaluate_open_loop):
        monkeypatch.setattr(
            f"mru_rl.agents.evaluate.{function.__name__}",
            lambda *args, function=function, **kwargs: taken.append(function.__name__) or function(*args, **kwargs),
        )
    run, _ = trained(env="mru_rl/TMaze-v0", env_kwargs={"length": 9}, steps=512)
    arguments = {"episodes": 16, "env_kwargs": {"length": 50}, "seed": 3}
    assert evaluate_run(run, sample=False, **arguments).length_mean == 51
    evaluate_run(run, sample=True, **arguments)
    seer, _ = trained(name="seer", env="mru_rl/TMaze-v0", previous_action=True, steps=512)
    evaluate_run(seer, sample=False, **arguments)
    assert taken == ["evaluate_open_loop", "evaluate", "evaluate"]


def test_a_run_trained_on_clean_episodes_is_evaluated_on_contaminated_and_longer_ones(trained):
    run, _ = trained(env="mru_rl/Contamination-v0", env_kwargs={"length": 9}, steps=512)
    result = evaluate_run(run, env_kwargs={"burst": 20, "length": 40}, seed=3, sample=False, episodes=8)
    assert result.env_kwargs == {"length": 40, "burst": 20}
    assert (result.length_mean, result.episodes) == (41, 8)
