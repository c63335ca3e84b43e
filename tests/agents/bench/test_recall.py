"""The recall table: it runs, its task is what it says, and what it writes can be read back."""

from __future__ import annotations

import json

import pytest
import torch

from mru_rl.agents.bench import recall


def test_the_first_symbol_is_the_answer_and_only_the_first_step_is_flagged():
    x, is_init, first = recall.sequences(6, 9)
    assert x.shape == (6, 9, recall.SYMBOLS + 1)
    assert torch.equal(x[:, 0, : recall.SYMBOLS].argmax(-1), first)
    assert torch.equal(x[..., -1].bool(), is_init)
    assert is_init.sum() == 6
    assert len(first.unique()) > 1


@pytest.mark.parametrize(("spec", "learns"), [("bmru", True), ("mlp", False)])
def test_a_memory_learns_to_recall_and_a_layer_without_memory_cannot(spec, learns):
    run = recall.train(spec, length=10, updates=200, seed=0)
    assert (run["accuracy"] >= recall.LEARNED) == learns
    assert (run["accuracy"] < 0.4) != learns


def test_the_table_is_written_with_what_made_it(tmp_path, capsys):
    recall.main(["--cores", "gru", "bmru:16+mingru:16", "--length", "5", "--updates", "2", "--seeds", "1", "--threads", "1",
                "--out", str(tmp_path)])  # fmt: skip
    written = json.loads((tmp_path / "recall.json").read_text())
    assert [row["core"] for row in written["cores"]] == ["gru", "bmru:16+mingru:16"]
    assert written["cores"][1]["runs"][0]["state_size"] == 32
    assert written["provenance"]["command"].startswith("mru-rl bench recall --cores gru bmru:16")
    assert {"commit", "versions", "length", "updates", "learning_rate"} <= set(written["provenance"])
    assert capsys.readouterr().out == (tmp_path / "recall.md").read_text()
