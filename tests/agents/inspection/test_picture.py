from __future__ import annotations

import dataclasses
import itertools

import gymnasium
import numpy as np
import pytest
from matplotlib import image as images
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mru_rl.agents.inspection.bins import Bins
from mru_rl.agents.inspection.episode import CellMemory, Episode, record_episode
from mru_rl.agents.inspection.film import Film
from mru_rl.agents.inspection.inspect_run import inspect_run
from mru_rl.agents.inspection.memory_image import HELD, WRITTEN, memory_image, unit_order
from mru_rl.agents.inspection.picture import draw, picture
from mru_rl.agents.nets.images import image_shape

SEED = 5
TMAZE = {"env": "mru_rl/TMaze-v0", "env_kwargs": {"length": 30}}


class Wave(gymnasium.Env):
    """`width` numbers, a wave that moves on; `pay` for each of `length` steps."""

    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, width: int = 6, length: int = 40, pay: float = 1.0):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (width,), np.float32)
        self.length, self.pay = length, pay

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.see(), {}

    def see(self) -> np.ndarray:
        return np.sin(np.linspace(0, 20, self.observation_space.shape[0]) + self.time / 5).astype(np.float32)

    def step(self, action):
        self.time += 1
        return self.see(), self.pay, self.time == self.length, False, {}


WAVE = "mru_rl-inspection/Wave-v0"
gymnasium.register(WAVE, Wave, disable_env_checker=True)


def made(memory: list[CellMemory], **changes) -> Episode:
    """An episode around these memories in which else nothing happens."""
    nothing = np.zeros(len(memory[0].states), np.float32)
    plain = {
        "env": "e",
        "env_kwargs": {},
        "core": "bmru",
        "train_seed": 0,
        "trained_steps": 0,
        "number": 0,
        "inputs": nothing[:, None],
        "channels": ["obs 0"],
        "films": [],
        "action": nothing.astype(int),
        "reward": nothing,
        "value": nothing,
        "finished": True,
        "success_return": None,
    }
    return Episode(memory=memory, **plain | changes)


def places(figure: Figure) -> dict[Text, Bbox]:
    """The texts of a picture that show, and where each stands."""
    figure.draw_without_rendering()
    hidden: set[Text] = set()
    for axis in figure.axes:
        if not axis.axison:
            hidden |= set(axis.findobj(Text))
        for line, limits in ((axis.xaxis, sorted(axis.get_xlim())), (axis.yaxis, sorted(axis.get_ylim()))):
            for tick in [*line.majorTicks, *line.minorTicks]:
                if not limits[0] <= tick.get_loc() <= limits[1]:  # made, and not drawn
                    hidden |= {tick.label1, tick.label2}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return {text: text.get_window_extent() for text in texts if text not in hidden}


def assert_readable(figure: Figure) -> None:
    """No text covers another one or runs out of the picture."""
    at = places(figure)
    pairs = itertools.combinations(at, 2)
    assert [(one.get_text(), other.get_text()) for one, other in pairs if at[one].overlaps(at[other])] == []
    corners = {text.get_text(): [(box.x0, box.y0), (box.x1, box.y1)] for text, box in at.items()}
    assert [name for name, some in corners.items() if not all(figure.bbox.contains(*corner) for corner in some)] == []


def panel(figure: Figure, title: str):
    """The axis whose title begins so."""
    (found,) = [axis for axis in figure.axes if axis.get_title("left").startswith(title)]
    return found


@pytest.mark.parametrize(
    "kwargs",
    [
        {"width": 980},
        {"length": 4},
        {"length": 1},
        {"length": 200, "pay": 1e-4},
        {"width": 30, "length": 901, "pay": -1e6},
    ],
    ids=str,
)
@pytest.mark.parametrize("core", ["bmru", "bmru+mingru,cmru"])
def test_no_label_covers_another_however_wide_or_short_the_episode_is(kwargs, core, trained):
    run, _ = trained(env=WAVE, env_kwargs=kwargs, core=core, steps=512, previous_reward=True)
    figure = picture(record_episode(run, env_kwargs={}, seed=SEED, max_steps=10_000))
    assert_readable(figure)
    caption = figure.texts[-1]
    assert caption.get_text().startswith("Each column is ")
    assert (
        min(caption.get_window_extent().y0, *(axis.bbox.y0 for axis in figure.axes)) == caption.get_window_extent().y0
    )


def test_of_980_channels_each_input_shows_in_a_panel_of_a_few_inches():
    steps, width = 400, 980
    rng = np.random.default_rng(0)
    inputs = np.zeros((steps, width + 4), np.float32)
    at, channel = np.arange(0, steps, 7), rng.integers(0, width, len(range(0, steps, 7)))
    inputs[at, channel] = rng.choice([-3, 0.01], len(at))
    inputs[0, -1] = inputs[:, -2] = 1
    channels = [*(f"obs {i}" for i in range(width)), "last action 0", "last action 1", "going on", "start"]
    figure = picture(made([random_memory(steps, 8, 0.01)], inputs=inputs, channels=channels))
    seen = panel(figure, "what the agent saw, 980 channels, 16 to a row")
    assert seen.bbox.height / figure.dpi < 4
    shown = seen.images[0].get_array()
    assert shown.shape == (62, steps)
    assert set(zip(*np.nonzero(shown), strict=True)) == set(zip(channel // 16, at, strict=True))
    assert np.array_equal(np.sign(shown[channel // 16, at]), np.sign(inputs[at, channel]))
    (marks,) = [line for line in seen.lines if line.get_marker() == "D"]
    assert {(int(y), int(x)) for x, y in marks.get_xydata()} == set(zip(channel // 16, at, strict=True))
    besides = panel(figure, "what it saw besides")
    assert [label.get_text() for label in besides.get_yticklabels()] == ["last action 0", "last action 1", "start"]


@pytest.mark.parametrize("steps", [1, 5, 100, 10_000])
@pytest.mark.parametrize("shape", [(3, 24, 24), (64, 96, 3), (4, 42, 42), (40, 8), (8, 60)], ids=str)
def test_an_image_is_a_strip_of_frames_each_with_its_step(steps, shape):
    frames = np.random.default_rng(0).integers(0, 256, (steps, *shape), dtype=np.uint8)
    film = Film("", frames, image_shape(gymnasium.spaces.Box(0, 255, shape, np.uint8)))
    start = np.zeros((steps, 2), np.float32)
    start[0, 1] = 1
    memory = [random_memory(steps, 4, 0.1)]
    figure = picture(made(memory, films=[film], inputs=start, channels=["going on", "start"]))
    assert_readable(figure)
    seen = panel(figure, "what the agent saw, an image of")
    assert seen.bbox.height / figure.dpi < 2
    shown = [int(text.get_text().replace(",", "")) for text in seen.texts]
    assert shown == sorted(shown)
    assert {0, steps - 1} <= set(shown)
    assert (f"{len(shown)} of {steps:,} frames" in seen.get_title("left")) == (len(shown) < steps)
    for image, step in zip(seen.images, shown, strict=True):
        assert np.array_equal(image.get_array(), film.rgb(np.array([step]))[0])
    edges = np.array([image.get_extent()[:2] for image in seen.images])
    assert (edges[1:, 0] > edges[:-1, 1]).all(), "side by side"
    assert edges.min() >= 0
    assert edges.max() <= 1 + 1e-9
    for line, step in zip(seen.lines, shown, strict=True):
        at = seen.transAxes.transform((line.get_xdata()[0], 0))[0]
        assert at == pytest.approx(seen.transData.transform((step, 0))[0], abs=0.5), "the line ends at its step"
    assert [label.get_text() for label in panel(figure, "what it saw besides").get_yticklabels()] == ["start"]


def test_a_small_reward_and_a_large_value_both_fill_their_panels(trained):
    run, _ = trained(env=WAVE, env_kwargs={"length": 60, "pay": 0.001}, steps=512)
    episode = record_episode(run, env_kwargs={}, seed=SEED, max_steps=100)
    value = 1000 + np.linspace(0, 1, 60, dtype=np.float32)
    figure = picture(dataclasses.replace(episode, value=value))
    assert np.diff(panel(figure, "reward").get_ylim()) < 0.002
    assert np.diff(panel(figure, "value").get_ylim()) < 2
    assert_readable(figure)


@pytest.mark.parametrize("pay", [-3.0, 2e-4])
def test_a_reward_that_never_changes_is_a_line_inside_its_panel(pay):
    steps = 5000
    reward = np.full(steps, pay, np.float32)
    figure = picture(made([random_memory(steps, 4, 0.1)], reward=reward, value=reward))
    for title in ("reward", "value"):
        low, high = panel(figure, title).get_ylim()
        assert low + 0.05 * (high - low) < pay < high - 0.05 * (high - low)


@pytest.mark.parametrize("rate", [0.005, 0.5])
def test_diamonds_are_explained_where_they_stand(rate):
    figure = picture(made([random_memory(steps=300, units=4, rate=rate)]))
    marks = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert bool(marks) == (rate == 0.005)
    assert ("A ◆ marks an input or a write that is rare in its row" in figure.texts[-1].get_text()) == bool(marks)


def test_the_caption_says_how_many_steps_share_a_column():
    figure = picture(made([random_memory(steps=9000, units=4, rate=0.001)]))
    assert figure.texts[-1].get_text().startswith("Each column is 10 steps: inputs show the value farthest from 0")
    assert_readable(figure)


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
    image = memory_image(memory, Bins.at_most(900, 200), order)
    assert image.shape == (20, 200, 3)
    for row, unit in enumerate(order):
        for t in range(200):
            palette = WRITTEN if memory.writes[t, unit] else HELD
            assert np.allclose(image[row, t], to_rgb(palette[int(np.sign(memory.states[t, unit]))]))


@pytest.mark.parametrize("cell", ["bmru", "real"])
def test_no_write_is_lost_where_steps_share_a_column(cell):
    memory = random_memory(steps=5003, units=12, rate=0.002, cell=cell)
    assert memory.two_valued == (cell == "bmru")
    columns = Bins.at_most(400, 5003)
    assert columns.width == 13
    order = np.arange(12)
    silent = dataclasses.replace(memory, writes=np.zeros_like(memory.writes))
    darker = (memory_image(memory, columns, order) != memory_image(silent, columns, order)).any(-1)
    for unit in range(12):
        assert set(np.flatnonzero(darker[unit])) == set(np.flatnonzero(memory.writes[:, unit]) // 13)


def test_every_written_column_and_unit_has_its_pixels_in_the_png(tmp_path):
    steps, units = 8999, 1000  # columns of 10 steps, units of a pixel
    writes = np.zeros((steps, units), bool)
    writes[0] = True
    # every second column is written in every second unit
    writes[np.ix_(np.arange(3, steps, 20), np.arange(0, units, 2))] = True
    episode = made(memory=[CellMemory("layer_0", "bmru", np.ones((steps, units), np.float32), writes)])
    draw(episode, tmp_path / "picture.png")
    pixels = images.imread(tmp_path / "picture.png")[..., :3]
    dark = (np.abs(pixels - np.array(to_rgb(WRITTEN[1]))) < 0.01).all(-1)
    assert np.diff(dark.astype(int), axis=1).clip(0).sum(axis=1).max() == 450, "columns along a unit that wrote"
    assert dark[:, dark.sum(axis=0) > 400].sum(axis=0).min() >= 500, "units along a column"


def test_units_are_sorted_from_what_is_held_to_what_changes_and_the_silent_ones_last():
    writes = np.array([[c == "1" for c in unit] for unit in ("1111", "0000", "0100", "1000", "1010")]).T
    states = np.where(np.maximum.accumulate(writes, axis=0), 1.0, 0.0)
    assert unit_order(CellMemory("layer_0", "bmru", states, writes)).tolist() == [3, 2, 4, 0, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"core": "bmru", **TMAZE},
        {"core": "bmru+mingru", **TMAZE},
        {"core": "gru", **TMAZE},
        {"core": "mlp", **TMAZE},
        {"core": "cmru,deltanet", **TMAZE},
        {"env": "popgym-BattleshipEasy-v0"},
        {"env": "CartPole-v1"},
        {"env": "Pendulum-v1"},
    ],
    ids=lambda changes: "-".join(str(v) for v in changes.values()).replace("/", "_"),
)
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
