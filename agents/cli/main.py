"""The command `mru-rl`. Only what a command needs is imported, so that help and a misspelt option answer at once."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mru_rl.agents.console import signals
from mru_rl.agents.console.streams import silence, tell, tell_error, unread

_HELP = """\
usage: mru-rl COMMAND [options]

Train and measure reinforcement-learning agents that remember.

  train ppo     train an agent; alone: bmru+mingru on popgym-RepeatFirstEasy-v0, under a minute
  train r2d2    the same with Q-learning from replayed sequences
  eval RUN      run whole episodes with a trained agent, also on a longer task: --env-kwargs length=100000
  inspect RUN   draw what the memory of a trained agent held over one episode
  report DIR    one HTML page of a benchmark or a run: tables, plots, and what made them
  resume RUN    go on with a run that was stopped or killed
  envs          the tasks that come with mru_rl
  cores         the memory cells, what each costs, and how to combine them
  bench NAME    measure: memory over long delays, POPGym, speed of training and of the envs
  doctor        what works on this machine, and what to do about what does not

`mru-rl COMMAND --help` explains every option. A first run:

  mru-rl train ppo --env mru_rl/TMaze-v0 --env-kwargs length=100 --run-dir runs/tmaze
  mru-rl eval runs/tmaze --env-kwargs length=5000
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script.

    Exit status: 0 done, 2 for what the caller can mend (one line on stderr), 130 and 143 after SIGINT and SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return
    if words[0] == "--version":
        from mru_rl import __version__

        print(f"mru_rl {__version__}")
        return
    command, *rest = words
    if command not in _COMMANDS:
        _fail(f"there is no command {command!r}; {_nearest(command, _COMMANDS)}commands are {', '.join(_COMMANDS)}")
    request = signals.Request()
    try:
        with signals.raising() as request:
            _COMMANDS[command](rest)
    except BrokenPipeError as error:
        if not unread(sys.stdout):
            _fail(str(error))
        silence(sys.stdout)  # the reader, such as head, has seen enough
    except KeyboardInterrupt as error:
        tell_error(f"mru-rl: {str(error) or 'interrupted'}")
        raise SystemExit(signals.exit_status(error, request)) from None
    except (ValueError, OSError) as error:
        if os.environ.get("MRU_RL_DEBUG"):
            raise
        _fail(str(error))
    except (RuntimeError, MemoryError) as error:
        from mru_rl.envs.from_gymnasium.rows import EnvError

        if os.environ.get("MRU_RL_DEBUG"):
            raise
        if _asks_for_too_much(error):
            _fail(
                f"this machine has no room for what was asked ({str(error).splitlines()[0] if str(error) else 'no memory'}); "
                "lower --num-envs, --segment, --hidden-size, --state-size or --replay-sequences"
            )
        if not isinstance(error, EnvError):
            raise
        print(error.traceback, end="", file=sys.stderr)  # the env's own, from its process where it has one
        _fail(str(error))


def _asks_for_too_much(error: Exception) -> bool:
    """Whether memory is what was missing; torch says so in words alone."""
    words = ("allocate memory", "out of memory", "Storage size calculation overflowed", "storage has wrong byte size")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _train(words: list[str]) -> None:
    from mru_rl.agents.algorithms import ALGORITHMS

    algorithm = "ppo"
    if words and not words[0].startswith("-"):
        algorithm, *words = words
        if algorithm not in ALGORITHMS:
            _fail(
                f"there is no algorithm {algorithm!r}; {_nearest(algorithm, ALGORITHMS)}algorithms are {', '.join(ALGORITHMS)}"
            )
    config = _parse(ALGORITHMS[algorithm][0], words, f"mru-rl train {algorithm}")
    from mru_rl.agents import training

    run, trainer = training.start(config)
    _announce(run, trainer)
    _run_to_end(run, trainer)


def _resume(words: list[str]) -> None:
    from mru_rl.agents.cli.args import ResumeArgs

    args = _parse(ResumeArgs, words, "mru-rl resume")
    from mru_rl.agents import training
    from mru_rl.agents.evaluate import load_config
    from mru_rl.agents.records.run import Run

    run = Run.open(args.run)
    trainer, lost = training.resume(run, load_config(run))
    lines = [
        f"resuming {run.path} at {trainer.steps:,} of {trainer.config.steps:,} steps",
        *(f"  {what}" for what in lost),
    ]
    tell("\n".join(lines))
    _run_to_end(run, trainer)


def _run_to_end(run: Any, trainer: Any) -> None:
    """Train to the end, or to the end of the update in progress where a signal asks for it; say how to go on."""
    from mru_rl.agents import training

    go_on = f"`mru-rl resume {run.path}` goes on"
    try:
        with signals.waiting() as request:
            training.run_to_end(run, trainer, lambda: bool(request))
    except OSError as error:
        raise OSError(
            f"{error}; every checkpoint there was is intact: make room or mend the directory, then {go_on}"
        ) from error
    if request.signum is not None:
        done = f"stopped after {trainer.steps:,} of {trainer.config.steps:,} steps, with a checkpoint; {go_on}"
        raise signals.Interrupted(request.signum, done)
    _summary(run, trainer)


def _eval(words: list[str]) -> None:
    from mru_rl.agents.cli.args import EvalArgs

    args = _parse(EvalArgs, words, "mru-rl eval")
    import json

    from mru_rl.agents.evaluate import evaluate_run
    from mru_rl.agents.records.run import Run

    result = evaluate_run(
        Run.open(args.run), episodes=args.episodes, env_kwargs=args.env_kwargs, seed=args.seed, sample=args.sample
    )
    if args.json:
        print(json.dumps(result))
        return
    low, high = result["return_ci95"]
    options = " ".join(f"{k}={v}" for k, v in result["env_kwargs"].items())
    print(f"{result['env']} {options}".rstrip() + f"  {result['core']}, trained for {result['steps']:,} steps")
    print(
        f"  return   {result['return_mean']:.3f}  (95% interval {low:.3f} to {high:.3f}, {result['episodes']} episodes)"
    )
    if result["success_rate"] is not None:
        print(f"  success  {result['success_rate']:.3f}")
    if result["score"] is not None:
        zero, one = result["score_scale"]
        print(f"  score    {result['score']:.3f}  (0: {zero}, 1: {one}; see mru_rl.envs.scores)")
    print(f"  length   {result['length_mean']:.1f} steps")


def _inspect(words: list[str]) -> None:
    from mru_rl.agents.cli.args import InspectArgs

    args = _parse(InspectArgs, words, "mru-rl inspect")
    from mru_rl.agents.inspection.inspect_run import inspect_run
    from mru_rl.agents.records.run import Run

    path, lines = inspect_run(
        Run.open(args.run), number=args.episode, env_kwargs=args.env_kwargs, seed=args.seed,
        max_steps=args.max_steps, out=args.out,
    )  # fmt: skip
    print("\n".join([*lines, f"  picture: {path}"]))


def _report(words: list[str]) -> None:
    from mru_rl.agents.cli.args import ReportArgs

    args = _parse(ReportArgs, words, "mru-rl report")
    from mru_rl.agents.report.page import write_report

    print(f"report: {write_report(args.directory, args.out)}")


def _envs(words: list[str]) -> None:
    from mru_rl.agents.cli.args import EnvsArgs

    _parse(EnvsArgs, words, "mru-rl envs")
    import mru_rl.envs

    rows = [mru_rl.envs.describe(env_id) for env_id in mru_rl.envs.list_ids()]
    _table(
        ["id", "longest episode", "obs", "flat size", "actions", "task"],
        [[r.id, f"{r.horizon:,}", r.obs, str(r.obs_size), r.action, r.summary] for r in rows],
    )
    print("\nAny other gymnasium id works as well, upstream POPGym's included (--backend upstream for the originals).")


def _cores(words: list[str]) -> None:
    from mru_rl.agents.cli.args import CoresArgs

    args = _parse(CoresArgs, words, "mru-rl cores")
    from mru_rl.blocks.budget import count_parameters, flops_per_step, state_size_for_parameters
    from mru_rl.blocks.core import make_core
    from mru_rl.cells.registry import get_cell, list_cells

    state_size = args.state_size or args.hidden_size
    budget = count_parameters(make_core("bmru", args.input_size, args.hidden_size, state_size=state_size))
    rows = []
    for name in list_cells():
        core = make_core(name, args.input_size, args.hidden_size, state_size=state_size)
        summary = (get_cell(name).__doc__ or "").strip().split("\n")[0].rstrip(".")
        try:
            equal = str(state_size_for_parameters(name, args.input_size, args.hidden_size, budget))
        except ValueError:
            equal = "-"
        rows.append([name, f"{count_parameters(core):,}", f"{flops_per_step(core):,}", equal, summary])
    equal_state, equal_parameters = f"at state {state_size}: parameters", f"state at {budget:,} parameters"
    _table(["core", equal_state, "flops per step", equal_parameters, "what it is"], rows)
    print("\nCombine them in --core: bmru+mingru stands side by side in one layer, bmru,lru stacks two layers.")


def _doctor(words: list[str]) -> None:
    from mru_rl.agents.cli.args import DoctorArgs

    _parse(DoctorArgs, words, "mru-rl doctor")
    from mru_rl.agents.cli.doctor import examine

    findings = examine()
    for finding in findings:
        print(finding)
    problems = sum(finding.advice is not None for finding in findings)
    print(f"\n{problems} problem(s) found" if problems else "\nno problems found")
    if problems:
        raise SystemExit(1)


_BENCHES = {
    "retention": ("memory", "trained on a short T-maze, walked up to 10,000 times as far"),
    "delay": ("memory", "trained on long T-mazes directly"),
    "rewrite": ("memory", "bits set and reset again and again"),
    "capacity": ("memory", "how many bits can be recalled after a delay"),
    "contamination": ("memory", "a burst of inputs never seen in training"),
    "count": ("memory", "events counted modulo 4"),
    "custom": ("memory", "any env, any cores, over seeds"),
    "settings": ("ablation", "one setting of training changed at a time"),
    "staleness": ("staleness", "how far stored states of replayed sequences are off"),
    "popgym": ("popgym", "a quick pass over POPGym: what can be learned at all"),
    "speed": ("training_speed", "training speed end to end, beside sb3-contrib"),
    "envs": ("env_speed", "speed of stepping the POPGym ports, beside upstream"),
    "collectors": ("collectors", "speed of acting: our own loop, torchrl's Collector, Ray"),
}
"""Name of a benchmark -> its module and what it measures."""


def _bench(words: list[str]) -> None:
    import importlib

    if not words or words[0] in ("-h", "--help"):
        print("usage: mru-rl bench NAME [options]\n")
        for name, (_, summary) in _BENCHES.items():
            print(f"  {name:14s} {summary}")
        print("\n`mru-rl bench NAME --help` explains the options.")
        return
    name, *rest = words
    if name not in _BENCHES:
        _fail(f"there is no benchmark {name!r}; {_nearest(name, _BENCHES)}benchmarks are {', '.join(_BENCHES)}")
    importlib.import_module(f"mru_rl.agents.bench.{_BENCHES[name][0]}").main(rest, name)


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train, "eval": _eval, "inspect": _inspect, "report": _report, "resume": _resume, "envs": _envs,
    "cores": _cores, "bench": _bench, "doctor": _doctor,
}  # fmt: skip


def _announce(run: Any, trainer: Any) -> None:
    from mru_rl.agents.console.errors import flag

    config = trainer.config
    count = sum(p.numel() for p in trainer.policy.parameters())
    lines = [
        f"training {config.core} on {config.env} for {config.steps:,} steps into {run.path}",
        f"  {count:,} parameters, {config.num_envs} envs, seed {config.seed}, {trainer.device}, {config.threads} threads",
        *(f"  {note}" for note in trainer.notes()),
    ]
    for name, reason in trainer.reasons.items():
        value = getattr(config, name)
        lines.append(f"  {flag(name)} {f'{value:.4g}' if isinstance(value, float) else value}: {reason}")
    tell("\n".join(lines))


def _summary(run: Any, trainer: Any) -> None:
    records = run.metrics()
    last = records[-1] if records else {}
    seconds = f"{last['seconds']:.0f} s" if "seconds" in last else "no time"
    lines = [f"done: {trainer.steps:,} steps in {seconds}"]
    if "return_mean" in last:
        success = f", success {last['success_rate']:.2f}" if "success_rate" in last else ""
        lines.append(f"  return {last['return_mean']:.3f}{success} over the last 100 episodes, exploring")
    lines += [f"  learning curve: {run.path / 'learning_curve.png'}", f"  next: mru-rl eval {run.path}"]
    tell("\n".join(lines))


def _table(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(header):
        table.add_column(title, no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def _parse(schema: Any, words: list[str], prog: str) -> Any:
    """Parse options into a dataclass; whatever is wrong ends as one line on stderr and exit status 2."""
    import tyro

    from mru_rl.agents.cli.args import known_options, registry

    options = known_options(schema)
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and name.replace("_", "-") not in options:
            _fail(f"{prog} has no option {name}; {_nearest(name, options)}see {prog} --help")
    printed = io.StringIO()
    if any(word in ("-h", "--help") for word in words):
        return tyro.cli(schema, args=words, prog=prog, registry=registry)
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return tyro.cli(schema, args=words, prog=prog, registry=registry)
    except SystemExit:
        _fail(_one_line(printed.getvalue()) + f"; see {prog} --help")


def _one_line(box: str) -> str:
    """The message inside tyro's error box: the text between its first two rules."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    sections: list[list[str]] = [[]]
    for line in lines:
        if line and not line.strip("-"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    message = " ".join(sections[1] if len(sections) > 1 else sections[0])
    return re.sub(r"^Error parsing \w+Config: |^Error parsing |\.$", "", message)


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _fail(message: str) -> None:
    tell_error(f"mru-rl: error: {' '.join(message.split())}")
    raise SystemExit(2)
