"""Whatever is typed, or stands in a config file: it runs, or ends with exit status 2 and one line that says what to do."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mru_rl.agents import training
from mru_rl.agents.algorithms import config_class, list_algorithms
from mru_rl.agents.cli.main import main
from mru_rl.agents.console.errors import flag
from mru_rl.agents.ppo.config import PPOConfig

QUICK = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=2000)
_SMALL = {
    "ppo": "--num-envs 2 --segment 4 --minibatches 1 --epochs 1 --steps 8 --hidden-size 4 --no-tensorboard",
    "r2d2": "--num-envs 2 --segment 4 --sequence 4 --burn-in 0 --overlap 0 --learning-starts 2 --batch 2 --steps 16 "
    "--hidden-size 4 --no-tensorboard",
}
SMALL = {name: options.split() for name, options in _SMALL.items()}
_WORDS = r"""
    0 1 2 3 -1 1.5 -0.5 1e-30 nan inf -inf None none True true no ä a=1 length=3 length=2..5 length=5..2 length=0 length=nan
    noise=-1 seed=3 = -- - --seed bmru bmru+ bmru,lru bmru:0 bmru:2+gru:2 bmru:slope=x lru:9 CartPole-v1 mru_rl/TMaze-v0
    popgym-BattleshipEasy-v0 popgym-PositionOnlyPendulumEasy-v0 no_such_module:Env-v0 : {} [1] \x00 sync stop drop cpu linear
"""
WORDS = ["", *_WORDS.split()]
OPTIONS = {
    name: sorted(
        {flag(field.name) for field in dataclasses.fields(config_class(name))}
        - {
            "--run-dir",
            "--threads",
        }  # a path is the user's own; very many threads are a denial of service, not an error
    )
    for name in list_algorithms()
}


def outcome(words: list[str], capsys) -> int:
    """Return the exit status, 0 or 2, and check what was printed."""
    status = exit_status(words)
    said = capsys.readouterr().err
    assert status in (0, 2), said
    if status == 2:
        assert said.startswith("mru-rl: error: "), said
        assert said.count("\n") == 1, said
        assert len(said.split()) >= 7, f"too short to hold a rule, what arrived and the next move: {said}"
    return status


def exit_status(words: list[str]) -> int | str | None:
    try:
        main(words)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def two_updates(monkeypatch):
    """Runs end after two updates."""

    def to_end(self, *rest):
        for _ in range(2):
            metrics, rollout = self._update()
            json.dumps(self.trainer.record(metrics, rollout, 1.0))
        self._save()
        self.trainer.collector.close()

    monkeypatch.setattr(training.Training, "to_end", to_end)


TYPED = st.fixed_dictionaries(
    {
        "algorithm": st.sampled_from(list_algorithms()),
        "options": st.lists(
            st.tuples(st.integers(0, 10**6), st.one_of(st.sampled_from(WORDS), st.text(max_size=4))),
            min_size=1,
            max_size=3,
        ),
    }
)


def check_typed(typed: dict, folder: Path, capsys) -> None:
    known = OPTIONS[typed["algorithm"]]
    words = [word for number, value in typed["options"] for word in (known[number % len(known)], value)]
    shutil.rmtree(folder / "run", ignore_errors=True)
    outcome(["train", typed["algorithm"], *SMALL[typed["algorithm"]], *words, "--run-dir", str(folder / "run")], capsys)


@QUICK
@given(typed=TYPED)
def test_any_options_train_or_are_refused_in_one_line(two_updates, tmp_path, capsys, typed):
    check_typed(typed, tmp_path, capsys)


@pytest.mark.slow
@LONG
@given(typed=TYPED)
def test_thousands_of_command_lines(two_updates, tmp_path, capsys, typed):
    check_typed(typed, tmp_path, capsys)


@pytest.mark.parametrize("algorithm", list_algorithms())
@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf"])
def test_every_option_with_a_number_it_cannot_have(two_updates, tmp_path, capsys, algorithm, value):
    for option in OPTIONS[algorithm]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        outcome(["train", algorithm, *SMALL[algorithm], option, value, "--run-dir", str(tmp_path / "run")], capsys)


def test_one_env_and_one_step_are_a_rollout(two_updates, tmp_path, capsys):
    words = ["--env", "CartPole-v1", "--num-envs", "1", "--segment", "1", "--run-dir", str(tmp_path / "run")]
    assert outcome(["train", "ppo", *SMALL["ppo"], *words], capsys) == 0


HUGE = ["--num-envs", "--hidden-size", "--state-size", "--seed", "--steps", "--worker-restarts"]


@pytest.mark.parametrize("value", ["1000000000000000000", "9" * 40])
@pytest.mark.parametrize(
    ("algorithm", "option"),
    [(name, option) for name in list_algorithms() for option in HUGE]
    + [("r2d2", "--replay-sequences"), ("r2d2", "--sequence")],
)
def test_what_no_machine_can_hold_is_refused_in_one_line(two_updates, tmp_path, capsys, algorithm, option, value):
    status = outcome(["train", algorithm, *SMALL[algorithm], option, value, "--run-dir", str(tmp_path / "run")], capsys)
    takes_no_room = option in ("--seed", "--steps", "--worker-restarts", "--replay-sequences") and int(value) < 2**62
    assert status == (0 if takes_no_room else 2)


@QUICK
@given(
    words=st.lists(
        st.one_of(st.sampled_from([*WORDS, "train", "eval", "--json", "--help", "-h"]), st.text(max_size=5)), max_size=4
    )
)
def test_any_words_at_all_are_answered(two_updates, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)  # a run begun by accident is small and lies there
    if words[:1] in (["train"], ["bench"], ["envs"], ["cores"]):
        return
    assert exit_status(words) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


# config files


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    config = PPOConfig(
        steps=16,
        num_envs=2,
        segment=4,
        minibatches=1,
        epochs=1,
        hidden_size=4,
        run_dir=path,
        tensorboard=False,
        core="bmru",
    )
    run, trainer = training.start(config)
    training.run_to_end(run, trainer)
    return path


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.floats(), st.sampled_from(WORDS), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)
NAMES = ["algorithm", *(field.name for field in dataclasses.fields(PPOConfig) if field.name != "threads"), "", "stepz"]
CHANGES = st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(st.just("drop it"), JSON)), min_size=1, max_size=3)


def check_config(finished: Path, folder: Path, changes: list, capsys) -> None:
    path = folder / "run"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(finished, path)
    values = json.loads((path / "config.json").read_text())
    for name, value in changes:
        if value == "drop it":
            values.pop(name, None)
        else:
            values[name] = value
    (path / "config.json").write_text(json.dumps(values))
    outcome(["eval", str(path), "--episodes", "2"], capsys)
    outcome(["resume", str(path)], capsys)


@settings(QUICK, max_examples=50)
@given(changes=CHANGES)
def test_any_values_in_a_config_file_run_or_are_refused_in_one_line(two_updates, finished, tmp_path, capsys, changes):
    check_config(finished, tmp_path, changes, capsys)


@pytest.mark.slow
@LONG
@given(changes=CHANGES)
def test_thousands_of_config_files(two_updates, finished, tmp_path, capsys, changes):
    check_config(finished, tmp_path, changes, capsys)


@QUICK
@given(
    content=st.one_of(
        st.binary(max_size=30), st.sampled_from([b"", b"[]", b"null", b"{}", b'{"algorithm": 3}', b"\xff\xfe", b"{"])
    )
)
def test_any_bytes_as_a_config_file_are_refused_in_one_line(finished, tmp_path, capsys, content):
    path = tmp_path / "run"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(finished, path)
    (path / "config.json").write_bytes(content)
    assert outcome(["eval", str(path)], capsys) == 2
    assert outcome(["resume", str(path)], capsys) == 2
