"""What a benchmark leaves for a README: table.md, curve.png, and report.html beside them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.report.data import MEASURES, Benchmark, read_benchmark, unique
from mru_rl.agents.report.figures import main_picture
from mru_rl.agents.report.page import write_report
from mru_rl.agents.report.palette import looks
from mru_rl.agents.report.summary import chosen_settings, estimates, headline, places


def write_tables(directory: Path) -> list[Path]:
    """Write table.md, curve.png (once a final run has finished) and report.html into a benchmark directory.

    Each is written atomically. Returns what was written. Raises ValueError where the directory's files are malformed.
    """
    benchmark = read_benchmark(directory)
    table = estimates(benchmark)
    written = [directory / "table.md"]
    write_atomically(written[0], markdown(benchmark).encode())
    if table:
        written.append(directory / "curve.png")
        write_atomically(written[1], main_picture(benchmark, table, looks(benchmark.cores + list(table))).png())
    return [*written, write_report(directory)]


def markdown(benchmark: Benchmark) -> str:
    """The summary as a markdown table between the headline and what made it."""
    table, columns = estimates(benchmark), places(benchmark)
    head = ["core", *(_cell(place.label) for place in columns), "seeds", "parameters", "state", "setting"]
    lines = [f"{headline(benchmark, table)}", ""]
    if table:
        lines += [markdown_row(head), markdown_row(["---"] + ["---:"] * (len(head) - 2) + ["---"])]
    for core, known in table.items():
        finals = [job for job in benchmark.finals if job.row == core]
        sizes = [
            " to ".join(f"{n:,}" for n in sorted({min(v), max(v)}))
            for v in ([j.parameters for j in finals], [j.state_size for j in finals])
        ]
        lines.append(
            markdown_row(
                [
                    f"`{core}`",
                    *(known[place].text() if place in known else "-" for place in columns),
                    str(len({job.seed for job in finals})),
                    *sizes,
                    _cell(", ".join(chosen_settings(benchmark, core))),
                ]
            )
        )
    axis = f" by {benchmark.axis.label}" if benchmark.axis else ""
    chance = "" if benchmark.chance is None else f" Chance: {benchmark.chance:g}."
    commits = ", ".join(unique(str(job.provenance.get("commit")) for job in benchmark.jobs)) or "none"
    lines += [
        "",
        f"{MEASURES[benchmark.measure].capitalize()}{axis}: IQM over seeds [95% stratified bootstrap interval].{chance}",
        f"Made by `{benchmark.command}`, commit {commits}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def markdown_row(cells: Iterable[str]) -> str:
    """A line of a markdown table."""
    return f"| {' | '.join(cells)} |"
