from __future__ import annotations

import pytest
import torch

import mru_rl
from mru_rl.blocks.export import export_step

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`, which the extra `test` brings along")


def replay(spec: str, path, steps: int = 1000):
    """Largest difference of state and output between torch and onnxruntime over many steps with resets."""
    core = mru_rl.make_core(spec, 5, 16)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    export_step(core, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state, theirs, worst, exact, visited = core.initial_state(3), core.initial_state(3).numpy(), 0.0, True, set()
    with torch.no_grad():
        for _ in range(steps):
            x, is_init = torch.randn(3, 5), torch.rand(3) < 0.02
            y, state = core.step(x, state, is_init)
            got, theirs = session.run(None, {"x": x.numpy(), "state": theirs, "is_init": is_init.numpy()})
            worst = max(worst, (torch.from_numpy(got) - y).abs().max().item())
            exact = exact and bool((torch.from_numpy(theirs) == state).all())
            visited.add(tuple(state.sign().flatten().tolist()))
    return worst, exact, len(visited)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", ["bmru", "bmru+mingru", "gru"])
def test_the_exported_step_is_the_step_over_1000_steps(spec, tmp_path):
    worst, exact, visited = replay(spec, tmp_path / "step.onnx")
    assert worst < 1e-4
    assert visited > 100, "the states moved"
    if spec == "bmru":
        assert exact, "states of a BMRU are the same bits"


def test_a_complex_core_cannot_be_exported_and_is_named(tmp_path):
    with pytest.raises(ValueError, match="complex numbers, which lru needs; choose a core without it"):
        export_step(mru_rl.make_core("bmru+lru", 5, 16), tmp_path / "step.onnx")
    assert list(tmp_path.iterdir()) == []
