#!/usr/bin/env bash
# Makes the README's tables: bash runs/benchmarks/readme/run.sh SCRATCH_DIR [RUNS_AT_ONCE]
# Trains and evaluates each row over seeds 0, 1, 2; keeps evaluation and provenance of each run in results.jsonl.
set -euo pipefail
scratch=$1 at_once=${2:-2}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$scratch"

one() { # name, seed, evaluation options, training options
    local name=$1-seed_$2 seed=$2 evaluation=$3
    shift 3
    { mru-rl train ppo "$@" --seed "$seed" --run-dir "$scratch/$name"
      mru-rl eval "$scratch/$name" --json $evaluation > "$scratch/$name.json"; } > "$scratch/$name.log" 2>&1 ||
        echo "$name failed, see $scratch/$name.log"
}
row() { # name, evaluation options, training options: three seeds, never more than at_once runs at a time
    local seed
    for seed in 0 1 2; do
        while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n; done
        one "$1" "$seed" "${@:2}" &
    done
}
row first "" --steps 600000
row tmaze "--env-kwargs length=5000" --env mru_rl/TMaze-v0 --env-kwargs length=100 --core bmru+mingru
row tmaze_gru "--env-kwargs length=5000" --env mru_rl/TMaze-v0 --env-kwargs length=100 --core gru
for layers in 1 3; do
    for readout in read-before-write no-read-before-write; do
        row "previous_${layers}_$readout" "" --env popgym-RepeatPreviousEasy-v0 --num-layers $layers --$readout
    done
done
wait
python3 - "$scratch" > "$here/results.jsonl" <<'PYTHON'
import json, pathlib, sys

for result in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    run = result.with_suffix("")
    made = json.loads((run / "provenance.json").read_text())
    made["command"] = made["command"].replace(sys.argv[1].rstrip("/") + "/", "runs/")
    seconds = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    print(json.dumps({"name": run.name, **json.loads(result.read_text()), "train_seconds": seconds, "provenance": made}))
PYTHON
cp "$scratch/first-seed_0/learning_curve.png" "$scratch/first-seed_0/metrics.jsonl" "$here/"
