"""A process that trains a workload for a moment, for its peak memory and the time to its first step."""

from __future__ import annotations

import argparse
import json
import time

BEGUN = time.perf_counter()


def main() -> None:
    """Train; print the seconds to the end of the first step, from the first line of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["ours", "bare"])
    parser.add_argument("name")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    import torch

    torch.set_flush_denormal(True)
    from benchmarks.bare import bare
    from benchmarks.workloads import SUITE, made, quick

    bench = made((quick if options.quick else SUITE.__getitem__)(options.name), torch.device("cpu"))
    loop = None if options.side == "ours" else bare(bench)
    one = (lambda steps: bench.train(steps=steps)) if loop is None else (lambda steps: loop.train(0, steps))
    one(1)
    first = time.perf_counter() - BEGUN
    one(min(bench.steps, 20))
    (bench if loop is None else loop).evaluate()
    print(json.dumps({"first_step": first}))


if __name__ == "__main__":
    main()
