"""How much memory there is, and a refusal, with numbers, of what would not fit."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from prunecli.errors import OutOfMemory

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What `mallopt` calls them, see malloc.h."""
_CONTROL_GROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@cache
def memory() -> int:
    """Bytes that this process may have: the machine's, or those of its control group where they are fewer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text().strip() for path in _CONTROL_GROUPS if path.is_file()]
    return min([machine, *(int(limit) for limit in limits if limit.isdigit())])


def check_fits(what: str, count: int) -> None:
    """Raises OutOfMemory where `what` takes more bytes than there are."""
    if count > memory():
        raise OutOfMemory(f"{what} takes {in_words(count)}; there are {in_words(memory())} of memory")


def keep_freed() -> None:
    """Have glibc keep what is freed for the next step, which would otherwise get it anew from the system, page by page.

    Other C libraries are left as they are. A process then holds on to the most that it ever used.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change is not None:
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            change(option, 2**31 - 1)


@contextmanager
def allocating(what: str) -> Iterator[None]:
    """Make an allocator's complaint an OutOfMemory that says what did not fit."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        first = str(error).strip().partition("\n")[0]
        # torch's CPU allocator raises a bare RuntimeError.
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in first):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(f"out of memory in {what} ({first or 'no more is said'})") from error


def in_words(count: float) -> str:
    """Bytes as people say them: `3.6 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} TB" if count >= 1000 else f"{count:.3g} TB"
