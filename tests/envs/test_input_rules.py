"""The agent's inputs without an env: equal to what AgentInput shows, from JSON too."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mru_rl.envs import InputRules, make

SWITCHES = ("previous_action", "start_flag", "previous_reward")
ENVS = {
    "popgym-RepeatFirstEasy-v0": {},
    "popgym-AutoencodeEasy-v0": {},
    "popgym-BattleshipEasy-v0": {},
    "popgym-PositionOnlyPendulumEasy-v0": {},
    "mru_rl/TMaze-v0": {"length": 3},
}


@pytest.fixture(params=list(itertools.product([False, True], repeat=3)), ids=str)
def switches(request):
    return dict(zip(SWITCHES, request.param, strict=True))


@pytest.mark.parametrize("env_id", ENVS)
def test_rules_encode_what_agent_input_shows(env_id, switches, random_action):
    options = ENVS[env_id]
    shown = make(env_id, 4, seed=3, flatten=True, **switches, **options)
    plain = make(env_id, 4, seed=3, **options)
    rules = InputRules(plain.observation_space, plain.action_space, **switches)
    assert rules.size == shown.obs_size
    everyone = torch.ones(4, dtype=torch.bool)
    want, obs = shown.reset(), plain.reset()
    assert torch.equal(rules.encode(obs, start=True), want)
    assert torch.equal(rules.encode(obs, start=everyone), want)
    ends = 0
    for _ in range(70):
        action = random_action(plain)
        step, (obs, reward, terminated, truncated, final_obs) = shown.step(action), plain.step(action)
        led = {"action": action, "reward": reward}
        done = terminated | truncated
        ends += int(done.any())
        assert torch.equal(rules.encode(obs, start=done, **led), step.obs)
        assert torch.equal(rules.encode(final_obs, start=False, **led), step.final_obs)
    assert ends or plain.horizon > 70


def test_inputs_are_those_that_the_parts_say_one_by_one():
    rules = InputRules(
        spaces.Discrete(3), spaces.Discrete(2), previous_action=True, start_flag=True, previous_reward=True
    )
    led = {"action": torch.tensor([1, 1]), "reward": torch.tensor([0.5, -1.0])}
    got = rules.encode(torch.tensor([2, 0]), start=torch.tensor([False, True]), **led)
    assert got.tolist() == [[0, 0, 1, 0, 1, 1, 0, 0.5], [1, 0, 0, 1, 0, 0, 1, 0]]
    low = InputRules(spaces.Box(-1, 1, (1,)), spaces.Box(2, 3, (2, 1)), previous_action=True)
    assert low.encode(torch.zeros(1, 1), start=True).tolist() == [[0, 2, 2]]  # the null action: 0 is outside the Box
    assert low.encode(torch.zeros(1, 1), action=torch.full((1, 2, 1), 2.5), start=False).tolist() == [[0, 2.5, 2.5]]


def test_sequences_are_encoded_as_their_steps(switches):
    rules = InputRules(spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2, 2)), **switches)
    generator = torch.Generator().manual_seed(0)
    obs = torch.randint(2, (3, 5, 2), generator=generator)
    led = {"action": torch.rand(3, 5, 2, 2, generator=generator), "reward": torch.rand(3, 5, generator=generator)}
    start = torch.rand(3, 5, generator=generator) < 0.4
    whole = rules.encode(obs, start=start, **led)
    for t in range(5):
        step = rules.encode(obs[:, t], start=start[:, t], **{name: value[:, t] for name, value in led.items()})
        assert torch.equal(whole[:, t], step)
    assert torch.equal(rules.encode(obs, start=True)[:, 0], rules.encode(obs[:, 0], start=True))


def test_what_rows_that_start_come_with_does_not_leak():
    rules = InputRules(spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), previous_action=True, previous_reward=True)
    bad = torch.tensor([[float("nan")], [0.5]])
    got = rules.encode(torch.zeros(2, 1), start=torch.tensor([True, False]), action=bad, reward=bad[:, 0])
    assert got.tolist() == [[0, 0, 0], [0, 0.5, 0.5]]


def test_returned_tensors_alias_nothing(switches):
    rules = InputRules(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), **switches)
    obs = torch.zeros(3, 2)
    want = rules.encode(obs, start=True).clone()
    for start in (True, False):
        rules.encode(obs, start=start, action=torch.zeros(3, dtype=torch.int64), reward=torch.zeros(3)).fill_(7)
    assert torch.equal(rules.encode(obs, start=True), want)


def test_rules_come_back_from_json(switches):
    rules = InputRules(
        spaces.Dict({"a": spaces.Box(-np.inf, 1, (2,)), "b": spaces.Discrete(3)}), spaces.Discrete(4), **switches
    )
    again = InputRules.from_json(json.loads(json.dumps(rules.to_json(), allow_nan=False)))
    assert again.to_json() == rules.to_json()
    assert again.size == rules.size
    assert repr(again) == repr(rules)
    obs = torch.tensor([[0.5, 0.25, 2.0]])
    assert torch.equal(again.encode(obs, start=True), rules.encode(obs, start=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"obs": torch.zeros(2, 3)}, r"an obs of Discrete\(3\) is int64"),
        ({"obs": torch.tensor([0, 3])}, r"numbered from 0, got others"),
        ({"action": torch.tensor([0, 2])}, "numbered from 0, got others"),
        ({"action": torch.tensor([0])}, "one action of .* and one reward per row"),
        ({"reward": torch.zeros(2, 1)}, "one reward per row"),
        ({"action": None}, "rows that do not start need the action that led to the obs, got None; pass action="),
        ({"reward": None}, "need the reward"),
        ({"start": torch.tensor([True])}, r"start must be bool \[2\], one per row of the obs, got torch.bool \[1\]"),
        ({"start": torch.tensor([0, 1])}, r"start must be bool \[2\].*got torch.int64 \[2\]"),
        ({"start": [True, False]}, r"start must be bool \[2\].*got \[True, False\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments, words):
    rules = InputRules(spaces.Discrete(3), spaces.Discrete(2), previous_action=True, previous_reward=True)
    given = {
        "obs": torch.tensor([0, 2]),
        "action": torch.tensor([0, 1]),
        "reward": torch.zeros(2),
        "start": False,
    } | arguments
    with pytest.raises(ValueError, match=words):
        rules.encode(**given)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: None, "input rules are a dict of observation_space, .*got NoneType"),
        (lambda data: {"start_flag": True}, r"got the keys \['start_flag'\]"),
        (lambda data: data | {"start_flag": 1}, "start_flag of input rules is true or false, got 1"),
        (lambda data: data | {"action_space": {"type": "Graph"}}, "got type 'Graph'"),
    ],
)
def test_json_that_holds_no_rules_is_refused(spoil, words):
    data = InputRules(spaces.Discrete(3), spaces.Discrete(2)).to_json()
    with pytest.raises(ValueError, match=words):
        InputRules.from_json(spoil(data))


def test_spaces_that_are_not_supported_are_refused():
    with pytest.raises(ValueError, match="observation space Sequence.*not supported"):
        InputRules(spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2))
    with pytest.raises(ValueError, match="action space Text.*not supported"):
        InputRules(spaces.Discrete(3), spaces.Text(2))
