from __future__ import annotations

import json

import pytest

from mru_rl.agents.report.data import read_benchmark, read_jobs


def test_a_benchmark_directory_comes_back_as_it_was_written(benchmark_dir):
    benchmark = read_benchmark(benchmark_dir())
    assert (benchmark.title, benchmark.cores, benchmark.seeds) == ("Retention", ["bmru", "gru"], [0, 1, 2])
    assert benchmark.axis is not None
    assert (benchmark.axis.name, benchmark.axis.log, benchmark.axis.trained) == ("length", True, 10)
    assert len(benchmark.finals) == 6
    assert [job.setting_name for job in benchmark.trials] == ["lr 0.001", "lr 0.0003"] * 2
    first = benchmark.finals[0]
    assert (first.core, first.seed, first.task) == ("bmru", 0, "mru_rl/TMaze-v0 length=10")
    assert [(e.x, benchmark.value(e)) for e in first.evaluations] == [(10, 1.0), (100, 1.0), (1000, 0.75)]
    assert first.curve["return_mean"] == [None, -0.5, 0.2, 0.8]


def test_names_that_a_later_version_adds_are_ignored_and_absent_ones_have_defaults(benchmark_dir):
    path = benchmark_dir(axis=None, chance=None, colour_of_the_day="mauve")
    benchmark = read_benchmark(path)
    assert benchmark.axis is None
    assert benchmark.finals[0].inspect is None


def test_a_last_line_cut_short_by_a_kill_is_left_out_at_whatever_byte(benchmark_dir):
    path = benchmark_dir()
    text = (path / "results.jsonl").read_text()
    last = len(text.rstrip("\n").split("\n")[-1])
    for cut in (2, last // 3, last // 2, last - 1):
        (path / "results.jsonl").write_text(text[:-cut])
        assert len(read_jobs(path)) == 9
    (path / "results.jsonl").write_text(text[:-1])
    assert len(read_jobs(path)) == 10, "a whole line that lacks only its newline counts"


def test_of_two_lines_with_one_key_the_later_counts(benchmark_dir):
    path = benchmark_dir()
    line = json.loads((path / "results.jsonl").read_text().splitlines()[-1])
    with (path / "results.jsonl").open("a") as file:
        file.write(json.dumps(line | {"seconds": 99.0}) + "\n")
    jobs = read_jobs(path)
    assert len(jobs) == 10
    assert jobs[-1].seconds == 99.0


def test_of_two_final_runs_of_a_seed_the_later_counts_and_a_row_stands_for_its_core(benchmark_dir, bench_job):
    old, new = (
        bench_job("bmru", 0, {10: 0.5}, key="old", steps=1000),
        bench_job("bmru", 0, {10: 1.0}, key="new", steps=2000),
    )
    other = bench_job("bmru", 0, {10: 0.7}, key="other", row="bmru, curriculum")
    benchmark = read_benchmark(benchmark_dir(jobs=[old, new, other]))
    assert [(job.row, job.steps) for job in benchmark.finals] == [("bmru", 2000), ("bmru, curriculum", 4000)]


def test_an_axis_that_numbers_tasks_is_none(benchmark_dir):
    assert read_benchmark(benchmark_dir(axis={"name": "id", "label": "POPGym task"})).axis is None


def test_a_directory_where_no_job_has_finished_has_none(benchmark_dir):
    path = benchmark_dir()
    (path / "results.jsonl").unlink()
    assert read_benchmark(path).jobs == []


def test_a_malformed_line_before_the_last_is_named(benchmark_dir):
    path = benchmark_dir()
    lines = (path / "results.jsonl").read_text().splitlines()
    lines[2] = lines[2][:50]
    (path / "results.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 3 is not valid JSON.*mend or delete the line"):
        read_benchmark(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, "line 1: 'seed' must be int, got \"0\""),
        ({"seed": True}, "line 1: 'seed' must be int, got true"),
        ({"phase": "finals"}, "line 1: 'phase' must be 'search' or 'final'"),
        ({"curve": {"steps": [1, 2], "return_mean": [0.5]}}, "line 1: curve 'return_mean' must have as many values"),
        ({"curve": {"return_mean": [0.5]}}, "line 1: curve 'return_mean' must have as many values"),
        ({"evaluations": [{"x": 5}]}, "line 1: 'evaluations' lacks 'env_kwargs'"),
        ({"evaluations": 5}, "line 1: 'evaluations' must be list, got 5"),
    ],
)
def test_a_field_of_a_wrong_kind_is_named_with_its_line(benchmark_dir, change, message):
    path = benchmark_dir()
    lines = (path / "results.jsonl").read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | change)
    (path / "results.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError) as error:
        read_benchmark(path)
    assert message in str(error.value)


def test_a_measure_that_an_evaluation_lacks_is_named_with_its_job(benchmark_dir):
    with pytest.raises(ValueError, match=r"measures score.*job 'search-bmru-.*' has None at x = 10"):
        read_benchmark(benchmark_dir(measure="score"))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not valid JSON"), ("[]", "must hold an object"), ("{}", "lacks 'benchmark'")]
)
def test_a_broken_description_is_named(benchmark_dir, text, message):
    path = benchmark_dir()
    (path / "benchmark.json").write_text(text)
    with pytest.raises(ValueError, match=r"benchmark\.json") as error:
        read_benchmark(path)
    assert message in str(error.value)


def test_a_directory_without_a_description_is_no_benchmark(tmp_path):
    with pytest.raises(ValueError, match=r"has no benchmark\.json"):
        read_benchmark(tmp_path)
