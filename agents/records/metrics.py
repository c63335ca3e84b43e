"""What a run records, by name. The README's glossary is made of this table."""

from __future__ import annotations

GLOSSARY = {
    "steps": "env steps so far, over all envs",
    "updates": "rollouts so far; with a write-rate warm-up the first is not learned from",
    "episodes": "episodes finished so far",
    "recent_episodes": "how many finished episodes the three numbers below are over: the last 100, fewer at the start",
    "return_mean": "mean return of those episodes, exploring as in training",
    "length_mean": "mean length in steps of those episodes",
    "success_rate": "mean success of those episodes: is_success or success in info, else whether the env's success return was "
    "reached; absent where neither is there",
    "info_NAME": "with --info-metrics: mean of this number in info over those of the episodes that said it at their end",
    "eval_return_greedy": "with --eval-every: mean return of the last evaluation, taking the most likely actions",
    "eval_return_sampled": "with --eval-every: the same, drawing actions from the policy; absent where it gives no probabilities",
    "eval_success_greedy": "with --eval-every: share of successful episodes, taking the most likely actions",
    "eval_success_sampled": "with --eval-every: the same, drawing actions from the policy",
    "level": "with a curriculum only: what the env option that grows is now",
    "steps_per_second": "env steps per second since the previous record, acting and learning together",
    "seconds": "wall-clock seconds of training so far, resumed parts added up",
    "policy_loss": "clipped surrogate loss, mean over the update's minibatches",
    "value_loss": "half the squared error of the critic, likewise",
    "entropy": "entropy of the policy in nats, per step",
    "kl": "estimated KL divergence from the acting policy to the updated one, in nats",
    "clip_share": "share of actions whose probability ratio left [1 - clip, 1 + clip]",
    "loss": "r2d2: half the squared TD error of rescaled values, weighted by importance, mean over steps and sequences",
    "td_error": "r2d2: mean absolute TD error of rescaled values",
    "q_mean": "r2d2: mean value of the actions in replayed sequences",
    "replay_sequences": "r2d2: sequences in replay",
    "gradient_steps": "r2d2: gradient steps so far",
    "grad_norm": "norm of the gradient before clipping",
    "explained_variance": "1 - Var(target - value) / Var(target): 1 is a perfect critic, 0 a constant one",
    "learning_rate": "Adam's step size in this update",
    "state_max": "size of the largest number in any row's memory at the end of the segment",
    "dropped_rows": "with --on-nonfinite drop: rows of rollouts left out so far, because a number in them was not finite",
    "skipped_steps": "with --on-nonfinite drop: gradient steps skipped so far, because the gradient was not finite",
    "worker_restarts": "with --workers process: env processes replaced so far, because they died, hung or raised",
    "write_rate": "share of (step, unit) pairs of memory recurrent units that wrote, on a few rows of the rollout",
    "silent_units": "share of memory recurrent units that wrote nothing in those rows",
}

_FIRST = ("return_mean", "success_rate", "length_mean", "episodes", "recent_episodes", "level")
_MEMORY = ("write_rate", "silent_units", "state_max")
_RUN = (
    "updates",
    "seconds",
    "steps_per_second",
    "replay_sequences",
    "gradient_steps",
    "dropped_rows",
    "skipped_steps",
    "worker_restarts",
)


def tag_of(name: str) -> str:
    """A metric's name with the group TensorBoard shows it in; returns come first, what is learned after them."""
    if name in _FIRST or name.startswith(("eval_", "info_")):
        return f"1_return/{name}"
    if name in _MEMORY:
        return f"3_memory/{name}"
    return f"4_run/{name}" if name in _RUN else f"2_learning/{name}"
