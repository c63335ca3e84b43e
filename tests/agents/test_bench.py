from __future__ import annotations

import json

import pytest

from mru_rl.agents.bench import popgym
from mru_rl.agents.cli import main

IDS = ["popgym-HigherLowerEasy-v0", "popgym-RepeatFirstEasy-v0"]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(popgym.PRESETS, "smoke", 20_000)


def test_the_popgym_pass_tells_what_learned_and_repeats_no_finished_run(quick, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--ids", *IDS, "--core", "bmru", "--workers", "2"]
    main(["bench", "popgym", *words[:4]])
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["env"] for line in lines] == IDS[:1]
    main(["bench", "popgym", *words[:3], *IDS])
    again = (tmp_path / "results.jsonl").read_text().splitlines()
    assert again[:1] == lines, "what was finished is kept as it was"
    assert {json.loads(line)["env"] for line in again} == set(IDS)
    assert {p.name for p in tmp_path.iterdir()} == {"results.jsonl", "table.md"}
    table = (tmp_path / "table.md").read_text()
    assert all(env_id in table for env_id in IDS)
    assert "Not above the floor by the margin:" in table
    for line in again:
        result = json.loads(line)
        assert result["passed"] == (result["return_mean"] > result["floor"] + result["margin"])
        assert result["mmer"] <= result["reference"] + 0.2
        assert result["provenance"]["commit"] is not None
    assert "| id |" in capsys.readouterr().out


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
