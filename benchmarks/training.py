"""P1 to P3, P5: training, an epoch with its evaluation, beside both peers and the machine's floor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial

import torch

from benchmarks.bare import bare
from benchmarks.floors import floors, operations
from benchmarks.measure import Taken, Work, interleaved, observed
from benchmarks.openlth_style import shuffled, style
from benchmarks.parity import CLOSE, FED, STEPS, against_bare, against_openlth_style, parity_bench
from benchmarks.registry import LEFT_OUT, Circumstances, benchmark
from benchmarks.rows import Row, Target, at_least, compared, figure, not_there
from benchmarks.workloads import Bench, bench

NEAR = at_least(0.97)
_TARGETS: dict[tuple[str, str], Target] = {
    ("cpu", "lenet"): at_least(9),
    ("cpu", "resnet"): at_least(1.7),
    ("cpu", "vgg"): at_least(1.15),
    ("cuda", "lenet"): at_least(100),
    ("cuda", "resnet"): at_least(15),
}
_FLOORS: dict[tuple[str, str], Target] = {
    ("cpu", "resnet"): at_least(0.45),
    ("cpu", "lenet"): at_least(0.45),
    ("cuda", "resnet"): at_least(0.35),
}
_IDS = {"lenet": "P1", "resnet": "P2", "vgg": "P3"}


@benchmark("P1")
def lenet(at: Circumstances) -> Iterator[Row]:
    """LeNet-300-100 on images of MNIST's shape and number."""
    yield from _trained("lenet", at)


@benchmark("P2")
def resnet(at: Circumstances) -> Iterator[Row]:
    """ResNet-20 on images of CIFAR-10's shape and number."""
    yield from _trained("resnet", at)
    many = "ResNet-20, many seeds on one GPU, against the OpenLTH-style loop"
    why = (
        "needs --device cuda" if at.device.type == "cpu" else "no public call trains several ResNets at once"
    )
    yield not_there("P2", many, why, target=at_least(40))


@benchmark("P3")
def vgg(at: Circumstances) -> Iterator[Row]:
    """VGG-16 on images of CIFAR-10's shape and number."""
    yield from _trained("vgg", at)


@benchmark("P5")
def share_of_floor(at: Circumstances) -> Iterator[Row]:
    """What part of the machine's rate training reaches, by the products and convolutions that it needs."""
    kinds = [torch.float32, *([torch.bfloat16] if at.device.type == "cuda" else [])]
    for found in (floors(at, kind) for kind in kinds):
        yield figure("P5", f"peak matrix product, {found.dtype}", [found.product / 1e9], "GFLOP/s")
        yield figure("P5", f"peak 3x3 convolution, {found.dtype}", [found.convolution / 1e9], "GFLOP/s")
    yield figure("P5", "memory copied, read and written", [floors(at).memory / 1e9], "GB/s")
    for name in _IDS:
        made = bench(name, at)
        autocast = made.lab.manner.autocast
        rate = floors(at, autocast or torch.float32).rate
        steps = _steps(name, at)
        shares = [operations(made) * made.images / one.wall / rate for one in steps]
        each = f"{operations(made) / 1e6:,.2f} MFLOP an image, by torch's counter, kept and dropped weights alike"
        target = _FLOORS.get((at.device.type, name))
        yield figure(
            "P5",
            f"{made.workload.title}: training's share of the floor",
            shares,
            "",
            target=target,
            note=each,
        )


@cache
def epochs(name: str, at: Circumstances) -> Mapping[str, Sequence[Taken]]:
    """Rounds of an epoch with its evaluation: prunecli's, the bare loop's and the OpenLTH-style one's."""
    made = bench(name, at)
    loop, other = bare(made), style(made, at.folder)
    sides: dict[str, Work] = {
        "ours": partial(_our_epoch, made),
        "bare": lambda: (loop.train(made.first, made.steps), loop.evaluate()),
        "OpenLTH-style": lambda: other.epoch(shuffled(made)),
    }
    return interleaved(sides, at.few(5), at.device)


@cache
def _steps(name: str, at: Circumstances) -> Sequence[Taken]:
    """prunecli's training alone, without evaluation."""
    made = bench(name, at)
    return interleaved({"ours": made.train}, at.few(2), at.device)["ours"]


@cache
def once(side: str, name: str, at: Circumstances) -> tuple[float, float]:
    """A process that trains for a moment: its peak memory in megabytes, and the seconds to its first step's end."""
    words = ("benchmarks.once", side, name, *(["--quick"] if at.quick else []))
    peak, said = observed(*words, threads=at.threads)
    return peak, float(json.loads(said)["first_step"])


def _trained(name: str, at: Circumstances) -> Iterator[Row]:
    id, made = _IDS[name], bench(name, at)
    yield from _parity(id, name, at)
    taken = epochs(name, at)
    what = f"{made.workload.title}: epoch with evaluation"
    persistent = "; the peer's workers stay, no checkpoint" if made.first else ""
    note = (made.workload.part() + persistent) or f"{made.steps} steps, {len(made.evaluated):,} test images"
    target = _TARGETS.get((at.device.type, name))
    yield compared(id, what, "OpenLTH-style", taken, "ours", "OpenLTH-style", target=target, note=note)
    # A level copies its state in and out once, which whole epochs would make up for.
    copies = f"; ours copies its state in and out once in these {made.steps} steps" if made.first else ""
    against = made.workload.part() + copies
    yield compared(id, what, "bare loop", taken, "ours", "bare", target=NEAR, note=against)
    rates = [made.images / one.wall for one in taken["ours"]]
    yield figure(id, f"{made.workload.title}: images trained on, evaluation included", rates, "images/s")
    yield from _memory(id, name, at)


def _our_epoch(made: Bench) -> None:
    made.evaluate(made.train())


def _parity(id: str, name: str, at: Circumstances) -> Iterator[Row]:
    """Whether the sides do the same work, before anything is timed."""
    made = parity_bench(name, at.device, at.quick)
    found = against_bare(made, steps=12 if at.quick else STEPS)
    fed = against_openlth_style(made)
    exact = at.device.type == "cpu"
    note = f"weights {'equal' if found.same_weights else 'not equal'}; farthest loss {found.farthest:.1g}"
    yield figure(
        id,
        f"{made.workload.title}: parity with the bare loop, losses equal to the bit",
        [float(found.equal)],
        f"of {found.steps}",
        target=at_least(found.steps) if exact else None,
        note=f"{note}; batches of {made.workload.batch}; {made.workload.model}",
    )
    yield figure(
        id,
        f"{made.workload.title}: parity with the OpenLTH-style loop, farthest of {FED} losses",
        [fed.farthest],
        "relative",
        target=Target("at most", CLOSE),
        note="fed the same draws",
    )


def _memory(id: str, name: str, at: Circumstances) -> Iterator[Row]:
    what = f"{bench(name, at).workload.title}: peak memory of a training process"
    if at.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(at.device)
        bench(name, at).train()
        yield figure(id, what, [torch.cuda.max_memory_allocated(at.device) / 1e6], "MB")
        return
    if at.quick and name != "lenet":
        yield not_there(id, what, LEFT_OUT)
        return
    for side in ("ours", "bare") if name == "lenet" and not at.quick else ("ours",):
        peak, _ = once(side, name, at)
        yield figure(id, f"{what}, {side}", [peak], "MB", note="torch and the data included")
