"""What a benchmark's jobs add up to: its columns, an estimate per core and column, and the sentence that answers it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from mru_rl.agents.bench.statistics import Estimate, iqm_interval
from mru_rl.agents.report.data import MEASURES, Benchmark, Job, unique


class Place(NamedTuple):
    """A column of the tables: one x of the axis; without an axis one task, or all of them (x and task None)."""

    label: str
    x: float | None = None
    task: str | None = None


class Result(NamedTuple):
    """One final run at one place."""

    task: str
    seed: int
    value: float


def places(benchmark: Benchmark) -> list[Place]:
    """The columns, in order of x, or all tasks and then each."""
    if benchmark.axis is not None:
        xs = {e.x for job in benchmark.finals for e in job.evaluations if e.x is not None}
        return [Place(number(x), x=x) for x in sorted(xs)]
    tasks = unique(job.task for job in benchmark.finals)
    every = [Place(f"all {len(tasks)} tasks")] if len(tasks) > 1 else []
    return every + [Place(task, task=task) for task in tasks]


def results(benchmark: Benchmark, core: str, place: Place) -> list[Result]:
    """What each final run of a core scored there, by task and seed."""
    found = []
    for job in benchmark.finals:
        if job.core == core and place.task in (None, job.task):
            values = [benchmark.value(e) for e in job.evaluations if place.x is None or e.x == place.x]
            if values:
                found.append(Result(job.task, job.seed, float(np.mean(values))))
    return sorted(found)


def estimate(benchmark: Benchmark, core: str, place: Place) -> Estimate | None:
    """IQM with its 95% bootstrap interval over seeds, the strata being tasks; None where no run has finished."""
    strata: dict[str, list[float]] = defaultdict(list)
    for result in results(benchmark, core, place):
        strata[result.task].append(result.value)
    return iqm_interval(list(strata.values())) if strata else None


def estimates(benchmark: Benchmark) -> dict[str, dict[Place, Estimate]]:
    """Per core, in the order of benchmark.json, what is known at every place; cores without a final run are left out."""
    columns = places(benchmark)
    table = {}
    for core in unique([*benchmark.cores, *(job.core for job in benchmark.finals)]):
        known = {place: found for place in columns if (found := estimate(benchmark, core, place)) is not None}
        if known:
            table[core] = known
    return table


def leaders(table: dict[str, dict[Place, Estimate]], place: Place) -> list[str]:
    """The best core there, and those whose intervals overlap its interval; best first."""
    known = sorted((c for c in table if place in table[c]), key=lambda core: -table[core][place].point)
    return [core for core in known if table[core][place].high >= table[known[0]][place].low]


def chosen_settings(benchmark: Benchmark, core: str) -> list[str]:
    """Names of the settings a core's final runs use."""
    return unique(job.setting_name for job in benchmark.finals if job.core == core)


def is_chosen(benchmark: Benchmark, trial: Job) -> bool:
    """Whether the final runs of the trial's core and task use its settings."""
    return any(
        (job.core, job.task, job.setting_name) == (trial.core, trial.task, trial.setting_name)
        for job in benchmark.finals
    )


def headline(benchmark: Benchmark, table: dict[str, dict[Place, Estimate]]) -> str:
    """One or two sentences that answer the benchmark's question from the data."""
    if not table:
        trials = len(benchmark.trials)
        return f"No final run has finished yet; {trials} trial{' of the search has' if trials == 1 else 's of the search have'}."
    place = _decisive(benchmark, table)
    best, *rest = leaders(table, place)
    where = _where(benchmark, place)
    sentence = f"{where}, {best} has the highest {MEASURES[benchmark.measure]}: {table[best][place].text()}"
    if rest:
        overlap = "its interval overlaps" if len(rest) == 1 else "their intervals overlap"
        if all(table[core][place] == table[best][place] for core in rest):
            sentence += f", and so {'has' if len(rest) == 1 else 'have'} {_listed(rest)}"
        else:
            sentence += (
                f", and {_listed([_with(core, table, place) for core in rest])} cannot be told from it ({overlap})"
            )
    others = sorted(
        (c for c in table if place in table[c] and c not in (best, *rest)), key=lambda core: -table[core][place].point
    )
    if others:
        sentence += f"; next {'is' if len(others) == 1 else 'are'} {_listed([_with(core, table, place) for core in others[:2]])}"
    if all(found.n == 1 for known in table.values() for found in known.values()):
        sentence += ". One seed each: differences may be luck"
    return f"{sentence}. {_reach(benchmark, table)}".strip()


def reach(benchmark: Benchmark, known: dict[Place, Estimate]) -> Place | None:
    """The last place up to which, from the first one on, the whole interval lies above chance; None where there is none."""
    last = None
    for place, found in known.items():
        if benchmark.chance is None or found.low <= benchmark.chance:
            break
        last = place
    return last


def number(x: float) -> str:
    """1000000 -> 1,000,000; 0.5 -> 0.5."""
    return f"{x:,.0f}" if float(x).is_integer() else f"{x:g}"


def _decisive(benchmark: Benchmark, table: dict[str, dict[Place, Estimate]]) -> Place:
    """The last place (without an axis: the first, all tasks) of those that most cores were measured at."""
    columns = [place for place in places(benchmark) if any(place in known for known in table.values())]
    count = {place: sum(place in known for known in table.values()) for place in columns}
    candidates = [place for place in columns if count[place] == max(count.values())]
    return candidates[0 if benchmark.axis is None else -1]


def _where(benchmark: Benchmark, place: Place) -> str:
    if benchmark.axis is None:
        return f"Over {place.label}" if place.task is None else f"On {place.label}"
    name = benchmark.axis.label.partition(" (")[0]
    trained = benchmark.axis.trained
    ratio = f" ({number(round(place.x / trained, 1))} times what was trained)" if trained and place.x else ""
    return f"At {name} {place.label}{'' if place.x == trained else ratio}"


def _reach(benchmark: Benchmark, table: dict[str, dict[Place, Estimate]]) -> str:
    """How far each core stays above chance, where there is an axis, a chance level and an interval."""
    if benchmark.axis is None or benchmark.chance is None or all(e.n == 1 for k in table.values() for e in k.values()):
        return ""
    far: dict[Place, list[str]] = defaultdict(list)
    nowhere: list[str] = []
    for core, known in table.items():
        place = reach(benchmark, known)
        (nowhere if place is None else far[place]).append(core)
    parts = [f"{_listed(far[place])} up to {place.label}" for place in reversed(places(benchmark)) if place in far]
    parts += [f"{_listed(nowhere)} nowhere"] if nowhere else []
    return f"Above chance ({benchmark.chance:g}): {'; '.join(parts)}."


def _with(core: str, table: dict[str, dict[Place, Estimate]], place: Place) -> str:
    return f"{core} ({table[core][place].text()})"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
