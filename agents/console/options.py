"""Options of a command as the fields of a dataclass: how they are typed, and what is said of those that cannot be read."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import tyro

from mru_rl.agents.console.errors import OptionError, flag, nearest, require
from mru_rl.agents.console.pairs import read_pairs

T = TypeVar("T")


def parse(
    schema: type[T],
    words: list[str],
    prog: str,
    description: str | None = None,
    *,
    fields: type | None = None,
    hint: Callable[[str, Iterable[str]], str] = nearest,
) -> T:
    """Read options into a dataclass. --help prints the description and the options and leaves with status 0.

    prog: the command as it is typed; description: the schema's docstring where None. fields: the dataclass whose fields
    are the options, where the schema has them in groups. hint: from an option that is not there and those that are to
    the one that was meant, as a question. Raises OptionError, in one line, for an option that is not there and for a value
    that cannot be read or is refused.
    """
    flat = (tyro.conf.OmitArgPrefixes,)
    if any(word in ("-h", "--help") for word in words):
        return tyro.cli(schema, args=["--help"], prog=prog, description=description, registry=registry, config=flat)
    options = known_options(fields or schema)
    for word in words:
        name = word.partition("=")[0]
        require(
            not name.startswith("--") or name.replace("_", "-") in options,
            f"{prog} has no option {name}; {hint(name, options)}see {prog} --help",
        )
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return tyro.cli(schema, args=words, prog=prog, registry=registry, config=flat)
    except SystemExit:
        raise OptionError(f"{one_line(printed.getvalue())}; see {prog} --help") from None


def known_options(schema: type) -> set[str]:
    """Every --option a dataclass gives, switches in both forms."""
    options = {"--help"}
    for spec in dataclasses.fields(schema):
        name = flag(spec.name)
        options |= {name, f"--no-{name[2:]}"} if str(spec.type) in ("bool", "<class 'bool'>", "bool | None") else {name}
    return options


def one_line(box: str) -> str:
    """The message inside tyro's error box: the text between its first two rules."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    sections: list[list[str]] = [[]]
    for line in lines:
        if line and not line.strip("-"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    message = " ".join(sections[1] if len(sections) > 1 else sections[0])
    return re.sub(r"^Error parsing \w+: |^Error parsing |\.$", "", message)


registry = tyro.constructors.ConstructorRegistry()


@registry.primitive_rule
def _pairs_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """dict fields are typed as name=value words."""
    if info.type_origin is not dict:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=read_pairs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{k}={v}" for k, v in value.items()],
    )


@registry.primitive_rule
def _whole_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Whole numbers may be typed as 1000000, 1_000_000 or 1e6."""
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def whole_number(word: str) -> int:
    """A whole number as people type it. Raises ValueError for what is none."""
    try:
        return int(word)
    except ValueError:
        try:
            value = float(word)
        except ValueError:
            value = float("nan")
        if not value.is_integer():
            raise ValueError(f"a whole number is needed, such as 1000000 or 1e6, got {word!r}") from None
        return int(value)
