"""A trained core as an ONNX file: one time step, state in and state out, for programs without torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from mru_rl.blocks.core import MemoryCore


class _Step(nn.Module):
    """core.step as a module of its own, since an export calls `forward`."""

    def __init__(self, core: MemoryCore) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        return self.core.step(x, state, is_init)


def export_step(core: MemoryCore, path: str | Path) -> None:
    """Write core.step to an ONNX file; the batch size stays open.

    Inputs x float [B, input_size], state float [B, layers, S], is_init bool [B]; outputs y float [B, hidden_size] and
    next_state, as `core.step`. States of a BMRU are the same bits as torch's. Needs the packages onnx and onnxscript.
    Raises ModuleNotFoundError if they are absent, ValueError if a cell has complex numbers, which ONNX does not know,
    TypeError if core is not a core or path not a path, FileNotFoundError if the folder does not exist.
    """
    if not isinstance(core, MemoryCore) or not isinstance(path, str | Path):
        raise TypeError(
            "export_step takes a MemoryCore and a file's path, got "
            f"{type(core).__name__} and {type(path).__name__}; make_core makes a core"
        )
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(Path(path).parent)!r} to write {path} into; make it first")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it, such as {Path(path) / 'step.onnx'}")
    core.require_exportable()
    parameter = core.encoder.weight
    x = torch.zeros(2, core.input_size, dtype=parameter.dtype, device=parameter.device)
    is_init = torch.zeros(2, dtype=torch.bool, device=parameter.device)
    batch = torch.export.Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; nothing a caller could mend
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            _Step(core).eval(),
            (x, core.initial_state(2), is_init),
            str(path),
            input_names=["x", "state", "is_init"],
            output_names=["y", "next_state"],
            dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
            dynamo=True,
            verbose=False,
        )
