"""What a caller of `train` may do while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mru_rl.agents.evaluate import Evaluation
    from mru_rl.agents.training_loop import Training


class Callback:
    """Derive from it and override what you need; each is called in the training process, between updates.

    Anything that has some of these methods is a callback too, and a plain function is one for `on_update`. One that returns
    True, or calls `training.stop()`, ends the run after the update, with a checkpoint. One that raises ends it in the same
    way, and its exception is the cause of the CallbackError that `train` then raises.

    >>> from mru_rl.agents import Callback
    >>> class StopAtNoon(Callback):
    ...     def on_update(self, training):
    ...         import datetime
    ...         return datetime.datetime.now().hour == 12
    """

    def on_update(self, training: Training) -> bool | None:
        """After every rollout and what was learned from it: `training.steps`, `training.metrics`, `training.policy`."""

    def on_evaluation(self, training: Training, evaluation: Evaluation) -> bool | None:
        """After an evaluation of `eval_every`: the one that counts, sampled or greedy."""

    def on_checkpoint(self, training: Training, path: Path) -> bool | None:
        """After a checkpoint was written."""


class CallbackError(RuntimeError):
    """A callback raised; the run was ended with a checkpoint, and its own exception is the cause.

    >>> import tempfile
    >>> from mru_rl.agents import CallbackError, PPOConfig, train
    >>> config = PPOConfig(env="CartPole-v1", steps=32, num_envs=2, segment=16, run_dir=f"{tempfile.mkdtemp()}/run")
    >>> try:
    ...     train(config, callbacks=[lambda training: training.no_such_name], progress=False)
    ... except CallbackError as error:
    ...     print(type(error.__cause__).__name__)
    AttributeError
    """


def as_callbacks(given: Sequence[Any]) -> list[Any]:
    """The callbacks of a list, functions made into one for `on_update`.

    Raises TypeError for what has none of the methods and cannot be called.
    """
    return [_as_callback(one) for one in given]


def _as_callback(one: Any) -> Any:
    if any(callable(getattr(one, name, None)) for name in ("on_update", "on_evaluation", "on_checkpoint")):
        if isinstance(one, type):
            raise TypeError(f"a callback is an object, got the class {one.__name__}; write {one.__name__}()")
        return one
    if not callable(one):
        raise TypeError(
            f"a callback is a function of the training, or has on_update, on_evaluation or on_checkpoint, got {one!r}; derive "
            "it from mru_rl.agents.Callback"
        )
    return _Function(one)


class _Function(Callback):
    def __init__(self, function: Callable[[Training], bool | None]) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", repr(function))

    def on_update(self, training: Training) -> bool | None:
        return self.function(training)
