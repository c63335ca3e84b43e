"""Encoders: from what an agent is shown to the features its memory reads. Open: `register_encoder` adds one of your own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mru_rl.agents.console.errors import require
from mru_rl.agents.nets.images import ImageEncoder, IndexEncoder, TextEncoder, is_picture
from mru_rl.agents.nets.running_norm import RunningNorm, is_usual
from mru_rl.envs.actions import choices
from mru_rl.envs.encoding import Encoding, Part, unpack
from mru_rl.envs.from_gymnasium.named import import_named, raised
from mru_rl.envs.input_rules import InputRules

BUILT_IN = ("auto", "nature", "impala", "small", "codes")
"""Nets for images; everything else is encoded in one way."""
_MANY_NUMBERS = 512
"""Numbers of an array above which it may have been meant as an image."""
Factory = Callable[[gymnasium.Space], nn.Module]
_REGISTERED: dict[str, Factory] = {}


class InputEncoder(nn.Module):
    """The inputs of an agent as features: x [..., rules.size] -> float32 [..., out_size].

    Numbers and one-hot columns stay as they are, in their order (`norm` normalizes those that are switched on); behind them
    come the features of each number of many values (IndexEncoder), image (ImageEncoder) and text (TextEncoder). An encoder
    of one's own, `kind` by its name, takes the whole obs instead, and what stands beside it (last action, start flag, last
    reward) comes before its features.
    """

    def __init__(self, rules: InputRules, kind: str = "auto") -> None:
        super().__init__()
        self._floats, self._packed = rules.floats, rules.packed
        self._space = rules.observation_space
        self._mask = rules.mask
        own = _own(kind)
        shown = [] if own is None else rules.parts[: rules.obs_parts]
        self._shown: list[Part] = shown
        parts = rules.parts[len(shown) :]
        self._numbers: list[Part] = []
        self._pieces: list[Part] = []
        modules: list[nn.Module] = []
        for part in parts:
            made = _module(part, kind)
            if made is None:
                self._numbers.append(part)
            else:
                self._pieces.append(part)
                modules.append(made)
        require(
            kind == "auto" or own is not None or any(isinstance(module, ImageEncoder) for module in modules),
            f"{{encoder}} {kind} is a net for images, and the observation holds none, {self._space}; leave it out",
        )
        self.pieces = nn.ModuleList(modules)
        size = sum(part.stop - part.start for part in self._numbers)
        self._whole = size == self._floats and all(part.kind != "bytes" for part in self._numbers)
        """Whether the numbers are all floats of an input, in their order."""
        self.norm = RunningNorm(size)
        self.own: nn.Module | None = None
        self.out_size = size + sum(_width(module) for module in modules)
        if own is not None:
            self.own = _checked(own(self._space), kind)
            self.out_size += self._probe(self.own, kind)

    def forward(self, x: Tensor) -> Tensor:
        if not self._packed:
            return self.features(x, None)
        return self.features(*unpack(x, self._floats))

    def features(self, floats: Tensor, bytes: Tensor | None) -> Tensor:
        """What `forward` gives for an input whose floats [..., n] and bytes [..., m] are apart."""
        numbers = self.norm(self._take_numbers(floats, bytes))
        if self.own is None and not self._pieces:
            return numbers
        lead = floats.shape[:-1]
        found = [numbers]
        for part, module in zip(self._pieces, self.pieces, strict=True):
            taken = _take(part, floats, bytes)
            found.append(_rows(module(taken.reshape(-1, *_shape_of(part))), lead))
        if self.own is not None:
            found.append(_rows(self.own(self._obs(floats, bytes)), lead))
        return torch.cat(found, dim=-1)

    def _take_numbers(self, floats: Tensor, bytes: Tensor | None) -> Tensor:
        if self._whole:
            return floats
        if not self._numbers:
            return floats[..., :0]
        return torch.cat([_take(part, floats, bytes).float() for part in self._numbers], dim=-1)

    def numbers(self, x: Tensor) -> Tensor:
        """The numbers of an input that `norm` sees, [..., D], before it."""
        return self._take_numbers(*unpack(x, self._floats)) if self._packed else self._take_numbers(x, None)

    def unusual(self, x: Tensor, parts: Sequence[Part] = ()) -> Tensor:
        """Columns of `numbers` to normalize by the look of some inputs: bool [D].

        Those of a Box that is not bounded by numbers of usual size, and those of one whose largest number seen is not of usual
        size, [0.2, 5]; never those of an action mask. parts: of inputs with other bounds to come, which count as well.
        """
        seen = self.numbers(x)
        sizes = seen.reshape(-1, seen.shape[-1]).abs().amax(0)
        wide = {part.place for part in (*self._numbers, *parts) if part.kind != "one-hot" and _is_wide(part)}
        return self._columns(
            lambda part, first, last: part.place in wide or not is_usual(float(sizes[first:last].amax()))
        )

    def all_numbers(self) -> Tensor:
        """Columns of `numbers` that can be normalized: bool [D]."""
        return self._columns(lambda part, first, last: True)

    def _columns(self, wanted: Callable[[Part, int, int], bool]) -> Tensor:
        chosen, first = torch.zeros_like(self.norm.on), 0
        for part in self._numbers:
            last = first + part.stop - part.start
            if part.kind in ("numbers", "bytes") and part not in self._mask and last > first and not _is_binary(part):
                chosen[first:last] = wanted(part, first, last)
            first = last
        return chosen

    @property
    def masks(self) -> bool:
        """Whether inputs say which actions there are."""
        return bool(self._mask)

    def allowed(self, x: Tensor | tuple[Tensor, Tensor | None]) -> Tensor:
        """bool [..., n], False for actions there are not, as inputs say; all False where they say that there is none."""
        floats, rest = x if isinstance(x, tuple) else unpack(x, self._floats) if self._packed else (x, None)
        return torch.cat([_take(part, floats, rest) != 0 for part in self._mask], dim=-1)

    def describe(self) -> list[str]:
        """What encodes which part of an obs, and why, a line each."""
        if self.own is not None:
            return [f"--encoder: {type(self.own).__name__} encodes the observation"]
        lines = []
        for part, module in zip(self._pieces, self.pieces, strict=True):
            where = part.place or "observation"
            if isinstance(module, ImageEncoder):
                frames, height, width = module.shape[:3]
                several = f"{frames} frames of " if frames > 1 else ""
                lines.append(f"encoder of {where} ({several}{height} x {width}): {module.kind}, {module.reason}")
            elif isinstance(module, TextEncoder):
                lines.append(f"encoder of {where}: characters, embedded")
            else:
                lines.append(f"encoder of {where}: embedded, over 512 values")
        for part in self._numbers:
            shape = part.space.shape or ()
            if len(shape) > 1 and part.kind == "numbers" and part.stop - part.start > _MANY_NUMBERS:
                where = part.place or "observation"
                lines.append(
                    f"{where}, {part.space.dtype} {list(shape)}, is taken as {part.stop - part.start:,} numbers; an image is uint8, "
                    "or floats in [0, 1] with one to four channels first or last"
                )
        return lines

    def _obs(self, floats: Tensor, bytes: Tensor | None) -> Any:
        """The obs as an encoder of one's own takes it, its leading dimensions made one."""
        parts = iter(self._shown)
        return _nested(self._space, lambda: _as_leaf(next(parts), floats, bytes))

    def _probe(self, module: nn.Module, kind: str) -> int:
        floats = torch.zeros(2, self._floats)
        bytes = torch.zeros(2, sum(p.stop - p.start for p in self._shown if p.kind == "bytes"), dtype=torch.uint8)
        training = module.training
        module.eval()
        try:
            with torch.no_grad():
                features = module(self._obs(floats, bytes))
        except Exception as error:
            raise ValueError(f"encoder {kind} cannot encode {self._space}, it {raised(error, 'mend it')}") from error
        module.train(training)
        require(
            isinstance(features, Tensor)
            and features.dim() == 2
            and len(features) == 2
            and features.is_floating_point(),
            f"an encoder returns features, floats [N, width], {kind} returned "
            f"{list(features.shape) if isinstance(features, Tensor) else type(features).__name__} for N = 2",
        )
        return features.shape[1]


class ObservationEncoder(nn.Module):
    """An observation as features, outside of agents: what a space holds, as tensors -> float32 [..., out_size].

    A Dict or a Tuple is given as a dict or tuple of tensors, nested alike: an image uint8 [..., *shape], a Box float32, a
    Discrete int64 [...], numbers from 0. For a TensorDictModule in front of a MemoryModule, and anywhere else.
    """

    def __init__(self, space: gymnasium.Space, kind: str = "auto") -> None:
        super().__init__()
        self._space = space
        self._encoding = Encoding(space, device=torch.device("cpu"))
        self.encoder = InputEncoder(InputRules(space, spaces.Discrete(2)), kind)
        self.out_size = self.encoder.out_size

    def forward(self, obs: Any) -> Tensor:
        leaves = []
        for part, leaf in zip(self._encoding.parts, _leaves(self._space, obs), strict=True):
            ndim = len(part.space.shape or ())
            lead = leaf.shape[: leaf.dim() - ndim] if not isinstance(part.space, spaces.Text) else leaf.shape[:-1]
            if part.kind == "bytes" and leaf.is_floating_point():
                raise ValueError(
                    f"{part.space} holds bytes, got {str(leaf.dtype).removeprefix('torch.')}; give whole numbers from 0 to 255, "
                    "as the env does"
                )
            leaves.append(leaf.reshape(*lead, -1))
        device = leaves[0].device
        if self._encoding.device != device:
            self._encoding = Encoding(self._space, device=device)
        plain = [leaf for part, leaf in zip(self._encoding.parts, leaves, strict=True) if part.kind != "bytes"]
        byte = [leaf for part, leaf in zip(self._encoding.parts, leaves, strict=True) if part.kind == "bytes"]
        if not plain:
            floats = leaves[0].new_zeros((*leaves[0].shape[:-1], 0), dtype=torch.float32)
        elif self._encoding.shape == ():
            floats = self._encoding(plain[0].squeeze(-1))
        else:
            whole = all(not leaf.is_floating_point() for leaf in plain) and not byte
            floats = self._encoding(torch.cat([leaf if whole else leaf.float() for leaf in plain], dim=-1))
        return self.encoder.features(floats, torch.cat(byte, dim=-1) if byte else None)


def make_encoder(space: gymnasium.Space, kind: str = "auto") -> ObservationEncoder:
    """An encoder for an observation space, as agents have it in front of their memory.

    kind: the net for images, auto, nature, impala, small or codes, or an encoder of one's own by name. Raises ValueError for
    a space that is not supported and for a name that there is not.

    >>> import gymnasium, torch
    >>> from mru_rl.agents import make_encoder
    >>> space = gymnasium.spaces.Box(0, 255, (84, 84, 3), "uint8")
    >>> encoder = make_encoder(space)
    >>> encoder(torch.zeros(4, 16, 84, 84, 3, dtype=torch.uint8)).shape
    torch.Size([4, 16, 512])
    """
    return ObservationEncoder(space, kind)


def register_encoder(name: str, factory: Factory | None = None) -> Any:
    """Make an encoder of one's own known under a name for `--encoder NAME`, also as a decorator; returns it.

    factory: from an observation space (numbers from 0) to an nn.Module, such as a module's class. The module takes N
    observations: a tensor for a simple space, a dict or tuple of them for a Dict or Tuple (an image uint8 [N, *shape], a Box
    float32 [N, *shape], a Discrete int64 [N], a Text int64 [N, length]), and returns float32 [N, width]. Processes of their
    own find it through `imports`, the module that registers it. A name that is registered again is replaced.

    >>> import torch
    >>> from mru_rl.agents import register_encoder
    >>> @register_encoder("mean-pixel")
    ... class MeanPixel(torch.nn.Module):
    ...     def __init__(self, space):
    ...         super().__init__()
    ...
    ...     def forward(self, image):
    ...         return image.float().mean(dim=(1, 2)) / 255

    Raises ValueError for a name that is taken by one of ours.
    """
    require(
        isinstance(name, str) and bool(name) and ":" not in name and name not in BUILT_IN,
        f"an encoder's name is a word of its own, not one of {', '.join(BUILT_IN)}, got {name!r}",
    )
    if factory is None:
        return lambda decorated: register_encoder(name, decorated)
    _REGISTERED[name] = factory
    return factory


def encoder_name(encoder: Any) -> str:
    """What an encoder is called in a config: its name, or module:Name of a class or function.

    Raises ValueError for what cannot be found again by a name.
    """
    if isinstance(encoder, str):
        return encoder
    module, name = getattr(encoder, "__module__", ""), getattr(encoder, "__qualname__", "")
    require(
        callable(encoder) and not isinstance(encoder, nn.Module) and name.isidentifier(),
        "{encoder} is a name, or a class or function at the top of a module, which makes an nn.Module from an observation "
        f"space, got {encoder!r}; every agent makes its own: give the class, or a function that returns what you have",
    )
    known = [found for found, factory in _REGISTERED.items() if factory is encoder]
    return known[0] if known else f"{module}:{name}"


def _own(kind: str) -> Factory | None:
    """The factory of an encoder that is none of ours, None for one of ours. Raises ValueError where there is none."""
    if kind in BUILT_IN:
        return None
    if kind in _REGISTERED:
        return _REGISTERED[kind]
    module, colon, name = kind.partition(":")
    known = ", ".join([*BUILT_IN, *_REGISTERED])
    require(bool(colon), f"there is no {{encoder}} {kind!r}; there are {known}, and module:Name of your own")
    found = getattr(import_named(module, f"encode observations with {name}"), name, None)
    require(callable(found), f"{{encoder}} {kind} is no class or function there, got {found!r}")
    return found


def _checked(module: Any, kind: str) -> nn.Module:
    require(
        isinstance(module, nn.Module),
        f"{{encoder}} {kind} must make an nn.Module from an observation space, got {type(module).__name__}",
    )
    return copy.deepcopy(module)  # a factory may give the same one to every agent


def _module(part: Part, kind: str) -> nn.Module | None:
    """The module that encodes a part, None for numbers."""
    images = kind if kind in BUILT_IN else "auto"
    if part.kind in ("numbers", "bytes") and isinstance(part.space, spaces.Box) and is_picture(part.space):
        return ImageEncoder(part.space, images)
    if isinstance(part.space, spaces.Text):
        return TextEncoder(part.space)
    return IndexEncoder(part.categories) if part.kind == "index" else None


def _width(module: nn.Module) -> int:
    width = module.out_size
    assert isinstance(width, int)
    return width


def _take(part: Part, floats: Tensor, bytes: Tensor | None) -> Tensor:
    if part.kind != "bytes":
        return floats[..., part.start : part.stop]
    assert bytes is not None
    return bytes[..., part.start : part.stop]


def _rows(features: Tensor, lead: torch.Size) -> Tensor:
    return features.reshape(*lead, features.shape[-1])


def _shape_of(part: Part) -> tuple[int, ...]:
    return part.space.shape if isinstance(part.space, spaces.Box) else (part.stop - part.start,)


def _as_leaf(part: Part, floats: Tensor, bytes: Tensor | None) -> Tensor:
    """A part of an obs as its space has it, leading dimensions made one, numbers from 0."""
    taken = _take(part, floats, bytes).flatten(0, -2)
    if isinstance(part.space, (spaces.Text, spaces.MultiBinary)) or part.kind == "index":
        taken = taken.long()
    elif part.kind == "one-hot":
        counts = choices(part.space).flatten().tolist()
        taken = torch.stack([column.argmax(-1) for column in taken.split(counts, dim=-1)], dim=-1)
    if isinstance(part.space, spaces.Discrete):
        return taken.squeeze(-1)
    return taken.reshape(-1, *(part.space.shape if part.space.shape else taken.shape[1:]))


def _nested(space: gymnasium.Space, leaf: Callable[[], Tensor]) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _nested(part, leaf) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nested(part, leaf) for part in space.spaces)
    return leaf()


def _leaves(space: gymnasium.Space, obs: Any) -> Iterable[Tensor]:
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            yield from _leaves(part, obs[name])
    elif isinstance(space, spaces.Tuple):
        for part, inner in zip(space.spaces, obs, strict=True):
            yield from _leaves(part, inner)
    else:
        yield obs


def _is_binary(part: Part) -> bool:
    return isinstance(part.space, spaces.MultiBinary)


def _is_wide(part: Part) -> bool:
    if not isinstance(part.space, spaces.Box):
        return False
    bound = max(abs(float(part.space.low.min(initial=0))), abs(float(part.space.high.max(initial=0))))
    return not math.isfinite(bound) or not is_usual(bound)
