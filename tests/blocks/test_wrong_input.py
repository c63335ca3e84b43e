"""What does not fit is refused at every entrance of the memory library: the rule, what arrived, the next move."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

import mru_rl
from mru_rl import make_core
from mru_rl.blocks.budget import state_size_for_parameters
from mru_rl.blocks.export import export_step
from mru_rl.cells.base import ScanCell
from mru_rl.cells.registry import get_cell

B, T, D, S = 2, 4, 3, 8
MODULES = {
    "core": lambda spec: make_core(spec, D, S),
    "cell": lambda spec: get_cell(spec)(D, S),
}
SPECS = [("core", spec) for spec in ("bmru+mingru", "lru", "gru,lstm")]
SPECS += [("cell", name) for name in ("bmru", "lru", "gru", "deltanet", "framestack", "mlp")]

# what is changed of x [B, T, D], state, is_init [B, T] and restart; the error; words of the message
CALLS = {
    "one step given to the sequence": (lambda x, s, i, r: (x[:, 0], s, i), ValueError, r"\.step for a single step"),
    "another input width": (lambda x, s, i, r: (x[..., :2], s, i), ValueError, r"input_size 3, got \[2, 4, 2\]"),
    "no step at all": (lambda x, s, i, r: (x[:, :0], s, i[:, :0]), ValueError, "at least one step, got .*skip the call"),
    "whole numbers": (lambda x, s, i, r: (x.long(), s, i), ValueError, r"int64; call x\.to\(torch\.float32\)"),
    "wider inputs": (lambda x, s, i, r: (x.double(), s, i), ValueError, r"float64; call x\.to\(torch\.float32\)"),
    "inputs elsewhere": (lambda x, s, i, r: (x.to("meta"), s, i), ValueError, r"x on meta.*\.to\('cpu'\)"),
    "a list": (lambda x, s, i, r: (x.tolist(), s, i), TypeError, r"x must be a tensor, got list; call torch\.as_tensor\(x\)"),
    "another batch": (lambda x, s, i, r: (x, s[:1], i), ValueError, r"initial_state\(batch_size\) when the number of envs"),
    "a narrower state": (lambda x, s, i, r: (x, s[..., :5], i), ValueError, r"state must be \[2, .*got \[2, .*5\]"),
    "a state of whole numbers": (lambda x, s, i, r: (x, s.long(), i), ValueError, r"int64; call state\.to\(torch\.float32\)"),
    "a wider state": (lambda x, s, i, r: (x, s.double(), i), ValueError, r"float64; call state\.to"),
    "a narrow state": (lambda x, s, i, r: (x, s.half(), i), ValueError, r"float16; call state\.to"),
    "a state elsewhere": (lambda x, s, i, r: (x, s.to("meta"), i), ValueError, "state on meta"),
    "a state in a list": (lambda x, s, i, r: (x, s.tolist(), i), TypeError, r"got list and Tensor; .*initial_state\(batch"),
    "flags that are numbers": (lambda x, s, i, r: (x, s, i.float()), ValueError, r"is_init must be bool \[2, 4\].*float32"),
    "flags with a trailing axis": (lambda x, s, i, r: (x, s, i[..., None]), ValueError, "without a trailing axis"),
    "flags of another length": (lambda x, s, i, r: (x, s, i[:, :2]), ValueError, r"got torch\.bool \[2, 2\]"),
    "flags in a list": (lambda x, s, i, r: (x, s, i.tolist()), TypeError, "zeros of dtype torch.bool as is_init if no"),
    "time first": (lambda x, s, i, r: (x.transpose(0, 1), s, i.T), ValueError, r"batch first: .*x\.transpose\(0, 1\)"),
    "inputs alone time first": (lambda x, s, i, r: (x.transpose(0, 1), s, i), ValueError, r"x is \[B, T, D\], got \[4, 2, 3\]"),
    "flags elsewhere": (lambda x, s, i, r: (x, s, i.to("meta")), ValueError, "is_init on meta"),
    "a restart per row": (lambda x, s, i, r: (x, s, i, s), ValueError, "restart must be .*one state per step"),
    "a restart to be broadcast": (lambda x, s, i, r: (x, s, i, r[:, :1]), ValueError, "restart must be .*leave it out"),
    "a narrower restart": (lambda x, s, i, r: (x, s, i, r[..., :5]), ValueError, "restart must be"),
    "a restart of whole numbers": (lambda x, s, i, r: (x, s, i, r.long()), ValueError, r"call restart\.to"),
    "a restart elsewhere": (lambda x, s, i, r: (x, s, i, r.to("meta")), ValueError, "restart on meta"),
    "a number as restart": (lambda x, s, i, r: (x, s, i, 0.0), TypeError, "restart must be a tensor, or None .*got float"),
}  # fmt: skip


def good(module):
    state = module.initial_state(B)
    restart = torch.zeros(B, T, *state.shape[1:])
    return torch.randn(B, T, D), state, torch.zeros(B, T, dtype=torch.bool), restart


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize(("kind", "spec"), SPECS)
def test_a_wrong_sequence_is_refused_with_the_rule(kind, spec, case):
    module, (change, error, words) = MODULES[kind](spec), CALLS[case]
    with pytest.raises(error, match=words):
        module(*change(*good(module)))


STEPS = {
    "another input width": (lambda x, s, i: (x[:, :2], s, i), ValueError, r"input_size 3, got \[2, 2\]"),
    "wider inputs": (lambda x, s, i: (x.double(), s, i), ValueError, r"float64; call x\.to\(torch\.float32\)"),
    "whole numbers": (lambda x, s, i: (x.long(), s, i), ValueError, r"int64; call x\.to\(torch\.float32\)"),
    "inputs elsewhere": (lambda x, s, i: (x.to("meta"), s, i), ValueError, "x on meta"),
    "another batch": (lambda x, s, i: (x, s[:1], i), ValueError, r"initial_state\(batch_size\) when the number of envs"),
    "a narrower state": (lambda x, s, i: (x, s[..., :5], i), ValueError, r"state must be \[2, .*got \[2, .*5\]"),
    "a state of whole numbers": (lambda x, s, i: (x, s.long(), i), ValueError, r"int64; call state\.to"),
    "a list": (lambda x, s, i: (x.tolist(), s, i), TypeError, r"x must be a tensor, got list"),
    "a state in a list": (lambda x, s, i: (x, s.tolist(), i), TypeError, "got list and Tensor"),
    "flags that are numbers": (lambda x, s, i: (x, s, i.float()), ValueError, r"is_init must be bool \[2\].*float32"),
    "flags with a trailing axis": (lambda x, s, i: (x, s, i[:, None]), ValueError, "without a trailing axis"),
    "flags elsewhere": (lambda x, s, i: (x, s, i.to("meta")), ValueError, "is_init on meta"),
    "a sequence": (lambda x, s, i: (x[:, None], s, i), ValueError, "itself for a sequence"),
}  # fmt: skip


@pytest.mark.parametrize("case", STEPS)
@pytest.mark.parametrize(("kind", "spec"), SPECS)
def test_a_wrong_step_is_refused_with_the_rule(kind, spec, case):
    module, (change, error, words) = MODULES[kind](spec), STEPS[case]
    x, state, is_init, _ = good(module)
    with pytest.raises(error, match=words):
        module.step(*change(x[:, 0], state, is_init[:, 0]))


@pytest.mark.parametrize("method", ["unroll", "trace"])
def test_unroll_and_trace_refuse_what_the_core_refuses(method):
    core = make_core("bmru+gru", D, S)
    for change, error, words in CALLS.values():
        inputs = change(*good(core))
        if method == "unroll" or (len(inputs) == 3 and "single step" not in words):
            with pytest.raises(error, match=words):
                getattr(core, method)(*inputs)
    x, state, is_init, _ = good(core)
    with pytest.raises(ValueError, match="is_init must be bool"):
        core.trace(x[:, 0], state, is_init)


def test_a_core_takes_an_empty_batch_and_a_restart_that_fits():
    core = make_core("bmru+mingru,gru", D, S)
    x, state, is_init, restart = good(core)
    assert core(x, state, is_init, restart)[0].shape == (B, T, S)
    assert core(x[:0], state[:0], is_init[:0])[0].shape == (0, T, S)
    assert core.step(x[:0, 0], state[:0], is_init[:0, 0])[1].shape == (0, 2, S)


@pytest.mark.parametrize("spec", ["bmru+mingru,gru", "lru"])
def test_a_core_starts_from_zeros_if_no_state_is_given_and_no_episode_if_no_flags_are(spec):
    core = make_core(spec, D, S).double()
    x, _, is_init, _ = good(core)
    x, state = x.double(), core.initial_state(B)
    is_init[0, 2] = True
    for flags in (None, is_init):
        given = torch.zeros_like(is_init) if flags is None else flags
        for method in (core, core.unroll, core.advance, core.trace):
            got, want = method(x, is_init=flags), method(x, state, given)
            assert all(torch.equal(a, b) for a, b in zip(tensors_of(got), tensors_of(want), strict=True))
    for got, want in zip(core.step(x[:, 0]), core.step(x[:, 0], state, is_init[:, 0]), strict=True):
        assert torch.equal(got, want)


def tensors_of(found):
    """The tensors of what a core returned."""
    if isinstance(found, TensorDict):
        return list(found.values(include_nested=True, leaves_only=True))
    return [found] if isinstance(found, torch.Tensor) else list(found)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_cell_alone_is_given_everything(missing):
    cell = get_cell("bmru")(D, S)
    x, state, is_init, _ = good(cell)
    given = [x, state, is_init]
    given[missing] = None
    with pytest.raises(TypeError, match="must be tensors, got .*NoneType.*start from cell.initial_state"):
        cell(*given)


@pytest.mark.parametrize("spec", [*mru_rl.list_cells(), "lru+gru", "bmru+mingru"])
def test_inputs_of_another_dtype_pass_where_autocast_makes_them_fit(spec):
    torch.manual_seed(2)
    core = make_core(spec, D, S)
    x, state, is_init, _ = good(core)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = core(x.bfloat16(), state, is_init)
        core.trace(x.bfloat16(), state, is_init)
        now = state
        for t in range(T):
            stepped, now = core.step(x[:, t].bfloat16(), now, is_init[:, t])
    assert y.isfinite().all()
    torch.testing.assert_close((y[:, -1].float(), last), (stepped.float(), now), atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in core.parameters())


@pytest.mark.parametrize("rows", [-1, 2.5, "2", None, True])
@pytest.mark.parametrize("kind", MODULES)
def test_a_batch_size_that_is_no_number_of_rows_is_refused(kind, rows):
    with pytest.raises(ValueError, match="whole number of rows, 0 or more, got .*number of envs"):
        MODULES[kind]("bmru").initial_state(rows)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"horizon": 0}, ValueError, "at least 1, got 0"),
        ({"horizon": float("nan")}, ValueError, "at least 1, got nan"),
        ({"horizon": "10"}, ValueError, "at least 1, got '10'"),
        ({"x": torch.full((B, T, D), float("nan"))}, ValueError, "24 numbers are not finite; give observations"),
        ({"x": torch.zeros(B, T, 2)}, ValueError, "input_size 3"),
        ({"x": torch.zeros(B, D)}, ValueError, r"x must be \[B, T, input_size\]"),
        ({"x": torch.zeros(0, T, D), "is_init": torch.zeros(0, T).bool()}, ValueError, "one step at least"),
        ({"x": None}, TypeError, "x must be a tensor, got NoneType"),
        ({"is_init": 0}, TypeError, "must be tensors"),
    ],
)
def test_a_warm_up_that_could_set_no_threshold_is_refused(change, error, words):
    given = {"x": torch.randn(B, T, D), "is_init": torch.zeros(B, T, dtype=torch.bool), "horizon": 10.0}
    with pytest.raises(error, match=words):
        make_core("bmru+gru", D, S).warm_up(**(given | change))


def test_a_unit_warmed_up_or_asked_for_its_gates_alone_checks_the_same():
    unit = get_cell("bmru")(D, S)
    with pytest.raises(ValueError, match="expected 3 numbers in the last dimension, got"):
        unit.warm_up(torch.randn(5, 2), 10.0)
    with pytest.raises(ValueError, match="at least 1, got -1"):
        unit.warm_up(torch.randn(5, D), -1)
    with pytest.raises(ValueError, match="expected 3 numbers in the last dimension, got"):
        unit.gates(torch.randn(5, 2))
    with pytest.raises(TypeError, match="a state must be floating point, got torch.int64"):
        unit.pack_signs(torch.zeros(2, S).long())
    with pytest.raises(ValueError, match="codes are on meta but the unit is on cpu"):
        unit.unpack_signs(torch.zeros(2, S, dtype=torch.int8, device="meta"))


# making cores and cells


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("bmru", {"slope": "steep"}, "'slope' of this core must be a number such as 4.0, got 'steep'"),
        ("bmru", {"slope": float("nan")}, "positive, finite numbers, got slope=nan"),
        ("bmru", {"init_horizon": -1.0}, "at least 1, got -1.0"),
        ("bmru", {"read_before_write": "no"}, "must be a truth value such as True, got 'no'"),
        ("bmru", {"surrogate": 3}, "must be a word such as 'tanh', got 3"),
        ("hgrn:lower_bound=abc", {}, "'lower_bound' of 'hgrn' must be a number such as 0.0, got 'abc'"),
        ("framestack:frames=2.0", {}, "'frames' of 'framestack' must be a whole number such as 4, got 2.0"),
        ("deltanet:key_size=-2", {}, "key_size must be a whole number of at least 1, got -2"),
        ("lru", {"r_min": 3.0}, r"radii lie in \[0, 1\]"),
        ("carry-bmru:carry=true", {}, "must be a number such as 0.5, got True"),
    ],
)
def test_an_option_of_another_kind_or_without_a_meaning_is_refused(spec, options, words):
    with pytest.raises(ValueError, match=words):
        make_core(spec, D, S, **options)


@pytest.mark.parametrize("sizes", [("3", 8), (3, 8.0), (3, None), (True, 8)])
def test_a_cell_s_sizes_are_whole_numbers(sizes):
    with pytest.raises(ValueError, match="must be a whole number of at least 1, got"):
        get_cell("bmru")(*sizes)


@pytest.mark.parametrize(
    ("cell", "error", "words"),
    [
        (object, TypeError, "a class derived from Cell"),
        ("bmru", TypeError, "got 'bmru'; give the class itself"),
        (
            type("Unfinished", (ScanCell,), {"name": "unfinished"}),
            TypeError,
            "does not say .*: coefficients; define it",
        ),
        (type("Nameless", (mru_rl.MRU,), {"name": 3}), ValueError, "as in 'my-unit'; got 3"),
    ],
)
def test_what_is_no_finished_cell_class_is_not_registered(cell, error, words):
    before = mru_rl.list_cells()
    with pytest.raises(error, match=words):
        mru_rl.register_cell(cell)
    assert mru_rl.list_cells() == before


def test_a_cell_is_asked_for_by_its_name():
    with pytest.raises(ValueError, match="by its name, got None; cells are bmru"):
        get_cell(None)


# export and budget


def test_an_export_needs_a_core_and_a_file_in_a_folder(tmp_path):
    core = make_core("bmru", D, S)
    for arguments in ((get_cell("bmru")(D, S), tmp_path / "step.onnx"), (core, None)):
        with pytest.raises(TypeError, match="takes a MemoryCore and a file's path"):
            export_step(*arguments)
    with pytest.raises(FileNotFoundError, match="there is no folder .*make it first"):
        export_step(core, tmp_path / "nowhere" / "step.onnx")
    with pytest.raises(IsADirectoryError, match=r"name a file in it, such as .*step\.onnx"):
        export_step(core, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": 0}, "parameters must be a whole number of at least 1, got 0"),
        ({"parameters": float("nan")}, "parameters must be a whole number"),
        ({"parameters": 10**9}, "at most .* parameters up to state size 4096, .*larger hidden_size"),
        ({"spec": "bmruu"}, "did you mean 'bmru'"),
        ({"spec": "bmru:8"}, "do not depend on its state size"),
        ({"input_size": 0}, "input_size must be a whole number"),
        ({"slop": 1.0}, "did you mean 'slope'"),
        ({"state_size": 4}, "state_size=4; leave it out"),
    ],
)
def test_a_budget_that_cannot_be_met_says_why(change, words):
    given = {"spec": "bmru", "input_size": D, "hidden_size": S, "parameters": 1000}
    with pytest.raises(ValueError, match=words):
        state_size_for_parameters(**(given | change))
