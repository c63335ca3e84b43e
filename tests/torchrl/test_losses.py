"""GAE, ClipPPOLoss and DQNLoss around a MemoryModule, against single steps; where torchrl's own recipe goes wrong."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import GRUModule, QValueModule, ValueOperator, set_recurrent_mode
from torchrl.objectives import ClipPPOLoss, DiscreteSACLoss, DQNLoss, SoftUpdate
from torchrl.objectives.value import GAE, TD0Estimator

from mru_rl.torchrl.dqn import next_values

STATE, NEXT_STATE = "recurrent_state", ("next", "recurrent_state")
GAMMA = 0.9


def one_step(network, data: TensorDict, key: str) -> torch.Tensor:
    """What a network makes of inputs and states [B, T] as they stand, every element a step of its own."""
    with torch.no_grad(), set_recurrent_mode(False):
        return network(data.select(*network.in_keys).clone())[key]


# GAE


def critic_on(memory) -> TensorDictSequential:
    return TensorDictSequential(memory, ValueOperator(nn.Linear(8, 1), in_keys=["features"]))


@pytest.mark.parametrize("truncate", [None, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"deactivate_vmap": True}, {"num_chunks": 3}, {"shifted": True, "shifted_budget": 9}],
    ids=["vmap", "loop", "chunks", "shifted"],
)
def test_gae_values_observations_from_the_states_of_acting(options, truncate, make_memory, make_actor, collect):
    memory = make_memory()
    data, critic = collect(make_actor(memory), truncate=truncate), critic_on(memory)
    value, next_value = one_step(critic, data, "state_value"), one_step(critic, data["next"], "state_value")
    with set_recurrent_mode(True):
        GAE(gamma=GAMMA, lmbda=0.8, value_network=critic, **options)(data)
    done, going = data["next", "done"], ~data["next", "terminated"]
    assert data["next", "truncated"].any() == (truncate is not None)
    torch.testing.assert_close(data["state_value"], value)
    torch.testing.assert_close(data["next", "state_value"][going], next_value[going])
    advantage, after = torch.zeros_like(value), torch.zeros(3, 1)
    for t in reversed(range(data.shape[1])):
        target = data["next", "reward"][:, t] + GAMMA * next_value[:, t] * going[:, t]
        after = target - value[:, t] + GAMMA * 0.8 * after * ~done[:, t]
        advantage[:, t] = after
    torch.testing.assert_close(data["advantage"], advantage)


def test_gae_outside_recurrent_mode_ends_in_other_values_once_the_weights_have_moved(
    make_memory, make_actor, collect, play
):
    memory = make_memory()
    data, critic = collect(make_actor(memory)), critic_on(memory)
    with torch.no_grad():
        for p in memory.parameters():
            p += 0.3 * torch.randn_like(p)
        want = critic.module[1](play(memory, data))["state_value"]
    gae = GAE(gamma=GAMMA, lmbda=0.8, value_network=critic)
    with set_recurrent_mode(True):
        unrolled = gae(data.clone())["state_value"]
    torch.testing.assert_close(unrolled, want)
    assert not torch.allclose(gae(data.clone())["state_value"], want, atol=1e-2)


# PPO


def test_ppo_on_fresh_data_has_ratio_one_on_rows_and_on_slices_from_stored_states(make_memory, make_actor, collect):
    memory = make_memory()
    actor, critic = make_actor(memory), critic_on(memory)
    data = collect(actor)
    with set_recurrent_mode(True):
        GAE(gamma=GAMMA, lmbda=0.8, value_network=critic)(data)
    loss = ClipPPOLoss(actor, critic)
    for batch in (data, data[1:], data.reshape(3, 8, 3).reshape(24, 3), data[:, 2:9]):
        losses = loss(batch)
        assert losses["kl_approx"].abs() < 1e-5
        assert losses["clip_fraction"] == 0
    losses["loss_objective"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in memory.parameters())


def test_ppo_of_an_actor_that_has_moved_is_that_of_single_steps(make_memory, make_actor, collect, play):
    memory = make_memory()
    actor, critic = make_actor(memory), critic_on(memory)
    data = collect(actor)
    with set_recurrent_mode(True):
        GAE(gamma=GAMMA, lmbda=0.8, value_network=critic)(data)
    with torch.no_grad():
        for p in memory.parameters():
            p += 0.2 * torch.randn_like(p)
        logits = actor.module[0].module[1](play(memory, data))["logits"]
    log_prob = torch.distributions.Categorical(logits=logits).log_prob(data["action"])
    kl = (data["action_log_prob"] - log_prob).mean()
    assert kl.abs() > 1e-3
    torch.testing.assert_close(ClipPPOLoss(actor, critic)(data)["kl_approx"], kl)


# ensembles


def test_an_ensemble_of_critics_runs_by_vmap_as_one_by_one(make_memory, make_actor, collect):
    found = []
    for deactivate_vmap in (False, True):
        torch.manual_seed(0)
        memory = make_memory()
        actor, critic = make_actor(memory), TensorDictSequential(*q_network(make_memory())[:2].module)
        data = collect(actor)
        loss = DiscreteSACLoss(
            actor, critic, action_space="categorical", num_actions=2, num_qvalue_nets=2, deactivate_vmap=deactivate_vmap
        )
        SoftUpdate(loss, eps=0.99)
        losses = loss(data)
        (losses["loss_qvalue"] + losses["loss_actor"]).backward()
        grads = [p.grad for p in loss.qvalue_network_params.values(True, True)]
        assert all(grad.shape[0] == 2 and grad.isfinite().all() for grad in grads)
        found.append((losses["loss_qvalue"].detach(), losses["loss_actor"].detach(), grads))
    torch.testing.assert_close(*found)


# DQN


def q_network(memory) -> TensorDictSequential:
    head = TensorDictModule(nn.Linear(8, 2), in_keys=["features"], out_keys=["action_value"])
    return TensorDictSequential(memory, head, QValueModule(action_space="categorical"))


def slices(data: TensorDict, length: int) -> TensorDict:
    """All whole slices of the data's rows, flat and marked as SliceSampler does."""
    rows = data[:, : data.shape[1] // length * length].reshape(-1, length).clone()
    rows["is_init"][:, 0] = True
    return rows.reshape(-1)


def targets_of(loss: DQNLoss, data: TensorDict, module) -> torch.Tensor:
    """The one-step targets [B, T] that DQNLoss computed, read back from its TD errors and the online values."""
    data = data.clone()
    loss(data)
    with torch.no_grad(), set_recurrent_mode(True):
        q = module(data.select(*module.in_keys).clone())["action_value"].gather(-1, data["action"][..., None])
    seen = data["td_error"]  # squared; the sign is that which fits
    return torch.stack([q + seen.sqrt(), q - seen.sqrt()]).squeeze(-1)


def assert_targets(candidates: torch.Tensor, want: torch.Tensor, *, right: bool) -> None:
    error = (candidates - want).abs().amin(0)
    assert (error < 1e-4).all() if right else (error > 1e-3).any()


def true_targets(online, target, data: TensorDict, play, *, double: bool = False) -> torch.Tensor:
    """reward + gamma Q'(next obs, state'), every state' reached by single steps of the target's own memory."""

    def next_q(network):
        with torch.no_grad():
            after = play(network[0], data)[NEXT_STATE]
        step = data["next"].select("observation").set(STATE, after).set("is_init", torch.zeros_like(data["is_init"]))
        return one_step(network, step, "action_value")

    q = next_q(target)
    best = (next_q(online) if double else q).argmax(-1, keepdim=True)
    going = ~data["next", "terminated"]
    return (data["next", "reward"] + GAMMA * going * q.gather(-1, best)).squeeze(-1)


@pytest.fixture
def replayed(make_memory, make_actor, collect):
    """Return a function from a memory to slices [16, 3] of its acting, some of which cross the end of an episode."""
    return lambda memory: slices(collect(make_actor(memory)), 3).reshape(-1, 3)


def dqn(network, *, double: bool = False) -> DQNLoss:
    loss = DQNLoss(network, action_space="categorical", delay_value=True, double_dqn=double)
    loss.make_value_estimator(gamma=GAMMA)
    SoftUpdate(loss, eps=0.99)  # never called: the loss only asks for there being one
    return loss


@pytest.mark.parametrize("double", [False, True])
def test_targets_of_grumodule_start_from_an_empty_memory_and_those_of_a_memory_module_do_not(
    double, replayed, make_memory, play
):
    gru = GRUModule(4, 8, in_key="observation", out_key="features")
    for memory, right in ((gru, False), (make_memory(), True)):
        network = q_network(memory)
        data = replayed(memory)
        data = data[~data["next", "done"].squeeze(-1)[:, :-1].any(1)]  # slices within one episode
        want = true_targets(network, network, data, play)
        assert_targets(targets_of(dqn(network, double=double), data, network), want, right=right)


def test_plain_targets_run_on_over_episode_ends_unless_the_next_flags_are_set(replayed, make_memory, play):
    memory = make_memory()
    network, data = q_network(memory), replayed(memory)
    crossing = data["next", "done"].squeeze(-1)[:, :-1].any(1)
    assert crossing.any()
    want = true_targets(network, network, data, play)
    assert_targets(targets_of(dqn(network), data, network), want, right=False)
    data["next", "is_init"] = data["next", "is_init"] | data["is_init"]  # as GAE does inside
    assert_targets(targets_of(dqn(network), data, network), want, right=True)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_next_values_unroll_the_target_network_over_the_same_window(flat, double, replayed, make_memory, play):
    memory = make_memory()
    network, target = q_network(memory), q_network(make_memory())
    data = replayed(memory)
    loss = dqn(network)
    loss.make_value_estimator(TD0Estimator(gamma=GAMMA, value_network=None))
    with torch.no_grad():
        for p in loss.target_value_network_params.values(True, True):
            p += 0.2 * torch.randn_like(p)
    loss.target_value_network_params.data.to_module(target)
    want = true_targets(network, target, data, play, double=double)
    plain = data.clone()
    plain["next", "is_init"] = plain["next", "is_init"] | plain["is_init"]
    assert_targets(targets_of(dqn_with(loss), plain, network), want, right=False)
    batch = data.reshape(-1) if flat else data
    batch["next", "state_value"] = next_values(loss, batch, double_dqn=double)
    found = targets_of(loss, batch, network).reshape(2, *data.shape)
    assert_targets(found, want, right=True)


def dqn_with(loss: DQNLoss) -> DQNLoss:
    """A loss that computes its own targets from the parameters of another."""
    own = dqn(loss.value_network)
    own.target_value_network_params.data.update_(loss.target_value_network_params.data)
    return own


def test_next_values_leave_the_data_and_the_gradients_alone(replayed, make_memory):
    memory = make_memory()
    data = replayed(memory)
    before = data.clone()
    loss = dqn(q_network(memory))
    values = next_values(loss, data, double_dqn=True)
    assert values.shape == (*data.shape, 1)
    assert not values.requires_grad
    assert (data == before).all()
    assert set(data.keys(True, True)) == set(before.keys(True, True))
    assert loss.value_network_params.requires_grad
