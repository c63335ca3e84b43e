from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib import image as images
from matplotlib.colors import to_rgb

from mru_rl.agents.cli.main import main
from mru_rl.agents.evaluate import ROWS, evaluate, load_agent
from mru_rl.agents.inspection.columns import Columns
from mru_rl.agents.inspection.episode import CellMemory, Episode, record_episode
from mru_rl.agents.inspection.inspect_run import inspect_run
from mru_rl.agents.inspection.picture import HELD, WRITTEN, draw, memory_image, unit_order
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


def random_memory(steps: int, units: int, rate: float, cell: str = "bmru") -> CellMemory:
    """Units that write +level or -level (cell bmru), or real numbers, at random."""
    rng = np.random.default_rng(0)
    writes = rng.random((steps, units)) < rate * np.linspace(0, 1, units)
    states = np.zeros((steps, units), np.float32)
    held = np.zeros(units, np.float32)
    for t in range(steps):
        level = np.linspace(0.5, 2, units) if cell == "bmru" else rng.random(units)
        held = np.where(writes[t], level * rng.choice([-1, 1], units), held).astype(np.float32)
        states[t] = held
    return CellMemory("layer_0", cell, states, writes)


def test_where_a_column_is_a_step_the_picture_is_the_memory():
    memory = random_memory(steps=200, units=20, rate=0.3)
    assert memory.two_valued
    order = np.random.default_rng(1).permutation(20)
    image = memory_image(memory, Columns.at_most(900, 200), order)
    assert image.shape == (20, 200, 3)
    for row, unit in enumerate(order):
        for t in range(200):
            palette = WRITTEN if memory.writes[t, unit] else HELD
            assert np.allclose(image[row, t], to_rgb(palette[int(np.sign(memory.states[t, unit]))]))


@pytest.mark.parametrize("cell", ["bmru", "real"])
def test_no_write_is_lost_where_steps_share_a_column(cell):
    memory = random_memory(steps=5003, units=12, rate=0.002, cell=cell)
    assert memory.two_valued == (cell == "bmru")
    columns = Columns.at_most(400, 5003)
    assert columns.width == 13
    order = np.arange(12)
    silent = dataclasses.replace(memory, writes=np.zeros_like(memory.writes))
    darker = (memory_image(memory, columns, order) != memory_image(silent, columns, order)).any(-1)
    for unit in range(12):
        assert set(np.flatnonzero(darker[unit])) == set(np.flatnonzero(memory.writes[:, unit]) // 13)


def test_every_written_column_and_unit_has_its_pixels_in_the_png(tmp_path):
    steps, units = (
        8999,
        1000,
    )  # columns of 10 steps, units of a pixel; every second column is written in every second unit
    writes = np.zeros((steps, units), bool)
    writes[0] = True
    writes[np.ix_(np.arange(3, steps, 20), np.arange(0, units, 2))] = True
    nothing = np.zeros(steps, np.float32)
    episode = Episode(
        env="e", env_kwargs={}, core="bmru", train_seed=0, trained_steps=0, number=0, inputs=nothing[:, None],
        channels=["obs 0"], action=nothing.astype(int), reward=nothing, value=nothing,
        memory=[CellMemory("layer_0", "bmru", np.ones((steps, units), np.float32), writes)], finished=True, success_return=None,
    )  # fmt: skip
    draw(episode, tmp_path / "picture.png")
    pixels = images.imread(tmp_path / "picture.png")[..., :3]
    dark = (np.abs(pixels - np.array(to_rgb(WRITTEN[1]))) < 0.01).all(-1)
    assert np.diff(dark.astype(int), axis=1).clip(0).sum(axis=1).max() == 450, "columns along a unit that wrote"
    assert dark[:, dark.sum(axis=0) > 400].sum(axis=0).min() >= 500, "units along a column"


def test_columns_keep_the_last_value_the_extremes_and_whether_anything_happened():
    columns = Columns.at_most(2, 5)
    assert (columns.width, columns.starts.tolist(), columns.last_steps.tolist()) == (3, [0, 3], [2, 4])
    values = np.array([0.0, -3.0, 1.0, 2.0, 0.0])
    assert columns.last(values).tolist() == [1.0, 0.0]
    assert columns.strongest(values).tolist() == [-3.0, 2.0]
    assert (columns.low(values).tolist(), columns.high(values).tolist()) == ([-3.0, 0.0], [1.0, 2.0])
    assert columns.any(values > 1.5).tolist() == [False, True]
    assert Columns.at_most(900, 7).width == 1


def test_units_are_sorted_from_what_is_held_to_what_changes_and_the_silent_ones_last():
    writes = flags("1111", "0000", "0100", "1000", "1010")
    states = np.where(np.maximum.accumulate(writes, axis=0), 1.0, 0.0)
    assert unit_order(CellMemory("layer_0", "bmru", states, writes)).tolist() == [3, 2, 4, 0, 1]


def test_holds_last_writes_and_classes_are_those_counted_by_hand():
    writes = flags("1000001000", "0010000000", "0000000000", "1111111111", "1010000000")
    assert longest_hold(writes) == (1, 2, 8)
    assert last_write(writes, before=6).tolist() == [0, 2, -1, 5, 2]
    assert {name: units.tolist() for name, units in write_classes(writes).items()} == {
        "over half of the steps": [3], "10 to 50%": [0, 4], "once": [1], "never": [2],
    }  # fmt: skip
    with pytest.raises(ValueError, match="no unit wrote"):
        longest_hold(flags("00", "00"))


@pytest.mark.parametrize(
    "changes",
    [
        {"core": "bmru", **TMAZE}, {"core": "bmru+mingru", **TMAZE}, {"core": "gru", **TMAZE}, {"core": "mlp", **TMAZE},
        {"core": "cmru,deltanet", **TMAZE}, {"env": "popgym-BattleshipEasy-v0"}, {"env": "CartPole-v1"},
        {"env": "Pendulum-v1"},
    ],
    ids=lambda changes: "-".join(str(v) for v in changes.values()).replace("/", "_"),
)  # fmt: skip
def test_a_picture_comes_of_every_kind_of_memory_action_and_env(trained, changes):
    run, _ = trained(steps=512, **changes)
    before = {p.name for p in run.path.iterdir()}
    path, lines = inspect_run(run, number=1, seed=SEED, max_steps=50)
    assert {p.name for p in run.path.iterdir()} - before == {"inspect_episode_1.png"}, "nothing temporary stays"
    pixels = images.imread(path)[..., :3]
    assert pixels.shape[1] == 1430
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert "episode 1" in lines[0]
    has_gates = changes.get("core", "bmru") not in ("gru", "mlp")
    assert any("units by write rate" in line for line in lines) == has_gates
    assert any("no cell of" in line for line in lines) != has_gates


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episode", "64"], "--episode must lie in 0..63"),
        (["--episode", "-1"], "--episode must lie in 0..63"),
        (["--max-steps", "0"], "--max-steps must be at least 1, got 0"),
        (["--out", "memory.svg"], "end its name in .png"),
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
