"""Checkpoint files: whole or absent, checked on reading, and never able to run code."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mru_rl.agents.console.errors import OptionError
from mru_rl.agents.console.streams import warn

FORMAT = 1
_MAGIC = b"mru_rl checkpoint "
_DIGITS = 12
_PART = 1 << 20


class CheckpointError(OptionError):
    """A file that is no intact checkpoint of this library and version."""


class FormatError(CheckpointError):
    """An intact file of another version of this library."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment the old content or the new one is there: temporary file, fsync, rename.

    Raises OSError naming the file where it cannot be written, as on a full disk; what was there before still is.
    """
    with _replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of the one at the path at the end, as write_atomically says."""
    if path.exists() and not path.is_file():  # the rename would put a file in the place of a device
        raise FileExistsError(errno.EEXIST, "is there and no regular file; name another", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error  # a write alone names no file
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them: one header line with format and SHA-256, then torch.save."""
    with _replacing(path) as file:
        file.write(_header(hashlib.sha256()))  # as long as the one that is known at the end
        body = _Body(file)
        torch.save(content, body)  # type: ignore[arg-type]  # write and flush are all it asks for
        if body.error is not None:
            raise body.error
        file.seek(0)
        file.write(_header(body.digest))


class _Body:
    """Passes on what is written to a file, and hashes it, so that it is nowhere as a whole.

    An error of the file is kept in `error`, and nothing is written after it: raised through torch.save it would be hidden by
    torch's own about an archive without an end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, content: memoryview) -> int:
        if self.error is None:
            try:
                self.file.write(content)
                self.digest.update(content)
            except OSError as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        """The file is flushed when it is whole."""


def _header(digest: Any) -> bytes:
    return _MAGIC + f"{FORMAT} {digest.hexdigest()}\n".encode()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what save_checkpoint wrote, to the CPU.

    Raises CheckpointError for a foreign, truncated or damaged file and for one that holds anything but tensors, numbers,
    strings and containers of them, FormatError for another format. Nothing in a file is run.
    """
    with path.open("rb") as file:
        header = file.readline(200).removesuffix(b"\n")
        if not header.startswith(_MAGIC):
            raise CheckpointError(f"{path} is not a file of mru_rl's: it does not begin with its header")
        version, _, digest = header[len(_MAGIC) :].decode(errors="replace").partition(" ")
        if version != str(FORMAT):
            raise FormatError(
                f"{path} has checkpoint format {version}, this version of mru_rl reads format {FORMAT}; "
                "go on with the version that wrote it"
            )
        body = file.tell()
        found = hashlib.sha256()
        while part := file.read(_PART):
            found.update(part)
        if found.hexdigest() != digest:
            raise CheckpointError(f"{path} is damaged or cut short: its content does not match its checksum")
        file.seek(body)
        return _read_archive(path, file)


def _read_archive(path: Path, file: BinaryIO) -> dict[str, Any]:
    """What torch.save wrote to the file from where it stands. Raises CheckpointError where that is more than data."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a forged archive can make the unpickler raise anything
        raise CheckpointError(
            f"{path} is refused: its checksum is right, but it is no archive of tensors, numbers, strings and containers of "
            "them alone; anything more could run code, and mru_rl never writes it: find out who did"
        ) from error


def checkpoint_path(directory: Path, steps: int) -> Path:
    """Where the checkpoint taken after so many env steps lies."""
    return directory / f"step_{steps:0{_DIGITS}d}.pt"


def steps_of(path: Path) -> int:
    """The env steps after which a checkpoint was taken, from its name."""
    return int(path.stem.removeprefix("step_"))


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints in a directory, newest first."""
    return sorted((p for p in directory.glob("step_*.pt") if re.fullmatch(r"step_\d+\.pt", p.name)), reverse=True)


def newest_checkpoint(directory: Path, say: Callable[[str], None] | None = None) -> tuple[Path, dict[str, Any]]:
    """The newest intact checkpoint and its content; a damaged newer one is passed over, and said so on stderr.

    A file that cannot be read counts as damaged, one of another format does not. Raises CheckpointError where there is
    no intact one, and FormatError where the newest intact one is of another version.
    """
    found = list_checkpoints(directory)
    if not found:
        raise CheckpointError(f"{directory} holds no checkpoint; train the run first, or name another run directory")
    problems = []
    for path in found:
        try:
            content = load_checkpoint(path)
        except FormatError:
            raise  # older ones of this version would undo what another version trained
        except (CheckpointError, OSError) as error:
            problems.append(str(error))
            continue
        for problem in problems:
            (say or warn)(f"{problem}; using {path.name}, the newest intact one")
        return path, content
    raise CheckpointError(problems[0])


def keep_newest(directory: Path, count: int, *, last: Path | None = None) -> None:
    """Delete all but the newest checkpoints, and leftovers of writes that were killed.

    last: the checkpoint just written; those of more steps were passed over as damaged when the run was resumed, and go.
    """
    found = list_checkpoints(directory)
    kept = [path for path in found if last is None or path.name <= last.name][:count]
    for path in found:
        if path not in kept:
            path.unlink(missing_ok=True)
    delete_leftovers(directory)


def delete_leftovers(directory: Path) -> None:
    """Delete what writes that were killed have left in a directory."""
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)
