from __future__ import annotations

import pytest

from mru_rl.agents.console import room


def test_a_run_that_takes_more_than_is_free_is_told_what_takes_less(monkeypatch):
    monkeypatch.setattr(room, "free_memory", lambda: 3 * 2**20)
    parts = {"rollout": 2**20, "replay": 1500 * 2**20}
    said, warned = room.memory_notes(parts, "fewer --num-envs")
    assert said == "memory: about 1,501 MiB (rollout 1, replay 1,500)"
    assert warned == "that is more memory than is free here, 1,501 of 3 MiB: give fewer --num-envs"
    assert room.memory_notes(parts, "fewer --num-envs", elsewhere=True) == [said]
    monkeypatch.setattr(room, "free_memory", lambda: None)
    assert room.memory_notes(parts, "fewer --num-envs") == [said]


def test_a_disk_is_looked_at_where_the_run_will_be(tmp_path):
    folder = tmp_path / "not" / "there"
    assert room.disk_notes(1, folder, "less") == room.disk_notes(2**70, None, "less") == []
    assert "more disk than is free here" in room.disk_notes(2**70, folder, "less")[0]


@pytest.mark.parametrize(
    ("line", "top", "limit", "usage"),
    [
        ("0::/a/b", "", "memory.max", "memory.current"),
        ("4:cpu,memory:/a/b", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_the_limits_of_all_control_groups_count_and_a_cache_is_free(tmp_path, line, top, limit, usage):
    groups, root = tmp_path / "cgroup", tmp_path / "sys"
    groups.write_text(f"9:cpuset:/a\n{line}\n")
    for place, limited in (("a/b", "max"), ("a", "1000")):
        folder = root / top / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{limited}\n")
        (folder / usage).write_text("700\n")
        (folder / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert list(room._left_to_control_groups(groups, root)) == [450]
    assert list(room._left_to_control_groups(tmp_path / "none", root)) == []
