"""The scripts in examples/ do what they say."""

from __future__ import annotations

import runpy
import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> dict:
    with warnings.catch_warnings():  # torchrl 0.14 warns of its own classes while it is imported
        warnings.simplefilter("ignore", DeprecationWarning)
        return runpy.run_path(str(EXAMPLES / name))


@pytest.mark.parametrize("seed", range(3))
def test_ppo_with_a_memory_module_in_the_place_of_grumodule_reaches_the_return_the_script_states(seed):
    assert load("torchrl_ppo.py")["train"](core="bmru", steps=30_000, seed=seed) > 0.9


def test_ppo_without_memory_earns_no_more_than_guessing():
    assert abs(load("torchrl_ppo.py")["train"](core="mlp", steps=30_000, seed=0)) < 0.5


def test_the_script_runs_from_a_shell_and_says_what_it_reached(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torchrl_ppo.py", "--core", "gru", "--steps", "4000"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        runpy.run_path(str(EXAMPLES / "torchrl_ppo.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1].startswith("mean return: ")
