"""Modules a user asks for: what they register can be used by name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

_IMPORTED: list[str] = []


def import_modules(names: Sequence[str]) -> None:
    """Import modules by name; the working directory is searched first.

    Raises ValueError naming the module and the reason where it does not exist or raises while it is imported.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a user's module raises is the reason
            what = "there is no such module" if _is_absent(error, name) else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"the module {name!r} cannot be imported ({what}); it is looked for in the working directory and on PYTHONPATH"
            ) from error
        if name not in _IMPORTED:
            _IMPORTED.append(name)


def imported() -> tuple[str, ...]:
    """The modules imported so far through `import_modules`, in order."""
    return tuple(_IMPORTED)


def _is_absent(error: Exception, name: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and (error.name == name or name.startswith(f"{error.name}."))
