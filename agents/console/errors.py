"""What a caller can mend, said in one line. Light on imports: the command line reads this before torch is there."""

from __future__ import annotations


def require(holds: bool, message: str) -> None:
    """Raise ValueError(message) unless it holds."""
    if not holds:
        raise ValueError(message)


def flag(name: str) -> str:
    """A field's name as it is typed on the command line."""
    return "--" + name.replace("_", "-")
