from __future__ import annotations

import json
from pathlib import Path

import pytest

from mru_rl.agents.bench import ablation, popgym
from mru_rl.agents.cli.main import main

IDS = ["popgym-HigherLowerEasy-v0", "popgym-RepeatFirstEasy-v0"]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(popgym.PRESETS, "smoke", (IDS, 20_000, 1))


def test_the_popgym_pass_tells_what_learned_and_repeats_no_finished_run(quick, tmp_path, capsys):
    words = ["bench", "popgym", "--out", str(tmp_path), "--cores", "bmru", "--workers", "2"]
    main([*words, "--ids", IDS[0]])
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["env"] for line in lines] == IDS[:1]
    main(words)
    again = (tmp_path / "results.jsonl").read_text().splitlines()
    assert again[:1] == lines, "what was finished is kept as it was"
    assert {json.loads(line)["env"] for line in again} == set(IDS)
    assert {p.name for p in tmp_path.iterdir()} == {"benchmark.json", "results.jsonl", "table.md"}
    table = (tmp_path / "table.md").read_text()
    assert all(env_id in table for env_id in IDS)
    assert "Not above the floor by the margin:" in table
    assert "| id |" in capsys.readouterr().out
    for line in again:
        result = json.loads(line)
        assert result["provenance"]["commit"] is not None
        cell = popgym.cell_of([result])
        assert f"| {result['env']} | bmru | {cell.mean:.3f} |" in table
        assert cell.mmer <= cell.reference + 0.2


def test_an_id_passes_only_beyond_the_margin_and_the_interval():
    def result(value, half):
        evaluation = {"return_mean": value, "return_ci95": [value - half, value + half]}
        return {"env": IDS[1], "evaluations": [evaluation], "curve": {"return_mean": [None, 0.3, 0.1]}}

    floor = popgym.cell_of([result(0.0, 0.0)]).floor
    assert floor == pytest.approx(-0.5, abs=0.02)
    assert popgym.cell_of([result(floor + 0.1, 0.01)]).passed  # a twentieth of the way to 1 is 0.075
    assert not popgym.cell_of([result(floor + 0.07, 0.01)]).passed
    assert not popgym.cell_of([result(floor + 0.1, 0.2)]).passed
    both = popgym.cell_of([result(1.0, 0.0), result(floor, 0.0)])
    assert both.score == pytest.approx(0.5)
    assert both.mmer == 0.3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "there is no benchmark 'nope'"),
        (["popgym", "--preset", "huge"], "invalid choice 'huge' for argument '--preset'"),
        (["popgym", "--ids", "popgym-Nope-v0"], "--ids are popgym ids with a port"),
        (["speed", "--threads", "two"], "a whole number is needed"),
    ],
)
def test_bad_options_of_benchmarks_give_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1


def test_settings_change_one_field_each_and_the_table_says_when_each_seed_had_learned():
    jobs = ablation.jobs_of("bmru", [*ablation.ARMS, ablation.CARRY], 2)
    assert len({job.key for job in jobs}) == len(jobs) == 2 * 2 * (len(ablation.ARMS) + 1)
    for job in jobs:
        assert job.config(Path("unused")).core == ("carry-bmru" if job.row == ablation.CARRY else "bmru")

    def result(place, seed, end, curve):
        name = "success_rate" if place == 0 else "return_mean"
        return {"row": "default", "x": place, "seed": seed, "evaluations": [{name: end}], "curve": curve}

    maze = {"steps": [1000, 2000, 3000], "return_mean": [-1.0, 0.9, 1.0], "success_rate": [None, 0.94, 0.95]}
    cards = {"steps": [1000, 5000], "return_mean": [0.1, 0.89]}
    table = ablation.markdown([result(0, 1, 0.5, maze), result(0, 0, 1.0, maze), result(1, 0, 0.89, cards)], "command")
    assert table.splitlines()[-1] == "| default | 1.00, 0.50 | 3, 3 | 0.89 | never |"


def test_the_settings_benchmark_runs_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    short = {"short": ablation.Task("mru_rl/TMaze-v0", {"length": 4}, 2000, "success_rate", 0.95)}
    monkeypatch.setattr(ablation, "TASKS", short)
    words = [
        "bench",
        "settings",
        "--arms",
        "default",
        "discount 0",
        "--seeds",
        "1",
        "--workers",
        "1",
        "--out",
        str(tmp_path),
    ]
    main(words)
    first = (tmp_path / "results.jsonl").read_bytes()
    assert first.count(b"\n") == 2
    main(words)
    assert (tmp_path / "results.jsonl").read_bytes() == first
    assert "| discount 0 | " in (tmp_path / "table.md").read_text()
    assert "| default | " in capsys.readouterr().out
