"""The public Python API called with anything: a result, or an error of our own that says what to do; never one of torch's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mru_rl
import mru_rl.envs
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.r2d2.config import R2D2Config

QUICK = settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=3000)

SIZES = st.one_of(
    st.integers(-1, 5), st.sampled_from([True, None, 2.0, "3", float("nan"), 2**40, np.int64(3), [2], torch.tensor(2)])
)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.uint8,
]
TENSORS = st.builds(
    lambda shape, dtype, device: torch.zeros(shape, dtype=dtype, device=device),
    SHAPES,
    st.sampled_from(DTYPES),
    st.sampled_from(["cpu", "cpu", "cpu", "meta"]),
)
JUNK = st.one_of(
    TENSORS,
    st.none(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just(object()),
    st.just(np.zeros((2, 3), np.float32)),
    st.just([[0.0] * 3] * 2),
    st.just(torch.nn.Linear(2, 2)),
)
_SPEC_PARTS = """
    bmruu 3 bmru:0 bmru:4 bmru:-1 bmru:slope=2.0 bmru:slope=nan lru:3 : = deltanet:key_size=3 framestack:frames=0
    hgrn:lower_bound=2 bmru:4:8 bmru:slope ffm:5 slstm:4
"""
SPEC_PARTS = st.sampled_from([*mru_rl.list_cells(), "", *_SPEC_PARTS.split(), " gru "])
SPECS = st.one_of(
    st.builds(
        lambda parts, sign: sign.join(parts),
        st.lists(SPEC_PARTS, min_size=1, max_size=3),
        st.sampled_from(["+", ",", "++"]),
    ),
    st.text(max_size=6),
    JUNK,
    st.lists(st.lists(st.one_of(SPEC_PARTS, st.tuples(SPEC_PARTS, SIZES)), max_size=2), max_size=2),
)
_OPTIONS = "read_before_write slope surrogate level carry backend nothing key_size init_horizon"
OPTIONS = st.dictionaries(
    st.sampled_from(_OPTIONS.split()),
    JUNK,
    max_size=2,
)


@QUICK
@given(spec=SPECS, sizes=st.tuples(SIZES, SIZES), state_size=SIZES, layers=SIZES, options=OPTIONS)
def test_a_core_is_made_or_refused(documented, spec, sizes, state_size, layers, options):
    check_make_core(documented, spec, sizes, state_size, layers, options)


def check_make_core(documented, spec, sizes, state_size, layers, options) -> None:
    if any(isinstance(size, int) and size > 10**6 for size in (*sizes, state_size, layers)):
        return  # what does not fit in memory is tested where it is typed
    with documented():
        core = mru_rl.make_core(spec, *sizes, state_size=state_size, num_layers=layers, **options)
        state = core.initial_state(2)
        y, last = core(torch.zeros(2, 3, core.input_size), state, torch.zeros(2, 3, dtype=torch.bool))
        assert y.shape == (2, 3, core.hidden_size)
        assert last.shape == state.shape


CALLS = st.fixed_dictionaries(
    {
        "spec": st.sampled_from(["bmru", "bmru+gru", "lru,mingru", "deltanet", "lstm", "framestack"]),
        "replaced": st.dictionaries(
            st.sampled_from(["x", "state", "is_init", "restart"]), JUNK, min_size=1, max_size=3
        ),
        "method": st.sampled_from(["forward", "step", "unroll", "advance", "trace", "warm_up"]),
    }
)


@QUICK
@given(call=CALLS)
def test_a_core_called_with_anything_answers_or_refuses(documented, call):
    check_core_call(documented, call)


def check_core_call(documented, call) -> None:
    core = mru_rl.make_core(call["spec"], 3, 4)
    given_ = {
        "x": torch.zeros(2, 5, 3),
        "state": core.initial_state(2),
        "is_init": torch.zeros(2, 5, dtype=torch.bool),
    } | call["replaced"]
    takes = {
        "forward": ("x", "state", "is_init", "restart"),
        "unroll": ("x", "state", "is_init", "restart"),
        "step": ("x", "state", "is_init"),
        "advance": ("x", "state", "is_init"),
        "trace": ("x", "state", "is_init"),
        "warm_up": ("x", "is_init"),
    }[call["method"]]
    arguments = [given_.get(name) for name in takes]
    with documented():
        getattr(core, call["method"])(*arguments, *([10.0] if call["method"] == "warm_up" else []))


SCAN = st.fixed_dictionaries(
    {
        "replaced": st.dictionaries(
            st.sampled_from(["a", "b", "h0", "is_init", "restart", "backend"]), JUNK, min_size=1, max_size=3
        )
    }
)


@QUICK
@given(call=SCAN)
def test_a_scan_of_anything_answers_or_refuses(documented, call):
    check_scan(documented, call)


def check_scan(documented, call) -> None:
    arguments = {
        "a": torch.zeros(2, 5, 3),
        "b": torch.zeros(2, 5, 3),
        "h0": torch.zeros(2, 3),
        "is_init": torch.zeros(2, 5, dtype=torch.bool),
        "restart": None,
    } | call["replaced"]
    backend = arguments.pop("backend", "auto")
    with documented():
        mru_rl.linear_scan(*arguments.values(), backend=backend)


IDS = st.one_of(
    st.sampled_from([*mru_rl.envs.list_ids(), "CartPole-v1", "NoSuch-v0", "a:b", "mru_rl/", "popgym-"]), JUNK
)
_ENV_OPTIONS = """
    length noise delay bits state flatten previous_action start_flag backend workers device seed max_episode_steps num_symbols
    worker_seconds colours modulus nothing
"""
ENV_OPTIONS = st.dictionaries(
    st.sampled_from(["length", "noise", "delay", "bits", "state", "flatten", "previous_action", "start_flag", "backend", "workers",
                     "device", "seed", "max_episode_steps", "num_symbols", "worker_seconds", "colors", "modulus", "nothing"]),
    st.one_of(JUNK, SIZES, st.sampled_from(["none", "append", "only", "auto", "upstream", "cpu", "sync"])), max_size=3,
)  # fmt: skip
ENV_CALLS = st.lists(
    st.tuples(st.sampled_from(["step", "reset_rows", "reseed", "unroll", "load_state_dict", "encode"]), JUNK),
    max_size=4,
)


@QUICK
@given(id=IDS, rows=SIZES, options=ENV_OPTIONS)
def test_an_env_is_made_or_refused(documented, id, rows, options):
    check_make_env(documented, id, rows, options)


def check_make_env(documented, id, rows, options) -> None:
    if isinstance(rows, int) and rows > 10**6:
        return
    with documented(), mru_rl.envs.make(id, rows, **options) as env:
        env.reset()


@QUICK
@given(id=st.sampled_from([*mru_rl.envs.list_ids()[::5], "CartPole-v1", "mru_rl/TMaze-v0"]), calls=ENV_CALLS)
def test_an_env_called_with_anything_answers_or_refuses(documented, id, calls):
    check_env_calls(documented, id, calls)


def check_env_calls(documented, id, calls) -> None:
    with mru_rl.envs.make(id, 2) as env:
        env.reset()
        for name, argument in calls:
            with documented():
                getattr(env, name)(argument)


FIELDS = {kind: [field.name for field in dataclasses.fields(kind)] for kind in (PPOConfig, R2D2Config)}


@QUICK
@given(kind=st.sampled_from(list(FIELDS)), values=st.lists(st.tuples(st.integers(0, 99), JUNK), max_size=3))
def test_a_config_of_anything_is_one_or_is_refused(documented, kind, values):
    check_config(documented, kind, values)


def check_config(documented, kind, values) -> None:
    names = FIELDS[kind]
    with documented():
        kind(**{names[number % len(names)]: value for number, value in values})


@pytest.mark.slow
@LONG
@given(
    spec=SPECS,
    sizes=st.tuples(SIZES, SIZES),
    state_size=SIZES,
    layers=SIZES,
    options=OPTIONS,
    core=CALLS,
    scan=SCAN,
    id=IDS,
    rows=SIZES,
    env_options=ENV_OPTIONS,
    env=st.sampled_from(mru_rl.envs.list_ids()),
    calls=ENV_CALLS,
    kind=st.sampled_from(list(FIELDS)),
    values=st.lists(st.tuples(st.integers(0, 99), JUNK), max_size=3),
)
def test_thousands_of_calls(
    documented, spec, sizes, state_size, layers, options, core, scan, id, rows, env_options, env, calls, kind, values
):
    check_make_core(documented, spec, sizes, state_size, layers, options)
    check_core_call(documented, core)
    check_scan(documented, scan)
    check_make_env(documented, id, rows, env_options)
    check_env_calls(documented, env, calls)
    check_config(documented, kind, values)
