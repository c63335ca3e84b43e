"""Agents learn the same task at any usual scale of observations and rewards, by default."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mru_rl.agents import PPOConfig, R2D2Config, train
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.agents.ppo.trainer import PPOTrainer
from mru_rl.agents.r2d2.trainer import R2D2Trainer
from mru_rl.agents.returns import ReturnSize
from mru_rl.blocks.core import make_core


class Recall(gymnasium.Env):
    """One of three colors is shown, then nothing for `delay` steps, then the question: the color is the answer."""

    def __init__(self, delay=10, shift=0.0, scale=1.0, reward=1.0, bounded=False):
        self.delay, self.shift, self.scale, self.reward = delay, shift, scale, reward
        low, high = (0, 1) if bounded else (min(shift, 0), shift + scale)
        self.observation_space = spaces.Box(np.float32(low), np.float32(high), (4,))
        self.action_space = spaces.Discrete(3)

    def _obs(self, hot):
        obs = np.full(4, self.shift, dtype=np.float32)
        if hot is not None:
            obs[hot] += self.scale
        return obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.color, self.step_ = int(self.np_random.integers(3)), 0
        return self._obs(self.color), {}

    def step(self, action):
        self.step_ += 1
        over = self.step_ > self.delay + 1
        reward = self.reward * float(action == self.color) if over else 0.0
        return self._obs(3 if self.step_ == self.delay + 1 else None), reward, over, False, {}


class Bandit(gymnasium.Env):
    """One of two contexts is shown, and the right one of two actions is paid at once."""

    def __init__(self, shift=0.0, scale=1.0, reward=1.0):
        self.shift, self.scale, self.reward = shift, scale, reward
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,))
        self.action_space = spaces.Discrete(2)

    def _show(self):
        self.context = int(self.np_random.integers(2))
        return (self.shift + self.scale * np.eye(2)[self.context]).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_ = 0
        return self._show(), {}

    def step(self, action):
        reward = self.reward * float(action == self.context)
        self.step_ += 1
        return self._show(), reward, False, self.step_ >= 20, {}


SCALES = [
    {},
    {"scale": 255},
    {"scale": 0.01},
    {"shift": 100},
    {"reward": 100},
    {"reward": 0.01},
    {"scale": 255, "bounded": True},
]
IDS = ["as it is", "x 255", "x .01", "+ 100", "rewards x 100", "rewards x .01", "x 255 and its space says 1"]


def settings(tmp_path, **changes):
    return {"run_dir": tmp_path / "run", "tensorboard": False, "checkpoint_seconds": 600.0, **changes}


@pytest.mark.slow
@pytest.mark.parametrize("options", SCALES, ids=IDS)
@pytest.mark.parametrize("core", ["bmru+mingru", "gru"])
def test_ppo_recalls_at_any_scale(core, options, tmp_path):
    env = lambda: Recall(**options)  # noqa: E731
    steps = 212_000 if core == "gru" else 106_000  # also as it is a gru takes longer
    run = train(PPOConfig(env=env, core=core, steps=steps, **settings(tmp_path)), progress=False)
    size = options.get("reward", 1.0)
    assert run.evaluate(env=env, episodes=128, progress=False).return_mean / size > 0.95  # chance is 1/3


@pytest.mark.slow
@pytest.mark.parametrize("options", SCALES, ids=IDS)
def test_r2d2_recalls_at_any_scale(options, tmp_path):
    env = lambda: Recall(**options)  # noqa: E731
    run = train(R2D2Config(env=env, steps=106_000, **settings(tmp_path)), progress=False)
    size = options.get("reward", 1.0)
    assert run.evaluate(env=env, episodes=128, progress=False).return_mean / size > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("options", [{"reward": 3}, {"reward": 100}, {"shift": 100}, {"scale": 0.01}], ids=str)
def test_a_bandit_is_learned_at_any_scale(options, seed, tmp_path):
    env = lambda: Bandit(**options)  # noqa: E731
    run = train(PPOConfig(env=env, steps=50_000, seed=seed, **settings(tmp_path)), progress=False)
    share = run.evaluate(env=env, episodes=64, progress=False).return_mean / (20 * options.get("reward", 1.0))
    assert share > 0.95  # chance is 1/2


def test_a_quick_bandit_is_learned_with_large_observations_and_rewards(tmp_path):
    env = lambda: Bandit(shift=100, reward=100)  # noqa: E731
    config = PPOConfig(
        env=env,
        steps=24_000,
        num_envs=16,
        core="gru",
        **settings(tmp_path, segment=40),
    )
    run = train(config, progress=False)
    assert run.evaluate(env=env, episodes=64, progress=False).return_mean > 1900  # of 2000; chance is 1000


def small(algorithm, env, **changes):
    kind = PPOConfig if algorithm == "ppo" else R2D2Config
    return kind(env=env, num_envs=4, steps=4_000, segment=16, core="bmru", **changes)


def test_what_is_of_usual_size_is_left_as_it_is():
    trainer = PPOTrainer(small("ppo", lambda: Recall(delay=2)))
    for _ in range(3):
        trainer.update()
    assert trainer.looked
    assert not trainer.policy.encoder.norm.active
    assert trainer.policy.value_scale == 1
    assert trainer.news == []


@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_the_first_look_normalizes_what_is_large_and_says_so(algorithm):
    make = PPOTrainer if algorithm == "ppo" else R2D2Trainer
    trainer = make(small(algorithm, lambda: Recall(delay=2, scale=255)))
    trainer.update()
    norm = trainer.policy.encoder.norm
    assert norm.on[:4].all()
    assert not norm.on[4:].any()
    assert "4 number(s) of observations are unbounded or not of usual size, up to 255: normalized" in trainer.news[0]
    count = norm.count.item()
    trainer.update()
    assert norm.count.item() > count
    if algorithm == "r2d2":
        assert torch.equal(trainer.learner.target.encoder.norm.mean, norm.mean)


def test_what_is_asked_for_is_done_and_what_is_left_out_is_warned_of():
    trainer = PPOTrainer(small("ppo", lambda: Recall(delay=2, scale=255), normalize_obs=False))
    trainer.update()
    assert not trainer.policy.encoder.norm.active
    assert "not normalized: a network learns slowly" in trainer.news[0]
    trainer = PPOTrainer(small("ppo", lambda: Recall(delay=2, reward=1.5), normalize_obs=True, normalize_reward=True))
    for _ in range(3):
        trainer.update()
    assert trainer.policy.encoder.norm.on[:4].all()
    assert trainer.policy.value_scale == pytest.approx(1.5)


def test_values_are_in_the_unit_of_returns_from_the_first_rollout_on():
    trainer = PPOTrainer(small("ppo", lambda: Bandit(reward=100)))
    for _ in range(3):
        trainer.update()
    assert trainer.policy.value_scale > 50
    assert any("returns are of size" in line for line in trainer.news)


def test_a_run_that_normalizes_resumes_to_the_bit(tmp_path):
    env = mru_rl_pendulum()
    whole = PPOTrainer(small("ppo", env, normalize_obs=True))
    for _ in range(4):
        whole.update()
    again = PPOTrainer(small("ppo", mru_rl_pendulum(), normalize_obs=True))
    half = PPOTrainer(small("ppo", mru_rl_pendulum(), normalize_obs=True))
    for _ in range(2):
        half.update()
    assert again.load_state_dict(half.state_dict()) == []
    for _ in range(2):
        again.update()
    assert whole.policy.encoder.norm.active
    for (name, want), got in zip(whole.policy.state_dict().items(), again.policy.state_dict().values(), strict=True):
        assert torch.equal(got, want), name


def mru_rl_pendulum():
    """A batched env that can save its state, so that a run in it resumes to the bit."""
    import mru_rl.envs

    return mru_rl.envs.make("popgym-PositionOnlyPendulumEasy-v0", 4, seed=0)


def test_new_units_leave_values_as_they_are_but_for_the_first():
    policy = ActorCritic(make_core("gru", 3, 8), 2)
    y = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    before = policy.read(y)[1]
    policy.rescale_value(4.0, kept=False)
    torch.testing.assert_close(policy.read(y)[1], 4 * before)
    policy.rescale_value(10.0, kept=True)
    torch.testing.assert_close(policy.read(y)[1], 4 * before)


def test_the_size_of_returns_goes_on_over_rollouts_and_ends_with_episodes():
    whole, parts = ReturnSize(0.5), ReturnSize(0.5)
    reward = torch.tensor([[1.0, 0.0, 2.0, 4.0]])
    done = torch.tensor([[False, False, True, False]])
    whole.observe(reward, done)
    # discounted sums: 1, .5, 2.25 | 4
    assert whole.size == pytest.approx(((1 + 0.25 + 2.25**2 + 16) / 4) ** 0.5)
    assert not whole.is_usual  # the episode earned 3
    parts.observe(reward[:, :2], done[:, :2])
    assert parts.is_usual
    parts.observe(reward[:, 2:], done[:, 2:])
    assert parts._running.flatten().tolist() == whole._running.flatten().tolist() == [4.0, 4.0]
    loaded = ReturnSize(0.5)
    loaded.load_state_dict(parts.state_dict())
    assert loaded.size == parts.size


def first_values(trainer):
    """The values an agent learns from first, and what it says of the same steps then."""
    found = {}
    update = trainer.learner.update

    def spy(rollout, rate):
        kept = rollout.kept()
        said = trainer.policy(kept.data["observation"], kept.start_state, kept.data["is_init"]).value
        found.setdefault("values", (kept.data["state_value"], said.detach()))
        return update(rollout, rate)

    trainer.learner.update = spy
    while not found:
        trainer.update()
    return found["values"]


class Broken(Bandit):
    def step(self, action):
        obs, *rest = super().step(action)
        return np.full_like(obs, np.nan) if self.step_ == 9 and self.np_random.random() < 0.3 else obs, *rest


def test_values_are_said_in_the_new_unit_also_where_rows_are_dropped():
    config = PPOConfig(env=lambda: Broken(reward=100.0), num_envs=8, segment=20, core="gru", on_nonfinite="drop")
    trainer = PPOTrainer(config)
    used, said = first_values(trainer)
    assert trainer.guard.dropped_rows > 0
    assert trainer.policy.value_scale > 100
    torch.testing.assert_close(used, said, rtol=1e-4, atol=1e-2)


def test_values_of_an_agent_to_begin_with_stay_what_they_are(tmp_path):
    config = {"env": lambda: Bandit(reward=100.0), "num_envs": 8, "segment": 20, "core": "gru", "tensorboard": False}
    first = train(PPOConfig(**config, steps=1600, run_dir=tmp_path / "run"), progress=False)
    trainer = PPOTrainer(PPOConfig(**config, init_from=first.path))
    weights = first.agent().policy.state_dict()
    trainer.start_from(weights, "all")
    used, said = first_values(trainer)
    assert used.abs().max() < 10_000  # an episode earns 2,000 at most
    torch.testing.assert_close(used, said, rtol=1e-4, atol=1e-2)


class Numbered(Bandit):
    """The context as a number: nothing to normalize but the reward an agent is shown."""

    def __init__(self):
        super().__init__(reward=1000.0)
        self.observation_space = spaces.Discrete(2)

    def _show(self):
        super()._show()
        return self.context


def test_rewards_that_are_shown_are_normalized_where_that_is_asked_for():
    config = PPOConfig(env=Numbered, num_envs=8, segment=40, core="gru", previous_reward=True, normalize_obs=True)
    trainer = PPOTrainer(config)
    trainer.update()
    _, rollout = trainer.update()
    assert rollout.data["observation"].max() == 1000
    assert trainer.policy.encode(rollout.data["observation"]).abs().max() < 5
