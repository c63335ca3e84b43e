from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mru_rl.agents.cli.main import main
from mru_rl.agents.evaluate import ROWS, evaluate, load_agent
from mru_rl.agents.inspection.bins import Bins
from mru_rl.agents.inspection.episode import record_episode
from mru_rl.agents.inspection.summary import last_write, longest_hold, write_classes

SEED = 5
TMAZE = {"env": "mru_rl/TMaze-v0", "env_kwargs": {"length": 30}}


def flags(*rows: str) -> np.ndarray:
    """bool [T, units] from one string of 0 and 1 per unit."""
    return np.array([[c == "1" for c in row] for row in rows]).T


def record(run, **changes):
    return record_episode(run, **{"number": 0, "env_kwargs": {}, "seed": SEED, "max_steps": 10_000} | changes)


@pytest.mark.parametrize("changes", [TMAZE, {"env": "popgym-BattleshipEasy-v0"}, {"env": "CartPole-v1"}])
def test_the_episode_is_the_one_that_eval_counts(trained, changes):
    run, _ = trained(core="bmru+mingru", steps=1024, **changes)
    _, env, head, policy, _ = load_agent(run, ROWS, {}, SEED)
    counted = evaluate(policy, head, env, ROWS)
    for number in (0, 17, 63):
        episode = record(run, number=number)
        assert episode.total == pytest.approx(counted.returns[number], abs=1e-6)
        assert episode.steps == counted.lengths[number]
        assert episode.finished


def test_the_memory_is_what_acting_step_by_step_left_and_the_trace_of_the_same_inputs(trained):
    run, trainer = trained(core="bmru+mingru,lru", steps=1024, **TMAZE)
    episode = record(run, number=3)
    core, inputs = trainer.policy.core, torch.from_numpy(episode.inputs)
    assert inputs.shape == (31, len(episode.channels))
    trace = core.trace(inputs[None], core.initial_state(1), torch.zeros(1, 31, dtype=torch.bool))
    state = core.initial_state(1)
    by_step = []
    with torch.inference_mode():
        for x in inputs:
            state = core.step(x[None], state, torch.zeros(1, dtype=torch.bool))[1]
            by_step.append(state[0])
    stepped = torch.stack(by_step)  # [T, layers, S]
    assert [(m.layer, m.cell) for m in episode.memory] == [
        ("layer_0", "bmru"),
        ("layer_0", "mingru"),
        ("layer_1", "lru"),
    ]
    for memory in episode.memory:
        found = trace[memory.layer, memory.cell]
        assert np.array_equal(memory.states, found["states"][0].numpy())
        if memory.cell == "bmru":
            assert np.array_equal(memory.writes, found["writes"][0].numpy())
    at_once = np.concatenate([m.states for m in episode.memory[:2]], axis=1)
    np.testing.assert_allclose(at_once, stepped[:, 0].numpy(), atol=1e-5)
    assert np.array_equal(episode.memory[0].states, stepped[:, 0, :8].numpy()), "a BMRU's states to the bit"


def test_an_episode_says_what_the_agent_saw_did_and_got(trained):
    run, _ = trained(steps=1024, previous_action=True, previous_reward=True, **TMAZE)
    episode = record(run, env_kwargs={"length": 12})
    assert episode.channels == [
        *(f"obs {i}" for i in range(4)),
        "last action 0",
        "last action 1",
        "going on",
        "start",
        "last reward",
    ]
    saw = dict(zip(episode.channels, episode.inputs.T, strict=True))
    assert saw["start"].tolist() == [1.0] + [0.0] * 12
    assert saw["obs 2"].tolist() == [0.0] * 12 + [1.0], "the junction"
    assert saw["last action 1"][1:].tolist() == episode.action[:-1].tolist()
    right = bool(episode.action[-1] == saw["obs 1"][0])
    assert episode.reward.tolist() == [0.0] * 12 + [1.0 if right else -1.0]
    assert episode.success == right
    assert episode.env_kwargs == {"length": 12}


def test_an_episode_cut_before_its_end_is_no_success_and_no_failure(trained):
    run, _ = trained(steps=1024, **TMAZE)
    episode = record(run, max_steps=7)
    assert (episode.steps, episode.finished, episode.success) == (7, False, None)
    whole = record(run)
    assert np.array_equal(episode.inputs, whole.inputs[:7])
    assert (whole.finished, whole.success) == (True, whole.total >= 0.5)


def test_bins_keep_the_last_value_the_extremes_and_whether_anything_happened():
    bins = Bins.at_most(2, 5)
    assert (bins.width, bins.firsts.tolist(), bins.lasts.tolist()) == (3, [0, 3], [2, 4])
    assert (bins.centers.tolist(), bins.edges.tolist()) == ([1.0, 3.5], [-0.5, 2.5, 4.5])
    values = np.array([0.0, -3.0, 1.0, 2.0, 0.0])
    assert bins.last(values).tolist() == [1.0, 0.0]
    assert bins.strongest(values).tolist() == [-3.0, 2.0]
    assert (bins.low(values).tolist(), bins.high(values).tolist()) == ([-3.0, 0.0], [1.0, 2.0])
    assert bins.any(values > 1.5).tolist() == [False, True]
    assert Bins.at_most(900, 7).width == 1


def test_holds_last_writes_and_classes_are_those_counted_by_hand():
    writes = flags("1000001000", "0010000000", "0000000000", "1111111111", "1010000000")
    assert longest_hold(writes) == (1, 2, 8)
    assert last_write(writes, before=6).tolist() == [0, 2, -1, 5, 2]
    assert {name: units.tolist() for name, units in write_classes(writes).items()} == {
        "over half of the steps": [3],
        "10 to 50%": [0, 4],
        "once": [1],
        "never": [2],
    }
    with pytest.raises(ValueError, match="no unit wrote"):
        longest_hold(flags("00", "00"))


def test_the_command_prints_the_path_and_what_was_held(trained, tmp_path, capsys):
    run, _ = trained(steps=1024, **TMAZE)
    out = tmp_path / "new" / "memory.png"
    main(["inspect", str(run.path), "--env-kwargs", "length=9", "--out", str(out), "--episode", "2"])
    printed = capsys.readouterr().out
    assert "length=9" in printed
    assert "10 steps" in printed
    assert "longest hold:" in printed
    assert "what the last step found in memory was written at" in printed
    assert f"picture: {out}" in printed
    assert out.read_bytes().startswith(b"\x89PNG")


def test_npz_holds_all_of_the_episode_under_its_documented_names(trained, tmp_path, capsys):
    run, _ = trained(core="bmru+mingru", steps=1024, **TMAZE)
    path = tmp_path / "new" / "episode.npz"
    main(["inspect", str(run.path), "--env-kwargs", "length=9", "--episode", "2", "--npz", str(path)])
    assert f"arrays: {path}" in capsys.readouterr().out
    episode = record(run, number=2, env_kwargs={"length": 9}, seed=1_000_003)
    expected = {
        "inputs": episode.inputs,
        "channels": np.array(episode.channels),
        "action": episode.action,
        "reward": episode.reward,
        "value": episode.value,
        "layer_0.bmru.states": episode.memory[0].states,
        "layer_0.bmru.writes": episode.memory[0].writes,
        "layer_0.mingru.states": episode.memory[1].states,
    }
    with np.load(path, allow_pickle=False) as found:
        about = json.loads(str(found["about"]))
        assert found.keys() == expected.keys() | {"about"}
        for name, array in expected.items():
            assert np.array_equal(found[name], array), name
            assert found[name].dtype == array.dtype, name
        assert found["inputs"].shape == (10, len(episode.channels))
        assert found["layer_0.bmru.writes"].shape == (10, 8)
    assert about == {
        "env": "mru_rl/TMaze-v0",
        "env_kwargs": {"length": 9},
        "core": "bmru+mingru",
        "train_seed": run.config.seed,
        "trained_steps": 1024,
        "episode": 2,
        "return": episode.total,
        "finished": True,
        "success": episode.success,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episode", "64"], "--episode must lie in 0..63"),
        (["--episode", "-1"], "--episode must lie in 0..63"),
        (["--max-steps", "0"], "--max-steps must be at least 1, got 0"),
        (["--out", "memory.svg"], "--out takes the name of a .png file, got memory.svg"),
        (["--npz", "episode.npy"], "--npz takes the name of a .npz file, got episode.npy"),
        (["--env-kwargs", "lenght=3"], "has no option 'lenght'"),
        (["--episod", "1"], "did you mean --episode"),
    ],
)
def test_what_cannot_be_inspected_is_said_in_one_line(trained, capsys, words, message):
    run, _ = trained(steps=512, **TMAZE)
    capsys.readouterr()
    before = {p.name for p in run.path.iterdir()}
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(run.path), *words])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert {p.name for p in run.path.iterdir()} == before
