"""What a caller can mend, said in one line. Light on imports: the command line reads this before torch is there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec

_FIELD = re.compile(r"\{([a-z]\w*)\}")


class OptionError(ValueError):
    """An option holds what it must not.

    The message names options in braces, "{num_envs} must be at least 1": `str` shows them as Python's fields, `typed` as
    the command line's flags.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return _FIELD.sub(r"\1", self.message)

    @property
    def typed(self) -> str:
        """The message in the words of the command line: num_envs is --num-envs."""
        return _FIELD.sub(lambda found: flag(found[1]), self.message)


def require(holds: bool, message: str) -> None:
    """Raise OptionError(message), a ValueError, unless it holds."""
    if not holds:
        raise OptionError(message)


def require_package(name: str, extra: str, what: str, otherwise: str = "") -> None:
    """Raise OptionError unless a package that comes with an extra is installed.

    what: needs it; otherwise: the end of the message, how to do without.
    """
    require(
        find_spec(name) is not None,
        f"{what} needs the package {name}; run `pip install 'mru_rl[{extra}]'`{otherwise}",
    )


def flag(name: str) -> str:
    """A field's name as it is typed on the command line."""
    return "--" + {"imports": "import"}.get(name, name).replace("_", "-")


def nearest(word: str, known: Iterable[str]) -> str:
    """ "did you mean NAME? " for the known name nearest to a word; "" where none is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"did you mean {by_lower[near[0]]}? " if near else ""
