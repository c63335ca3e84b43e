"""Streams that nobody reads, and streams without a file, as a notebook and pytest put in place of the process's own."""

from __future__ import annotations

import io
import os
import sys

import pytest

from mru_rl.agents.console.streams import silence, tell, tell_error, unread, warn


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_silenced_stream_takes_everything_and_passes_nothing_on():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        count = open_descriptors()
        silence(stream)
        assert open_descriptors() == count
        print("unheard", file=stream, flush=True)
    with os.fdopen(reader) as end:
        assert end.read() == ""


def test_a_pipe_is_unread_once_its_reader_is_gone():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        assert not unread(stream)
        os.close(reader)
        assert unread(stream)
        silence(stream)


def test_a_stream_without_a_file_is_left_as_it_is(capsys):
    for stream in (sys.stderr, io.StringIO(), None):
        silence(stream)
        assert not unread(stream)
    warn("it went on")
    assert capsys.readouterr().err == "mru-rl: warning: it went on\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_cannot_be_printed_ends_nothing(name, monkeypatch):
    tried = []

    class Gone(io.StringIO):
        def write(self, text):
            tried.append(text)
            raise BrokenPipeError

    for stream in (Gone(), None):
        monkeypatch.setattr(sys, name, stream)
        tell("hello") if name == "stdout" else tell_error("hello")
    assert "hello" in tried[0]


def test_without_a_stderr_nothing_goes_to_stdout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    warn("to nobody")
    assert capsys.readouterr().out == ""
