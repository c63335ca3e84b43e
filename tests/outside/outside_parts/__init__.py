"""Somebody else's parts: importing this package makes a cell, an env, an algorithm and a logger known to mru_rl."""

from outside_parts import cell, env, logger, pqn

__all__ = ["cell", "env", "logger", "pqn"]
