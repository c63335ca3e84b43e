"""The grammar of core specs. Hybrids are data: a spec is a list of layers, a layer a list of cells side by side."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mru_rl.cells.registry import get_cell

Spec: TypeAlias = "str | Sequence[str | Sequence[str | tuple]]"
EXAMPLE = '"bmru+mingru,lru"'


@dataclass(frozen=True)
class Part:
    """One cell of a layer: its name, its own state size (None: a share of the layer's) and its own options."""

    name: str
    state_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        size = [] if self.state_size is None else [str(self.state_size)]
        return ":".join([self.name, *size, *(f"{k}={v}" for k, v in self.options.items())])


def parse_layers(spec: Spec) -> list[list[Part]]:
    """Layers of a core, from its spec string or from Python lists.

    String: "," puts one layer after the other, "+" side by side in one, and per cell ":" its state size and its options:
        "bmru,lru", "bmru+mingru", "bmru:48+mingru:16", "bmru:48:slope=2.0+deltanet:64:steps=2,gru"
    Python: a list of layers, each a list of names or of tuples (name, size) or (name, size, options), size None for a
    share of the layer's state: [["bmru", ("mingru", 16)], [("deltanet", None, {"steps": 2})]]
    Raises ValueError if a part is empty, a cell unknown, a size not a whole number, or a cell does not take an option.
    """
    if isinstance(spec, str):
        if not spec.strip():
            raise ValueError('a core spec names at least one cell, got an empty one; try "bmru" or "bmru+mingru"')
        return [[_part_from_text(text.strip(), spec) for text in layer.split("+")] for layer in spec.split(",")]
    if not isinstance(spec, list) or not spec:
        raise ValueError(f"a core spec is a string such as {EXAMPLE} or a list of layers, got {spec!r}")
    return [_layer_from_python(layer) for layer in spec]


def parse_spec(spec: Spec) -> list[list[str]]:
    """The cell names of each layer; `parse_layers` has sizes and options too."""
    return [[part.name for part in layer] for layer in parse_layers(spec)]


def format_spec(layers: list[list[Part]]) -> str:
    """The spec string of these layers, which `parse_layers` reads back."""
    return ",".join("+".join(str(part) for part in layer) for layer in layers)


def _layer_from_python(layer: Any) -> list[Part]:
    if isinstance(layer, str):
        parts = parse_layers(layer)
        if len(parts) == 1:
            return parts[0]
    elif isinstance(layer, list) and layer:
        return [_part_from_python(part) for part in layer]
    raise ValueError(
        f'a layer of a core spec is a list such as ["bmru", ("mingru", 16)] or a string without commas, got {layer!r}'
    )


def _part_from_python(part: Any) -> Part:
    if isinstance(part, str):
        return _part_from_text(part.strip(), part)
    if not isinstance(part, tuple) or len(part) not in (2, 3) or not isinstance(part[0], str):
        raise ValueError(
            'a cell of a core spec is a name or a tuple, ("bmru", 48) or ("bmru", 48, {"slope": 2.0}) with None for '
            f"the size if it takes its share; got {part!r}"
        )
    name, size, options = (*part, {}) if len(part) == 2 else part
    if not isinstance(options, Mapping):
        raise ValueError(f'the options of {name!r} in a core spec are a dict such as {{"slope": 2.0}}, got {options!r}')
    return _checked_part(name, size, dict(options))


def _part_from_text(text: str, spec: str) -> Part:
    name, *fields = (piece.strip() for piece in text.split(":"))
    if not name or "" in fields:
        raise ValueError(
            f"core spec {spec!r} has an empty part; join cells with + (side by side) and layers with , (stacked), as "
            f'in {EXAMPLE}; sizes and options follow a colon, as in "bmru:48:slope=2.0"'
        )
    size, options = None, {}
    for i, piece in enumerate(fields):
        key, equals, value = piece.partition("=")
        if equals:
            options[key.strip()] = _value(value.strip())
        elif i == 0:
            size = int(piece) if piece.isdecimal() else piece
        else:
            raise ValueError(
                f"{piece!r} in core spec {spec!r} is not an option; the state size comes after the name, and options follow, "
                'as in "bmru:48:slope=2.0"'
            )
    return _checked_part(name, size, options)


def _checked_part(name: str, size: Any, options: dict[str, Any]) -> Part:
    check_options([name], options, f"{name!r}")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(
            f'the state size of {name!r} in a core spec must be a whole number of at least 1, as in "{name}:48", '
            f"got {size!r}"
        )
    return Part(name, size, options)


def _value(text: str) -> Any:
    """An option's value: a number, true, false, none, or else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def cell_options(name: str) -> set[str]:
    """Names of the options a cell's constructor takes beside its sizes, those of its base classes included."""
    return set(_option_defaults(name))


def _option_defaults(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in get_cell(name).__mro__:
        if "__init__" in vars(cls):
            parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
            found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def check_options(names: Sequence[str], options: Mapping[str, Any], what: str) -> None:
    """Raise ValueError if none of these cells takes an option, or its value is of another kind than the default.

    what: names the cells in the message.
    """
    defaults = {option: value for name in names for option, value in _option_defaults(name).items()}
    known = set(defaults)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{what} does not take the option {name!r}; {hint}options are {', '.join(sorted(known))}")
        if not _same_kind(options[name], defaults[name]):
            raise ValueError(
                f"the option {name!r} of {what} must be a {_KINDS[type(defaults[name])]} such as {defaults[name]!r}, "
                f"got {options[name]!r}"
            )


_KINDS: dict[type, str] = {bool: "truth value", int: "whole number", float: "number", str: "word"}


def _same_kind(value: Any, default: Any) -> bool:
    """True if value is of the default's kind; any value is if the default is None or not of a plain kind."""
    kind = type(default)
    if kind not in _KINDS or kind is bool or isinstance(value, bool):
        return kind not in _KINDS or kind is type(value)
    return isinstance(value, int | float if kind is float else kind)
