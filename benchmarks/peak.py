"""Runs a module as `python -m` would and writes the most memory that this process had, in megabytes.

    python -m benchmarks.peak FILE MODULE [WORD ...]

Where Linux tells it, it is this process's own: what `getrusage` gives begins with what the parent had when it started
this one.
"""

from __future__ import annotations

import re
import resource
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the module; whatever it ends with, the file is written first."""
    out, module, *words = sys.argv[1:]
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        Path(out).write_text(str(_peak()))


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(kilobytes) / 1e3
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
