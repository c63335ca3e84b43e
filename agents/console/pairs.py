"""Options typed as name=value."""

from __future__ import annotations

import ast
import json
from typing import Any


def read_pairs(words: list[str]) -> dict[str, Any]:
    """Options typed as name=value; numbers, true, false and none are read as such. Raises ValueError for other words."""
    pairs: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"options are written name=value, as in length=100, got {word!r}")
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested beyond reason
            read = {"true": True, "false": False, "none": None}.get(value.lower(), value)
        if isinstance(read, float) and read.is_integer() and "." not in value:  # 1e4
            read = int(read)
        if isinstance(read, tuple):
            read = list(read)
        try:
            kept = json.loads(json.dumps(read))
        except TypeError:
            kept = None
        if kept != read:
            raise ValueError(
                f"options are kept in config.json, which holds numbers, words, true, false, none, lists, and dicts by words; "
                f"got {word!r}"
            )
        pairs[name] = kept
    return pairs
