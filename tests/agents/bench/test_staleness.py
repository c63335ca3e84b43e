from __future__ import annotations

import json

import pytest

from mru_rl.agents.bench import staleness
from mru_rl.agents.cli.main import main


def result(core: str, burn_in: int, seed: int, level: float) -> dict:
    """A line of results.jsonl whose differences fall from 9 to a level; zero starts are ten times as far off."""
    curve = {"steps": [1000, 2000, 3000, 4000], "return_mean": [0.0] * 4}
    for place in ("first", "last"):
        curve |= {f"{place}_{start}": [9.0, 9.0, level, 3 * level] for start in ("stored", "signs")}
        curve[f"{place}_zero"] = [9.0, 9.0, 10 * level, 10 * level]
    return {
        "row": f"{core}, burn-in {burn_in}", "core": core, "x": burn_in, "seed": seed, "curve": curve,
        "evaluations": [{"return_mean": 0.5}], "bytes_per_sequence": {"floats": 1802, "signs": 1562},
        "provenance": {"commit": "c0ffee"},
    }  # fmt: skip


def test_the_table_means_the_second_half_over_seeds():
    table = staleness.markdown([result("bmru", 0, 0, 0.01), result("bmru", 0, 1, 0.03)], "mru-rl bench staleness")
    row = next(line for line in table.splitlines() if line.startswith("| `bmru`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["`bmru`", "0", "0.040", "0.040", "0.200", "0.200", "0.040", "0.040", "0.50", "1,802", "1,562", "2"]
    assert "commit c0ffee" in table


def test_the_bench_trains_measures_and_keeps_what_is_finished(tmp_path, capsys):
    words = [
        "bench",
        "staleness",
        "--cores",
        "bmru",
        "--seeds",
        "1",
        "--steps",
        "70000",
        "--burn-in",
        "0",
        "--workers",
        "1",
    ]
    main([*words, "--out", str(tmp_path)])
    assert "`bmru`" in capsys.readouterr().out
    (line,) = [json.loads(text) for text in (tmp_path / "results.jsonl").read_text().splitlines()]
    curve = line["curve"]
    assert len(curve["steps"]) > 5
    assert all(len(column) == len(curve["steps"]) for column in curve.values())
    assert min(curve["first_zero"][-3:]) > 0, "without a state the values are off"
    assert line["bytes_per_sequence"]["floats"] - line["bytes_per_sequence"]["signs"] == 64 * 4 - 16
    assert line["provenance"]["machine"]["cpu"]
    assert (tmp_path / "staleness.png").stat().st_size > 10_000
    written = (tmp_path / "results.jsonl").read_text()
    main([*words, "--out", str(tmp_path)])  # nothing is left to do
    assert (tmp_path / "results.jsonl").read_text() == written


def test_wrong_options_are_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "staleness", "--burn-in", "-1"])
    assert "--burn-in must not be negative, got -1" in capsys.readouterr().err
