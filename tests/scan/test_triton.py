"""Runs triton_suite.py where it can run, and compiles the kernels for GPUs that need not be here."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mru_rl
from mru_rl.scan import dispatch

HERE = Path(__file__).parent
SUITES = [
    HERE / "triton_suite.py",
    HERE / "triton_chain_suite.py",
    HERE.parent / "cells" / "mru" / "triton_hold_suite.py",
]
ONES = ["B", "T", "H", "a_row", "a_step", "b_row", "b_step", "u_row", "u_step", "grad_row", "grad_step"]
COLUMNS = ["a_col", "b_col", "u_col", "beta_col", "grad_col", "restart_col", "is_init_step"]


def run_suites(*options: str) -> None:
    triton = pytest.importorskip("triton", reason="the Triton backend needs triton")
    if not torch.cuda.is_available() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
        pytest.skip("interpreters older than Triton 3.9 do not run with NumPy 2.4 or lack what the kernels use")
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *map(str, SUITES)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert run.returncode == 0, f"{run.stdout[-8000:]}\n{run.stderr[-2000:]}"


def test_the_kernels_pass_their_suites():
    run_suites()


@pytest.mark.slow
def test_the_kernels_pass_what_is_slow_in_their_suites():
    run_suites("-m", "slow")


# architecture, dtype, complex, what is absent, arguments that are 1 and so are constants, group, rows
SMALL = [
    (80, "bf16", False, (), (), 4, 0),
    (90, "fp32", False, ("restart", "grad_restart", "grad"), ONES, 4, 0),
    (90, "fp32", False, ("grad",), (), 2, 2),
    (80, "bf16", False, ("restart", "grad_restart"), ("B",), 2, 1),
]
AS_PLANNED = [
    *((architecture, dtype, False, ("restart", "grad_restart"), COLUMNS, group, rows)
      for architecture in (80, 90) for dtype in ("fp32", "bf16") for group, rows in ((8, 0), (16, 8))),
    (90, "fp32", False, (), COLUMNS, 16, 8),
    (90, "fp32", True, ("restart", "grad_restart"), (), 8, 0),
    (90, "fp32", True, ("restart", "grad_restart"), (), 8, 8),
]  # fmt: skip


@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
@pytest.mark.parametrize("module", ["triton_kernels", "triton_hold"])
def test_the_kernels_compile_for_gpus(module, kernel, monkeypatch, tmp_path):
    """Down to machine code, which the interpreter says nothing about."""
    for variant in SMALL:
        made = compile_kernel(module, kernel, variant, monkeypatch, tmp_path)
        assert made.asm["cubin"]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
@pytest.mark.parametrize("module", ["triton_kernels", "triton_hold"])
def test_the_kernels_as_planned_keep_what_they_read_in_registers(module, kernel, monkeypatch, tmp_path):
    """`python -m pytest -m slow -rP -k registers` prints how many; a few spilled bytes are no harm, a chunk would be."""
    for variant in AS_PLANNED:
        architecture, dtype, is_complex, absent, _, group, rows = variant
        if is_complex and module == "triton_hold":
            continue
        if kernel == "_backward" and (module == "triton_hold" or not rows):
            variant = (*variant[:5], group // 2, rows)  # as the kernels' callers do
        made = compile_kernel(module, kernel, variant, monkeypatch, tmp_path)
        (tmp_path / "kernel.cubin").write_bytes(made.asm["cubin"])
        cuobjdump = Path(importlib.util.find_spec("triton").origin).parent / "backends/nvidia/bin/cuobjdump"
        command = [str(cuobjdump), "-res-usage", str(tmp_path / "kernel.cubin")]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        used = {name: int(n) for name, n in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
        print(module, kernel, f"sm_{architecture}", dtype, "complex" if is_complex else "", f"{rows} rows of {variant[5]}",
              "" if "restart" in absent else "with restart", used)  # fmt: skip
        assert used["REG"] * max(rows, 1) * 32 <= 65536, "a program fits on a multiprocessor"
        assert used["STACK"] <= 64


def compile_kernel(module, kernel, variant, monkeypatch, tmp_path):
    pytest.importorskip("triton", reason="the Triton backend needs triton")
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from mru_rl.scan import triton_kernels

    if triton_kernels.INTERPRETED:
        pytest.skip("this process interprets Triton kernels")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    architecture, dtype, is_complex, absent, ones, group, rows = variant
    fn = getattr(importlib.import_module(f"mru_rl.scan.{module}"), kernel)
    names = fn.arg_names
    low = {"a", "b", "h", "grad", "grad_a", "grad_b", "u", "beta", "level", "grad_u", "grad_beta"}
    scratch = {"products", "ends", "states"}
    wide = {"h0", "h_last", "grad_last", "grad_h0", "grad_level", "restart", "grad_restart", *scratch}
    warps = max(rows, 1)
    constants = {"RESTART": "restart" not in absent, "GRAD": "grad" not in absent, "COMPLEX": is_complex}
    constants |= {"WIDE": tl.float32, "ROWS": rows, "SIZE": 32, "GROUP": group, "WARPS": warps}
    constants |= {"SLOPE": 4.0, "SIGN_SLOPE": 1.0, "SURROGATE": "tanh"} | dict.fromkeys(ones, 1)
    constants |= dict.fromkeys([*absent, *([] if rows else [*scratch, "control"])])
    constants = {name: value for name, value in constants.items() if name in names}
    kinds = dict.fromkeys(low, f"*{dtype}") | dict.fromkeys(wide, "*fp32") | {"is_init": "*u8", "control": "*i32"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
    pointers = [name for name, kind in signature.items() if kind[0] == "*"]
    steps = [name for name, kind in signature.items() if kind == "i32" and name.endswith(("_row", "_step"))]
    source = ASTSource(
        fn,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in pointers + steps if "is_init_" not in name},
    )
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def test_triton_asked_for_where_there_is_none_says_what_to_do():
    x, none = torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool)
    if dispatch._INTERPRETED:
        pytest.skip("this process interprets Triton kernels")
    with pytest.raises(RuntimeError, match=r"scan backend 'triton' .*backend='auto'"):
        mru_rl.linear_scan(x, x, x[:, 0], none, backend="triton")
    assert dispatch.list_backends("cpu") == ["chunked", "reference"]
    assert dispatch.list_backends() == ["chunked", "reference", "triton"]
