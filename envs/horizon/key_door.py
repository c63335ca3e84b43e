"""KeyDoor: among many things of all colors one is a key, and the door at the end asks for its color."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.horizon.options import check_flag, check_number
from mru_rl.envs.horizon.pixels import key_door_pictures
from mru_rl.envs.horizon.scripted import Lead, Scene, ScriptedEnv


class KeyDoor(ScriptedEnv):
    """Walk a corridor past things of all colors; the door at its end opens to the color of the one key among them.

    obs         float32 [B, colors + 3]: color of the thing on show, one-hot, 0 where there is none; 1 for a thing
                that is no key; 1 for the key; 1 at the door. With pixels uint8 [B, 1728], a picture 3 x 24 x 24 of the
                same: a corridor and in it a ball, a key or a door
    action      int64 [B], a color; counts at the door only
    reward      at the door +1 for the color of the key, -1 for another; 0 before
    horizon     length + 1 steps, then terminated; never truncated. The door is at step `length`; `final_obs` is blank
    reset       color of the key uniform; it lies at a step uniform in the first half of the corridor, from 0 to
                (length + 1) // 2 - 1. At every other step there is a thing with probability `things`, of any color
    options     length (>= 1, default 100), colors (>= 2, default 4; colours is the same), things (0 to 1, default 0.5),
                pixels (True or False, default False; at most 64 colors)
    markov      int64 [B, 2]: color of the key; 1 at the door
    baselines   perfect 1. Without memory 2 / colors - 1. Success is a return of at least 0.5, that is: the right color
    source      this project, after the key-to-door tasks of Hung et al. 2019, arXiv:1810.06721, known from others'
                accounts: what is kept here is the key, its door and the distractors. State per env is O(1) in length
    """

    success_return = 0.5
    key: Tensor
    key_at: Tensor
    thing: Tensor
    color: Tensor

    def __init__(
        self,
        *,
        length: int = 100,
        colors: int = 4,
        things: float = 0.5,
        colours: int | None = None,
        pixels: bool = False,
        **common: Any,
    ) -> None:
        self.length = check_count(length, name="KeyDoor's option length", least=1)
        colors = colors if colours is None else colours  # the older name
        self.colors = check_count(colors, name="KeyDoor's option colors", least=2)
        self.things = check_number(
            things, name="KeyDoor's option things", least=0, most=1, hint="it is a chance per step, 0 for none"
        )
        super().__init__(
            observation_space=Box(0, 1, (self.colors + 3,)),
            action_space=Discrete(self.colors),
            options={"length": self.length, "colors": self.colors, "things": self.things},
            **common,
        )
        self.markov_space = MultiDiscrete([self.colors, 2])
        self.horizon = self.length + 1
        self.set_pay(1.0, -1.0)
        self.perfect_return, self.memoryless_return = 1.0, 2 / self.colors - 1
        self.palette = torch.arange(self.colors, device=self.device)
        self.register_state("key", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("key_at", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_moving("thing", torch.zeros(self.num_envs, dtype=torch.bool, device=self.device))
        self.register_moving("color", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        if check_flag(pixels, name="KeyDoor's option pixels"):
            self.show_pictures(key_door_pictures(self.colors, self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        for name, count in (("key", self.colors), ("key_at", (self.length + 1) // 2)):
            self._state[name][rows] = torch.randint(count, (len(rows),), generator=self.generator, device=self.device)
        for name, value in self._next(self._uniform_rows(len(rows), 2)).items():
            self._state[name][rows] = value
        self.position[rows] = 0

    def _ahead(self, lead: Lead) -> Scene:
        return {"position": self._positions(lead)} | self._next(self._uniform(lead, 2))

    def _next(self, unit: Tensor) -> Scene:
        return {"thing": unit[..., 0] < self.things, "color": (unit[..., 1] * self.colors).long()}

    def _frames(self, scene: Scene) -> Tensor:
        key = scene["position"] == self.key_at
        thing = scene["thing"] & ~key & (scene["position"] < self.length)
        color = torch.where(key, self.key, scene["color"]).unsqueeze(-1) == self.palette
        marks = torch.stack((thing, key, self._asked(scene)), dim=-1)
        return torch.cat((color & (key | thing).unsqueeze(-1), marks), dim=-1).float()

    def _hidden(self, scene: Scene) -> Tensor:
        return torch.stack((self._answers(scene), self._asked(scene)), dim=-1)

    def _answers(self, scene: Scene) -> Tensor:
        return self.key.expand_as(scene["position"])

    def _asked(self, scene: Scene) -> Tensor:
        return scene["position"] == self.length
