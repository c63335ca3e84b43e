"""What a benchmark's jobs add up to: its columns, an estimate per core and column, and the sentence that answers it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from mru_rl.agents.report.data import MEASURES, Benchmark, Evaluation, FinishedJob, unique
from mru_rl.agents.report.statistics import Estimate, iqm_interval


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


def evaluations(benchmark: Benchmark, place: Place) -> list[tuple[FinishedJob, Evaluation]]:
    """The evaluations of final runs there."""
    return [
        (job, evaluation)
        for job in benchmark.finals
        if place.task in (None, job.task)
        for evaluation in job.evaluations
        if place.x in (None, evaluation.x)
    ]


def results(benchmark: Benchmark, core: str, place: Place) -> list[Result]:
    """What each final run of a core scored there, by task and seed; the mean where it was evaluated more than once."""
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    for job, evaluation in evaluations(benchmark, place):
        if job.row == core:
            values[job.task, job.seed].append(benchmark.value(evaluation))
    return sorted(Result(task, seed, float(np.mean(found))) for (task, seed), found in values.items())


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
    for core in unique([*benchmark.cores, *(job.row for job in benchmark.finals)]):
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
    return unique(job.setting_name for job in benchmark.finals if job.row == core)


def is_chosen(benchmark: Benchmark, trial: FinishedJob) -> bool:
    """Whether the final runs of the trial's core and task use its settings."""
    return any(
        (job.row, job.task, job.setting_name) == (trial.row, trial.task, trial.setting_name) for job in benchmark.finals
    )


def headline(benchmark: Benchmark, table: dict[str, dict[Place, Estimate]]) -> str:
    """One or two sentences that answer the benchmark's question from the data."""
    if not table:
        trials = len(benchmark.trials)
        return f"No final run has finished yet; {trials} trial{' of the search has' if trials == 1 else 's of the search have'}."
    place = _decisive(benchmark, table)
    best, *rest = leaders(table, place)
    sentence = (
        f"{_where(benchmark, place)}{best} has the highest {MEASURES[benchmark.measure]}: {table[best][place].text()}"
    )
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


def reach(benchmark: Benchmark, core: str, known: dict[Place, Estimate]) -> Place | None:
    """The last place up to which, from the first one on, the interval lies above chance by more than luck_of_episodes;
    None where there is none."""
    last = None
    for place, found in known.items():
        if benchmark.chance is None or found.low <= benchmark.chance + luck_of_episodes(benchmark, core, place):
            break
        last = place
    return last


def luck_of_episodes(benchmark: Benchmark, core: str, place: Place) -> float:
    """How far above chance an agent at chance may seem, by the episodes it happened to be evaluated on.

    All seeds are evaluated on the same episodes, so the interval over seeds does not see this. The 95% half-width of one
    evaluation: of a success rate that of a binomial at chance; of a return that of its own interval; of a score the same,
    scaled as the scores there are to the returns.
    """
    there = evaluations(benchmark, place)
    if benchmark.measure == "success_rate":
        chance, episodes = benchmark.chance or 0.0, min(e.episodes for job, e in there if job.row == core)
        return 1.96 * (chance * (1 - chance) / episodes) ** 0.5
    halves = []
    for task in {job.task for job, _ in there}:
        here = [(job, e) for job, e in there if job.task == task]
        spread = np.ptp([e.return_mean for _, e in here])
        scale = np.ptp([benchmark.value(e) for _, e in here]) / spread if spread else 0.0
        halves += [scale * np.ptp(e.return_ci95) / 2 for job, e in here if job.row == core and e.return_ci95]
    return float(max(halves, default=0.0))


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
    """Where the decisive place is: "At corridor length = 1,000 (10 times what was trained), "; nothing for the only one."""
    if len(places(benchmark)) == 1:
        return ""
    if benchmark.axis is None:
        return f"Over {place.label}, "
    name = benchmark.axis.label.partition(" (")[0]
    trained = benchmark.axis.trained
    ratio = f" ({number(round(place.x / trained, 1))} times what was trained)" if trained and place.x else ""
    return f"At {name} = {place.label}{'' if place.x == trained else ratio}, "


def _reach(benchmark: Benchmark, table: dict[str, dict[Place, Estimate]]) -> str:
    """How far each core stays above chance, where there is an axis and a chance level; of cores with an interval."""
    if benchmark.axis is None or benchmark.chance is None:
        return ""
    far: dict[Place, list[str]] = defaultdict(list)
    nowhere: list[str] = []
    for core, known in table.items():
        if all(found.n > 1 for found in known.values()):
            place = reach(benchmark, core, known)
            (nowhere if place is None else far[place]).append(core)
    if not far and not nowhere:
        return ""
    parts = [f"{_listed(far[place])} up to {place.label}" for place in reversed(places(benchmark)) if place in far]
    parts += [f"{_listed(nowhere)} nowhere"] if nowhere else []
    return f"Above chance ({benchmark.chance:g}): {'; '.join(parts)}."


def _with(core: str, table: dict[str, dict[Place, Estimate]], place: Place) -> str:
    return f"{core} ({table[core][place].text()})"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
