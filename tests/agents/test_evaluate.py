"""Evaluation in long stretches against evaluation step by step."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from mru_rl.agents.build import make_env
from mru_rl.agents.console.progress import Progress
from mru_rl.agents.evaluate import act, cap_for, episodes_for, evaluate, evaluate_open_loop, evaluate_run
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


class Endless(gymnasium.Env):
    """Pays 1 a step and ends with a step whose number is a multiple of `every`; never where it is 0."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, every: int = 0, limit: int | None = None, good: float | None = None) -> None:
        self.every, self.good = every, good
        self.horizon = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        over = self.every > 0 and self.steps % self.every == 0
        info = {} if self.good is None else {"is_success": self.good, "ease": 2 * self.good}
        return np.full(2, self.steps, np.float32).clip(-1, 1), 1.0, over, False, info


@pytest.fixture
def endless():
    gymnasium.register("mru_rl-tests/Endless-v0", Endless)
    yield "mru_rl-tests/Endless-v0"
    del gymnasium.registry["mru_rl-tests/Endless-v0"]


def test_episodes_that_do_not_end_are_cut_and_counted_as_what_they_are(trained, endless):
    run, _ = trained(env=endless, steps=256)
    found = run.evaluate(episodes=4, max_steps=20, progress=False)
    assert (found.cut, found.episodes, found.lengths, found.returns) == (4, 4, [20] * 4, [20.0] * 4)
    assert found.success_rate is None
    assert (found.to_json()["cut"], found.to_json()["success_rate"], found.to_json()["info"]) == (4, None, {})
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        run.evaluate(max_steps=0)


def test_a_row_whose_episode_was_cut_goes_on_in_a_fresh_one(small, endless):
    env = make_env(small(env=endless), 2, seed=0)
    head, policy = PPOTrainer.make_agent(small(env=endless), env.rules)
    found = evaluate(policy, head, env, 6, max_steps=7, show=False)
    assert (found.lengths, found.returns, found.cut) == ([7] * 6, [7.0] * 6, 6)
    ends = make_env(small(env=endless, env_kwargs={"every": 5}), 2, seed=0)
    found = evaluate(policy, head, ends, 6, max_steps=7, show=False)
    assert (found.lengths, found.cut) == ([5] * 6, 0)
    found = evaluate(policy, head, ends, 6, max_steps=5, show=False)
    assert (found.lengths, found.cut) == ([5] * 6, 0), "it ends with the very step after which it would be cut"


def test_a_cut_begins_the_row_with_an_empty_memory(small, endless):
    env = make_env(small(env=endless), 2, seed=0)
    head, policy = PPOTrainer.make_agent(small(env=endless), env.rules)
    cut, seen = torch.zeros(2, dtype=torch.bool), []
    with torch.inference_mode():
        for step, acted in enumerate(act(policy, head, env, cut=cut)):
            seen.append((acted.obs[0].clone(), bool(acted.is_init[0]), bool(acted.is_init[1])))
            if step == 3:
                cut[0] = True
            if step == 5:
                break
    assert [(one, other) for _, one, other in seen] == [(True, True)] + [(False, False)] * 3 + [
        (True, False),
        (False,) * 2,
    ]
    assert torch.equal(seen[4][0], seen[0][0])
    assert not cut.any()


def test_a_cut_episode_is_no_success_where_success_is_known(small, endless):
    config = small(env=endless, env_kwargs={"every": 5, "good": 0.5}, info_metrics=("ease",))
    env = make_env(config, 2, seed=0)
    head, policy = PPOTrainer.make_agent(config, env.rules)
    whole = evaluate(policy, head, env, 4, show=False)
    assert (whole.success_rate, whole.info, whole.cut) == (0.5, {"ease": 1.0}, 0)
    env.env.success_return = env.success_return = 1.0
    cut = evaluate(policy, head, env, 4, max_steps=3, show=False)
    assert (cut.success_rate, cut.info, cut.cut) == (0.0, {}, 4)


def test_the_cap_is_ten_thousand_steps_or_twice_the_horizon(small, endless):
    def cap(limit):
        return cap_for(make_env(small(env=endless, env_kwargs={"limit": limit}), 1, seed=0))

    assert [cap(None), cap(10), cap(20_000)] == [10_000, 10_000, 40_000]


def test_an_env_in_stretches_is_cut_as_well(trained):
    run, _ = trained(env="mru_rl/TMaze-v0", env_kwargs={"length": 9}, steps=512)
    whole = run.evaluate(episodes=8, max_steps=10, progress=False)
    assert (whole.cut, whole.lengths) == (0, [10] * 8)
    cut = run.evaluate(episodes=8, max_steps=4, progress=False)
    assert (cut.cut, cut.lengths, cut.success_rate) == (8, [4] * 8, 0.0)


def test_progress_counts_episodes_where_no_one_knows_how_long_they_are(small, endless, monkeypatch):
    lines = []
    monkeypatch.setattr(Progress, "show", lambda self, done, details="": lines.append(self._line(done, details)))
    env = make_env(small(env=endless), 2, seed=0)
    head, policy = PPOTrainer.make_agent(small(env=endless), env.rules)
    evaluate(policy, head, env, 4, max_steps=1500)
    assert "0 of 4 episodes  1,000 steps a row, an episode is cut after 1,500" in lines[0]
    assert "2 of 4 episodes  2,000 steps a row" in lines[1]


def test_evaluations_during_training_are_cut_too(trained, endless):
    run, _ = trained(env=endless, steps=512, eval_every=512, eval_episodes=4, eval_max_steps=30)
    assert run.records()[-1]["eval_return_greedy"] == 30
