"""The rooms of the package and the imports between them, in words and as a picture.

    python tests/rooms.py [--out rooms.png]

A room is a folder, or a file at the root of agents/, envs/ or mru_rl/. Import statements inside functions count; those
under TYPE_CHECKING do not. A name that a package hands on through its lazy table `_HOME` counts as an import of the module
that defines it. A registry that names its parts by address, as text, imports none of them.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Curve

ROOT = Path(__file__).resolve().parent.parent
TREES = {"mru_rl": "mru_rl", "envs": "mru_rl.envs", "agents": "mru_rl.agents"}
"""folder of a checkout -> its name as a package"""

Arrows = dict[str, set[str]]
"""what imports -> what it imports; every node has an entry"""


# From source to arrows


def imports(root: Path = ROOT) -> Arrows:
    """Return the arrows between the files of a checkout; a file is named by its path from the root."""
    modules = {_module(path, root): path for tree in TREES for path in sorted((root / tree).rglob("*.py"))}
    sources = {name: ast.parse(path.read_text()) for name, path in modules.items()}
    lazy = {name: _lazy_names(tree) for name, tree in sources.items()}
    files = {name: path.relative_to(root).as_posix() for name, path in modules.items()}

    def home(name: str) -> str | None:
        """Return the file that defines a dotted name; None if it is not one of ours."""
        module, rest = name, []
        while module not in modules:
            module, dot, last = module.rpartition(".")
            if not dot:
                return None
            rest.insert(0, last)
        table = lazy[module]
        if not rest or rest[0] not in table:
            return files[module]
        target = table[rest[0]]
        return home(f"{target if target in modules else f'{module}.{target}'}.{rest[0]}")

    return {
        files[name]: {found for used in _names_used(tree, set(modules)) if (found := home(used))} - {files[name]}
        for name, tree in sources.items()
    }


def _module(path: Path, root: Path) -> str:
    tree, *inside = path.relative_to(root).with_suffix("").parts
    return ".".join([TREES[tree], *(part for part in inside if part != "__init__")])


def _lazy_names(tree: ast.Module) -> dict[str, str]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_HOME":
            return ast.literal_eval(statement.value)
    return {}


def _names_used(tree: ast.Module, modules: set[str]) -> set[str]:
    """Return the dotted names a source file imports, or reaches through a module it imports."""
    nodes = list(_run_nodes(tree))
    named: set[str] = set()
    bound: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                named.add(alias.name)
                first = alias.name.partition(".")[0]
                bound[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"imports are written in full, got a relative one: {ast.unparse(node)}")
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                named.add(name)
                if name in modules:
                    bound[alias.asname or alias.name] = name
    texts = {ast.unparse(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute)}
    chains = [text.split(".") for text in texts if re.fullmatch(r"[\w.]+", text)]
    reached = {".".join([bound[first], *rest]) for first, *rest in chains if first in bound}
    reached = {name for name in reached if not any(longer.startswith(f"{name}.") for longer in reached)}
    unused = {name for name in named if name in modules and any(use.startswith(f"{name}.") for use in reached)}
    return (named - unused) | reached


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a syntax tree without what only type checkers see."""
    yield node
    guarded = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in node.orelse if guarded else ast.iter_child_nodes(node):  # type: ignore[attr-defined]
        yield from _run_nodes(child)


# Rooms, folders, circles


def folder(file: str) -> str:
    """Return the folder a file lies in."""
    return str(PurePosixPath(file).parent)


def room(file: str) -> str:
    """Return the room a file belongs to: its folder, or itself at the root of a tree; `__init__.py` there is the tree's own."""
    path = PurePosixPath(file)
    if len(path.parts) > 2 or path.name == "__init__.py":
        return str(path.parent)
    return str(path)


def grouped(arrows: Arrows, group: Callable[[str], str]) -> Arrows:
    """Return the arrows between groups of nodes; arrows inside a group are left out."""
    found: Arrows = {group(node): set() for node in arrows}
    for node, targets in arrows.items():
        found[group(node)] |= {group(target) for target in targets} - {group(node)}
    return found


def circles(arrows: Arrows) -> list[list[str]]:
    """Return one shortest way round for each set of nodes that reach each other, first node repeated at its end."""
    below = {node: reach(arrows, node) for node in arrows}
    knots = {
        frozenset(other for other in below[node] if node in below[other]) for node in arrows if node in below[node]
    }
    return sorted((min((_way_round(arrows, node) for node in sorted(knot)), key=len) for knot in knots), key=str)


def reach(arrows: Arrows, start: str) -> set[str]:
    """Return all nodes that arrows lead to from `start`; itself only on a circle."""
    found: set[str] = set()
    new = set(arrows[start])
    while new:
        found |= new
        new = {target for node in new for target in arrows[node]} - found
    return found


def _way_round(arrows: Arrows, start: str) -> list[str]:
    ways = [[start]]
    seen: set[str] = set()
    while True:
        longer = []
        for way in ways:
            for target in sorted(arrows[way[-1]] - seen):
                if target == start:
                    return [*way, start]
                seen.add(target)
                longer.append([*way, target])
        ways = longer


def levels(arrows: Arrows) -> dict[str, int]:
    """Return for each node the length of the longest way down from it; the nodes of a circle share a level."""
    below = {node: reach(arrows, node) for node in arrows}
    found: dict[str, int] = {}
    for node in sorted(arrows, key=lambda node: len(below[node] | {node})):  # whatever is below reaches fewer
        knot = {other for other in below[node] if node in below[other]} | {node}
        under = {found[other] for member in knot for other in arrows[member] if other not in knot}
        found |= dict.fromkeys(knot, max(under, default=-1) + 1)
    return found


def direct(arrows: Arrows) -> Arrows:
    """Return the arrows that do not follow from longer ways, those of circles included."""
    below = {node: reach(arrows, node) for node in arrows}

    def follows(node: str, target: str) -> bool:
        between = {other for other in arrows[node] if other != target and node not in below[other]}
        return any(target in below[other] and other not in below[target] for other in between)

    return {node: {target for target in targets if not follows(node, target)} for node, targets in arrows.items()}


def in_words(files: Arrows) -> str:
    """Return what the picture shows, with all arrows, and what the guard in test_package.py asks."""
    rooms = grouped(files, room)
    height = levels(rooms)
    count = Counter(folder(file) for file in files if not file.endswith("__init__.py"))
    lines = [f"{len(files)} files, {len(rooms)} rooms, {sum(map(len, rooms.values()))} arrows between rooms", ""]
    for name, arrows in (("files", files), ("rooms", rooms), ("folders", grouped(files, folder))):
        found = circles(arrows)
        lines += [f"circles of {name}: {len(found)}", *("  " + " -> ".join(circle) for circle in found)]
    lines += ["", "files in a folder, __init__.py apart (a dozen is enough)"]
    lines += [f"  {number:3d}  {name}" for name, number in sorted(count.items(), key=lambda item: (-item[1], item[0]))]
    lines += ["", "rooms and what they import, from the top"]
    for one in sorted(rooms, key=lambda one: (one.split("/")[0] != "agents", one.split("/")[0], -height[one], one)):
        lines.append(f"  {height[one]:3d}  {one}: {', '.join(sorted(rooms[one])) or 'nothing'}")
    return "\n".join(lines)


# The picture


CHARACTER, BOX, GAP, LEVEL = 0.078, 0.3, 0.22, 0.82
"""inches: width of a letter, height of a box, least space between neighbors, from one level to the next"""
INK, RED = "#333333", "#c0392b"
COLORS = {"agents": "#dbe8f4", "envs": "#e3f0dc", "mru_rl": "#f8e6d0"}
Point = tuple[int, str]
"""a level, and a room that stands on it or an arrow that passes it"""


def picture(files: Arrows) -> Figure:
    """Return the rooms by levels: agents above envs and mru_rl, arrows downwards, arrows of circles in red."""
    rooms = grouped(files, room)
    count = Counter(room(file) for file in files if not file.endswith("__init__.py"))
    label = {one: _label(one, count[one]) for one in rooms}
    height = _heights(rooms)
    ways, rows = _ways(direct(rooms), height)
    x = _places(rows, ways, {one: CHARACTER * len(text) + 0.2 for one, text in label.items()})
    left, right = min(x.values()) - 1.1, max(x.values()) + 1.1
    bottom, top = -0.75, LEVEL * max(rows) + 0.95
    figure = Figure(figsize=(right - left, top - bottom))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(left, right), ylim=(bottom, top))
    axis.set_axis_off()
    for tree, color in COLORS.items():
        mine = [point for point in x if point[1].split("/")[0] == tree and point[1] in rooms]
        sides = [x[point] + sign * (CHARACTER * len(label[point[1]]) / 2 + 0.25) for point in mine for sign in (-1, 1)]
        low, high = (LEVEL * f(point[0] for point in mine) for f in (min, max))
        frame = (min(sides), low - 0.38), max(sides) - min(sides), high - low + 0.9
        axis.add_patch(Rectangle(*frame, facecolor=color, alpha=0.4, edgecolor="none", zorder=0))
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axis.text(min(sides) + 0.1, high + 0.27, f"{tree}/", fontsize=12, fontweight="bold", color=INK, bbox=behind)
    for (one, target), way in ways.items():
        circle = one in reach(rooms, target)
        across = one.split("/")[0] != target.split("/")[0]
        style: dict[str, Any] = {
            "arrowstyle": "-|>,head_length=4,head_width=2",
            "color": RED if circle else "#b5b5b5" if across else "#666666",
            "linewidth": 1.6 if circle else 0.7 if across else 0.9,
            "zorder": 2 if circle else 1,
        }
        stops = [(x[point], LEVEL * point[0]) for point in way]
        if stops[0][1] == stops[-1][1]:  # rooms of a circle stand side by side
            axis.add_patch(FancyArrowPatch(*stops, connectionstyle="arc3,rad=0.3", shrinkA=12, shrinkB=12, **style))
            continue
        points, codes = [(stops[0][0], stops[0][1] - BOX / 2)], [Curve.MOVETO]
        for (x0, y0), (x1, y1) in itertools.pairwise(stops):
            last = (x1, y1) == stops[-1]
            start, end = points[-1][1], y1 + (BOX / 2 if last else 0)
            points += [(x0, start - (y0 - y1) * 0.3), (x1, end + (y0 - y1) * 0.3), (x1, end)]
            codes += [Curve.CURVE4] * 3
        axis.add_patch(FancyArrowPatch(path=Curve(points, codes), **style))
    for point in x:
        if point[1] in rooms:
            wide = CHARACTER * len(label[point[1]]) + 0.1
            corner = x[point] - wide / 2, LEVEL * point[0] - BOX / 2
            face = COLORS[point[1].split("/")[0]] if "(" in label[point[1]] else "white"
            look = {"boxstyle": "round,pad=0,rounding_size=0.06", "fc": face, "ec": INK, "lw": 0.8, "zorder": 3}
            axis.add_patch(FancyBboxPatch(corner, wide, BOX, **look))
            name = {"family": "monospace", "fontsize": 9, "color": INK, "zorder": 4}
            axis.text(x[point], LEVEL * point[0], label[point[1]], ha="center", va="center_baseline", **name)
    caption = (
        "An arrow: imports, not drawn if a longer way leads there as well. Gray: into another tree. Red: a circle.\n"
        "Filled: a folder, with its number of files. White: a file of its own."
    )
    axis.text(left + 0.5, bottom + 0.1, caption, fontsize=9, color=INK)
    return figure


def _label(one: str, files: int) -> str:
    _, _, rest = one.partition("/")
    if not rest:
        return "__init__"
    return rest.removesuffix(".py") if rest.endswith(".py") else f"{rest} ({files})"


def _heights(rooms: Arrows) -> dict[str, int]:
    """Return the level of each room: envs and mru_rl from the ground up, agents above both."""
    lower = {one: targets for one, targets in rooms.items() if not one.startswith("agents")}
    below = levels({one: targets & lower.keys() for one, targets in lower.items()})
    upper = levels({one: targets - lower.keys() for one, targets in rooms.items() if one not in lower})
    ground = max(below.values()) + 2
    return below | {one: level + ground for one, level in upper.items()}


def _ways(arrows: Arrows, height: dict[str, int]) -> tuple[dict[tuple[str, str], list[Point]], dict[int, list[Point]]]:
    """Return for each arrow the points it passes, one on each level, and all points of each level."""
    ways = {}
    rows: dict[int, list[Point]] = defaultdict(list)
    for one in sorted(arrows):
        rows[height[one]].append((height[one], one))
    for one, targets in sorted(arrows.items()):
        for target in sorted(targets):
            between = [(level, f"{target}<{one}") for level in range(height[one] - 1, height[target], -1)]
            for point in between:
                rows[point[0]].append(point)
            ways[one, target] = [(height[one], one), *between, (height[target], target)]
    return ways, dict(rows)


def _places(
    rows: dict[int, list[Point]], ways: dict[tuple[str, str], list[Point]], width: dict[str, float]
) -> dict[Point, float]:
    """Return the middle of each point in inches: neighbors on a level apart, each near what it is joined to."""
    joined: dict[Point, list[Point]] = defaultdict(list)
    for way in ways.values():
        for upper, lower in itertools.pairwise(way):
            joined[upper].append(lower)
            joined[lower].append(upper)
    half = {point: width.get(point[1], 0.0) / 2 + GAP / 2 for row in rows.values() for point in row}
    boxes = [point for row in rows.values() for point in row if point[1] in width]
    ground = max(level for level, one in boxes if not one.startswith("agents"))
    x = {point: float(i) for row in rows.values() for i, point in enumerate(row)}
    for turn in range(60):
        for level in sorted(rows, reverse=bool(turn % 2)):
            row = rows[level]
            wish = {p: sum(x[q] for q in joined[p]) / len(joined[p]) if joined[p] else x[p] for p in row}
            if turn < 40:  # the order settles first, then the places
                row.sort(key=lambda p: (level <= ground and p[1].startswith("mru_rl"), wish[p]))
            x |= _apart(row, wish, half)
    right = {p for p in x if p[0] <= ground and p[1].startswith("mru_rl")}
    left = {p for p in x if p[0] <= ground} - right
    shift = max(x[p] + half[p] for p in left if p[1] in width) - min(x[p] - half[p] for p in right if p[1] in width)
    x |= {p: x[p] + shift + 0.6 for p in right}
    upper = x.keys() - left - right
    lower_middle, middle = (_middle([x[p] for p in some if p[1] in width]) for some in (left | right, upper))
    return x | {p: x[p] + lower_middle - middle for p in upper}


def _middle(places: list[float]) -> float:
    return (min(places) + max(places)) / 2


def _apart(row: list[Point], wish: dict[Point, float], half: dict[Point, float]) -> dict[Point, float]:
    """Return the places nearest to the wishes, least squares, that keep the order and the space between neighbors."""
    offset, offsets = 0.0, []
    for i, point in enumerate(row):
        offset += half[row[i - 1]] + half[point] if i else 0.0
        offsets.append(offset)
    blocks: list[list[float]] = []  # sum of wishes less offsets, and how many; neighbors that collide are pooled
    for point, at in zip(row, offsets, strict=True):
        blocks.append([wish[point] - at, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += number
    means = [total / number for total, number in blocks for _ in range(int(number))]
    return {point: mean + at for point, mean, at in zip(row, means, offsets, strict=True)}


def main() -> None:
    """Print the rooms; draw them too if --out is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="PNG file to draw the rooms into")
    args = parser.parse_args()
    files = imports()
    print(in_words(files))
    if args.out:
        picture(files).savefig(args.out, dpi=110)
        print(f"\npicture: {args.out}")


if __name__ == "__main__":
    main()
