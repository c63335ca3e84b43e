from __future__ import annotations

import dataclasses

import gymnasium
import pytest
import torch
from tensordict import TensorDict

import mru_rl
from mru_rl.agents import training
from mru_rl.agents.algorithms import make_trainer
from mru_rl.agents.config import Task, to_json
from mru_rl.agents.evaluate import evaluate_run, params_sha256
from mru_rl.agents.nets.networks import QNetwork
from mru_rl.agents.r2d2.config import R2D2Config
from mru_rl.agents.r2d2.trainer import R2D2
from mru_rl.agents.returns import n_step_return
from mru_rl.agents.run import Run


@pytest.fixture
def small(tmp_path):
    """Build the config of an R2D2 run of a second or two; keyword arguments change it."""

    def build(name: str = "run", **changes) -> R2D2Config:
        settings = {
            "env": "popgym-RepeatFirstEasy-v0", "core": "bmru", "steps": 4096, "num_envs": 8, "hidden_size": 16,
            "sequence": 12, "burn_in": 6, "overlap": 4, "batch": 8, "learning_starts": 20, "replay_sequences": 60,
            "target_period": 5, "checkpoint_seconds": 0.0, "tensorboard": False, "run_dir": tmp_path / name,
        }  # fmt: skip
        return R2D2Config(**settings | changes)

    return build


def learner(spec: str = "bmru+mingru", **changes) -> R2D2:
    torch.manual_seed(4)
    policy = QNetwork(mru_rl.make_core(spec, 3, 8), 4)
    settings = {"discount": 0.9, "burn_in": 5, "sequence": 6, "n_step": 3}
    return R2D2(policy, R2D2Config(**settings | changes))


def sequences(core: mru_rl.MemoryCore, count: int = 7, burn_in: int = 5, length: int = 6) -> TensorDict:
    """Random sequences, the first two cut short by the start of their episode."""
    generator = torch.Generator().manual_seed(1)
    steps = burn_in + length
    valid = torch.ones(count, steps, dtype=torch.bool)
    valid[0, :3] = valid[1, : burn_in + 2] = False
    is_init = torch.zeros(count, steps + 1, dtype=torch.bool)
    is_init[0, 3] = is_init[1, burn_in + 2] = True
    return TensorDict(
        {
            "observation": torch.randn(count, steps + 1, 3, generator=generator),
            "action": torch.randint(4, (count, steps), generator=generator),
            "reward": torch.randn(count, steps, generator=generator),
            "valid": valid, "is_init": is_init, "terminated": torch.arange(count) % 2 == 0,
            "state": core(torch.randn(count, 9, 3, generator=generator), core.initial_state(count),
                          torch.zeros(count, 9, dtype=torch.bool))[1].detach(),
        },
        [count],
    )  # fmt: skip


def test_n_step_returns_are_those_of_the_sum_written_out():
    generator = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(2, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    terminated = torch.tensor([True, False])
    for n in (1, 3, 7, 20):
        found = n_step_return(reward, value, terminated, gamma=0.8, n=n)
        for row in range(2):
            for t in range(7):
                ahead = min(n, 7 - t)
                expected = sum(0.8**k * reward[row, t + k] for k in range(ahead))
                if not (terminated[row] and t + ahead == 7):
                    expected = expected + 0.8**ahead * value[row, t + ahead - 1]
                torch.testing.assert_close(found[row, t], expected)


def test_both_networks_burn_in_with_their_own_weights_and_without_gradient():
    agent = learner()
    data = sequences(agent.policy.core)
    with torch.no_grad():
        for parameter in agent.target.parameters():
            parameter.add_(0.3)
    for network in (agent.policy, agent.target):
        state = data["state"]
        stepped = []
        for t in range(12):
            out = network.step(data["observation"][:, t], state, data["is_init"][:, t])
            state = out.state
            stepped.append(out.params)
        torch.testing.assert_close(agent.values(network, data), torch.stack(stepped[5:], 1), atol=1e-5, rtol=1e-5)
    before = data["observation"].clone().requires_grad_()
    agent.values(agent.policy, data.clone().set("observation", before)).sum().backward()
    assert (before.grad[:, :5] == 0).all()
    assert (before.grad[:, 5:] != 0).any()


def test_the_error_is_that_of_double_q_learning_written_out():
    agent = learner()
    data = sequences(agent.policy.core)
    agent.policy.reward_scale.fill_(2.0)
    with torch.no_grad():
        for parameter in agent.target.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
        error, _ = agent.td_error(data)
        online, target = agent.values(agent.policy, data), agent.values(agent.target, data)
    h, h_inverse = agent.policy.scale, agent.policy.unscale
    torch.testing.assert_close(h(h_inverse(online)), online, atol=1e-4, rtol=1e-4)
    for row in range(7):
        for t in range(6):
            if not data["valid"][row, 5 + t]:
                assert error[row, t] == 0
                continue
            m = min(3, 6 - t)
            aim = sum(0.9**k * 2.0 * data["reward"][row, 5 + t + k] for k in range(m))
            if not (data["terminated"][row] and t + m == 6):
                best = online[row, t + m].argmax()
                aim = aim + 0.9**m * h_inverse(target[row, t + m, best])
            expected = h(aim) - online[row, t, data["action"][row, 5 + t]]
            torch.testing.assert_close(error[row, t], expected, atol=1e-4, rtol=1e-4)


def test_priorities_mix_the_greatest_and_the_mean_error_of_the_learned_steps():
    agent = learner()
    data = sequences(agent.policy.core)
    size = agent.td_error(data)[0].detach().abs()
    steps = data["valid"][:, 5:].sum(1)
    priority, _ = agent.gradient_step(data, torch.ones(7))
    torch.testing.assert_close(priority, 0.9 * size.amax(1) + 0.1 * size.sum(1) / steps)


def test_the_target_network_changes_every_so_many_steps_only():
    agent = learner(target_period=3)
    data = sequences(agent.policy.core)
    seen = []
    for _ in range(6):
        agent.gradient_step(data, torch.ones(7))
        seen.append((params_sha256(agent.target), params_sha256(agent.policy)))
    assert len({target for target, _ in seen}) == 3  # the first one, and two copies
    assert seen[2][0] == seen[2][1] == seen[3][0]
    assert seen[5][0] == seen[5][1]


def test_padding_changes_nothing():
    agent = learner()
    data = sequences(agent.policy.core)
    other = data.clone()
    other["observation"][1, : 5 + 2] = 9.0
    other["reward"][1, : 5 + 2] = -3.0
    other["state"][1] = 0.7
    for mine, its in zip(agent.td_error(data), agent.td_error(other), strict=True):
        torch.testing.assert_close(mine, its, atol=0, rtol=0)


def test_values_stand_for_rewards_as_the_env_pays_them():
    agent = learner()
    x, state, is_init = torch.randn(2, 3), agent.policy.core.initial_state(2), torch.ones(2, dtype=torch.bool)
    before = agent.policy.step(x, state, is_init)
    agent.policy.reward_scale.fill_(50.0)
    after = agent.policy.step(x, state, is_init)
    torch.testing.assert_close(after.value, before.value / 50)
    torch.testing.assert_close(after.params, before.params)


@pytest.mark.parametrize("changes", [{}, {"stored_state": "signs", "core": "bmru+mingru"}, {"replay_storage": "disk"}])
def test_a_resumed_run_equals_an_unbroken_one(small, changes):
    whole_run, whole = training.start(small("whole", **changes))
    training.run_to_end(whole_run, whole)
    run, trainer = training.start(small("cut", **changes))
    while trainer.steps < 2000:
        trainer.update()
    assert trainer.learner.gradient_steps > 10
    training.Training(run, trainer)._save()
    resumed, lost = training.take_up(Run.open(run.path), Run.open(run.path).config)
    assert not lost
    training.run_to_end(run, resumed)
    assert params_sha256(resumed.policy) == params_sha256(whole.policy)
    assert params_sha256(resumed.learner.target) == params_sha256(whole.learner.target)
    strip = ("seconds", "steps_per_second")
    last = [{k: v for k, v in r.records()[-1].items() if k not in strip} for r in (whole_run, run)]
    assert last[0] == last[1]


def test_a_replay_that_is_not_saved_is_filled_anew_and_that_is_said(small):
    run, trainer = training.start(small(save_replay=False))
    training.run_to_end(run, trainer)
    resumed, lost = training.take_up(run, run.config)
    assert "replay was not saved" in lost[0]
    assert len(resumed.replay) == 0


def test_a_checkpoint_of_another_width_or_sequence_is_refused_and_both_sides_are_named(small):
    run, trainer = training.start(small())
    training.run_to_end(run, trainer)
    saved = run.checkpoint()
    with pytest.raises(ValueError, match=r"is \[16, 6\] in the checkpoint and \[24, 6\] in the network"):
        make_trainer(small("other", hidden_size=24)).load_state_dict(saved)
    with pytest.raises(ValueError, match="of replayed sequences is .* another core, sequence length or env filled it"):
        make_trainer(small("other", sequence=20)).load_state_dict(saved)


def test_the_bound_of_replay_is_said_before_the_run_and_is_what_replay_takes(small):
    trainer = make_trainer(small(replay_sequences=60))
    note, memory = trainer.notes()
    assert note.startswith("replay of 60 sequences of 18 steps, ")
    assert memory.startswith("memory: about ")
    while len(trainer.replay) < 60:
        trainer.update()
    stored = trainer.replay.state_dict()["sequences"]
    said = int(note.split("steps, ")[1].split(" bytes")[0].replace(",", ""))
    assert sum(v.numel() * v.element_size() for v in stored.values()) == 60 * said


def test_replay_is_no_larger_than_the_run_and_a_longer_one_goes_on_with_it(small):
    run, trainer = training.start(small(replay_sequences=10**6, steps=1000))
    assert trainer.replay.capacity == 1000 + 16 * 8
    assert trainer.notes()[0].startswith("replay of 125 sequences of 18 steps, ")
    training.run_to_end(run, trainer)
    longer, lost = training.take_up(run, dataclasses.replace(run.config, steps=2000))
    assert (longer.replay.capacity, len(longer.replay), lost) == (2000 + 16 * 8, len(trainer.replay), [])
    training.run_to_end(run, longer)
    assert len(longer.replay) > len(trainer.replay)


def test_a_run_that_takes_more_than_there_is_says_what_takes_less(small, monkeypatch):
    monkeypatch.setattr("mru_rl.agents.console.room.free_memory", lambda: 50_000)
    notes = make_trainer(small()).notes()
    assert "that is more memory than is free here" in notes[2]
    assert "--replay-sequences, --replay-storage disk or fewer --num-envs" in notes[2]


def test_signs_make_stored_states_smaller(small):
    floats, signs = (make_trainer(small(stored_state=kind, core="bmru")) for kind in ("floats", "signs"))
    sizes = [int(t.notes()[0].split("steps, ")[1].split(" bytes")[0].replace(",", "")) for t in (floats, signs)]
    assert sizes[0] - sizes[1] == 16 * 4 - 4  # 16 units: floats, or two bits each


def test_rewards_are_scaled_to_size_one_by_what_was_paid_first(small):
    trainer = make_trainer(small())
    while trainer.learner.gradient_steps == 0:
        trainer.update()
    assert trainer.policy.reward_scale.item() == pytest.approx(51)  # every step pays plus or minus 1 / 51
    assert trainer.learner.target.reward_scale.item() == pytest.approx(51)


def test_box_actions_are_refused_with_the_next_move(small):
    with pytest.raises(ValueError, match="r2d2 values every action, .* use `mru-rl train ppo`"):
        make_trainer(small(env="popgym-PositionOnlyPendulumEasy-v0"))
    from mru_rl.agents.nets.heads import value_head

    with pytest.raises(ValueError, match="at most 4,096 of them, and .* has 1,000,000"):
        value_head(gymnasium.spaces.MultiDiscrete([100, 100, 100]))


def test_multidiscrete_actions_and_gymnasium_ids_train(small):
    for env in ("popgym-BattleshipEasy-v0", "CartPole-v1"):
        run, trainer = training.start(small(env.lower(), env=env, steps=2048))
        training.run_to_end(run, trainer)
        assert trainer.learner.gradient_steps > 0
        assert evaluate_run(run, episodes=8, env_kwargs={}, seed=1, sample=False).episodes == 8


def test_a_new_level_of_a_curriculum_begins_new_episodes_and_sequences_do_not_reach_back(small):
    trainer = make_trainer(small(env="mru_rl/TMaze-v0", env_kwargs={"length": "10..40"}, warm_up=False))
    for _ in range(3):
        trainer.update()
    trainer._set_level(40)
    sequences = trainer.cutter.cut(trainer.collector.collect(16).data)
    lived = sequences["valid"].sum(1)
    assert len(sequences) > 0
    assert (lived <= 16).all(), "steps of the old corridor are not in them"


def test_lengths_follow_the_task_and_what_is_given_stays():
    whole, why = R2D2Config().resolve(Task(horizon=51, credit_horizon=0, open_loop=True))
    assert (whole.sequence, whole.burn_in, whole.overlap, whole.n_step, whole.epsilon) == (51, 0, 0, 1, 0.4)
    assert why["sequence"] == "a whole episode"
    limited, why = R2D2Config().resolve(Task(301, None, False, {"horizon": "the env's time limit"}))
    assert (limited.sequence, limited.burn_in) == (301, 0)
    assert why["sequence"] == "a whole episode, from the env's time limit"
    long, _ = R2D2Config().resolve(Task(horizon=5000, credit_horizon=4999, open_loop=False))
    assert (long.sequence, long.burn_in, long.overlap, long.n_step) == (80, 40, 40, 5)
    assert [(c.batch, c.learning_starts) for c in (whole, long)] == [(32, 200), (32, 200)]
    few_and_long, _ = R2D2Config(steps=600_000).resolve(Task(horizon=1001, credit_horizon=0, open_loop=True))
    assert (few_and_long.batch, few_and_long.learning_starts) == (4, 59), (
        "gradient steps count too, not their size alone"
    )
    assert long.epsilon == pytest.approx(4 / 5000)
    given = R2D2Config(
        sequence=10,
        burn_in=3,
        overlap=2,
        n_step=2,
        epsilon=0.1,
        discount=0.5,
        previous_action=True,
        batch=8,
        learning_starts=9,
    )
    resolved, reasons = given.resolve(Task(horizon=51, credit_horizon=0, open_loop=True))
    assert (to_json(resolved), reasons) == (to_json(given), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 12}, "overlap must be less than sequence, got 12 of 12 steps"),
        ({"learning_starts": 100}, "learning_starts must not exceed replay_sequences, got 100 and 60"),
        ({"epsilon": 1.5}, r"epsilon must lie in \[0, 1\], got 1.5"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"reward_scale": 0.0}, "reward_scale must be positive, got 0.0"),
    ],
)
def test_wrong_settings_are_named(small, changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_network_of_values_gives_no_probabilities_to_sample_from(small):
    run, trainer = training.start(small(steps=256))
    training.run_to_end(run, trainer)
    with pytest.raises(ValueError, match="sample draws actions from a policy's probabilities, and the network of r2d2"):
        evaluate_run(run, episodes=8, env_kwargs={}, seed=1, sample=True)


@pytest.mark.parametrize("size", [1e-25, 1e-10, 1e10, 1e25])
def test_rewards_of_any_size_are_brought_to_size_1(small, size):
    trainer = make_trainer(small(steps=256))
    trainer.replay.column = lambda name: torch.tensor([0.0, size, -size])
    trainer._scale_rewards()
    assert trainer.policy.reward_scale.item() * size == pytest.approx(1, rel=1e-5)


def test_rewards_that_float32_cannot_bring_to_size_1_are_named(small):
    trainer = make_trainer(small(steps=256))
    trainer.replay.column = lambda name: torch.tensor([0.0, 1e-38])
    with pytest.raises(ValueError, match="rewards of popgym-RepeatFirstEasy-v0 are of size 1e-38.*give reward_scale"):
        trainer._scale_rewards()


def test_write_rates_are_set_on_whole_episodes_where_they_are_asked_for(small):
    trainer = make_trainer(small(warm_up=True, segment=4, steps=10_000))
    _, rollout = trainer.update()
    assert (rollout.data.shape[1], trainer.steps, len(trainer.replay)) == (51, 51 * 8, 0)
    _, rollout = trainer.update()
    assert (rollout.data.shape[1], trainer.steps) == (4, 55 * 8)


def test_a_run_of_few_gradient_steps_says_so(small):
    *_, note = make_trainer(small(target_period=100)).notes()
    assert "gradient steps, and the target network follows every 100: few to learn from" in note
    assert len(make_trainer(small(steps=10**6, target_period=100)).notes()) == 2
    *_, note = make_trainer(small(warm_up=True, steps=400)).notes()
    assert note.startswith("about 0 gradient steps"), "all steps go into setting write rates"


def test_r2d2_learns_to_recall_the_first_card(small):
    config = small(
        steps=250_000, num_envs=64, core="bmru+mingru", hidden_size=32, sequence=None, burn_in=None, overlap=None,
        batch=32, replay_sequences=4000, learning_starts=100, target_period=100, checkpoint_seconds=60.0,
    )  # fmt: skip
    run, trainer = training.start(config)
    training.run_to_end(run, trainer)
    assert evaluate_run(run, episodes=64, env_kwargs={}, seed=1, sample=False).return_mean > 0.9
