"""Benchmark grids: what is finished is kept, what is chosen is not what is reported, and no process outlives its parent."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mru_rl.agents.bench import grid, memory
from mru_rl.agents.bench.jobs import run_job
from mru_rl.agents.bench.workers import TRIES, do_all
from mru_rl.agents.cli.main import main
from mru_rl.agents.records.run import exclusive_lock
from mru_rl.agents.report.data import to_json
from rig.processes import alive, descendants


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_grid_searches_on_other_seeds_and_reports_every_core_on_every_seed(tiny, tmp_path):
    assert grid.run_benchmark(tiny, tmp_path, 2, "mru-rl bench tiny") == []
    results = lines(tmp_path)
    search, final = ([r for r in results if r["phase"] == phase] for phase in ("search", "final"))
    assert {(r["core"], r["setting_name"], r["seed"]) for r in search} == {
        (core, trial, grid.SEARCH_SEED) for core in ("bmru", "gru") for trial in ("default", "long")
    }
    assert {(r["core"], r["seed"]) for r in final} == {(core, seed) for core in ("bmru", "gru") for seed in (0, 1)}
    for result in final:
        assert [e["x"] for e in result["evaluations"]] == [5, 50]
        assert [e["length_mean"] for e in result["evaluations"]] == [6, 51]
        assert result["state_size"] == 16
        assert result["provenance"]["seed"] == result["seed"]
        assert result["curve"]["steps"][-1] == result["steps"] >= 3000
    header = json.loads((tmp_path / "benchmark.json").read_text())
    assert header["command"] == "mru-rl bench tiny"
    assert set(header["chosen"]) == {"bmru", "gru"}
    assert not (tmp_path / "running").exists()
    before = (tmp_path / "results.jsonl").read_bytes()
    assert grid.run_benchmark(tiny, tmp_path, 2, "mru-rl bench tiny") == []
    assert (tmp_path / "results.jsonl").read_bytes() == before, "what is finished is not done again"


def test_results_do_not_depend_on_the_number_of_workers(tiny, tmp_path):
    small = dataclasses.replace(tiny, trials=1)
    found = []
    for workers in (1, 2):
        grid.run_benchmark(small, tmp_path / str(workers), workers, "command")
        found.append({r["key"]: r["evaluations"] for r in lines(tmp_path / str(workers))})
    assert found[0] == found[1]


def test_the_best_setting_is_chosen_and_ties_go_to_the_earlier_rise(tiny):
    def result(job, measure, returns):
        return {
            "key": job.key, "core": job.core, "setting_name": job.setting_name,
            "evaluations": [{"success_rate": measure}], "curve": {"return_mean": returns},
        }  # fmt: skip

    jobs = {(job.core, job.setting_name): job for job in grid.search_jobs(tiny)}
    results = [
        result(jobs["bmru", "default"], 0.5, [1.0, 1.0]),
        result(jobs["bmru", "long"], 1.0, [0.0, 0.0]),
        result(jobs["gru", "default"], 0.996, [0.0, 0.1]),
        result(jobs["gru", "long"], 1.0, [None, 0.9]),
        {**result(jobs["gru", "default"], 9.0, [9.0]), "key": "of another search"},
    ]
    assert grid.choose(tiny, results) == {"bmru": "long", "gru": "long"}
    assert grid.choose(tiny, []) == {"bmru": "default", "gru": "default"}


def test_equal_parameters_give_every_core_about_those_of_a_bmru(tiny):
    jobs = grid.final_jobs(
        dataclasses.replace(tiny, equal="parameters", seeds=1), {"bmru": "default", "gru": "default"}
    )
    sizes = {job.core: job.settings["state_size"] for job in jobs}
    assert sizes["bmru"] == 16
    assert sizes["gru"] < 16, "a GRU has more parameters per state"


def test_a_line_cut_short_by_a_kill_is_dropped_from_the_file(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"key": "whole"}\n{"key": "cu')
    assert grid.read_results(file) == [{"key": "whole"}]
    assert file.read_text() == '{"key": "whole"}\n'


def test_a_folder_takes_one_benchmark_and_one_process(tiny, tmp_path):
    (tmp_path / "benchmark.json").write_text(json.dumps(to_json(grid.header(tiny, "command"))))
    with pytest.raises(ValueError, match="holds the benchmark 'tiny', not 'other'; give another out"):
        grid.run_benchmark(dataclasses.replace(tiny, name="other"), tmp_path, 1, "command")
    with exclusive_lock(tmp_path), pytest.raises(ValueError, match="another process is at work"):
        grid.run_benchmark(tiny, tmp_path, 1, "command")


def test_a_killed_benchmark_goes_on_where_it_stopped_with_the_same_results(tmp_path):
    words = ["bench", "custom", "--env", "mru_rl/TMaze-v0", "--env-kwargs", "length=5", "--cores", "bmru", "mingru",
             "--seeds", "2", "--steps", "20000", "--workers", "1", "--settings", "num_envs=8", "minibatches=2",
             "checkpoint_seconds=0"]  # fmt: skip
    main([*words, "--out", str(tmp_path / "whole")])
    cut = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-m", "mru_rl.agents.cli", *words, "--out", str(cut)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(lines(cut) if (cut / "results.jsonl").is_file() else []) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # somewhere in the second job
    below = descendants(process.pid)
    assert below
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(alive(pid) for pid in below):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    kept = lines(cut)
    assert 1 <= len(kept) < 4
    main([*words, "--out", str(cut)])
    assert lines(cut)[: len(kept)] == kept
    results = [{r["key"]: (r["evaluations"], r["steps"]) for r in lines(f)} for f in (cut, tmp_path / "whole")]
    assert results[0] == results[1]


def die_once(job: Path) -> str:
    """Kill the own process the first time, finish the second."""
    if not job.exists():
        job.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def misbehave(job: str) -> str:
    if job == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "fails":
        raise RuntimeError("out of luck")
    return job


def test_a_job_whose_process_is_killed_is_done_again(tmp_path):
    outcomes = list(do_all([tmp_path / "a", tmp_path / "b"], die_once, 2, lambda running: None))
    assert {o.job.name: (o.result, o.error) for o in outcomes} == {"a": ("done", None), "b": ("done", None)}


def test_a_job_that_fails_or_always_dies_is_named_and_the_others_are_done():
    outcomes = {o.job: o for o in do_all(["dies", "fails", "works"], misbehave, 1, lambda running: None)}
    assert outcomes["works"].result == "works"
    assert "RuntimeError: out of luck" in outcomes["fails"].error
    assert f"ended with exit code -9 {TRIES} times" in outcomes["dies"].error


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = (
        "import os, pathlib, sys, time\n"
        "from mru_rl.agents.bench.workers import do_all\n"
        "from test_grid_worker import note\n"
        "if __name__ == '__main__':\n"
        f"    list(do_all([{str(tmp_path / 'pid')!r}], note, 1, lambda running: None))\n"
    )
    (tmp_path / "test_grid_worker.py").write_text(
        "import os, pathlib, time\n"
        "def note(path):\n"
        "    pathlib.Path(path).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    assert alive(worker)
    parent.kill()
    parent.wait()
    while alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["retention", "--preset", "huge"], "invalid choice 'huge' for argument '--preset'"),
        (["retention", "--cores", "nope"], "nope"),
        (["retention", "--settings", "lr"], "name=value"),
        (["custom", "--env", "mru_rl/TMaze-v0", "--evaluate", "length"], "written name=v1,v2"),
        (["custom", "--env", "no/Such-v0"], "no env has the id 'no/Such-v0'"),
        (["retention", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["retention", "--settings", "epoch=3"], "no setting 'epoch'; did you mean epochs?"),
    ],
)
def test_bad_options_of_grids_give_one_line(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words, "--out", str(tmp_path)])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("preset", list(memory.PRESETS))
@pytest.mark.parametrize("name", list(memory.BENCHMARKS))
def test_every_benchmark_names_envs_and_options_that_exist(name, preset):
    benchmark = memory.BENCHMARKS[name](preset)
    jobs = grid.final_jobs(benchmark, dict.fromkeys(benchmark.cores, "default"))
    assert (
        len({job.key for job in jobs}) == len(jobs) == len(benchmark.cores) * benchmark.seeds * len(benchmark.variants)
    )
    for variant in benchmark.variants:
        for options in ({}, *(point.env_kwargs for point in variant.points)):
            with grid.make(variant.env, 1, **variant.env_kwargs | options) as env:
                assert env.horizon >= 1


def test_a_job_taken_up_in_the_middle_of_evaluation_is_not_trained_again(tiny, tmp_path, monkeypatch):
    job = grid.final_jobs(tiny, {"bmru": "default", "gru": "default"})[0]
    first = run_job(job, tmp_path)
    monkeypatch.setattr("mru_rl.agents.training.Trainer.update", lambda self: pytest.fail("trained again"))
    assert run_job(job, tmp_path).evaluations == first.evaluations


def test_a_grid_of_r2d2_runs_and_a_search_over_settings_of_ppo_is_refused(tmp_path, capsys):
    words = ["bench", "custom", "--algorithm", "r2d2", "--env", "mru_rl/TMaze-v0", "--env-kwargs", "length=5", "--cores", "bmru",
             "--seeds", "1", "--steps", "3000", "--episodes", "64", "--workers", "1", "--settings", "hidden_size=16"]  # fmt: skip
    main([*words, "--out", str(tmp_path / "r2d2")])
    (line,) = [json.loads(text) for text in (tmp_path / "r2d2" / "results.jsonl").read_text().splitlines()]
    assert line["settings"]["hidden_size"] == 16
    assert line["evaluations"][0]["episodes"] == 64
    assert json.loads((tmp_path / "r2d2" / "benchmark.json").read_text())["algorithm"] == "r2d2"
    with pytest.raises(SystemExit):
        main([*words, "--trials", "3", "--out", str(tmp_path / "other")])
    assert "add --trials 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "entropy=0.1", "--out", str(tmp_path / "other")])
    assert "no setting 'entropy'" in capsys.readouterr().err
