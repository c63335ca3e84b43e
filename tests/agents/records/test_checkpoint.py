from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import textwrap

import pytest
import torch

from mru_rl.agents.records.checkpoint import (
    CheckpointError,
    checkpoint_path,
    keep_newest,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)

CONTENT = {"tensor": torch.arange(5.0), "steps": 7, "nested": {"list": [1, 2.5, None], "flag": True}}


def test_what_is_saved_is_what_is_loaded(tmp_path):
    path = tmp_path / "step_1.pt"
    save_checkpoint(path, CONTENT)
    found = load_checkpoint(path)
    assert torch.equal(found.pop("tensor"), CONTENT["tensor"])
    assert found == {k: v for k, v in CONTENT.items() if k != "tensor"}


def test_a_file_is_its_header_and_what_torch_saves(tmp_path):
    path, plain = tmp_path / "step_1.pt", io.BytesIO()
    save_checkpoint(path, CONTENT)
    torch.save(CONTENT, plain)
    header = b"mru_rl checkpoint 1 " + hashlib.sha256(plain.getvalue()).hexdigest().encode() + b"\n"
    assert path.read_bytes() == header + plain.getvalue()


def test_a_large_checkpoint_is_written_and_read_without_a_copy_of_the_file(tmp_path):
    code = """
        import resource, sys, torch
        from pathlib import Path
        from mru_rl.agents.records.checkpoint import load_checkpoint, save_checkpoint
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        path, big = Path(sys.argv[1]), torch.ones(1 << 25)  # 128 MiB
        save_checkpoint(path, {"small": torch.ones(2)})
        load_checkpoint(path)
        before = peak()
        save_checkpoint(path, {"big": big})
        assert peak() - before < big.nbytes / 4, "saving"
        assert torch.equal(load_checkpoint(path)["big"][:3], big[:3])
        assert peak() - before < big.nbytes * 1.25, "loading"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "step_1.pt")], check=True)


@pytest.mark.parametrize("keep", [0, 10, 60, 200, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "step_1.pt"
    save_checkpoint(path, CONTENT)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "step_1.pt"
    save_checkpoint(path, CONTENT)
    raw = bytearray(path.read_bytes())
    raw[-300] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(path)


def test_a_foreign_file_and_another_format_are_named(tmp_path):
    path = tmp_path / "step_1.pt"
    torch.save(CONTENT, path)
    with pytest.raises(CheckpointError, match="not a file of mru_rl"):
        load_checkpoint(path)
    save_checkpoint(path, CONTENT)
    path.write_bytes(path.read_bytes().replace(b"checkpoint 1 ", b"checkpoint 9 ", 1))
    with pytest.raises(CheckpointError, match="format 9.*format 1"):
        load_checkpoint(path)


class _Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "step_1.pt"
    save_checkpoint(path, {"payload": _Payload()})  # a valid checksum does not make it trusted
    with pytest.raises(CheckpointError, match="could run code"):
        load_checkpoint(path)


def test_the_newest_intact_checkpoint_is_used_and_a_damaged_one_is_named(tmp_path):
    for steps in (10, 20):
        save_checkpoint(checkpoint_path(tmp_path, steps), {"steps": steps})
    checkpoint_path(tmp_path, 20).write_bytes(b"mru_rl checkpoint 1 half a fi")
    said = []
    path, content = newest_checkpoint(tmp_path, said.append)
    assert content == {"steps": 10}
    assert path == checkpoint_path(tmp_path, 10)
    assert "step_000000000020.pt" in said[0]


def test_old_checkpoints_and_leftovers_of_killed_writes_are_deleted(tmp_path):
    for steps in (5, 100, 20):
        save_checkpoint(checkpoint_path(tmp_path, steps), {})
    (tmp_path / ".step_000000000030.pt.123.tmp").write_bytes(b"half")
    keep_newest(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, 100), checkpoint_path(tmp_path, 20)]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "step_1.pt"
    save_checkpoint(path, {"steps": 1})
    monkeypatch.setattr(
        "mru_rl.agents.records.checkpoint.os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"steps": 2})
    assert load_checkpoint(path) == {"steps": 1}
    assert list(tmp_path.iterdir()) == [path]
