"""The cartpole and pendulum ports against the installed popgym: every number, from upstream's hidden state on."""

from __future__ import annotations

import math

import numpy as np
import popgym.envs
import pytest
import torch
from popgym.wrappers import Antialias, Flatten, PreviousAction
from scipy import stats

from mru_rl.envs import list_ids, make
from mru_rl.envs.popgym import physics

UPSTREAM = {entry["id"]: cls for cls, entry in popgym.envs.ALL.items()}
PORTED = [env_id for env_id in list_ids() if "Cart" in env_id or "Pendulum" in env_id]
STEPS = {
    "PositionOnlyCartPole": (200, 400, 600),
    "VelocityOnlyCartpole": (200, 400, 600),
    "NoisyPositionOnlyCartPole": (200, 200, 200),
    "PositionOnlyPendulum": (200, 150, 100),
    "NoisyPositionOnlyPendulum": (200, 200, 200),
}
HIDDEN = {"Cart": ("x", "x_dot", "theta", "theta_dot"), "Pend": ("angle", "speed")}
ROWS = 6


def steps_of(env_id: str) -> int:
    family, level = env_id.removeprefix("popgym-").removesuffix("-v0"), ("Easy", "Medium", "Hard")
    index = next(i for i, name in enumerate(level) if family.endswith(name))
    return STEPS[family.removesuffix(level[index])][index]


def hidden_names(env_id: str) -> tuple[str, ...]:
    return HIDDEN["Cart" if "Cart" in env_id else "Pend"]


class RecordedNoise:
    """Upstream's generator, and the last noise it gave."""

    def __init__(self, generator):
        self.generator = generator

    def normal(self, mean, sigma):
        self.last = self.generator.normal(mean, sigma)
        return self.last

    def __getattr__(self, name):
        return getattr(self.generator, name)


def start_upstream(env_id: str, seed: int):
    env = UPSTREAM[env_id]()
    env.reset(seed=seed)
    env.np_random = RecordedNoise(env.np_random)
    obs, _ = env.reset()
    return env, obs


def copy_hidden_state(port, upstreams) -> None:
    """Give the rows of the port the states of the upstream envs, now and whenever noise is drawn."""
    for i, name in enumerate(hidden_names(port.id)):
        getattr(port, name).copy_(torch.tensor(np.stack([env.state[i] for env in upstreams])))
    if "Noisy" in port.id:

        def draw(rows: int) -> torch.Tensor:
            return torch.tensor(np.stack([env.np_random.last for env in upstreams]).astype(np.float32))[:rows]

        port._draw = draw
        port.noise.copy_(port._draw(port.num_envs))


def balance(state) -> int:
    x, x_dot, theta, theta_dot = state
    return int(0.05 * x + 0.2 * x_dot + 2 * theta + 0.5 * theta_dot > 0)


def swing_up(state) -> np.ndarray:
    angle, speed = (state[0] + math.pi) % (2 * math.pi) - math.pi, state[1]
    if abs(angle) < 0.4:
        return np.array([np.clip(-20 * angle - 4 * speed, -2, 2)], dtype=np.float32)
    missing = 15 - (speed**2 / 2 + 15 * math.cos(angle))  # energy, in units in which standing upright has 15
    return np.array([math.copysign(2, speed * missing)], dtype=np.float32)


@pytest.mark.parametrize("policy", ["random", "scripted"])
@pytest.mark.parametrize("env_id", PORTED)
def test_port_replays_upstream_popgym_step_by_step(env_id, policy, random_action):
    upstreams, want = zip(*[start_upstream(env_id, seed) for seed in range(ROWS)], strict=True)
    port = make(env_id, ROWS, state="append")
    port.reset()
    copy_hidden_state(port, upstreams)
    scripted = balance if "Cart" in env_id else swing_up
    got = port._show().numpy()
    running, steps, total = set(range(ROWS)), [0] * ROWS, [0.0] * ROWS
    for row in running:
        np.testing.assert_allclose(got[row], [*want[row], *upstreams[row].get_state()], rtol=0, atol=1e-6)
    while running:
        action = random_action(port)
        if policy == "scripted":
            action = torch.tensor(np.array([scripted(env.state) for env in upstreams])).to(action.dtype)
        results = {
            row: upstreams[row].step(action[row].numpy() if action.ndim > 1 else int(action[row]))
            for row in sorted(running)
        }
        step = port.step(action)
        for row, (obs, reward, terminated, truncated, _) in results.items():
            state = upstreams[row].get_state()
            np.testing.assert_allclose(step.final_obs[row].numpy(), [*obs, *state], rtol=0, atol=1e-6)
            assert step.reward[row].item() == pytest.approx(reward, abs=1e-6)
            assert (step.terminated[row], step.truncated[row]) == (terminated, truncated)
            steps[row] += 1
            total[row] += reward
            if terminated or truncated:
                running.remove(row)
    if "Pendulum" in env_id or policy == "scripted":
        assert steps == [steps_of(env_id)] * ROWS
        assert port.horizon == steps_of(env_id)
    if policy == "scripted":
        assert total == pytest.approx([1.0] * ROWS, abs=1e-9) if "Cart" in env_id else np.mean(total) > 0.5
    if "Cart" in env_id:
        assert all((value >= port.success_return) == (policy == "scripted") for value in total)


@pytest.mark.parametrize("env_id", [env_id for env_id in PORTED if "Easy" in env_id])
def test_flat_size_equals_upstream_flatten_antialias_previous_action(env_id):
    space = Flatten(Antialias(PreviousAction(UPSTREAM[env_id]()))).observation_space
    assert make(env_id, 2, flatten=True, previous_action=True, start_flag=True).obs_size == space.shape[0]


@pytest.mark.parametrize("env_id", PORTED)
def test_spaces_and_noise_equal_upstream(env_id):
    upstream, port = UPSTREAM[env_id](), make(env_id, 1)
    assert port.observation_space == upstream.observation_space
    assert port.action_space == upstream.action_space
    assert port.markov_space == upstream.state_space
    if "Noisy" in env_id:
        assert (upstream.noise_sigma == port.noise_sigma).all()


def test_first_obs_of_velocity_only_shows_positions_and_later_ones_velocities():
    env = make("popgym-VelocityOnlyCartpoleEasy-v0", 3)
    obs = env.reset()
    assert torch.equal(obs, torch.stack((env.x, env.theta), dim=1).float())
    obs = env.step(torch.tensor([0, 1, 1])).obs
    assert torch.equal(obs, torch.stack((env.x_dot, env.theta_dot), dim=1).float())


@pytest.mark.parametrize(
    ("env_id", "bounds"),
    [
        ("popgym-PositionOnlyCartPoleEasy-v0", [0.05] * 4),
        ("popgym-PositionOnlyPendulumEasy-v0", [math.pi, 1.0]),
    ],
)
def test_fresh_states_are_uniform_independent_and_distributed_as_upstream_draws_them(env_id, bounds):
    upstream, port = UPSTREAM[env_id](), make(env_id, 3000, seed=0)
    port.reset()
    want = []
    for seed in range(3000):
        upstream.reset(seed=seed)
        want.append(upstream.state)
    want, got = np.stack(want), torch.stack([getattr(port, name) for name in hidden_names(env_id)], dim=1).numpy()
    for column, bound in enumerate(bounds):
        assert np.abs(got[:, column]).max() <= bound
        assert stats.kstest(got[:, column], stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01
        assert stats.ks_2samp(got[:, column], want[:, column]).pvalue > 0.01
    assert np.abs(np.corrcoef(got.T) - np.eye(len(bounds))).max() < 0.06


@pytest.mark.parametrize("env_id", [f"popgym-NoisyPositionOnly{name}-v0" for name in ("CartPoleHard", "PendulumEasy")])
def test_noise_is_normal_fresh_at_every_step_and_independent_of_other_rows(env_id, random_action):
    env = make(env_id, 2000, seed=0)
    env.reset()
    draws = [env.noise.clone()]
    env.step(random_action(env))
    draws.append(env.noise.clone())
    noise = torch.cat(draws, dim=1).numpy()  # [2000, 4]
    assert stats.kstest(noise.ravel(), stats.norm(0, env.noise_sigma).cdf).pvalue > 0.01
    assert np.abs(np.corrcoef(noise.T) - np.eye(4)).max() < 0.08
    assert np.abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.08


def test_sines_of_a_batch_equal_numpys_of_single_angles_to_the_last_bit():
    """torch's own differ for one angle in 500 or so, and then see the next test."""
    angles = np.random.default_rng(0).uniform(-0.2, 0.2, 20_000)
    assert physics.sin(torch.from_numpy(angles)).tolist() == [float(np.sin(angle)) for angle in angles]
    assert physics.cos(torch.from_numpy(angles)).tolist() == [float(np.cos(angle)) for angle in angles]


def test_pole_in_balance_amplifies_differences_so_that_only_equal_sines_replay():
    env = make("popgym-PositionOnlyCartPoleHard-v0", 2)
    env.reset()
    for name in hidden_names(env.id):
        getattr(env, name)[1] = getattr(env, name)[0]
    env.theta[1] = np.nextafter(float(env.theta[0]), 1)
    apart = []
    for _ in range(500):
        state = [float(getattr(env, name)[0]) for name in hidden_names(env.id)]
        step = env.step(torch.full((2,), balance(state)))
        if step.terminated.any():
            break
        apart.append(float((env.theta[0] - env.theta[1]).abs()))
    assert apart[0] < 1e-16
    assert max(apart) > 1e-3
