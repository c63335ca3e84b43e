"""Progress in a terminal, in a notebook, on a plain stream and in a thread; amounts beyond the total."""

from __future__ import annotations

import io
import re
import sys
import threading
import types

import pytest

from mru_rl.agents.console import progress as module
from mru_rl.agents.console.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock of the test's own: clock.now is what time.monotonic() returns."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


class Kernel:
    """Stands for IPython running a kernel: remembers what each displayed output shows now, and how often it was written."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []
        self.writes = 0
        self.shell = types.SimpleNamespace(kernel=object())

    def display(self, content, *, raw, display_id):
        assert raw
        assert display_id is True
        self.outputs.append(content)
        self.writes += 1
        return types.SimpleNamespace(update=lambda content, raw: self.update(len(self.outputs) - 1, content))

    def update(self, number: int, content: dict[str, str]) -> None:
        self.outputs[number] = content
        self.writes += 1


@pytest.fixture
def kernel(monkeypatch) -> Kernel:
    kernel = Kernel()
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: kernel.shell
    ipython.display = display
    display.display = kernel.display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # not installed
    return kernel


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return stream


def test_a_line_tells_the_share_done_and_the_time_left(clock, capsys):
    with Progress("working", 1000, every=10) as progress:
        progress.show(0)
        clock.now += 20
        progress.show(250, "return 0.500")
    assert capsys.readouterr().err == "working   25%  250 of 1,000 steps  return 0.500  1:00 min left\n"


def test_lines_come_every_so_many_seconds_and_at_the_end(clock, capsys):
    with Progress("working", 100, every=10) as progress:
        for done in range(101):
            progress.show(done)
            clock.now += 1
    err = capsys.readouterr().err
    assert [int(share) for share in re.findall(r"(\d+)%", err)] == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]


def test_more_than_the_total_is_an_amount_without_a_share_and_no_line_for_every_report(clock, capsys):
    with Progress("evaluating", 1000, "steps a row", every=10) as progress:
        for done in range(0, 40_001, 1000):  # an env that never ends
            progress.show(done, "0 of 64 episodes")
            clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert "100%  1,000 of 1,000 steps a row" in lines[0]
    assert lines[1:] == [
        f"evaluating  {done:,} steps a row  0 of 64 episodes  {seconds} s so far"
        for done, seconds in ((11_000, 11), (21_000, 21), (31_000, 31))
    ]


def test_a_notebook_shows_one_line_that_changes_and_keeps_the_last(kernel, clock, capsys):
    with Progress("working", 1000) as progress:
        for done in range(0, 1001, 10):
            progress.show(done)
            clock.now += 0.01
    assert [output["text/plain"] for output in kernel.outputs] == ["working  100%  1,000 of 1,000 steps    0 s left"]
    assert kernel.writes <= 6, "four a second, and the last"
    assert capsys.readouterr() == ("", "")


def test_each_progress_in_a_notebook_has_a_line_of_its_own(kernel):
    for label in ("first", "second"):
        with Progress(label, 10) as progress:
            progress.show(3)
    assert [output["text/plain"].split()[0] for output in kernel.outputs] == ["first", "second"]


def test_nothing_reported_is_nothing_shown_in_a_notebook(kernel):
    with Progress("working", 10):
        pass
    assert kernel.outputs == []


def test_ipython_in_a_terminal_is_no_notebook(kernel, capsys):
    kernel.shell = types.SimpleNamespace()  # no kernel
    with Progress("working", 10) as progress:
        progress.show(10)
    assert kernel.outputs == []
    assert "100%  10 of 10 steps" in capsys.readouterr().err


def test_a_terminal_shows_a_line_and_takes_it_away(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)  # here: pytest puts its own there before a test begins
    with Progress("working", 1000) as progress:
        progress.show(250)
        print("said meanwhile")
    shown = terminal.getvalue()
    assert "working   25%  250 of 1,000 steps" in shown
    assert shown.endswith("\x1b[2K"), "the line is erased"
    assert sys.stderr is terminal


def test_a_stream_without_a_file_and_one_that_fails_stop_no_work(monkeypatch):
    tried = []

    class Gone(io.StringIO):
        def write(self, text):
            tried.append(text)
            raise BrokenPipeError

    whole = io.StringIO()
    for stream in (whole, Gone(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress("working", 10) as progress:
            progress.show(10)
    assert "10 of 10 steps" in whole.getvalue()
    assert "10 of 10 steps" in tried[0]


@pytest.mark.parametrize("where", ["plain", "terminal", "kernel"])
def test_it_works_in_threads_side_by_side_and_leaves_the_streams_as_they_were(where, request, capsys):
    if where != "plain":
        request.getfixturevalue(where)
    before = sys.stdout, sys.stderr
    failures = []
    both_run, first_ended = threading.Barrier(2, timeout=60), threading.Event()

    def work(label: str) -> None:
        try:
            with Progress(label, 10) as progress:
                both_run.wait()
                progress.show(10)
                if label == "second":
                    first_ended.wait(60)
        except Exception as error:
            failures.append(error)
        first_ended.set()

    threads = [threading.Thread(target=work, args=(label,)) for label in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (sys.stdout, sys.stderr) == before
    if where == "plain":
        assert sorted(line.split()[0] for line in capsys.readouterr().err.splitlines()) == ["first", "second"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3:05 min"), (7800, "2:10:00 h"), (-3, "0 s")]
)
def test_durations_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said
