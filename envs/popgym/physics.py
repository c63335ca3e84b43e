"""Trigonometry for the ports of physics: what numpy gives, to the last bit.

A pole in balance multiplies any difference by about e^47 in 600 steps: sines that differ in the last place only, as
torch's and numpy's do once in a thousand angles, make another episode of the same actions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sin(angle: Tensor) -> Tensor:
    """Return the sine as a new tensor; numpy's on a CPU."""
    return torch.from_numpy(np.sin(angle.numpy())) if angle.device.type == "cpu" else angle.sin()


def cos(angle: Tensor) -> Tensor:
    """Return the cosine as a new tensor; numpy's on a CPU."""
    return torch.from_numpy(np.cos(angle.numpy())) if angle.device.type == "cpu" else angle.cos()
