"""Batched ports of popgym's tasks, one family per file."""

PERFECT = 1 - 1e-4
"""Success where a perfect episode earns exactly 1: less than one mistake away, and summing rewards in float32 passes."""
