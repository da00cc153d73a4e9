"""R3: whichever file operation fails, and how, the command says so, loses nothing, and goes on when asked again."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checker import Ack, Undisturbed, faults
from recorder import Op, Recorder
from scale import SHORT, Figures, Scale
from small_run import ALWAYS, SELDOM, acknowledging, carry_out, difference, undisturbed
from test_r01_crash_points import role, starts

from prunecli.errors import PrunecliError, StorageError

NAME = "R3 failing calls"
DRAWN = 100
"""Cases of the long version, beside those of every kind and way."""
NEVER = 10**12
SHORT_WRITE, FULL = "a short write", "a disk that stays full"
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "EINTR", SHORT_WRITE, FULL)


@dataclass
class Fault:
    """Makes one operation fail: the one with this number, or the first of a kind that is not in `seen`."""

    error: str
    number: int = -1
    seen: set[str] = field(default_factory=set)
    hit: str = ""
    _count: int = 0
    _before: str = "the start"

    def __call__(self, op: Op) -> int | None:
        """What the recorder asks of."""
        if not op.changes:
            return None
        self._count += 1
        kind = self._kind(op)
        if self.hit:
            self._stay_full(op)
            return None
        if self._count != self.number if self.number >= 0 else kind in self.seen:
            return None
        self.hit = kind
        if self.error == SHORT_WRITE:
            return len(op.data) // 2 if op.kind == "write" else None
        self._stay_full(op)
        if self.error != FULL:
            raise OSError(getattr(errno, self.error), os.strerror(getattr(errno, self.error)))
        return None

    def _kind(self, op: Op) -> str:
        """What is done to what; of a folder's syncing also after what, for it is synced in many places."""
        if op.kind == "open folder" or op.flags & os.O_DIRECTORY:
            return f"{role(op)}, after {self._before}"
        self._before = role(op)
        return self._before

    def _stay_full(self, op: Op) -> None:
        if self.error == FULL and op.kind in ("open", "write", "link", "mkdir", "rename"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check(scale: Scale, folder: Path) -> Figures:
    """Fail every kind of operation (in the long version in every way, and many more), and start again."""
    expected = undisturbed(starts(scale))
    counts = one_after_the_other(scale, folder, expected)
    if scale.of(0, 1):
        counts += drawn(scale, folder, expected)
    kinds = {name.removeprefix("kind ") for name in counts if name.startswith("kind ")}
    return {
        "operations made to fail": counts["hit"],
        "kinds of operation among them": len(kinds),
        "ways to fail": len(ERRORS),
        "told as an error of storage, exit 74": counts["told"],
        "survived, as short writes and failing clean-ups are": counts["survived"],
        "runs carried on to the end, all bit-exact": counts["complete"],
        "acknowledged levels lost": 0,
    }


def one_after_the_other(scale: Scale, folder: Path, expected: Undisturbed) -> Counter[str]:
    """Runs in which each start meets a failing operation of a kind that none has met yet."""
    rng = random.Random(scale.seed)
    counts: Counter[str] = Counter()
    shared: set[str] = set()
    ways = {error: shared if scale.of(1, 0) else set[str]() for error in ERRORS}
    number = quiet = 0
    while True:
        runs, acks = folder / f"run-{number}" / "runs", set[Ack]()
        runs.parent.mkdir()
        before = counts["hit"]
        for seeds in starts(scale):
            while True:
                error = rng.choice(ERRORS)
                fault = Fault(error, seen=ways[error])
                how = f"seed {scale.seed}, run {number}"
                done = attempted(runs, seeds, fault, acks, expected, counts, how, slots=number % 3 == 0)
                ways[error] |= {fault.hit}
                if done:
                    break
        finish(runs, expected, f"seed {scale.seed}, run {number}")
        counts["complete"] += 1
        number += 1
        # Whatever the errors drawn, a round of runs that meets nothing new means that nothing is left.
        quiet = 0 if counts["hit"] > before else quiet + 1
        if quiet > scale.of(1, 3 * len(ERRORS)):
            return counts


def drawn(scale: Scale, folder: Path, expected: Undisturbed) -> Counter[str]:
    """Operations drawn from all of both starts, each failing in a way that is drawn, and the same commands again."""
    with Recorder(folder) as recorder:
        for seeds in starts(scale):
            carry_out(folder.resolve() / "counted", seeds, checkpoint=ALWAYS)
    total = sum(op.changes for op in recorder.ops)
    rng = random.Random(scale.seed)
    counts: Counter[str] = Counter()
    for case in range(DRAWN):
        runs, acks = folder / f"drawn-{case}" / "runs", set[Ack]()
        runs.parent.mkdir()
        fault = Fault(rng.choice(ERRORS), rng.randint(1, total))
        how = f"seed {scale.seed}, case {case}, operation {fault.number}"
        for seeds in starts(scale):
            while not attempted(runs, seeds, fault, acks, expected, counts, how):
                # The disk has room again.
                fault = Fault("EIO", NEVER)
        finish(runs, expected, how)
        counts["complete"] += 1
        shutil.rmtree(runs.parent)
    return counts


def attempted(
    runs: Path,
    seeds: Sequence[int],
    fault: Fault,
    acks: set[Ack],
    expected: Undisturbed,
    counts: Counter[str],
    how: str,
    *,
    slots: bool = True,
) -> bool:
    """Carry the run out with a fault ahead; whether it is complete. Whatever it says is checked."""
    missed = not fault.hit
    said: list[Ack] = []
    told = ""
    with Recorder(runs.parent, fault):
        try:
            carry_out(
                runs.resolve(), seeds, acknowledging(said.append), checkpoint=ALWAYS if slots else SELDOM
            )
        except StorageError as error:
            told = str(error)
    acks |= set(said)
    hit = bool(fault.hit) and missed
    how = f"{how}: {fault.error} at {fault.hit}"
    if told:
        assert hit, f"{how}: an error of storage where none was made: {told}"
        assert str(runs.resolve().parent) in told, f"{how}: names no place: {told}"
        assert "safe" in told or "no level is sealed yet" in told, f"{how}: does not say what is safe: {told}"
    # The files tell whether anything is lost; tables are read of some, because that takes longest.
    found = faults(runs, acks, expected, readers=counts["hit"] % 4 == 0)
    assert not found, f"{how}: {'; '.join(found)} (told: {told})"
    if hit:
        counts.update(["hit", "told" if told else "survived", f"kind {fault.hit}"])
    return not told


def finish(runs: Path, expected: Undisturbed, how: str) -> None:
    """What a disturbed run has come to is what the undisturbed one came to."""
    # Leftovers of a clean-up that failed go with the next start, which has nothing else to do.
    carry_out(runs, [seed for seed, level in expected.parts if level == 0])
    found = difference(runs, expected)
    assert not found, f"{how}: {found}"


def test_whichever_operation_fails_nothing_is_lost(tmp_path: Path) -> None:
    check(SHORT, tmp_path)


def test_a_fault_that_is_not_of_storage_is_no_prunecli_error() -> None:
    assert issubclass(StorageError, PrunecliError)
    assert StorageError.status == 74
