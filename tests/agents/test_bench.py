from __future__ import annotations

import json

import pytest

from mru_rl.agents.bench import popgym
from mru_rl.agents.cli import main

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
        (["popgym", "--preset", "huge"], "invalid choice: 'huge'"),
        (["popgym", "--ids", "popgym-Nope-v0"], "invalid choice"),
        (["speed", "--threads", "two"], "invalid int value: 'two'"),
    ],
)
def test_bad_options_of_benchmarks_give_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1
