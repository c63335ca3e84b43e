"""Batched envs as torchrl envs: torchrl's own checker, and every key against plain stepping."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torchrl.data import Categorical, MultiCategorical, Unbounded
from torchrl.envs import Compose, InitTracker, TensorDictPrimer, TransformedEnv, check_env_specs

from mru_rl.envs import as_torchrl, list_ids, make

with warnings.catch_warnings():  # torchrl 0.14 warns of its own classes while it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torchrl.collectors import Collector

INPUTS = {"flatten": True, "previous_action": True, "start_flag": True, "previous_reward": True}


def steps_of(env_id: str) -> int:
    """Enough to see rows end and start again where episodes are short, a look at the others."""
    return 210 if "Easy" in env_id and "Labyrinth" not in env_id else 40


def play_plain(env, actions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Step a plain env through actions [B, T, ...]; return what a torchrl rollout of the same holds."""
    rows: dict[str, list] = {name: [] for name in ("observation", "next", "reward", "terminated", "truncated")}
    obs = env.reset()
    for action in actions.unbind(1):
        step = env.step(action)
        for name, value in zip(rows, (obs, step.final_obs, step.reward, step.terminated, step.truncated), strict=True):
            rows[name].append(value)
        obs = step.obs
    return {name: torch.stack(values, dim=1) for name, values in rows.items()}


def assert_rollout_equals_plain_stepping(rollout, plain) -> None:
    want = play_plain(plain, rollout["action"])
    assert torch.equal(rollout["observation"], want["observation"])
    assert torch.equal(rollout["next", "observation"], want["next"])
    assert torch.equal(rollout["next", "reward"].squeeze(-1), want["reward"])
    done = want["terminated"] | want["truncated"]
    for name, flag in {"terminated": want["terminated"], "truncated": want["truncated"], "done": done}.items():
        assert torch.equal(rollout["next", name].squeeze(-1), flag), name
        assert not rollout[name].any(), name


@pytest.mark.parametrize("inputs", [{}, INPUTS], ids=["raw", "inputs"])
@pytest.mark.parametrize("env_id", list_ids())
def test_specs_pass_torchrls_checker(env_id, inputs, short):
    check_env_specs(as_torchrl(make(env_id, 3, **short(env_id), **inputs)))


@pytest.mark.parametrize("env_id", list_ids())
def test_rollout_equals_plain_stepping_key_by_key(env_id, short):
    env, plain = (make(env_id, 3, seed=5, **short(env_id)) for _ in range(2))
    rollout = as_torchrl(env).rollout(steps_of(env_id), break_when_any_done=False)
    assert rollout.shape == (3, steps_of(env_id))
    assert_rollout_equals_plain_stepping(rollout, plain)


def test_rollout_with_the_agents_inputs_equals_plain_stepping_too():
    env, plain = (make("popgym-BattleshipEasy-v0", 2, seed=5, **INPUTS) for _ in range(2))
    assert_rollout_equals_plain_stepping(as_torchrl(env).rollout(150, break_when_any_done=False), plain)


def test_upstream_envs_work_the_same_way():
    env, plain = (make("CartPole-v1", 2, seed=5) for _ in range(2))
    adapter = as_torchrl(env)
    rollout = adapter.rollout(100, break_when_any_done=False)
    assert rollout["next", "done"].any()
    assert_rollout_equals_plain_stepping(rollout, plain)
    check_env_specs(adapter)
    adapter.close()
    adapter.close()


def test_specs_follow_the_layout_of_the_obs():
    spec = as_torchrl(make("popgym-AutoencodeEasy-v0", 2)).observation_spec["observation"]
    assert isinstance(spec, MultiCategorical)
    assert spec.shape == (2, 2)
    assert isinstance(as_torchrl(make("popgym-RepeatFirstEasy-v0", 2)).action_spec, Categorical)
    flat = as_torchrl(make("popgym-RepeatFirstEasy-v0", 2, **INPUTS)).observation_spec["observation"]
    assert isinstance(flat, Unbounded)
    assert flat.shape == (2, 4 + 4 + 2 + 1)
    mixed = as_torchrl(make("mru_rl/TMaze-v0", 2, start_flag=True, noise=2.0)).observation_spec["observation"]
    assert mixed.space.high[0].tolist() == [1, 1, 1, 2, 1]
    assert mixed.space.low[0].tolist() == [0, 0, 0, -2, 0]
    torque = as_torchrl(make("popgym-PositionOnlyPendulumEasy-v0", 2)).action_spec
    assert (torque.space.low.tolist(), torque.space.high.tolist()) == ([[-2.0]] * 2, [[2.0]] * 2)


def test_partial_reset_draws_the_named_rows_anew_and_leaves_the_others():
    env = make("popgym-PositionOnlyCartPoleEasy-v0", 4, seed=2)
    adapter = as_torchrl(env)
    td = adapter.rollout(3)[:, -1]["next"].exclude("reward")
    before = env.state_dict()["tensors"]
    named = torch.tensor([True, False, False, True])
    after = adapter.reset(td.clone().set("_reset", named[:, None]))
    assert torch.equal(after["observation"][~named], td["observation"][~named])
    assert (after["observation"][named] != td["observation"][named]).all()
    for name, tensor in env.state_dict()["tensors"].items():
        assert torch.equal(tensor[~named], before[name][~named]), name
    assert env.steps.tolist() == [0, 3, 3, 0]
    assert torch.equal(adapter.step(adapter.rand_action(after))["next", "observation"], env._observe())


def test_reset_of_finished_rows_hands_out_the_episode_that_has_begun_and_draws_nothing():
    env = make("mru_rl/TMaze-v0", 64, length=1)
    adapter = as_torchrl(env)
    td = adapter.reset()
    for _ in range(2):
        td = adapter.step(adapter.rand_action(td))["next"].exclude("reward")
    assert td["done"].all()
    generator = env.generator.get_state()
    some = torch.arange(64)[:, None] < 40
    td = adapter.reset(td.set("_reset", some))
    begun = env._observe()
    assert torch.equal(td["observation"][:40], begun[:40])
    assert torch.equal(adapter.reset(td.set("_reset", ~some))["observation"][40:], begun[40:])
    assert torch.equal(generator, env.generator.get_state())
    adapter.reset(td.set("_reset", ~some))  # those have not finished now
    assert not torch.equal(generator, env.generator.get_state())


def test_rollouts_that_stop_at_an_end_restart_all_rows():
    adapter = as_torchrl(make("popgym-PositionOnlyCartPoleEasy-v0", 3, seed=0))
    first, second = adapter.rollout(200), adapter.rollout(200)
    assert first["next", "done"].sum() >= 1
    assert adapter.env.steps.max() <= second.shape[1]
    assert second["observation"][:, 0].abs().max() <= 0.05


def test_rows_left_out_of_a_step_wait_for_their_reset():
    adapter = as_torchrl(make("popgym-PositionOnlyCartPoleEasy-v0", 3, seed=0))
    rollout = adapter.rollout(200, break_when_any_done=False, break_when_all_done=True)
    ends = rollout["next", "done"].squeeze(-1).long().argmax(1)
    assert len(set(ends.tolist())) > 1
    for row, end in enumerate(ends):
        assert rollout["next", "done"][row, end:].all()
        last = rollout["next", "observation"][row, end]
        assert rollout["next", "observation"][row, end:].eq(last).all()
    fresh = adapter.reset()["observation"]
    assert fresh.abs().max() <= 0.05
    assert torch.equal(fresh, adapter.env._observe())


def test_a_row_left_out_of_a_step_earns_nothing_and_shows_what_it_showed():
    env = make("popgym-PositionOnlyCartPoleEasy-v0", 2, seed=0)
    adapter = as_torchrl(env)
    td = adapter.rollout(200)[:, -1]["next"].exclude("reward")
    done = td["done"].squeeze(1)
    assert done.tolist() in ([True, False], [False, True])
    action = torch.where(done, 99, 0)  # what a row left out is told does not count
    after = adapter.step(td.clone().update({"action": action, "_step": ~done}))["next"]
    assert after["reward"].squeeze(1).gt(0).tolist() == (~done).tolist()
    assert torch.equal(after["observation"][done], td["observation"][done])
    assert torch.equal(after["observation"][~done], env._observe()[~done])
    assert after["done"][done].all()
    fresh = adapter.reset(after.exclude("reward").set("_reset", done[:, None]))["observation"]
    assert fresh[done].abs().max() <= 0.05
    assert env.steps[done].eq(0).all()  # not the episode that moved on unseen


def test_a_row_that_has_not_finished_cannot_be_left_out_of_a_step():
    adapter = as_torchrl(make("mru_rl/TMaze-v0", 3))
    td = adapter.rand_action(adapter.reset()).set("_step", torch.tensor([True, False, True]))
    with pytest.raises(
        ValueError, match=r'"_step" may leave out only rows that have finished .* got row 1 that has not'
    ):
        adapter.step(td)


def test_seed_is_that_of_the_env():
    adapter = as_torchrl(make("popgym-LabyrinthEscapeEasy-v0", 2, seed=0))
    adapter.rollout(5)
    for seed in (7, 7, 8):
        adapter.set_seed(seed)
        assert torch.equal(adapter.rollout(3)["observation"][:, 0], make(adapter.env.id, 2, seed=seed).reset())


def test_state_dict_continues_identically_with_rows_that_wait_for_their_reset():
    make_adapter = lambda seed: as_torchrl(make("mru_rl/TMaze-v0", 4, length=3, seed=seed))  # noqa: E731
    one, other = make_adapter(0), make_adapter(1)
    td = one.reset()
    one.env.reset_rows(torch.tensor([True, False, False, False]))
    for _ in range(4):
        td = one.step(one.rand_action(td))["next"].exclude("reward")
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for adapter in (one, other):
        torch.manual_seed(3)
        adapter.seen = adapter.rollout(
            9, auto_reset=False, tensordict=adapter.maybe_reset(td.clone()), break_when_any_done=False
        )
    assert (one.seen == other.seen).all()


def test_state_dict_of_an_env_that_cannot_be_saved_starts_fresh_episodes():
    adapter = as_torchrl(make("CartPole-v1", 2))
    adapter.rollout(3)
    adapter.load_state_dict(adapter.state_dict())
    assert adapter.reset()["observation"].abs().max() <= 0.05
    adapter.close()


def test_collector_init_tracker_and_primer_see_every_episode_begin():
    env, plain = (make("mru_rl/TMaze-v0", 5, length=4, seed=3) for _ in range(2))
    primer = TensorDictPrimer({"recurrent_state": Unbounded(shape=(1, 2))}, expand_specs=True)
    prepared = TransformedEnv(as_torchrl(env), Compose(InitTracker(), primer))
    check_env_specs(prepared)
    prepared.set_seed(3)

    def policy(td):
        td = prepared.rand_action(td)
        return td.set(("next", "recurrent_state"), td["recurrent_state"] + 1)

    collector = Collector(
        prepared, policy, frames_per_batch=5 * 12, total_frames=5 * 24, auto_register_policy_transforms=False
    )
    data = torch.cat(list(collector), dim=1)
    collector.shutdown()
    assert data.shape == (5, 24)
    assert_rollout_equals_plain_stepping(data, plain)
    age = torch.arange(24).expand(5, 24) % 5
    assert torch.equal(data["is_init"].squeeze(-1), age == 0)
    assert torch.equal(data["recurrent_state"][..., 0, 0], age.float())


def test_a_plain_gymnasium_env_is_refused_with_the_way_to_go():
    with pytest.raises(TypeError, match=r"as_torchrl takes an env of mru_rl\.envs\.make, got str; for a gymnasium id"):
        as_torchrl("CartPole-v1")


def test_step_before_reset_says_what_to_do():
    adapter = as_torchrl(make("mru_rl/TMaze-v0", 2))
    with pytest.raises(RuntimeError, match=r"steps only after a reset, got step\(\) first; call reset\(\) once"):
        adapter.step(adapter.rand_action())


def test_wrong_action_is_refused_in_the_words_of_the_env():
    adapter = as_torchrl(make("mru_rl/TMaze-v0", 2))
    with pytest.raises(ValueError, match="got 5 in row 0; number choices from 0"):
        adapter.step(adapter.reset().set("action", torch.tensor([5, 0])))
