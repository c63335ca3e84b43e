"""Whatever happens to the bytes of a checkpoint, it is read as it was or refused in words."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mru_rl.agents import training
from mru_rl.agents.cli.main import main
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.records.checkpoint import (
    CheckpointError,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)

QUICK = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=3000)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    config = PPOConfig(
        steps=256,
        num_envs=2,
        segment=32,
        minibatches=1,
        epochs=1,
        hidden_size=4,
        run_dir=path,
        tensorboard=False,
        core="bmru",
        checkpoint_seconds=0.0,
    )
    run, trainer = training.start(config)
    training.run_to_end(run, trainer)
    return path


class Raw(bytes):
    """Bytes that hypothesis does not print in full."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


@pytest.fixture(scope="module")
def raw(run_path) -> bytes:
    return Raw(list_checkpoints(run_path / "checkpoints")[0].read_bytes())


def read(raw: bytes, folder: Path):
    path = folder / f"step_{os.getpid()}.pt"
    path.write_bytes(raw)
    return load_checkpoint(path)


def check_truncated(raw: bytes, folder: Path, share: float) -> None:
    with pytest.raises(CheckpointError, match=str(folder)):
        read(raw[: int(share * (len(raw) - 1))], folder)


def check_flipped(raw: bytes, folder: Path, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(raw)
    for place, mask in flips:
        damaged[int(place * (len(raw) - 1))] ^= mask
    if bytes(damaged) == raw:
        return
    with pytest.raises(CheckpointError, match=str(folder)):
        read(bytes(damaged), folder)


def check_forged(raw: bytes, folder: Path, flips: list[tuple[float, int]]) -> None:
    """Damage under a checksum that was made to fit: it loads, since numbers may differ, or it is refused; nothing else."""
    body = bytearray(raw[raw.index(b"\n") + 1 :])
    for place, mask in flips:
        body[int(place * (len(body) - 1))] ^= mask
    header = raw[: raw.index(b"\n")].rpartition(b" ")[0] + b" " + hashlib.sha256(body).hexdigest().encode() + b"\n"
    with contextlib.suppress(CheckpointError):
        read(header + bytes(body), folder)


FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=6)
SHARE = st.floats(0, 1, exclude_max=True)


@QUICK
@given(share=SHARE)
def test_a_truncated_file_is_refused_wherever_it_was_cut(raw, tmp_path_factory, share):
    check_truncated(raw, tmp_path_factory.getbasetemp(), share)


@QUICK
@given(flips=FLIPS)
def test_flipped_bytes_are_noticed_wherever_they_lie(raw, tmp_path_factory, flips):
    check_flipped(raw, tmp_path_factory.getbasetemp(), flips)


@QUICK
@given(flips=FLIPS)
def test_damage_under_a_forged_checksum_loads_or_is_refused(raw, tmp_path_factory, flips):
    check_forged(raw, tmp_path_factory.getbasetemp(), flips)


@QUICK
@given(content=st.binary(max_size=400))
def test_any_bytes_at_all_are_refused(tmp_path_factory, content):
    with pytest.raises(CheckpointError):
        read(content, tmp_path_factory.getbasetemp())


@pytest.mark.slow
@LONG
@given(share=SHARE, flips=FLIPS, forged=FLIPS)
def test_thousands_of_damaged_files(raw, tmp_path_factory, share, flips, forged):
    folder = tmp_path_factory.getbasetemp()
    check_truncated(raw, folder, share)
    check_flipped(raw, folder, flips)
    check_forged(raw, folder, forged)


@settings(QUICK, max_examples=8)
@given(flips=FLIPS)
def test_a_damaged_newest_file_is_passed_over(raw, tmp_path_factory, flips):
    folder = tmp_path_factory.mktemp("checkpoints")
    older = checkpoint_path(folder, 1)
    save_checkpoint(older, {"tensor": torch.ones(2)})
    damaged = bytearray(raw)
    for place, mask in flips:
        damaged[int(place * (len(raw) - 1))] ^= mask
    checkpoint_path(folder, 2).write_bytes(bytes(damaged) if bytes(damaged) != raw else raw[:-1])
    said: list[str] = []
    assert newest_checkpoint(folder, said.append)[0] == older
    assert "step_000000000002.pt" in said[0]


def test_a_run_of_damaged_checkpoints_is_one_line(run_path, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(run_path, path)
    for checkpoint in list_checkpoints(path / "checkpoints"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    for command in ("eval", "resume", "inspect"):
        with pytest.raises(SystemExit) as stop:
            main([command, str(path)])
        said = capsys.readouterr().err
        assert stop.value.code == 2
        assert said.startswith("mru-rl: error: ")
        assert said.count("\n") == 1
