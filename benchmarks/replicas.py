"""P8: several seeds at once: one-thread processes side by side, and seeds as one batched product."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial

from benchmarks import worker
from benchmarks.measure import ROOT, Taken, command, interleaved, median_wall
from benchmarks.registry import LEFT_OUT, Circumstances, benchmark
from benchmarks.rows import Row, at_least, compared, figure, not_there
from benchmarks.training import epochs
from benchmarks.workloads import Bench, bench
from prunecli.experiment import Experiment

WORKERS, SEEDS = 2, 10
_TARGETS = {"lenet": at_least(1.35), "resnet": at_least(1.6)}


@benchmark("P8")
def side_by_side(at: Circumstances) -> Iterator[Row]:
    """Two seeds in two one-thread processes, beside one after the other with all threads."""
    what = "two seeds in two one-thread processes"
    if at.device.type == "cuda":
        yield not_there("P8", what, "a GPU's processes would share it; see the batched seeds")
        return
    if at.quick:
        yield not_there("P8", what, LEFT_OUT)
        return
    for name in _TARGETS:
        context = multiprocessing.get_context("spawn")
        with _one_thread(), ProcessPoolExecutor(WORKERS, context, initializer=worker.begin) as pool:
            yield from _against_one_process(name, what, pool, at)


@benchmark("P8")
def batched(at: Circumstances) -> Iterator[Row]:
    """Seeds of a fully connected network trained as one batched product, beside one after the other."""
    what = f"recipes/imp_lrr.yaml's dense training, {SEEDS} seeds as one batched product"
    key, target = "batched_seeds", at_least(1.3)
    if at.quick:
        yield not_there("P8", what, LEFT_OUT, target=target)
        return
    if key not in {item.name for item in fields(Experiment)}:
        yield not_there("P8", what, f"recipes have no key '{key}' yet", target=target)
        return
    recipe = str(ROOT / "recipes" / "imp_lrr.yaml")

    def side(value: str) -> Callable[[], object]:
        words = ("-m", "prunecli", "train", recipe, f"{key}={value}", "--seeds", f"0-{SEEDS - 1}", "--quiet")

        def run() -> None:
            runs = at.folder / f"batched-{value}-{time.monotonic_ns()}"
            command(*words, "--device", at.device.type, "--runs", str(runs))

        return run

    taken = interleaved({"ours": side("true"), "one by one": side("false")}, at.few(2), at.device, warm=False)
    note = "whole commands, start-up included"
    yield compared("P8", what, "one after the other", taken, "ours", "one by one", target=target, note=note)


def _against_one_process(name: str, what: str, pool: ProcessPoolExecutor, at: Circumstances) -> Iterator[Row]:
    single = bench(name, at)
    _side_by_side(pool, name)
    taken: dict[str, list[Taken]] = {"ours": [], "one process": []}
    for number in range(at.few(3)):
        sides = [("ours", partial(_side_by_side, pool, name))]
        sides.append(("one process", partial(_in_turn, single)))
        for side, work in sides if number % 2 == 0 else reversed(sides):
            taken[side].append(work())
    note = f"{single.workload.part() or 'an epoch'} with evaluation each; the processes' start is left out"
    yield compared(
        "P8",
        f"{single.workload.title}: {what}",
        f"one after the other, {at.threads} threads",
        taken,
        "ours",
        "one process",
        target=_TARGETS[name],
        note=note,
    )
    peer = WORKERS * median_wall(epochs(name, at)["OpenLTH-style"])
    values = [peer / one.wall for one in taken["ours"]]
    target = at_least(13) if name == "lenet" else None
    what = f"{single.workload.title}: {what}, against OpenLTH-style"
    note = "the median of the peer's own rounds, not interleaved with these"
    yield figure("P8", what, values, "times", target=target, note=note)


def _side_by_side(pool: ProcessPoolExecutor, name: str) -> Taken:
    begun = time.perf_counter()
    cpu = sum(pool.map(worker.train, [name] * WORKERS))
    return Taken(time.perf_counter() - begun, cpu)


def _in_turn(single: Bench) -> Taken:
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(WORKERS):
        single.evaluate(single.train())
    return Taken(time.perf_counter() - begun, time.process_time() - cpu)


class _one_thread:
    """Has the processes that start inside the block read one thread from their environment."""

    def __enter__(self) -> None:
        self.before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"

    def __exit__(self, *_error: object) -> None:
        if self.before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = self.before
