"""The command `mru-rl`. Only what a command needs is imported, so that help and a misspelt option answer at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mru_rl.agents.console import signals
from mru_rl.agents.console.errors import OptionError, nearest
from mru_rl.agents.console.streams import silence, tell_error, unread

_HELP = """\
usage: mru-rl COMMAND [options]

Train and measure reinforcement-learning agents that remember.

  train ppo     train an agent; alone: bmru+mingru on popgym-RepeatFirstEasy-v0, under a minute
  train r2d2    the same with Q-learning from replayed sequences
  eval RUN      run whole episodes with a trained agent, also on a longer task: --env-kwargs length=100000
  inspect RUN   draw what the memory of a trained agent held over one episode
  report DIR    one HTML page of a benchmark or a run: tables, plots, and what made them
  resume RUN    go on with a run that was stopped or killed, or train on: --steps N
  export RUN    write a trained agent as ONNX, for programs without this library
  envs          the tasks that come with mru_rl
  cores         the memory cells, what each costs, and how to combine them
  bench NAME    measure: memory over long delays, POPGym, speed of training and of the envs
  doctor        what works on this machine, and what to do about what does not

`mru-rl COMMAND --help` explains every option. Every command takes --import MODULE, as often as needed: what the
module registers (cells, envs, algorithms, loggers) can then be used by name. A first run:

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
        _fail(f"there is no command {command!r}; {nearest(command, _COMMANDS)}commands are {', '.join(_COMMANDS)}")
    request = signals.Request()
    try:
        with signals.raising() as request:
            _COMMANDS[command](_without_imports(rest))
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
        _fail(error.typed if isinstance(error, OptionError) else str(error))
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


def _without_imports(words: list[str]) -> list[str]:
    """Import the modules of --import MODULE and --import=MODULE; the words without them."""
    modules, left = [], []
    rest = iter(words)
    for word in rest:
        name, sign, value = word.partition("=")
        if name != "--import":
            left.append(word)
            continue
        module = value if sign else next(rest, "")
        if not module or module.startswith("-"):
            _fail("--import needs the name of a module, as in --import my_cells")
        modules.append(module)
    if modules:
        from mru_rl.agents.console.imports import import_modules

        import_modules(modules)
    return left


def _train(words: list[str]) -> None:
    import dataclasses

    from mru_rl.agents.algorithms import config_class

    algorithm = "ppo"
    if words and not words[0].startswith("-"):
        algorithm, *words = words
    kind = config_class(algorithm)
    config = _parse_config(kind, words, f"mru-rl train {algorithm}")
    from mru_rl.agents.training import default_run_dir, train

    train(dataclasses.replace(config, run_dir=config.run_dir or default_run_dir(config)))


def _resume(words: list[str]) -> None:
    from mru_rl.agents.cli.args import ResumeArgs

    args = _parse(ResumeArgs, words, "mru-rl resume")
    from mru_rl.agents.training import resume

    resume(args.run, steps=args.steps, learning_rate=args.learning_rate, device=args.device)


def _eval(words: list[str]) -> None:
    from mru_rl.agents.cli.args import EvalArgs

    args = _parse(EvalArgs, words, "mru-rl eval")
    import json

    from mru_rl.agents.run import Run

    run = Run.open(args.run)
    if args.video is not None:
        from mru_rl.agents.video import record_video

        record_video(run, args.video, env_kwargs=args.env_kwargs, seed=args.seed, checkpoint=args.checkpoint)
    found = run.evaluate(
        episodes=args.episodes,
        env_kwargs=args.env_kwargs,
        seed=args.seed,
        sample=args.sample,
        checkpoint=args.checkpoint,
        device=args.device,
        max_steps=args.max_steps,
    )
    if args.json:
        print(json.dumps(found.to_json()))
        return
    low, high = found.return_ci95
    options = " ".join(f"{k}={v}" for k, v in found.env_kwargs.items())
    lines = [
        f"{found.env} {options}".rstrip() + f"  {found.core}, trained for {found.steps:,} steps",
        f"  return   {found.return_mean:.3f}  (95% interval {low:.3f} to {high:.3f}, {found.episodes} episodes)",
    ]
    if found.success_rate is not None:
        lines.append(f"  success  {found.success_rate:.3f}")
    if found.score is not None and found.score_scale is not None:
        zero, one = found.score_scale
        lines.append(f"  score    {found.score:.3f}  (0: {zero}, 1: {one}; see mru_rl.envs.scores)")
    lines += [f"  {name:<8} {value:.3f}  (info)" for name, value in found.info.items()]
    lines.append(f"  length   {found.length_mean:.1f} steps")
    if found.cut:
        lines.append(
            f"  cut      {found.cut} of {found.episodes} episodes after {found.max_steps:,} steps (--max-steps): their return "
            "is that so far, and they are no success"
        )
    if args.video is not None:
        lines.append(f"  video    {args.video}")
    print("\n".join(lines))


def _inspect(words: list[str]) -> None:
    from mru_rl.agents.cli.args import InspectArgs

    args = _parse(InspectArgs, words, "mru-rl inspect")
    from mru_rl.agents.inspection.inspect_run import inspect_run
    from mru_rl.agents.run import Run

    path, lines = inspect_run(
        Run.open(args.run),
        number=args.episode,
        env_kwargs=args.env_kwargs,
        seed=args.seed,
        max_steps=args.max_steps,
        out=args.out,
        npz=args.npz,
        checkpoint=args.checkpoint,
        device=args.device,
    )
    lines += [f"  picture: {path}", *([] if args.npz is None else [f"  arrays: {args.npz}"])]
    print("\n".join(lines))


def _export(words: list[str]) -> None:
    from mru_rl.agents.cli.args import ExportArgs

    args = _parse(ExportArgs, words, "mru-rl export")
    from mru_rl.agents.agent import load
    from mru_rl.agents.export import export_onnx

    out = args.out or (args.run / "agent.onnx" if args.run.is_dir() else args.run.with_suffix(".onnx"))
    described = export_onnx(load(args.run, checkpoint=args.checkpoint, device="cpu"), out)
    print(f"written: {out}, described in {described}")


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
        [
            [r.id, "unknown" if r.horizon is None else f"{r.horizon:,}", r.obs, str(r.obs_size), r.action, r.summary]
            for r in rows
        ],
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


def _bench(words: list[str]) -> None:
    from mru_rl.agents.bench.command import main as bench

    bench(words)


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "eval": _eval,
    "inspect": _inspect,
    "report": _report,
    "resume": _resume,
    "export": _export,
    "envs": _envs,
    "cores": _cores,
    "bench": _bench,
    "doctor": _doctor,
}


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


def _parse_config(kind: Any, words: list[str], prog: str) -> Any:
    """The config that words spell out, its fields in groups."""
    from mru_rl.agents.cli.args import config_from, config_schema, spelled_out

    parsed = _parse(config_schema(kind), spelled_out(words, kind), prog, fields=kind)
    return config_from(kind, parsed)


def _parse(schema: Any, words: list[str], prog: str, fields: Any = None) -> Any:
    """Options as a dataclass, with hints for the names other libraries give them."""
    from mru_rl.agents.cli.args import hint
    from mru_rl.agents.console.options import parse

    return parse(schema, words, prog, fields=fields, hint=hint)


def _fail(message: str) -> None:
    tell_error(f"mru-rl: error: {' '.join(message.split())}")
    raise SystemExit(2)
