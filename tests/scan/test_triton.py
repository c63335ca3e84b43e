"""Runs triton_suite.py where it can run, and compiles the kernels for GPUs that need not be here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mru_rl
from mru_rl.scan import dispatch

SUITE = Path(__file__).with_name("triton_suite.py")
ONES = ["B", "T", "H", "length", "chunks", "a_row", "a_step", "b_row", "b_step", "grad_row", "grad_step"]


def test_the_kernels_pass_their_suite():
    triton = pytest.importorskip("triton", reason="the Triton backend needs triton")
    if not torch.cuda.is_available() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
        pytest.skip("interpreters older than Triton 3.9 do not run with NumPy 2.4 or lack what the kernels use")
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(SUITE)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, f"{run.stdout[-8000:]}\n{run.stderr[-2000:]}"


@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
def test_the_kernels_compile_for_gpus(kernel, monkeypatch, tmp_path):
    """Down to machine code, which the interpreter says nothing about; without spilling to memory is for a GPU to show."""
    triton = pytest.importorskip("triton", reason="the Triton backend needs triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mru_rl.scan import triton_kernels

    if triton_kernels.INTERPRETED:
        pytest.skip("this process interprets Triton kernels")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fn = getattr(triton_kernels, kernel)
    names = fn.arg_names
    low = {"a", "b", "h", "grad", "grad_a", "grad_b"}
    wide = {"h0", "h_last", "grad_last", "grad_h0", "starts", "ends", "products", "restart", "grad_restart"}
    variants = [  # phase, architecture, dtype, complex, what is absent, arguments that are 1 and so are constants
        (1, 90, "fp32", False, (), ()),
        (2, 80, "bf16", False, (), ()),
        (3, 90, "bf16", False, ("restart", "grad_restart"), ()),
        (2, 90, "fp32", True, ("grad",), ()),
        (3, 90, "fp32", False, ("restart", "grad_restart", "grad"), ONES),
        (1, 80, "fp32", True, ("restart", "grad_restart"), ONES),
        (2, 80, "fp32", False, ("restart", "grad_restart", "grad"), ONES),
    ]
    for phase, architecture, dtype, is_complex, absent, ones in variants:
        constants = {"PHASE": phase, "RESTART": "restart" not in absent, "GRAD": "grad" not in absent}
        constants |= {"COMPLEX": is_complex, "WIDE": triton.language.float32, "SIZE": 64, "GROUP": 4}
        constants |= dict.fromkeys(absent) | dict.fromkeys(ones, 1)
        constants = {name: value for name, value in constants.items() if name in names}
        kinds = dict.fromkeys(low, f"*{dtype}") | dict.fromkeys(wide, "*fp32") | {"is_init": "*u8", "cuts": "*i8"}
        signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
        source = ASTSource(fn, signature, {(names.index(name),): value for name, value in constants.items()})
        options = {"num_warps": 1, "enable_fp_fusion": True}
        made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
        assert made.asm["cubin"]


def test_triton_asked_for_where_there_is_none_says_what_to_do():
    x, none = torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool)
    if dispatch._INTERPRETED:
        pytest.skip("this process interprets Triton kernels")
    with pytest.raises(RuntimeError, match=r"scan backend 'triton' .*backend='auto'"):
        mru_rl.linear_scan(x, x, x[:, 0], none, backend="triton")
    assert dispatch.list_backends("cpu") == ["chunked", "reference"]
    assert dispatch.list_backends() == ["chunked", "reference", "triton"]
