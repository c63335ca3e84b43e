"""Nobody listening, odd options, signals that come together: a run goes on, or says in one line what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mru_rl.agents.cli.main import main
from mru_rl.agents.console import signals
from mru_rl.agents.records.checkpoint import list_checkpoints, load_checkpoint, write_atomically

_TRAIN = """
    train ppo --env mru_rl/TMaze-v0 --env-kwargs length=5 --num-envs 4 --hidden-size 4 --steps 2000 --no-tensorboard
"""
TRAIN = _TRAIN.split()
SCRIPT = "import sys; from mru_rl.agents import training_loop; from mru_rl.agents.cli import main as cli; training_loop._LOG_SECONDS = 0; cli.main(sys.argv[1:])"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("how", ["closed", "no reader"])
def test_a_run_that_nobody_listens_to_trains_to_its_end(tmp_path, stream, how):
    def close() -> None:
        os.close(1 if stream == "stdout" else 2)

    unread, written = os.pipe()
    os.close(unread)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *TRAIN, "--run-dir", tmp_path / "run"],
        **({stream: written} if how == "no reader" else {"preexec_fn": close}),
        check=False,
    )
    os.close(written)
    assert done.returncode == 0
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[0].name == "step_000000002040.pt"
    assert (tmp_path / "run" / "learning_curve.png").is_file()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_gives_its_status_where_the_reader_of_stderr_ended_with_it_too(tmp_path, signum, status):
    words = [*TRAIN, "--steps", "10000000", "--run-dir", tmp_path / "run"]
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + SCRIPT
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not list_checkpoints(tmp_path / "run" / "checkpoints") and process.poll() is None:
        time.sleep(0.05)
    process.stderr.close()
    process.send_signal(signum)
    assert process.wait(60) == status
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


def test_a_damaged_checkpoint_is_passed_over_though_nobody_hears_of_it(tmp_path):
    run = tmp_path / "run"
    main([*TRAIN, "--run-dir", str(run)])
    end, *_ = list_checkpoints(run / "checkpoints")
    end.write_bytes(b"damaged")
    unread, written = os.pipe()
    os.close(unread)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "resume", run], stderr=written, stdout=subprocess.PIPE, check=False
    )
    os.close(written)
    assert done.returncode == 0
    assert b"resuming" in done.stdout
    assert load_checkpoint(end)["steps"] == 2040


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_DFL])
def test_two_signals_at_once_are_one_request(before):
    found = signal.signal(signal.SIGINT, before)
    try:
        _two_at_once()
    finally:
        signal.signal(signal.SIGINT, found)


def _two_at_once():
    handlers = [signal.getsignal(ending) for ending in signals.ENDING]
    later = handlers if handlers[0] is signal.default_int_handler else [signal.SIG_DFL] * len(handlers)
    with signals.waiting() as request:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)
        for ending in signals.ENDING:
            signal.pthread_kill(threading.get_ident(), ending)  # to this thread: another one would take it at once
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)  # both have come before Python hears of one
        assert request.signum in signals.ENDING
        assert [signal.getsignal(ending) for ending in signals.ENDING] == later
    assert [signal.getsignal(ending) for ending in signals.ENDING] == handlers


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mru-rl: error: ")]
    return line


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("length=2.5", "length must be a whole number, got 2.5"),
        ("length=abc", "length must be a whole number, got 'abc'"),
        ("length=[5]", "length must be a whole number"),
        ("length=1e30", "length must be at most 9007199254740992"),
        ("length=1j", "options are kept in config.json"),
        ("length={0:1}", "lists, and dicts by words; got 'length={0:1}'"),
        ("seed=5", "has no option 'seed'"),
        ("num_envs=5", "has no option 'num_envs'"),
    ],
)
def test_an_env_option_of_the_wrong_kind_is_one_line_wherever_it_is_given(option, words, tmp_path, capsys):
    main([*TRAIN, "--run-dir", str(tmp_path / "run")])
    assert words in refused(
        capsys, "train", "--env", "mru_rl/TMaze-v0", "--env-kwargs", option, "--run-dir", str(tmp_path / "b")
    )
    assert words in refused(capsys, "eval", str(tmp_path / "run"), "--env-kwargs", option)
    assert words in refused(capsys, "inspect", str(tmp_path / "run"), "--env-kwargs", option)
    assert not (tmp_path / "b").exists()


def test_a_whole_number_may_be_written_with_an_exponent(tmp_path, capsys):
    main([*TRAIN, "--run-dir", str(tmp_path / "run")])
    main(["eval", str(tmp_path / "run"), "--env-kwargs", "length=1e2", "--episodes", "4"])
    assert "length=100" in capsys.readouterr().out


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(FileExistsError, match="is there and no regular file; name another"):
        write_atomically(tmp_path / "pipe.html", b"page")
    assert not (tmp_path / "pipe.html").is_file()
