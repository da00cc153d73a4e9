"""How many processor cores there are for this process, which may be one of several side by side."""

from __future__ import annotations

import os

_sharing = 1


def cores() -> int:
    """The cores that this process may run on, where the system tells, or else all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(processes: int) -> None:
    """Remember that this process is one of so many that prunecli has work side by side."""
    global _sharing  # it is told once, when the process begins, and holds for all of it
    _sharing = processes


def sharing() -> int:
    """How many processes share the machine with this one, it among them, as far as prunecli has started them."""
    return _sharing


def share_of_cores() -> int:
    """This process's fair part of the cores, at least one."""
    return max(1, cores() // _sharing)
