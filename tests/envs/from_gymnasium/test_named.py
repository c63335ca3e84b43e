"""What is named from outside: modules beside the user, packages of known ids, wrappers, options of any name."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from mru_rl.envs import describe, from_object, make, register_env, registry
from mru_rl.envs.from_gymnasium import named
from mru_rl.envs.from_gymnasium.named import WrapperCall, read_wrapper, split_wrappers
from mru_rl.envs.from_gymnasium.rows import EnvError

ENVS = '''
import os, sys
import gymnasium, numpy as np
from gymnasium.spaces import Box, Discrete


class Mine(gymnasium.Env):
    """Shows what it was made with."""

    observation_space, action_space = Box(-99, 99, (5,), np.float32), Discrete(2)

    def __init__(self, id=0, seed=0, state=0, workers=0, options=0, render_mode=None):
        self.shown = np.array([id, seed, state, workers, options], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.shown, {}

    def step(self, action):
        return self.shown, 1.0, False, False, {}


class Add(gymnasium.ObservationWrapper):
    def __init__(self, env, number=1, *, times=1):
        super().__init__(env)
        self.number, self.times = number, times

    def observation(self, obs):
        return obs * np.float32(self.times) + np.float32(self.number)


class Light(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        if os.getpid() != TESTS and "torch" in sys.modules:
            raise RuntimeError("a worker has loaded torch")


class Outer:
    @staticmethod
    def add(env):
        return Add(env, 10)


number = 3


def nothing(env):
    pass


def fails(env):
    raise RuntimeError("no such\\nkey")


def Needy(late=False):
    if not late:
        raise RuntimeError("no such\\nkey")
    env = Mine()
    env.reset = lambda **_: __import__("not_here_either")
    return env


for name, entry in {"Mine": Mine, "Any": lambda **options: Mine(**options), "Needy": Needy, "Built": dict}.items():
    gymnasium.register(f"mine/{name}-v0", entry, disable_env_checker=True)
gymnasium.register("mine/Gone-v0", "module_that_raises:Env")
gymnasium.register("mine/Vector-v0", vector_entry_point="gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv")
gymnasium.register("mine/NoVector-v0", vector_entry_point="myenvs:number")
'''


@pytest.fixture(autouse=True)
def _beside(tmp_path, monkeypatch):
    """A user who stands in a folder with myenvs.py; what is imported and registered there is gone after the test."""
    (tmp_path / "myenvs.py").write_text(f"TESTS = {os.getpid()}\n{ENVS}")
    (tmp_path / "module_that_raises.py").write_text("raise OSError('no\\nscreen')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", os.getcwd())])
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    yield
    for module in ("myenvs", "module_that_raises", "popgym_of_mine"):
        sys.modules.pop(module, None)


def test_a_module_in_the_working_directory_is_found_before_all_others(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "myenvs.py").write_text("raise AssertionError")
    sys.path.insert(0, str(elsewhere))
    assert make("myenvs:mine/Mine-v0", 1).id == "mine/Mine-v0"


def test_wrappers_go_around_each_env_in_their_order():
    make("myenvs:mine/Mine-v0", 1)
    env = make("mine/Mine-v0", 2, wrappers="myenvs:Add(2, times=3),myenvs:Outer.add")
    assert env.reset().tolist() == [[12.0] * 5] * 2
    assert env.options["wrappers"] == ("myenvs:Add(2, times=3)", "myenvs:Outer.add")
    assert make(env.id, 2, **env.options).reset().tolist() == env.reset().tolist()
    other = make(
        "mine/Mine-v0", 1, wrappers=["myenvs:Outer.add", lambda env: sys.modules["myenvs"].Add(env, 2, times=3)]
    )
    assert other.reset().tolist() == [[32.0] * 5]
    assert make(other.id, 1, **other.options).reset().tolist() == [[32.0] * 5]


SCRIPT = """
if __name__ == "__main__":
    import os, pathlib
    here = pathlib.Path("myenvs.py")
    here.write_text(here.read_text().replace("TESTS = ", f"TESTS = {os.getpid()}  # "))
    from mru_rl.envs import make
    options = {"workers": "process", "worker_restarts": 0}
    with make("myenvs:mine/Mine-v0", 2, wrappers="myenvs:Light,myenvs:Add", **options) as env:
        print(env.reset().tolist())
"""


def test_wrappers_work_in_worker_processes_which_load_no_torch(tmp_path):
    (tmp_path / "script.py").write_text(
        SCRIPT
    )  # a process of its own: workers come from a server that others have used
    ran = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout.strip() == str([[1.0] * 5] * 2), ran.stderr[-2000:]


def test_a_factory_is_wrapped_and_a_batch_of_envs_is_not():
    env = from_object(lambda: gymnasium.make("CartPole-v1"), 2, wrappers="gymnasium.wrappers:TimeLimit(3)")
    assert env.horizon == 3
    vector = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")])
    for batch in (vector, make("mru_rl/TMaze-v0", 1)):
        with pytest.raises(
            ValueError, match="wrappers go around single gymnasium envs, got a:B for .*; wrap the env before"
        ):
            from_object(batch, 1, wrappers="a:B")


def test_the_time_limit_of_a_wrapper_is_the_horizon():
    assert make("CartPole-v1", 1, wrappers="gymnasium.wrappers:TimeLimit(7)").horizon == 7
    assert make("CartPole-v1", 1, wrappers="gymnasium.wrappers:TimeLimit(700)").horizon == 500
    assert make("mru_rl/TMaze-v0", 1, length=9, wrappers="gymnasium.wrappers:TimeLimit(7)").horizon == 7


def test_a_batched_env_of_ours_is_wrapped_in_its_gymnasium_form():
    env = make(
        "mru_rl/TMaze-v0", 2, length=4, wrappers=[lambda env: gymnasium.wrappers.TransformReward(env, lambda r: 3 * r)]
    )
    plain = make("mru_rl/TMaze-v0", 2, length=4)
    assert (env.id, env.horizon, env.success_return) == (plain.id, plain.horizon, plain.success_return)
    assert env.observation_space == plain.observation_space
    env.reset()
    paid = torch.stack([env.step(torch.tensor([1, 0])).reward for _ in range(5)])
    assert set(paid.flatten().tolist()) <= {0.0, 3.0, -3.0}
    assert paid.abs().sum() == 6
    assert make(env.id, 2, **env.options).horizon == 5
    assert make("popgym-RepeatFirstEasy-v0", 1, wrappers=[lambda env: env]).id == "popgym-RepeatFirstEasy-v0"
    with pytest.raises(ValueError, match="with backend='batched'; use backend='auto'"):
        make("mru_rl/TMaze-v0", 2, backend="batched", wrappers=[lambda env: env])
    with pytest.raises(ValueError, match="mru_rl/TMaze-v0 has no option 'lenght'; it has length"):
        make("mru_rl/TMaze-v0", 2, lenght=3, wrappers=[lambda env: env])


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [
        (
            "nowhere_at_all:Add",
            "no module 'nowhere_at_all' to hold the wrapper .*; install or rename it, it is looked for",
        ),
        ("module_that_raises:Add", "cannot be imported, it raises OSError: no screen; mend it$"),
        ("myenvs:Ad", "module 'myenvs' has no wrapper 'Ad', got 'myenvs:Ad'; name one"),
        ("myenvs:number", "a wrapper is a class or a function that takes an env, got .* for 'myenvs:number'; name one"),
        (
            "myenvs:fails",
            "'myenvs:fails' around CartPole-v1 raises RuntimeError: no such key; mend it, or give it other",
        ),
        ("myenvs:Add(1, 2, 3)", r"around CartPole-v1 raises TypeError: .*Add.*positional arguments.*; mend it"),
        (
            "myenvs:nothing",
            "a wrapper must return a gymnasium.Env, got .* from 'myenvs:nothing' around CartPole-v1; derive",
        ),
        (
            "myenvs",
            r"a wrapper is named module:Name, or module:Name\(2, x='a'\) with numbers and words, got 'myenvs'; ",
        ),
        (3, "a wrapper is a class or a function that takes an env, got .*3.*; name one"),
    ],
)
def test_a_wrapper_that_cannot_be_had_is_one_line(wrapper, words):
    with pytest.raises(ValueError, match=words) as error:
        make("CartPole-v1", 1, wrappers=[wrapper])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["", "a", "a:", ":A", "a:A(", "a:A(b)", "a:A()()", "a:A,", "a b:A", "a:A(**{'x': 1})", "a:1"]
)
def test_what_is_no_name_of_a_wrapper_is_refused(name):
    with pytest.raises(ValueError, match="a wrapper is named module:Name"):
        read_wrapper(name)


def test_names_are_taken_apart_at_the_commas_between_them():
    given = "a.b:One,c:Two(1, [2, 3], x={'k': 'v:w'}), d:E.f"
    assert split_wrappers(given) == ("a.b:One", "c:Two(1, [2, 3], x={'k': 'v:w'})", "d:E.f")
    assert split_wrappers([given, "g:H"])[2:] == ("d:E.f", "g:H")
    assert read_wrapper("c:Two(1, [2, 3], x={'k': 'v:w'})") == WrapperCall("c", "Two", (1, [2, 3]), {"x": {"k": "v:w"}})
    assert split_wrappers(()) == ()


def test_options_of_any_name_reach_the_env_and_give_it_again():
    given = {"id": 3, "seed": 5, "state": 2, "workers": 7, "options": 9}
    for env_id in ("myenvs:mine/Mine-v0", "mine/Any-v0"):
        env = make(env_id, 1, seed=1, options=given, wrappers="myenvs:Add")
        assert env.reset().tolist() == [[4, 6, 3, 8, 10]]
        assert make(env.id, 1, **env.options).reset().tolist() == [[4, 6, 3, 8, 10]]
    with make("mine/Mine-v0", 1, options=given, workers="process") as env:
        assert env.reset().tolist() == [[3, 5, 2, 7, 9]]
    with pytest.raises(
        ValueError,
        match="mine/Mine-v0 has no option 'num_envs', 'wrappers'; it has id, options, render_mode, seed, state, worker_",
    ):
        make("mine/Mine-v0", 1, options={"num_envs": 2, "wrappers": 3})


def test_options_of_any_name_reach_a_batched_env():
    from mru_rl.envs.horizon.tmaze import TMaze

    class Mine(TMaze):
        def __init__(self, *, length=5, noise=1.0, backend="none", state="all", **common):
            super().__init__(length=length, noise=noise, **common)
            self.given = backend, state

    register_env("mine/Batched-v0", Mine)
    env = make("mine/Batched-v0", 1, options={"backend": "b", "state": "s"})
    assert env.given == ("b", "s")
    assert make(env.id, 1, **env.options).given == ("b", "s")
    assert make(env.id, 1, wrappers=[lambda env: env], **env.options).options["options"] == env.options["options"]
    shown = make("mru_rl/RecallFirst-v0", 1, options={"state": "only"})
    assert shown.options["state"] == "only"
    with pytest.raises(
        ValueError, match="has no option 'flatten', 'seed'; it has length, noise, rewards, pixels, previous_action"
    ):
        make("mru_rl/TMaze-v0", 1, options={"seed": 3, "flatten": True})


def test_a_vector_env_takes_its_options_and_no_wrappers():
    env = make("myenvs:mine/Vector-v0", 2, options={"sutton_barto_reward": True})
    assert make(env.id, 2, **env.options).reset().tolist() == env.reset().tolist()
    assert describe("mine/Vector-v0").backend == "gymnasium"
    for options, words in (
        (
            {"wrappers": "a:B"},
            r"wrappers go around single gymnasium envs, got \('a:B',\) for mine/Vector-v0, which is made",
        ),
        ({"options": {"num_envs": 3}}, "mine/Vector-v0 is a vector env, whose num_envs is the number of rows"),
        (
            {"options": {"seed": 3}},
            "mine/Vector-v0 cannot be made, it raises TypeError: .*keyword argument 'seed'; mend it",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            make("mine/Vector-v0", 2, **options)


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        (
            "module_that_raises:Env-v0",
            "module 'module_that_raises', named to register 'Env-v0', .* OSError: no screen; mend",
        ),
        (
            "myenvs:mine/Gone-v0",
            "mine/Gone-v0 cannot be made, it raises OSError: no screen; mend it, or change its options",
        ),
        ("myenvs:mine/Needy-v0", "mine/Needy-v0 cannot be made, it raises RuntimeError: no such key; mend it"),
        (
            "myenvs:mine/Built-v0",
            "mine/Built-v0 cannot be made, it raises TypeError: .*must inherit from the gymnasium.Env",
        ),
        (
            "myenvs:mine/NoVector-v0",
            "mine/NoVector-v0 cannot be made, it raises TypeError: 'int' object is not callable",
        ),
    ],
)
def test_whatever_a_module_or_a_constructor_raises_is_one_line(env_id, words):
    with pytest.raises(ValueError, match=words) as error:
        make(env_id, 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", ["sync", "process"])
def test_a_package_that_is_missing_at_the_first_reset_is_one_line_at_once(workers):
    with make("myenvs:mine/Needy-v0", 2, late=True, workers=workers) as env:
        with pytest.raises(
            EnvError, match="mine/Needy-v0 needs another package: No module named 'not_here_either'"
        ) as error:
            env.reset()
        assert (error.value.traceback, env.worker_restarts) == ("", 0)


def test_ids_of_a_known_package_import_it_or_name_it(tmp_path, monkeypatch):
    monkeypatch.setitem(named.FAMILIES, "PopgymOfMine-", ("popgym_of_mine", "popgym-of-mine"))
    with pytest.raises(
        ValueError, match="PopgymOfMine-A-v0 comes with the package popgym-of-mine; run `pip install popgym-of"
    ):
        make("PopgymOfMine-A-v0", 1)
    sys.path.insert(0, str(tmp_path))
    (tmp_path / "popgym_of_mine.py").write_text(
        "import gymnasium, myenvs\ngymnasium.register('PopgymOfMine-A-v0', myenvs.Mine)\n"
    )
    assert make("PopgymOfMine-A-v0", 1).obs_size == 5
    with pytest.raises(ValueError, match="no env has the id 'PopgymOfMine-B-v0'; did you mean 'PopgymOfMine-A-v0'"):
        make("PopgymOfMine-B-v0", 1)


def test_an_id_far_from_all_others_is_answered_with_how_to_name_its_package():
    with pytest.raises(ValueError, match=r"did you mean .*\? One of another package is named with it: PACKAGE:Mine-v0"):
        make("Mine-v0", 1)
