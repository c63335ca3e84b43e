"""Where the records of a run go. JSON lines are always there; TensorBoard and others stand beside them, each behind one protocol."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from mru_rl.agents.console.errors import OptionError, nearest, require_package
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.metrics import tag_of

Values = Mapping[str, float]


@runtime_checkable
class Logger(Protocol):
    """Takes the records of a run as they are made, about one a second.

    A record is a flat dict of numbers, "steps" among them, with the names of `mru_rl.agents.records.metrics.GLOSSARY`. What
    a logger raises ends the run, with a checkpoint.

    >>> from mru_rl.agents import Logger
    >>> class Printed:
    ...     def log(self, record):
    ...         print(record["steps"], record.get("return_mean"))
    ...     def close(self):
    ...         pass
    >>> isinstance(Printed(), Logger)
    True
    """

    def log(self, record: Values) -> None:
        """Take one record."""

    def close(self) -> None:
        """Write what is still to be written; no record follows."""


MakeLogger = Callable[[Path, "dict[str, Any]", int], Logger]
"""From a run's directory, its config as JSON, and the env steps it goes on from (0 at the start) to a logger."""
F = TypeVar("F", bound="Callable[..., Logger]")


class JsonLines:
    """metrics.jsonl: a line of JSON a record, flushed at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def log(self, record: Values) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """TensorBoard events in RUN/tensorboard: returns first, then learning, memory and the run itself; the config as text."""

    def __init__(self, path: Path, config: dict[str, Any], steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._writer = SummaryWriter(str(path / "tensorboard"), purge_step=steps + 1)
        if steps == 0:
            rows = "".join(f"| {name} | {json.dumps(value)} |\n" for name, value in config.items())
            self._writer.add_text("config", f"| field | value |\n|---|---|\n{rows}")

    def log(self, record: Values) -> None:
        for name, value in record.items():
            if name != "steps":
                self._writer.add_scalar(tag_of(name), value, record["steps"])

    def close(self) -> None:
        self._writer.close()


class FromTorchRL:
    """One of torchrl's loggers behind our protocol."""

    def __init__(self, logger: Any, finish: Callable[[], None]) -> None:
        self._logger, self._finish = logger, finish

    def log(self, record: Values) -> None:
        for name, value in record.items():
            if name != "steps" and math.isfinite(value):
                self._logger.log_scalar(name, float(value), step=int(record["steps"]))

    def close(self) -> None:
        self._finish()


def _csv(path: Path, config: dict[str, Any], steps: int) -> Logger:
    from torchrl.record.loggers.csv import CSVLogger

    for column in (path / "csv" / "scalars").glob("*.csv"):  # what a killed run wrote after its checkpoint comes again
        kept = [line for line in column.read_text().splitlines() if int(line.partition(",")[0]) <= steps]
        write_atomically(column, "".join(f"{line}\n" for line in kept).encode())
    logger = CSVLogger(exp_name="csv", log_dir=str(path))
    if steps == 0:
        logger.log_hparams(config)

    def finish() -> None:
        for file in logger.experiment.files.values():
            file.close()

    return FromTorchRL(logger, finish)


def _wandb(path: Path, config: dict[str, Any], steps: int) -> Logger:
    require_package("wandb", "wandb", "{logger} wandb", ", or leave it out")
    from torchrl.record.loggers.wandb import WandbLogger

    name = f"{config['algorithm']}-{config['env']}-{config['core']}-{config['seed']}"
    logger = WandbLogger(exp_name=name, save_dir=str(path), project="mru_rl", config=config)
    return FromTorchRL(logger, logger.experiment.finish)


def _mlflow(path: Path, config: dict[str, Any], steps: int) -> Logger:
    require_package("mlflow", "mlflow", "{logger} mlflow", ", or leave it out")
    import mlflow
    from torchrl.record.loggers.mlflow import MLFlowLogger

    tracking = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else (path / "mlruns").absolute().as_uri()
    logger = MLFlowLogger(exp_name="mru_rl", tracking_uri=tracking)
    logger.log_hparams({name: value for name, value in config.items() if value is not None})
    return FromTorchRL(logger, mlflow.end_run)


_LOGGERS: dict[str, MakeLogger] = {"tensorboard": TensorBoard, "csv": _csv, "wandb": _wandb, "mlflow": _mlflow}


def list_loggers() -> list[str]:
    """Names that `logger` (`--logger`) takes.

    >>> from mru_rl.agents import list_loggers
    >>> list_loggers()[:4]
    ['tensorboard', 'csv', 'wandb', 'mlflow']
    """
    return list(_LOGGERS)


def register_logger(name: str) -> Callable[[F], F]:
    """Make a logger known under a name: `@register_logger("mine")` over a function or class that is called with the run's
    directory, its config as JSON, and the env steps the run goes on from, and gives a Logger.

    >>> from mru_rl.agents import list_loggers, register_logger
    >>> @register_logger("quiet")
    ... class Quiet:
    ...     def __init__(self, path, config, steps): ...
    ...     def log(self, record): ...
    ...     def close(self): ...
    >>> "quiet" in list_loggers()
    True

    Raises TypeError for what cannot be called so, ValueError for a name that is taken by another.
    """

    def register(make: F) -> F:
        try:
            inspect.signature(make).bind(Path(), {}, 0)
        except TypeError as error:
            raise TypeError(f"a logger is made by make(path, config, steps), got {make!r} ({error})") from None
        taken = _LOGGERS.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (make.__module__, make.__qualname__):
            raise ValueError(f"there is a logger named {name!r} already, {taken!r}; choose another name")
        _LOGGERS[name] = make
        return make

    return register


def make_logger(name: str, path: Path, config: dict[str, Any], steps: int) -> Logger:
    """A logger by name. Raises ValueError for a name that is not there, and where its package is not installed."""
    check_logger(name)
    return _LOGGERS[name](path, config, steps)


def check_logger(name: str) -> None:
    """Raises ValueError with the nearest name for a logger that is not there."""
    if name not in _LOGGERS:
        raise OptionError(
            f"there is no logger {name!r}; {nearest(name, _LOGGERS)}loggers are {', '.join(_LOGGERS)}, and those that a "
            "module named with {imports} registers"
        )
