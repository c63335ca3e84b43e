"""Ray, for work on more than one machine: where it comes from, and when it ends. Needs the extra `ray`.

RAY_ADDRESS names the cluster to work on, as host:port of its head, or `auto` for one that `ray start` began on this
machine; without it Ray is started here, for the length of the work. Every machine needs the same mru_rl. A cluster that
asks for a token gets it as Ray documents: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, the same on every machine and here.
Ray listens on all of a machine's addresses and runs what it is sent: from 2.60 on, one that is started here asks for a token
that only its own processes know.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any


def import_ray() -> Any:
    """The package. Raises ValueError saying how to install it where it is not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user says so
    try:
        import ray
    except ImportError:
        raise ValueError("Ray is not installed; run `pip install 'mru_rl[ray]'`, or work without it") from None
    return ray


@contextlib.contextmanager
def ray_session(processes: int) -> Iterator[Any]:
    """Ray for a block of work, with room for so many processes of one thread each.

    A session that is there already is used and left running. Raises ValueError where RAY_ADDRESS leads nowhere, or to a
    cluster with fewer CPUs.
    """
    ray = import_ray()
    mine = not ray.is_initialized()
    if mine:
        before = signal.getsignal(signal.SIGTERM)
        _connect(ray, processes)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own there, which exits with status 15
    try:
        there = int(ray.cluster_resources().get("CPU", 0))
        if there < processes:
            raise ValueError(
                f"the Ray cluster has {there} CPUs, {processes} processes need one each; ask for fewer or add machines"
            )
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _connect(ray: Any, processes: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        ray.init(address="local", num_cpus=processes, include_dashboard=False, **quiet)
        return
    try:
        check_reachable(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"RAY_ADDRESS is {address!r}, and no Ray cluster can be joined there ({reason}); start one with "
            "`ray start --head`, give RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN where it asks for one, or unset RAY_ADDRESS "
            "to work on this machine alone"
        ) from None


def check_reachable(address: str) -> None:
    """Raises OSError where nothing listens at host:port, of which Ray itself makes sure for five minutes."""
    host, sign, port = address.removeprefix("ray://").rpartition(":")
    if sign and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
