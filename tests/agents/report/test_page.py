from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image as images

from mru_rl.agents.bench import grid
from mru_rl.agents.bench.jobs import Point
from mru_rl.agents.cli.main import main
from mru_rl.agents.report.data import Axis, read_benchmark
from mru_rl.agents.report.figures import interquartile_curve, known_points, spread
from mru_rl.agents.report.page import render
from mru_rl.agents.report.palette import looks
from mru_rl.agents.report.statistics import iqm_interval
from mru_rl.agents.report.summary import (
    Place,
    estimates,
    headline,
    is_chosen,
    leaders,
    luck_of_episodes,
    places,
    reach,
    results,
)
from mru_rl.agents.report.tables import write_tables


class Page(HTMLParser):
    """What a page holds: its tags, every address it refers to, its visible text, and the cells of its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.titles: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._cell = self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._hidden = self._hidden or tag == "style"
        self.addresses += [value for name, value in attrs if name in ("src", "srcset", "href")]
        self.titles += [value for name, value in attrs if name == "title"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._hidden = self._hidden and tag != "style"
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._hidden:
            return
        self.text += data
        if self._cell:
            self.rows[-1][-1] += " " + data.strip()


def cells(page: Page, core: str) -> list[str]:
    """The first row of a core, without its name."""
    return [cell.strip() for cell in next(row for row in page.rows if row[0].strip() == core)[1:]]


@pytest.fixture
def retention(benchmark_dir):
    return read_benchmark(benchmark_dir())


def test_estimates_are_those_of_the_values_in_the_file(retention):
    table = estimates(retention)
    assert [place.label for place in places(retention)] == ["10", "100", "1,000"]
    assert table["bmru"][Place("100", x=100)] == iqm_interval([[1.0, 0.9, 0.8]])
    assert table["gru"][Place("10", x=10)] == iqm_interval([[1.0, 0.6, 0.5]])
    assert [r.value for r in results(retention, "gru", Place("10", x=10))] == [1.0, 0.6, 0.5]


def test_without_an_axis_tasks_are_strata_and_columns(benchmark_dir, bench_job):
    jobs = [
        bench_job(core, seed, {10: value}, env=env, env_kwargs={})
        for core, by_env in {
            "bmru": {"a": (0.9, 0.9), "b": (0.1, 0.1)},
            "gru": {"a": (0.2, 0.4), "b": (0.1, 0.1)},
        }.items()
        for env, values in by_env.items()
        for seed, value in enumerate(values)
    ]
    benchmark = read_benchmark(benchmark_dir(jobs=jobs, axis=None, chance=None))
    table = estimates(benchmark)
    everything = Place("all 2 tasks")
    assert places(benchmark) == [everything, Place("a", task="a"), Place("b", task="b")]
    assert table["bmru"][everything] == (0.5, 0.5, 0.5, 2), (
        "seeds agree within each task: no spread, however far tasks lie apart"
    )
    assert table["gru"][everything] == iqm_interval([[0.2, 0.4], [0.1, 0.1]])
    assert headline(benchmark, table).startswith(
        "Over all 2 tasks, bmru has the highest success rate: 0.50 [0.50, 0.50]; next is gru"
    )


def test_the_headline_tells_who_is_best_where_it_is_hardest_and_who_is_above_chance(retention):
    table = estimates(retention)
    assert headline(retention, table) == (
        "At corridor length = 1,000 (100 times what was trained), bmru has the highest success rate: 0.70 [0.65, 0.75]; "
        f"next is gru ({table['gru'][Place('1,000', x=1000)].text()}). Above chance (0.5): bmru up to 1,000; gru nowhere."
    )


def test_the_headline_does_not_crown_one_of_two_that_cannot_be_told_apart(benchmark_dir, bench_job):
    rates = {"bmru": (0.9, 0.5, 1.0), "gru": (0.8, 0.9, 0.6)}
    jobs = [bench_job(core, seed, {10: rate}) for core, values in rates.items() for seed, rate in enumerate(values)]
    benchmark = read_benchmark(benchmark_dir(jobs=jobs))
    table = estimates(benchmark)
    assert leaders(table, places(benchmark)[0]) == ["bmru", "gru"]
    assert "gru (0.77 [0.60, 0.90]) cannot be told from it" in headline(benchmark, table)


def test_the_headline_says_when_there_is_one_seed_or_no_run(benchmark_dir, bench_job):
    one = read_benchmark(benchmark_dir("one", jobs=[bench_job("bmru", 0, {10: 1.0}), bench_job("gru", 0, {10: 0.5})]))
    said = headline(one, estimates(one))
    assert "1.00 (n = 1)" in said
    assert "One seed each" in said
    assert "Above chance" not in said
    none = read_benchmark(benchmark_dir("none", jobs=[bench_job("bmru", 0, {10: 1.0}, phase="search")]))
    assert headline(none, estimates(none)) == "No final run has finished yet; 1 trial of the search has."


def test_reach_ends_at_the_first_place_whose_interval_touches_chance(benchmark_dir, bench_job):
    jobs = [bench_job("bmru", seed, {10: 0.9, 100: 0.5 + 0.1 * seed, 1000: 0.9}) for seed in range(3)]
    benchmark = read_benchmark(benchmark_dir(jobs=jobs))
    assert reach(benchmark, "bmru", estimates(benchmark)["bmru"]) == Place("10", x=10)


def test_the_luck_of_episodes_that_all_seeds_share_is_not_taken_for_memory(benchmark_dir, bench_job):
    # an agent that always turns up is right in as many of 128 episodes as have that cue: the same in every seed
    jobs = [bench_job(core, seed, {10: rate}) for core, rate in (("mlp", 0.57), ("gru", 0.6)) for seed in range(3)]
    benchmark = read_benchmark(benchmark_dir(jobs=jobs))
    table, place = estimates(benchmark), Place("10", x=10)
    assert table["mlp"][place] == (0.57, 0.57, 0.57, 3), "the interval over seeds does not see it"
    assert luck_of_episodes(benchmark, "mlp", place) == pytest.approx(1.96 * 0.5 / 128**0.5)  # 0.087
    assert headline(benchmark, table).endswith("Above chance (0.5): gru up to 10; mlp nowhere.")


def test_the_luck_of_episodes_in_a_score_is_that_of_the_returns_on_its_scale(benchmark_dir, bench_job):
    jobs = [bench_job("bmru", seed, {10: rate}) for seed, rate in enumerate((0.6, 0.8))]
    for line in jobs:
        for evaluation in line["evaluations"]:  # return 2 rate - 1, its half-width 0.1; score = (return - floor) / 4
            evaluation["score"] = (evaluation["return_mean"] + 3) / 4
    scored = read_benchmark(benchmark_dir("scored", jobs=jobs, measure="score", chance=0.0))
    assert luck_of_episodes(scored, "bmru", Place("10", x=10)) == pytest.approx(0.1 / 4)
    paid = read_benchmark(benchmark_dir("paid", jobs=jobs, measure="return_mean", chance=0.0))
    assert luck_of_episodes(paid, "bmru", Place("10", x=10)) == pytest.approx(0.1)


def test_where_there_is_one_place_only_no_place_is_named_and_intervals_stand_side_by_side(benchmark_dir, bench_job):
    jobs = [bench_job(core, seed, {0: 0.8}) for core in ("bmru", "gru") for seed in range(2)]
    path = benchmark_dir(jobs=jobs, chance=None)
    benchmark = read_benchmark(path)
    assert (
        headline(benchmark, estimates(benchmark))
        == "bmru has the highest success rate: 0.80 [0.80, 0.80], and so has gru."
    )
    assert "success rate of every core with its interval" in render(path)


def test_the_chosen_setting_is_that_of_the_final_runs(retention):
    assert [is_chosen(retention, trial) for trial in retention.trials] == [True, False, True, False]


def test_the_iqm_of_curves_covers_the_steps_that_all_seeds_have(retention):
    steps, values = interquartile_curve(
        [(np.array([0.0, 10.0]), np.array([0.0, 1.0])), (np.array([2.0, 20.0]), np.array([0.0, 0.0]))]
    )
    assert (steps[0], steps[-1]) == (2.0, 10.0)
    assert values == pytest.approx(steps / 20)
    apart = [(np.array([0.0, 1.0]), np.array([0.0, 1.0])), (np.array([2.0, 3.0]), np.array([0.0, 0.0]))]
    assert len(interquartile_curve(apart)[0]) == 0


def test_points_of_a_curve_leave_out_nulls_and_keep_the_ends(bench_job, benchmark_dir):
    n = 1001
    curve = {"steps": list(range(n)), "return_mean": [None, *[float(i) for i in range(1, n)]]}
    benchmark = read_benchmark(benchmark_dir(jobs=[bench_job("gru", 0, {10: 1.0}, curve=curve)]))
    steps, values = known_points(benchmark.finals[0], "return_mean")
    assert len(steps) == 200
    assert (steps[0], steps[-1]) == (1, 1000)
    assert np.array_equal(steps, values)


def test_labels_move_apart_no_farther_than_they_must():
    assert spread([0.0, 1.0], gap=0.5).tolist() == [0.0, 1.0]
    assert spread([0.5, 0.5, 0.5], gap=0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread([1.0, 0.0, 0.05], gap=0.2) == pytest.approx([1.0, -0.075, 0.125])


def test_every_core_has_a_look_of_its_own_and_the_usual_ones_always_the_same():
    import mru_rl

    cores = [*mru_rl.list_cells(), "bmru+mingru"]
    found = looks(cores[:24])
    assert len(set(found.values())) == 24
    assert looks(["gru", "s5"])["gru"] == looks(reversed(cores))["gru"] == found["gru"]


def test_the_page_holds_the_numbers_and_everything_it_shows_is_inside_it(benchmark_dir, tmp_path):
    path = benchmark_dir()
    before = sorted(p.name for p in path.iterdir())
    main(["report", str(path)])
    assert sorted(p.name for p in path.iterdir()) == sorted([*before, "report.html"]), "nothing temporary stays"
    page = Page((path / "report.html").read_text())
    assert cells(page, "bmru")[:3] == ["0.97 0.90 to 1.00", "0.90 0.80 to 1.00", "0.70 0.65 to 0.75"]
    assert cells(page, "bmru")[3:6] == ["3 of 3", "1,234", "32"]
    assert "seed 0: 1.000\nseed 1: 0.600\nseed 2: 0.500" in page.titles
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for word in (
        "How long is one bit kept?",
        "c0ffee",
        "torch 2.13.0",
        "a processor",
        "mru-rl bench retention --preset tiny",
        "lr 0.0003",
    ):
        assert word in page.text
    assert [row[2].strip() for row in page.rows if "lr 0.0003" in row[1]] == ["", ""], (
        "the other trial is the chosen one"
    )
    assert render(path) == (path / "report.html").read_text(), "the same data give the same page"


def test_whatever_stands_in_the_files_is_shown_and_not_obeyed(benchmark_dir, bench_job):
    nasty = "<script>alert(1)</script><img src=http://example.org/x>&amp;\"'"
    jobs = [
        bench_job(core, 0, {10: 1.0}, setting_name=nasty, env=nasty, inspect="gone.png") for core in ("bmru", nasty)
    ]
    jobs += [bench_job("bmru", 0, {10: 1.0}, phase="search", setting_name=nasty, settings={nasty: nasty})]
    jobs[0]["provenance"] = {"command": nasty, "commit": nasty, "versions": {nasty: nasty}, "machine": {nasty: nasty}}
    path = benchmark_dir(
        jobs=jobs,
        title=nasty,
        question=nasty,
        command=nasty,
        preset=nasty,
        cores=["bmru", nasty],
        axis={"name": nasty, "label": nasty, "log": False, "trained": 10},
    )
    page = Page(render(path))
    assert page.text.count(nasty) > 10
    assert "script" not in page.tags
    assert all(address.startswith("data:image/") for address in page.addresses)
    for address in page.addresses:
        svg = base64.b64decode(address.partition(",")[2]).decode()
        assert "<script" not in svg


def test_pictures_of_episodes_are_taken_in_and_none_from_outside(benchmark_dir, bench_job):
    png = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    path = benchmark_dir(jobs=[bench_job("bmru", 0, {10: 1.0}, inspect="inspect/one.png")])
    assert "The picture is not in the directory." in Page(render(path)).text
    (path / "inspect").mkdir()
    (path / "inspect" / "one.png").write_bytes(png)
    assert f"data:image/png;base64,{base64.b64encode(png).decode()}" in Page(render(path)).addresses
    outside = benchmark_dir("outside", jobs=[bench_job("bmru", 0, {10: 1.0}, inspect="../retention/inspect/one.png")])
    with pytest.raises(ValueError, match="lies outside"):
        render(outside)


def test_several_benchmarks_and_runs_share_a_page_and_a_core_its_color(benchmark_dir, trained, tmp_path):
    benchmark_dir("a", title="First")
    benchmark_dir("b", title="Second", cores=["gru", "bmru"])
    run, _ = trained(core="gru", steps=1024)
    html = render(tmp_path)
    page = Page(html)
    for word in ("First", "Second", "gru on popgym-RepeatFirstEasy-v0, seed 0"):
        assert word in page.text
    assert [address for address in page.addresses if address.startswith("#")] == ["#a", "#b", "#run"]
    colors = re.findall(r'background:(#\w+)"></i>(\w+)', html)
    assert len({color for color, core in colors if core == "gru"}) == 1
    assert len(set(colors)) == 2
    alone = Page(render(run.path))
    episodes = run.records()[-1]["recent_episodes"]
    assert episodes < 100, "a run this short ends before there are so many"
    assert f"over the last {episodes} episodes, exploring." in alone.text
    assert "learning_rate" in alone.text
    assert "How it was made" in alone.text
    assert len(alone.addresses) == 2 * sum(
        name in run.records()[-1] for name in ("return_mean", "success_rate", "write_rate")
    )


def test_runs_are_found_where_they_lie_and_open_with_a_table_of_all(trained, tmp_path):
    run, _ = trained(core="gru", steps=1024)
    config = run.config_values()
    for place, changes in {
        "ppo-a/seed_0": {"seed": 0},
        "ppo-a/seed_1": {"seed": 1, "core": "bmru"},
        "deep/er/seed_2": {"seed": 2, "env": "CartPole-v1"},
        "far/too/deep/seed_3": {"seed": 3},
    }.items():
        shutil.copytree(run.path, tmp_path / "runs" / place)
        (tmp_path / "runs" / place / "config.json").write_text(json.dumps(config | changes))
    last = run.records()[-1]
    longer = json.dumps(last | {"recent_episodes": 100}) + "\n"
    (tmp_path / "runs" / "ppo-a" / "seed_1" / "metrics.jsonl").write_text(longer)
    page = Page(render(tmp_path / "runs"))
    assert f"the last {last['recent_episodes']} to 100 episodes of training" in page.text
    speed = f"{last['steps'] / last['seconds']:,.0f}"
    told = ["1,024", f"{last['return_mean']:.3f}", f"{last['success_rate']:.2f}", speed]
    assert [[cell.strip() for cell in row] for row in page.rows[:4]] == [
        ["env", "core", "algorithm", "seed", "steps", "return", "success", "steps/s"],
        ["CartPole-v1", "gru", "ppo", "2", *told],
        ["popgym-RepeatFirstEasy-v0", "bmru", "ppo", "1", *told],
        ["popgym-RepeatFirstEasy-v0", "gru", "ppo", "0", *told],
    ]
    anchors = [address for address in page.addresses if address.startswith("#")]
    assert anchors == ["#deep-er-seed_2", "#ppo-a-seed_1", "#ppo-a-seed_0"]
    svg = base64.b64decode(page.addresses[len(anchors)].partition(",")[2]).decode()
    for color in (looks(["gru", "bmru"])[core].color for core in ("gru", "bmru")):
        assert color.lower() in svg


def test_a_benchmark_leaves_a_table_a_picture_and_a_page(benchmark_dir):
    path = benchmark_dir()
    assert [p.name for p in write_tables(path)] == ["table.md", "curve.png", "report.html"]
    table = (path / "table.md").read_text()
    assert "| `bmru` | 0.97 [0.90, 1.00] | 0.90 [0.80, 1.00] | 0.70 [0.65, 0.75] | 3 | 1,234 | 32 | lr 0.001 |" in table
    assert "commit c0ffee" in table
    pixels = images.imread(path / "curve.png")[..., :3]
    assert pixels.shape[1] == 1350
    assert (pixels != pixels[0, 0]).any(-1).mean() > 0.01


def test_what_a_grid_leaves_is_what_a_report_reads(tmp_path):
    points = (Point(5, {"length": 5}, 32), Point(50, {"length": 50}, 32))
    small = grid.Grid(
        "small",
        "Small",
        "Does it run?",
        "success_rate",
        Axis("length", "length", log=True, trained=5),
        0.5,
        (grid.Variant(5, "mru_rl/TMaze-v0", {"length": 5}, 1000, points),),
        cores=("bmru",),
        seeds=2,
        trials=1,
        search_seeds=1,
        preset="smoke",
        hidden_size=16,
        state_size=16,
        settings={"num_envs": 8, "minibatches": 2},
    )
    assert grid.run_benchmark(small, tmp_path, 2, "mru-rl bench small") == []
    write_tables(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    page = Page((tmp_path / "report.html").read_text())
    for column, point in enumerate(points):
        rates = [line["evaluations"][column]["success_rate"] for line in lines]
        assert cells(page, "bmru")[column].startswith(f"{np.mean(rates):.2f} ")
        assert page.rows[0][1 + column].strip() == f"{point.x}"
    assert lines[0]["provenance"]["commit"] in page.text


def test_a_benchmark_without_a_final_run_has_a_page_and_no_picture(benchmark_dir):
    path = benchmark_dir(jobs=[])
    assert [p.name for p in write_tables(path)] == ["table.md", "report.html"]
    assert "No final run has finished yet" in (path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "there is no directory"),
        (["."], "holds no benchmark and no run"),
        ([".", "--outt", "x"], "did you mean --out"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["report", *words])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def browse(page: Path, profile: Path, *options: str) -> str:
    """Open a page in headless Chromium and return what it prints. Skips without one, except where MRU_RL_COMPARE is set."""
    browser = shutil.which("chromium")
    if browser is None and os.environ.get("MRU_RL_COMPARE") != "1":
        pytest.skip("no chromium on PATH; on Debian: apt-get install chromium")
    assert browser is not None, "MRU_RL_COMPARE=1 needs chromium on PATH; on Debian: apt-get install chromium"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ]
    done = subprocess.run(
        [browser, *flags, *options, page.as_uri()], capture_output=True, text=True, timeout=180, check=True
    )
    return done.stdout


def test_a_browser_shows_the_number_that_the_data_give_and_a_picture(benchmark_dir, tmp_path):
    path = benchmark_dir()
    main(["report", str(path)])
    shown = Page(browse(path / "report.html", tmp_path / "profile_1", "--dump-dom"))
    lines = [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()]
    rates = [
        e["success_rate"]
        for line in lines
        if (line["core"], line["phase"]) == ("bmru", "final")
        for e in line["evaluations"]
        if e["x"] == 1000
    ]
    assert len(rates) == 3
    assert cells(shown, "bmru")[2].split()[0] == f"{sum(rates) / 3:.2f}"

    shot = tmp_path / "shot.png"
    browse(path / "report.html", tmp_path / "profile_2", f"--screenshot={shot}", "--window-size=1200,1600")
    pixels = images.imread(shot)[..., :3]
    assert pixels.shape[:2] == (1600, 1200)
    assert 0.02 < (pixels < 0.98).any(-1).mean() < 0.9, "drawn on, and on white"
    for color in ("#0072B2", "#009E73"):  # the lines of bmru and gru: the plots inside the page are drawn
        rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (np.abs(pixels - rgb) < 0.02).all(-1).sum() > 500
