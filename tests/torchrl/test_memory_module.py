"""MemoryModule by itself: keys, both modes against single steps, resets, batch shapes, primers."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.modules import GRUModule, canonicalize_rnn_subset, set_recurrent_mode

from mru_rl import MemoryModule, list_cells, make_core

STATE, NEXT_STATE = "recurrent_state", ("next", "recurrent_state")
SPECS = ["bmru", "bmru+mingru,lru", "gru"]
D, H = 3, 8


def build(spec="bmru", **arguments) -> MemoryModule:
    return MemoryModule(
        spec, **({"input_size": D, "hidden_size": H, "in_key": "observation", "out_key": "y"} | arguments)
    )


def assert_same(got: TensorDict, want: TensorDict, **tolerance) -> None:
    for key in ("y", NEXT_STATE):
        torch.testing.assert_close(got[key], want[key], **tolerance)


# keys


def test_one_key_stands_for_the_keys_of_torchrls_own_modules():
    ours, theirs = build(), GRUModule(D, H, in_key="observation", out_key="y")
    assert ours.in_keys == theirs.in_keys == ["observation", STATE, "is_init"]
    assert ours.out_keys == theirs.out_keys == ["y", NEXT_STATE]
    assert ours.canonical_keys == theirs.canonical_keys


@pytest.mark.parametrize("in_keys", [["o", "s"], ["o", "s", "is_init"], ("o", "s"), [("agent", "o"), "s"]])
def test_lists_of_keys_are_taken_as_they_are_with_is_init_last(in_keys):
    arguments = {"in_keys": in_keys, "out_keys": ["y", ("next", "s")]}
    ours, theirs = build(in_key=None, out_key=None, **arguments), GRUModule(D, H, **arguments)
    assert ours.in_keys == theirs.in_keys
    assert ours.out_keys == theirs.out_keys


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"in_key": None}, "give either in_key or in_keys, got in_key=None and in_keys=None"),
        ({"in_keys": ["x", "s"]}, "give either in_key or in_keys, got in_key='observation'"),
        ({"out_key": None}, "give either out_key or out_keys, got out_key=None and out_keys=None"),
        ({"out_keys": ["y", "s"]}, "give either out_key or out_keys"),
        ({"in_key": None, "in_keys": ["x"]}, r"the value, the state and, last, 'is_init', got \['x'\]"),
        ({"in_key": None, "in_keys": ["x", "is_init", "s"]}, "last, 'is_init', got"),
        ({"in_key": None, "in_keys": ["x", "s", "first"]}, "last, 'is_init', got"),
        ({"in_key": None, "in_keys": ["x", "h", "c", "is_init"]}, "last, 'is_init', got"),
        ({"in_key": None, "in_keys": ["x", "is_init"]}, "last, 'is_init', got"),
        ({"in_key": None, "in_keys": "xs"}, "a list of keys, .* got 'xs'; for one key use in_key"),
        ({"in_key": None, "in_keys": ["x", 3]}, "strings or tuples of strings"),
        ({"in_key": ""}, "strings or tuples of strings"),
        ({"out_key": None, "out_keys": ["y"]}, r"the features and the next state, got \['y'\]; write"),
        ({"out_key": None, "out_keys": ["y", ("next", "s"), "z"]}, "the features and the next state"),
    ],
)
def test_keys_that_do_not_fit_are_refused_with_what_to_write(arguments, words):
    with pytest.raises(ValueError, match=words):
        build(**arguments)


def test_a_next_state_that_no_env_would_carry_over_gives_no_primer():
    module = build(out_key=None, out_keys=["y", ("next", "hidden")])
    with pytest.raises(RuntimeError, match=r"name the next state \('next', 'recurrent_state'\)"):
        module.make_tensordict_primer()


# the core


@pytest.mark.parametrize("name", list_cells())
def test_every_cell_steps_as_it_runs(name, random_data, play):
    module = build(name)
    data = random_data(module, 2, 6)
    with torch.no_grad(), set_recurrent_mode(True):
        got = module(data.copy())
    with torch.no_grad():
        assert_same(got, play(module, data), atol=1e-5, rtol=1e-4)


def test_a_core_of_ones_own_is_taken_as_it_is():
    core = make_core("bmru+gru", D, H, state_size=12, num_layers=2)
    module = MemoryModule(core, in_key="observation", out_key="y")
    assert module.core is core
    assert MemoryModule(core, D, H, 2, state_size=12, in_key="observation", out_key="y").core is core
    assert build("bmru", num_layers=3, state_size=5, slope=2.0).core.initial_state(2).shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hidden_size": 16}, "has input_size=3, hidden_size=8.* got hidden_size=16; leave those out"),
        ({"input_size": 2, "slope": 2.0}, "got input_size=2, slope=2.0; leave those out"),
        ({"num_layers": 2}, "num_layers=1, got num_layers=2"),
    ],
)
def test_a_core_of_ones_own_is_not_resized(arguments, words):
    with pytest.raises(ValueError, match=words):
        build(make_core("bmru", D, H), **arguments)


def test_a_spec_needs_both_sizes():
    with pytest.raises(ValueError, match="'bmru' needs input_size and hidden_size, got None and 8; give both"):
        build(input_size=None)


# one step


@pytest.mark.parametrize("spec", SPECS)
def test_a_step_is_the_cores_with_zeros_where_an_episode_begins(spec, random_data):
    module = build(spec)
    data = random_data(module, 6)
    data["is_init"][:, 0] = torch.tensor([True, False] * 3)
    data[STATE][::2] = torch.nan
    out = module(data.copy())
    zeroed = torch.where(data["is_init"][..., None], 0.0, data[STATE])
    y, state = module.core.step(data["observation"], zeroed, torch.zeros(6, dtype=torch.bool))
    assert torch.equal(out["y"], y)
    assert torch.equal(out[NEXT_STATE], state)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (2, 3, 4), (0,)])
def test_in_sequential_mode_every_element_is_one_step(batch, random_data):
    module = build()
    data = random_data(module, *batch)
    out = module(data.copy())
    assert out["y"].shape == (*batch, H)
    assert out[NEXT_STATE].shape == (*batch, 1, H)
    if batch and 0 not in batch:  # tensordict cannot flatten no rows
        assert_same(out.reshape(-1), module(data.reshape(-1)))


# a sequence


@settings(deadline=None, max_examples=40)
@given(
    spec=st.sampled_from(SPECS),
    resets=st.integers(1, 3).flatmap(
        lambda B: st.integers(1, 12).flatmap(
            lambda T: st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=B, max_size=B)
        )
    ),
)
def test_a_sequence_restarts_from_stored_states_as_single_steps_do(spec, resets):
    torch.manual_seed(0)
    module = build(spec)
    B, T = len(resets), len(resets[0])
    core = module.core
    data = TensorDict(
        {
            "observation": torch.randn(B, T, D),
            STATE: torch.randn(B, T, core.num_layers, core.state_size),
            "is_init": torch.tensor(resets)[..., None],
        },
        [B, T],
    )
    with torch.no_grad(), set_recurrent_mode(True):
        got = module(data.copy())
    state = data[STATE][:, 0]
    for t in range(T):
        start = torch.where(data["is_init"][:, t, :, None], data[STATE][:, t], state)
        with torch.no_grad():
            y, state = core.step(data["observation"][:, t], start, torch.zeros(B, dtype=torch.bool))
        torch.testing.assert_close(got["y"][:, t], y)
        torch.testing.assert_close(got[NEXT_STATE][:, t], state)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_of_a_sequence_are_those_of_single_steps(spec, random_data, play):
    module = build(spec).double()
    data = random_data(module, 2, 7)

    def gradients(out):
        module.zero_grad()
        (out["y"].square().sum() + out[NEXT_STATE].square().sum()).backward()
        return {name: p.grad.clone() for name, p in module.named_parameters()}

    want = gradients(play(module, data))
    with set_recurrent_mode(True):
        got = gradients(module(data.copy()))
    assert all(g.abs().sum() > 0 for g in want.values())
    torch.testing.assert_close(got, want)


def test_the_next_state_is_the_states_of_acting_where_grumodule_writes_zeros(random_data, play):
    ours, theirs = build(), GRUModule(D, H, in_key="observation", out_key="y")
    data = random_data(ours, 2, 6, reset_rate=0.0)
    with set_recurrent_mode(True), torch.no_grad():
        true, sparse = ours(data.copy()), theirs(data.copy())
    assert (sparse[NEXT_STATE][:, :-1] == 0).all()
    with torch.no_grad():
        torch.testing.assert_close(true[NEXT_STATE], play(ours, data)[NEXT_STATE])
    assert (true[NEXT_STATE].flatten(2).abs().sum(-1) > 0).all()


@pytest.mark.parametrize("batch", [(5,), (2, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_in_recurrent_mode_the_last_batch_dimension_is_time(batch, random_data):
    module = build()
    data = random_data(module, *batch)
    with set_recurrent_mode(True):
        out, rows = module(data.copy()), module(data.reshape(-1, 5))
    assert out["y"].shape == (*batch, H)
    assert_same(out.reshape(-1, 5), rows)


def test_a_sequence_needs_a_time_dimension(random_data):
    module = build()
    with set_recurrent_mode(True), pytest.raises(ValueError, match=r"last batch dimension is time.*td\.unsqueeze\(0\)"):
        module(random_data(module))


def test_states_between_restarts_are_not_read(random_data):
    module = build()
    data = random_data(module, 3, 8)
    poisoned = data.clone()
    read = data["is_init"].squeeze(-1).clone()
    read[:, 0] = True
    poisoned[STATE][~read] = torch.nan
    with set_recurrent_mode(True):
        assert_same(module(poisoned), module(data))


# what is missing, what does not fit


@pytest.mark.parametrize("mode", [True, False])
def test_a_missing_state_reads_as_zeros(mode, random_data):
    module = build("bmru,gru")
    data = random_data(module, 3, 5)
    zeros = data.clone().update({STATE: torch.zeros_like(data[STATE])})
    with set_recurrent_mode(mode):
        assert_same(module(data.exclude(STATE)), module(zeros))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(
    ("key", "words"),
    [("is_init", r"no 'is_init'.*append torchrl\.envs\.InitTracker\(\)"), ("observation", "no 'observation' to read")],
)
def test_a_missing_flag_or_value_is_a_key_error(mode, key, words, random_data):
    module = build()
    with set_recurrent_mode(mode), pytest.raises(KeyError, match=words):
        module(random_data(module, 3, 5).exclude(key))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observation": torch.zeros(3, 5, D + 1)}, r"'observation' must be .*\[3, 5, 3\], got \[3, 5, 4\]; build"),
        ({"observation": torch.zeros(3, 5)}, r"'observation' must be .*\[3, 5, 3\], got \[3, 5\]"),
        ({STATE: torch.zeros(3, 5, H)}, r"\[3, 5, 1, 8\] for core 'bmru', got torch\.float32 \[3, 5, 8\]"),
        ({STATE: torch.zeros(3, 5, 1, 2 * H)}, "states stored by another core .*rebuild the core they came from"),
        ({STATE: torch.zeros(3, 5, 1, H).long()}, r"must be floats .* got torch\.int64"),
        ({"is_init": torch.zeros(3, 5, 2).bool()}, r"\[3, 5\] or \[3, 5, 1\], got \[3, 5, 2\]; reduce it with"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_the_next_move(mode, change, words, random_data):
    module = build()
    with set_recurrent_mode(mode), pytest.raises(ValueError, match=words):
        module(random_data(module, 3, 5).update(change))


def test_values_of_another_dtype_are_refused_by_the_core(random_data):
    module = build()
    data = random_data(module, 3)
    with pytest.raises(ValueError, match=r"x must be torch\.float32.*call x\.to\(torch\.float32\)"):
        module(data.update({"observation": data["observation"].double()}))


@pytest.mark.parametrize("flags", [torch.float32, torch.uint8])
def test_flags_need_not_be_bool_nor_have_a_last_axis(flags, random_data):
    module = build()
    data = random_data(module, 3, 5)
    other = data.clone().set("is_init", data["is_init"].squeeze(-1).to(flags))
    with set_recurrent_mode(True):
        assert_same(module(other), module(data))


@pytest.mark.parametrize("mode", [True, False])
def test_states_stored_in_half_precision_are_widened(mode, random_data):
    module = build()
    data = random_data(module, 3, 5)
    halves = data.clone().set(STATE, data[STATE].half())
    rounded = data.clone().set(STATE, data[STATE].half().float())
    with set_recurrent_mode(mode):
        out = module(halves)
        assert out[NEXT_STATE].dtype == torch.float32
        assert_same(out, module(rounded))


# modes


def test_the_mode_is_the_contexts_then_the_constructors_then_sequential():
    assert [build(default_recurrent_mode=mode).recurrent_mode for mode in (None, False, True)] == [False, False, True]
    for mode, name in ((True, "recurrent"), (False, "sequential")):
        for context in (mode, name):
            with set_recurrent_mode(context):
                assert build(default_recurrent_mode=not mode).recurrent_mode is mode
    with set_recurrent_mode(True), set_recurrent_mode(None):
        assert build().recurrent_mode is False


def test_what_torchrl_has_removed_says_what_to_use():
    module = build()
    with pytest.raises(RuntimeError, match=r"read only, got True; call inside torchrl\.modules\.set_recurrent_mode"):
        module.recurrent_mode = True
    with pytest.raises(RuntimeError, match="as a method was removed .*default_recurrent_mode"):
        module.set_recurrent_mode()
    with pytest.raises(RuntimeError, match="read recurrent_mode"):
        module.temporal_mode  # noqa: B018
    assert module.make_python_based() is module.make_cudnn_based() is module


# as any other module of tensordict


def test_tensors_can_be_given_without_a_tensordict(random_data):
    module = build()
    data = random_data(module, 3, 5)
    y, state = module(data["observation"][:, 0], data[STATE][:, 0], data["is_init"][:, 0])
    assert (y.shape, state.shape) == ((3, H), (3, 1, H))
    with set_recurrent_mode(True):
        y, state = module(observation=data["observation"], recurrent_state=data[STATE], is_init=data["is_init"])
        want = module(data)
    assert torch.equal(y, want["y"])
    assert torch.equal(state, want[NEXT_STATE])


def test_selected_outputs_can_be_had_back(random_data):
    module = build()
    module.select_out_keys("y")
    assert NEXT_STATE not in module(random_data(module, 3)).keys(include_nested=True)
    assert module.make_tensordict_primer() is not None
    module.reset_out_keys()
    assert NEXT_STATE in module(random_data(module, 3)).keys(include_nested=True)


def test_copies_pickles_and_saved_weights_give_the_same(random_data):
    module = build("bmru+gru")
    data = random_data(module, 3, 5)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = build("bmru+gru")
    loaded.load_state_dict(torch.load(file, weights_only=True))
    with set_recurrent_mode(True):
        want = module(data.copy())
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
            assert_same(other(data.copy()), want, atol=0, rtol=0)


def test_canonical_data_is_row_major_in_the_keys_of_the_module_and_else_untouched(random_data):
    module = build()
    data = random_data(module, 4, 6)[:, ::2].set("other", torch.randn(6, 4)[::2].T)
    data["is_init"] = data["is_init"].clone().as_strided((4, 3, 1), (3, 1, 7))  # contiguous, for an odd last stride
    want = data.clone()
    for canonical in (module.canonicalize(data), canonicalize_rnn_subset(data, [module, build()])):
        assert canonical is not data
        for key in module.in_keys:
            assert canonical[key].stride() == torch.empty(canonical[key].shape).stride()
        assert canonical["other"] is data["other"]
        assert (canonical == want).all()
    assert not data["observation"].is_contiguous()
    assert module.canonicalize(data, inplace=True) is data
    assert data["observation"].is_contiguous()
    nothing = TensorDict({"other": torch.zeros(2)}, [2])
    assert module.canonicalize(nothing).keys() == nothing.keys()


def test_a_module_lives_on_the_device_it_was_given():
    assert build(device="meta").core.encoder.weight.is_meta


@pytest.mark.parametrize("spec", ["bmru", "mingru", "bmru+mingru", "mamba"])
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_states_of_a_network_in_half_precision_are_float32_in_both_modes(spec, narrow):
    module = build(spec).to(narrow)
    shape = [2, 9]
    data = TensorDict(
        {"observation": torch.randn(*shape, D, dtype=narrow), "is_init": torch.zeros(*shape, 1, dtype=torch.bool)},
        shape,
    )
    for mode in (True, False):
        with set_recurrent_mode(mode):
            assert module(data.clone())["next", "recurrent_state"].dtype == torch.float32
