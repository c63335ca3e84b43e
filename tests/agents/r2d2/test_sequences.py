from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

import mru_rl
import mru_rl.envs
from mru_rl.agents.acting.behavior import EpsilonGreedy
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.nets.heads import DiscreteHead, value_head
from mru_rl.agents.nets.networks import QNetwork
from mru_rl.agents.r2d2.sequences import SequenceCutter, epsilon_ladder


def stream(rows: int, steps: int, ends: set[tuple[int, int]]) -> TensorDict:
    """A rollout whose every number tells where it is from: observation row 1000 + step, action step, reward step."""
    step = torch.arange(steps).expand(rows, steps)
    number = 1000.0 * torch.arange(rows)[:, None] + step
    done = torch.zeros(rows, steps, dtype=torch.bool)
    for row, at in ends:
        done[row, at] = True
    is_init = torch.cat([torch.ones(rows, 1, dtype=torch.bool), done[:, :-1]], 1)
    data = {
        "observation": number[..., None], "is_init": is_init, "state": number[..., None, None], "action": step.clone(),
        "next": {"observation": number[..., None] + 0.5, "reward": step.float(), "terminated": done,
                 "truncated": torch.zeros_like(done), "done": done},
    }  # fmt: skip
    return TensorDict(data, batch_size=[rows, steps])


def cut_in_pieces(cutter: SequenceCutter, data: TensorDict, pieces: list[int]) -> TensorDict:
    return torch.cat([cutter.cut(part) for part in data.split(pieces, dim=1)])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    length=st.integers(1, 6), burn_in=st.integers(0, 5), overlap=st.integers(0, 5),
    ends=st.sets(st.tuples(st.integers(0, 1), st.integers(0, 29)), max_size=8), cut=st.integers(1, 29),
)  # fmt: skip
def test_sequences_stay_in_one_episode_and_learn_from_every_step_of_finished_ones(length, burn_in, overlap, ends, cut):
    data = stream(2, 30, ends)
    sequences = cut_in_pieces(SequenceCutter(length, burn_in, min(overlap, length - 1)), data, [cut, 30 - cut])
    learned = set()
    for item in sequences:
        obs = item["observation"].squeeze(-1)
        steps = obs[:-1][item["valid"]]
        row, numbers = divmod(int(steps[0]), 1000)[0], (steps % 1000).long()
        assert torch.equal(numbers, torch.arange(numbers[0].item(), numbers[-1].item() + 1)), "steps follow each other"
        inside = data["next", "done"][row, numbers[0] : numbers[-1]]
        assert not inside.any(), "no end lies before the last step"
        assert obs[-1] == steps[-1] + 0.5, "the last observation is what the last action led to"
        assert torch.equal(item["action"][item["valid"]], numbers)
        assert item["terminated"] == data["next", "done"][row, numbers[-1]]
        full = bool(item["valid"].all())
        starts = data["is_init"][row, numbers[0]]
        assert full or starts, "only the start of an episode cuts a sequence short"
        assert item["is_init"].sum() == int(starts)
        if full:
            assert item["state"].item() == steps[0], "the stored state is that before the first step"
        learned |= {(row, n) for n in numbers[item["valid"][burn_in:].logical_not().sum() - length :].tolist()}
    for row, last in ends:
        begun = max((e + 1 for r, e in ends if r == row and e < last), default=0)
        assert {(row, n) for n in range(begun, last + 1)} <= learned


def test_the_cutter_goes_on_from_its_state_dict():
    data = stream(2, 20, {(0, 7), (1, 13)})
    whole, first, second = (SequenceCutter(4, 2, 1) for _ in range(3))
    expected = cut_in_pieces(whole, data, [9, 11])
    before = first.cut(data[:, :9])
    second.load_state_dict(first.state_dict())
    found = torch.cat([before, second.cut(data[:, 9:])])
    assert (found == expected).all()


def test_the_ladder_of_epsilons_is_even_in_the_logarithm():
    ladder = epsilon_ladder(0.4, 0.001, 8)
    torch.testing.assert_close(ladder[[0, -1]], torch.tensor([0.4, 0.001]))
    ratio = ladder[1:] / ladder[:-1]
    torch.testing.assert_close(ratio, ratio[:1].expand(7))
    assert (epsilon_ladder(0.0, 0.0, 3) == 0).all()


def make_collector(epsilon: list[float]) -> ActingLoop:
    env = mru_rl.envs.make("popgym-RepeatFirstEasy-v0", len(epsilon), seed=1, flatten=True, start_flag=True)
    torch.manual_seed(0)
    head = value_head(env.action_space)
    policy = QNetwork(mru_rl.make_core("bmru+mingru", env.obs_size, 16), head.num_params)
    return ActingLoop(env, policy, head, torch.Generator().manual_seed(3), EpsilonGreedy(torch.tensor(epsilon)))


def test_stored_states_are_those_of_acting_and_each_env_explores_as_much_as_it_should():
    collector = make_collector([0.0, 0.5, 1.0])
    for _ in range(3):  # the third segment starts in the middle of an episode
        data, start_state = collector.collect(200)
    assert torch.equal(data["state"][:, 0], start_state)
    policy = collector.policy
    out = policy(data["observation"][:, 37:], data["state"][:, 37], data["is_init"][:, 37:])
    torch.testing.assert_close(out.state, collector.state)
    greedy = policy(data["observation"], start_state, data["is_init"]).params.argmax(-1)
    agrees = (greedy == data["action"]).float().mean(1)
    assert agrees[0] == 1
    assert 0.5 < agrees[1] < 0.75  # half greedy, a quarter of the rest by chance
    assert 0.15 < agrees[2] < 0.35


def test_a_ravelled_action_reaches_every_combination_once():
    import gymnasium

    head = value_head(gymnasium.spaces.MultiDiscrete([2, 3, 2]))
    assert head.num_params == 12
    parts = head.to_env(torch.arange(12))
    assert len({tuple(p) for p in parts.tolist()}) == 12
    assert parts.amax(0).tolist() == [1, 2, 1]
    assert isinstance(head, DiscreteHead)


def test_observations_keep_their_dtype_and_padding_is_zero():
    data = stream(2, 30, {(0, 4), (1, 11)})
    as_bytes = data.clone()
    for key in ("observation", ("next", "observation")):
        as_bytes[key] = (data[key].to(torch.int64) % 200 + 1).to(torch.uint8).expand(2, 30, 3).contiguous()
    cutter = SequenceCutter(6, 4, 2)
    sequences = cut_in_pieces(cutter, as_bytes, [13, 17])
    assert sequences["observation"].dtype == cutter.state_dict()["tail"]["observation"].dtype == torch.uint8
    padding = ~sequences["valid"]
    assert padding.any()
    assert (sequences["observation"][:, :-1][padding] == 0).all()
    assert (sequences["observation"][:, :-1][~padding] > 0).all()


def test_a_saved_tail_goes_on_to_the_same_sequences_whatever_else_was_saved_with_it():
    first, second = stream(2, 30, {(0, 4), (1, 11)}).split([13, 17], dim=1)
    cutter, other = SequenceCutter(6, 4, 2), SequenceCutter(6, 4, 2)
    cutter.cut(first)
    saved = cutter.state_dict()
    more = first["next", "observation"][:, -cutter.steps + 1 :].clone()
    other.load_state_dict({"tail": saved["tail"] | {"next.observation": more}})
    assert (cutter.cut(second) == other.cut(second)).all()
