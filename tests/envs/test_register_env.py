"""Batched envs of one's own under an id: they work wherever ours do."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import gymnasium
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from torchrl.envs.utils import check_env_specs

import mru_rl.envs
from mru_rl.agents.cli.main import main
from mru_rl.envs import AgentInput, BatchedEnv, TensorEnv, as_torchrl, describe, list_ids, make, register_env, registry
from mru_rl.envs.base import Step


class Echo(TensorEnv):
    """Repeat the bit that was shown one step before."""

    def __init__(self, *, length=5, **common):
        self.length = length
        super().__init__(
            observation_space=Box(0, 1, (1,)), action_space=Discrete(2), options={"length": length}, **common
        )
        self.markov_space = Discrete(2)
        for name in ("now", "before", "time"):
            self.register_state(name, torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def _reset(self, mask):
        self.now[mask] = torch.randint(2, (int(mask.sum()),), generator=self.generator, device=self.device)
        self.time[mask] = 0

    def _step(self, action):
        reward = (action == self.before).float() * (self.time > 0)
        self.before.copy_(self.now)
        self.now.copy_(torch.randint(2, (self.num_envs,), generator=self.generator, device=self.device))
        self.time += 1
        return reward, self.time == self.length, torch.zeros_like(self.time, dtype=torch.bool)

    def _observe(self):
        return self.now[:, None].float()

    def _markov(self):
        return self.before.clone()


class Bare(BatchedEnv):
    def __init__(self, id, num_envs, seed=0, device="cpu", **options):
        spaces = {"observation_space": Discrete(2), "action_space": Discrete(2)}
        super().__init__(id=id, num_envs=num_envs, seed=seed, device=device, **spaces)
        self.given = options

    def reset(self):
        return torch.zeros(self.num_envs, dtype=torch.int64)

    def step(self, action):
        end = torch.zeros(self.num_envs, dtype=torch.bool)
        return Step(action, action.float(), end, end, action)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """What a test registers is gone after it, here and in gymnasium."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    yield
    for env_id in registry._REGISTERED:
        gymnasium.registry.pop(env_id, None)


@pytest.fixture
def echo() -> str:
    register_env("me/Echo-v0", Echo)
    return "me/Echo-v0"


def test_it_is_made_listed_and_described(echo):
    env = make(echo, 3, seed=1, length=4)
    assert (type(env), env.id, env.num_envs, env.options) == (Echo, echo, 3, {"length": 4})
    assert torch.equal(make(echo, 3, seed=1, **env.options).reset(), env.reset())
    assert list_ids()[-1] == echo
    assert list_ids()[0] == "popgym-RepeatFirstEasy-v0"
    line = describe(echo, flatten=True)
    assert (line.horizon, line.backend, line.obs_size) == (None, "batched", 1)
    assert line.summary == "Repeat the bit that was shown one step before."
    assert make(echo, 2, state="append").reset().shape == (2, 2)
    assert isinstance(make(echo, 2, previous_action=True, flatten=True), AgentInput)
    with pytest.raises(ValueError, match="me/Echo-v0 has no option 'lenght'; it has length, flatten, .*state"):
        make(echo, 2, lenght=3)
    with pytest.raises(ValueError, match="me/Echo-v0 has no upstream"):
        make(echo, 2, backend="upstream")
    with pytest.raises(ValueError, match="did you mean 'me/Echo-v0'"):
        make("me/Ehco-v0", 2)


def test_as_a_decorator_it_leaves_the_class_and_fixes_options():
    @register_env("me/Long-v0", length=9)
    class Mine(Echo):
        pass

    assert Mine.__mro__[1] is Echo
    env = make("me/Long-v0", 1)
    assert (env.length, env.options) == (9, {})
    with pytest.raises(ValueError, match="me/Long-v0 has no option 'length'; it has flatten"):
        make("me/Long-v0", 1, length=3)


def test_the_example_in_the_docstring_runs():
    text = inspect.getdoc(TensorEnv)
    code = textwrap.dedent(text[text.index("    @mru_rl") : text.index("The state lives")])
    exec(code, {"mru_rl": mru_rl, "torch": torch, "Discrete": Discrete})
    env = make("me/Guess-v0", 4)
    assert env.step(env.reset()).reward.tolist() == [1] * 4


def test_an_env_with_nothing_but_the_methods_works_on_the_defaults():
    assert register_env("Bare-v3", Bare) is Bare
    env = make("Bare-v3", 2, speed=3, previous_reward=True)
    assert env.env.given == {"speed": 3}
    assert env.options == {"speed": 3, "previous_reward": True}
    assert (env.horizon, env.credit_horizon, env.open_loop, env.saves_state, env.can_render) == (
        None,
        None,
        False,
        False,
        False,
    )
    line = describe("Bare-v3")
    assert (line.summary, line.backend, line.horizon) == ("", "batched", None)
    with pytest.raises(ValueError, match="Bare-v3 is not a TensorEnv and shows no state, got state='only'"):
        make("Bare-v3", 2, state="only")
    with pytest.raises(RuntimeError, match="Bare-v3 draws no pictures; check `env.can_render` first"):
        env.render()


@pytest.mark.filterwarnings("ignore:.*A Box observation space:UserWarning")
def test_it_passes_the_checkers_of_gymnasium_and_torchrl(echo):
    check_env(gymnasium.make(echo, length=3).unwrapped)
    vector = gymnasium.make_vec(echo, num_envs=2, length=3)
    assert vector.reset(seed=0)[0].shape == (2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchrl's own
        check_env_specs(as_torchrl(make(echo, 2, length=3)))


def test_it_is_trained_and_evaluated(echo, tmp_path, capsys):
    run = str(tmp_path / "run")
    size = ["--steps", "1024", "--num-envs", "4", "--segment", "32", "--hidden-size", "8", "--no-tensorboard"]
    main(["train", "--env", echo, "--env-kwargs", "length=8", "--run-dir", run, *size])
    capsys.readouterr()
    main(["eval", run, "--episodes", "8", "--env-kwargs", "length=4", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["env"], result["length_mean"]) == (echo, 4)
    main(["envs"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(echo))
    assert "unknown" in line
    assert line.rstrip().endswith("Repeat the bit that was shown one step before.")


def test_the_same_class_again_replaces_itself_and_another_is_refused():
    def cell(longest):
        class Mine(Echo):
            limit = longest

        return Mine

    register_env("me/Mine-v0", cell(1))
    register_env("me/Mine-v0", cell(2))
    assert make("me/Mine-v0", 1).limit == 2
    assert list_ids().count("me/Mine-v0") == 1
    gymnasium.make("me/Mine-v0")
    with pytest.raises(
        ValueError, match="must be new, got 'me/Mine-v0', which .*cell.<locals>.Mine has; choose another"
    ):
        register_env("me/Mine-v0", Echo)


def test_a_file_that_is_imported_twice_registers_the_same_class(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "from mru_rl.envs import TensorEnv, register_env\n@register_env('twice/Env-v0')\nclass Env(TensorEnv):\n"
    text += "    def _reset(self, mask): ...\n    def _step(self, action): ...\n    def _observe(self): ...\n"
    (tmp_path / "twice.py").write_text(text + "import twice\n" * 1)
    ran = subprocess.run([sys.executable, "twice.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("id", "env", "error", "words"),
    [
        (Echo, None, TypeError, r"the id of an env is a word .*write @register_env\('me/Mine-v0'\)"),
        ("me/Mine", Echo, ValueError, "has the form NAMESPACE/Name-v0 or Name-v0, got 'me/Mine'; give it a version"),
        ("a/b/Mine-v0", Echo, ValueError, "has the form"),
        ("mine:Mine-v0", Echo, ValueError, "has the form"),
        ("Mine-v", Echo, ValueError, "has the form"),
        ("me/Mine-v0", object, TypeError, "takes a class derived from BatchedEnv or TensorEnv, got <class 'object'>"),
        ("me/Mine-v0", gymnasium.Env, TypeError, "register single gymnasium envs with gymnasium.register"),
        ("me/Mine-v0", "mine:Mine", TypeError, "takes a class"),
        ("me/Mine-v0", TensorEnv, TypeError, "TensorEnv for me/Mine-v0 without _observe, _reset, _step; add them"),
        ("popgym-RepeatFirstEasy-v0", Echo, ValueError, "which an env of mru_rl has; choose another name or version"),
        ("mru_rl/TMaze-v0", Echo, ValueError, "which an env of mru_rl has"),
        ("CartPole-v1", Echo, ValueError, "which gymnasium's registry has"),
    ],
)
def test_what_cannot_be_registered_is_refused(id, env, error, words):
    with pytest.raises(error, match=words):
        register_env(id, env)
    assert not registry._REGISTERED


def test_an_object_and_a_constructor_that_takes_no_seed_are_refused():
    class Seedless(Echo):
        def __init__(self, id, num_envs):
            super().__init__(id=id, num_envs=num_envs)

    with pytest.raises(
        TypeError, match="is made with id=, num_envs=, seed=, device=, but Seedless for me/Mine-v0 has .*'seed'"
    ):
        register_env("me/Mine-v0", Seedless)
    with pytest.raises(TypeError, match="but Seedless .* has .*"):
        register_env("me/Mine-v0", Seedless, colour=3)
    with pytest.raises(TypeError, match="takes a class"):
        register_env("me/Mine-v0", make("mru_rl/TMaze-v0", 1))


MODULE = """
import mru_rl.envs
from gymnasium.spaces import Discrete
from mru_rl.envs.popgym.repeat_first import RepeatFirst

mru_rl.envs.register_env("Mine-v0", RepeatFirst, num_decks=1)
"""


def test_a_module_beside_the_command_is_found_from_the_working_directory(tmp_path):
    (tmp_path / "myenvs.py").write_text(MODULE)
    root = Path(registry.__file__).resolve().parents[1]
    code = "from mru_rl.agents.cli.main import main; main()"
    script = tmp_path / "elsewhere" / "command.py"
    script.parent.mkdir()
    script.write_text(code)  # a script's own folder comes first on sys.path, as a console script's does
    words = [
        "train",
        "--env",
        "myenvs:Mine-v0",
        "--steps",
        "256",
        "--num-envs",
        "2",
        "--segment",
        "32",
        "--no-tensorboard",
    ]
    command = [sys.executable, str(script), *words, "--run-dir", "run"]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_a_module_that_fails_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    path = [entry for entry in sys.path if entry not in ("", str(tmp_path))]
    monkeypatch.setattr(sys, "path", path)
    with pytest.raises(
        ValueError, match="module 'needy', named to register 'Mine-v0', cannot be imported .*not_there_at_all"
    ):
        make("needy:Mine-v0", 1)
    assert sys.path[0] == str(tmp_path)
    with pytest.raises(ValueError, match="must name a module before its ':', got '..'"):
        make("..:Mine-v0", 1)
