"""A quick pass over POPGym: PPO on one id of each family for a fixed budget, each return beside the random floor.

    mru-rl bench popgym [--preset smoke|small] [--core SPEC] [--ids ID ...] [--seed S] [--workers N] [--out DIR]

An id passes where the evaluation return (128 new episodes, actions sampled as in training: the most likely action of a
half-trained policy walks in circles) ends above the random floor by more
than the margin: a twentieth of the way from the floor to the reference of `mru_rl.envs.scores`, and more than the 95%
interval of the evaluation. What does not pass is listed as not. smoke: 150,000 steps an id; small: 1,000,000. It tells
whether an env can be learned from at all, not how good a core is.
MMER is the best mean return of 100 episodes while training, for comparison with POPGym's tables.
With --out results.jsonl (one line an id, kept when the command is repeated) and a table are written there.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from mru_rl.agents import train
from mru_rl.agents.bench.options import Parser
from mru_rl.agents.config import PPOConfig
from mru_rl.agents.evaluate import evaluate_run
from mru_rl.agents.progress import Progress
from mru_rl.agents.runs import provenance
from mru_rl.envs import list_ids
from mru_rl.envs.scores import mmer, normalised_score, scores

PRESETS = {"smoke": 150_000, "small": 1_000_000}
MARGIN = 0.05  # of the way from the random floor to the reference


def main(words: list[str], name: str = "popgym") -> None:
    """Entry point of `mru-rl bench popgym`."""
    parser = Parser(name, __doc__)
    easy = [env_id for env_id in list_ids() if env_id.startswith("popgym-") and env_id.endswith("Easy-v0")]
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke", help="budget per id (default smoke)")
    parser.add_argument("--core", default="bmru+mingru", help="core spec (default bmru+mingru)")
    parser.add_argument(
        "--ids", nargs="+", default=easy, choices=list_ids(), metavar="ID", help="default: every Easy id"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of training (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one thread each (default 2)")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = _run_all(args, folder)
    table = markdown(results, args.core, PRESETS[args.preset])
    print(table)
    if args.out:
        (args.out / "table.md").write_text(f"{table}\n")


def _run_all(args: Any, folder: Path) -> list[dict[str, Any]]:
    """Results of all ids, those that results.jsonl holds already taken from there."""
    kept = folder / "results.jsonl"
    settings = {"core": args.core, "steps": PRESETS[args.preset], "seed": args.seed}
    lines = kept.read_text().splitlines() if kept.is_file() else []
    found = {r["env"]: r for r in map(json.loads, lines) if settings.items() <= r["settings"].items()}
    missing = [env_id for env_id in args.ids if env_id not in found]
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(min(args.workers, max(len(missing), 1)), maxtasksperchild=1) as pool,
        Progress("popgym", len(args.ids), "ids", every=0.0) as progress,
        kept.open("a") as file,
    ):
        for result in pool.imap_unordered(partial(one, settings=settings, folder=folder), missing):
            result["provenance"] = provenance("cpu")
            file.write(json.dumps(result) + "\n")
            file.flush()
            found[result["env"]] = result
            progress.show(len(found), f"{result['env']} {result['return_mean']:.3f}")
    return [found[env_id] for env_id in args.ids]


def one(env_id: str, *, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train and evaluate on one id; returns a line of results.jsonl without its provenance."""
    sys.stderr = open("/dev/null", "w")  # noqa: SIM115 (the table is the progress; a worker's own lines would mix)
    name = f"{env_id}-{settings['core']}-{settings['steps']}-seed{settings['seed']}".replace("/", "_")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # a run that was killed leaves nothing to stumble over
        config = PPOConfig(env=env_id, tensorboard=False, run_dir=Path(scratch) / name, **settings)
        run, trainer = train.start(config)
        train.run_to_end(run, trainer)
        result = evaluate_run(run, episodes=128, env_kwargs={}, seed=1_000_003, sample=True)
        while_training = [record["return_mean"] for record in run.metrics() if "return_mean" in record]
    low, high = result["return_ci95"]
    score = scores()[env_id]
    floor, reference = score.random.mean, score.players[score.reference].mean
    margin = max(MARGIN * (reference - floor), (high - low) / 2)
    return {
        "env": env_id,
        "settings": settings,
        "return_mean": result["return_mean"],
        "return_ci95": result["return_ci95"],
        "floor": floor,
        "reference": reference,
        "score": normalised_score(env_id, result["return_mean"]),
        "mmer": mmer(while_training),
        "margin": margin,
        "passed": result["return_mean"] > floor + margin,
        "seconds": trainer.seconds,
    }


def markdown(results: list[dict[str, Any]], core: str, steps: int) -> str:
    """The table of results, what did not pass said below it."""
    rows = [
        f"PPO with `{core}`, {steps:,} steps an id",
        "",
        "| id | final return [95%] | random floor | reference | score | MMER | above the floor by the margin |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        low, high = r["return_ci95"]
        verdict = "yes" if r["passed"] else "not"
        rows.append(
            f"| {r['env']} | {r['return_mean']:.3f} [{low:.3f}, {high:.3f}] | {r['floor']:.3f} | {r['reference']:.2f} "
            f"| {r['score']:.2f} | {r['mmer']:.3f} | {verdict} |"
        )
    failed = [r["env"] for r in results if not r["passed"]]
    rows += ["", f"Not above the floor by the margin: {', '.join(failed) or 'none'}."]
    return "\n".join(rows)
