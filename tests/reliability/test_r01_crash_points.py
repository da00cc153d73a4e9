"""R1: whatever operation writing ends after, and however, nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import small_run
from checker import Undisturbed, faults
from recorder import Op, Recorder, Stop
from replay import Crash, Place, crashes
from scale import SHORT, Figures, Scale
from small_run import acknowledging, carry_out, difference, environment, undisturbed

NAME = "R1 crash points"
MOST_OF_A_KIND = 30
"""Crashes that are remembered, to be gone on from, of each kind of operation and model."""


def starts(scale: Scale) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds of the first start, and those of the second, which adds one to the sealed store."""
    return ((0, 1), (0, 1, 2)) if scale.of(0, 1) else ((0,), (0, 1))


def check(scale: Scale, folder: Path) -> Figures:
    """Crash after every file operation of a run, and go on from a sample of what is left."""
    expected = undisturbed(starts(scale))
    ops = recorded(folder / "recorded", starts(scale), small_run.ALWAYS)
    counts: Counter[str] = Counter()
    place = Place(folder / "place")
    kept: dict[str, list[Crash]] = {}
    read: set[int] = set()
    for crash in crashes(ops, scale.seed, scale.of(1, 8), scale.of(0, 4), moments(ops, scale)):
        mark = hash(
            (bool(crash.said), frozenset(item for item in crash.tree.items() if seen_by_readers(item[0])))
        )
        # Readers look at no slots, states and temporary files; now and then they are asked all the same.
        readers = mark not in read or sum(counts.values()) % 50 == 0
        read.add(mark)
        found = faults(place.hold(crash.tree) / "runs", crash.said, expected, readers=readers)
        assert not found, f"{told(crash, ops, scale)}: {'; '.join(found)}"
        counts[crash.model] += 1
        keep_some(
            kept.setdefault(f"{crash.model} {role(ops[crash.index - 1])}", []), crash, counts.total(), scale
        )
    sample = sampled(kept, scale.of(25, 600), scale.seed)
    for number, crash in enumerate(sample):
        gone_on(folder / f"resumed-{number}", crash, ops, expected, scale)
    both = sum(
        cut_after_kill(folder / f"twice-{moment}", moment, expected, place, scale)
        for moment in kills(recorded(folder / "fewer", starts(scale), small_run.SELDOM), scale)
    )
    return {
        "operations recorded": sum(op.kind != "note" for op in ops),
        "states after a kill": counts["kill"],
        "states after a torn write": counts["torn"],
        "states after a power cut": counts["power"],
        "states after a kill, a second start and a power cut": both,
        "states in which acknowledged levels were lost": 0,
        "states that were carried on to the end": len(sample),
        "of these, other bytes than undisturbed": 0,
    }


def recorded(folder: Path, groups: Sequence[Sequence[int]], checkpoint: float) -> list[Op]:
    """The operations of both starts, with what the engine acknowledged in between."""
    folder.mkdir()
    with Recorder(folder) as recorder:
        for seeds in groups:
            tell = acknowledging(recorder.note)
            carry_out(folder.resolve() / "runs", seeds, tell, checkpoint=checkpoint)
    return recorder.ops


def role(op: Op) -> str:
    """An operation with what it is done to, whatever the seed, the level and the process."""
    path = re.sub(r"[0-9a-f]{64}", "PREFIX", op.other or op.path)
    path = re.sub(r"-\d+-[0-9a-f]{8}$", "", path)
    path = re.sub(r"(seed|level)-[0-9]+", r"\1", path)
    return f"{op.kind} {path}"


def moments(ops: Sequence[Op], scale: Scale) -> set[int]:
    """The operations to crash after: all, but in the short version only few of the many slots, which are alike."""
    chosen, written = set(), Counter[str]()
    for moment, op in enumerate(ops, 1):
        if "/slot-" not in op.path and "/.tmp-slot-" not in op.path:
            chosen.add(moment)
            continue
        seed = re.sub(r".*(seed-\d+).*", r"\1", op.path)
        if scale.of(0, 1) or written[seed] < 2:
            chosen.add(moment)
        written[seed] += op.kind == "rename" and op.other.endswith(".json")
    return chosen


def seen_by_readers(path: str) -> bool:
    """Whether a path is of those that tables are made from."""
    return not path.startswith("runs/.states") and "/slot-" not in path and "/.tmp-" not in path


def keep_some(crashes_of_a_kind: list[Crash], crash: Crash, number: int, scale: Scale) -> None:
    """Keep the crash, or let it take the place of one when there are many of its kind."""
    if len(crashes_of_a_kind) < MOST_OF_A_KIND:
        crashes_of_a_kind.append(crash)
    elif (place := random.Random(f"{scale.seed} {number}").randrange(2 * MOST_OF_A_KIND)) < MOST_OF_A_KIND:
        crashes_of_a_kind[place] = crash


def sampled(kept: dict[str, list[Crash]], count: int, seed: int) -> list[Crash]:
    """Every kill after one of the run's own files was replaced, and drawn crashes of as many kinds as possible."""
    rng = random.Random(seed)
    turns = [kind for kind in kept if re.fullmatch(r"kill rename runs/[^/]+/[^/]+", kind)]
    chosen = [crash for kind in turns for crash in kept.pop(kind)]
    for crashes_of_a_kind in kept.values():
        rng.shuffle(crashes_of_a_kind)
    kinds = list(kept)
    rng.shuffle(kinds)
    while len(chosen) < count and any(kept.values()):
        chosen += [kept[kind].pop() for kind in kinds if kept[kind]]
    return chosen[:count]


def gone_on(folder: Path, crash: Crash, ops: Sequence[Op], expected: Undisturbed, scale: Scale) -> None:
    """Start the real engine on what a crash left: it ends as if nothing had happened, with no leftovers."""
    runs = Place(folder).hold(crash.tree) / "runs"
    carry_out(runs, starts(scale)[-1])
    found = difference(runs, expected)
    assert not found, f"{told(crash, ops, scale)}, carried on: {found}"
    shutil.rmtree(folder)


def kills(ops: Sequence[Op], scale: Scale) -> list[int]:
    """Operations to be killed after: in the short version four of different kinds, in the long one every fourth."""
    rng = random.Random(scale.seed)
    kinds: dict[str, list[int]] = {}
    for moment, op in enumerate(ops, 1):
        if op.changes and op.kind not in ("close", "write"):
            kinds.setdefault(role(op), []).append(moment)
    firsts = [rng.choice(some) for some in kinds.values()]
    rng.shuffle(firsts)
    everything = [moment for some in kinds.values() for moment in some]
    return sorted(everything)[::4] if scale.of(0, 1) else sorted(firsts[:4])


def cut_after_kill(folder: Path, moment: int, expected: Undisturbed, place: Place, scale: Scale) -> int:
    """Kill the run after an operation and start it again; the power fails when something is acknowledged.

    What the first process had not synced is still not synced: the second must not build on it.
    """
    folder.mkdir()
    second, writer = False, os.getpid()

    def stop(op: Op) -> None:
        # What reads stores is a fork; the kill is of the one that writes.
        if len(recorder.ops) >= moment and not second and os.getpid() == writer:
            raise Stop

    with Recorder(folder, stop) as recorder:
        tell = acknowledging(recorder.note)
        with suppress(Stop):
            for seeds in starts(scale):
                carry_out(folder.resolve() / "runs", seeds, tell)
        assert len(recorder.ops) == moment
        second = True
        recorder.go_on()
        carry_out(folder.resolve() / "runs", starts(scale)[-1], tell)
    shutil.rmtree(folder)
    count = 0
    for crash in crashes(recorder.ops, scale.seed, scale.of(0, 2), 0):
        if recorder.ops[crash.index - 1].kind == "note" and crash.model == "power":
            found = faults(place.hold(crash.tree) / "runs", crash.said, expected)
            assert not found, (
                f"killed after operation {moment}, then {told(crash, recorder.ops, scale)}: {found}"
            )
            count += 1
    return count


def told(crash: Crash, ops: Sequence[Op], scale: Scale) -> str:
    """What reproduces a crash."""
    return f"{crash.model} after operation {crash.index} ({ops[crash.index - 1]}), scale {scale.name}, seed {scale.seed}"


def test_whatever_operation_writing_ends_after_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    check(SHORT, tmp_path)


TRACED = """
import sys
from pathlib import Path
from recorder import Recorder
from small_run import carry_out
root = Path(sys.argv[1]).resolve()
with Recorder(root) as recorder:
    carry_out(root / "runs", (0,))
print(*(f"{op.kind} {op.other or op.path}" for op in recorder.ops if op.changes and op.kind != "close"), sep="\\n")
"""
CALLS = {
    "open": "open",
    "openat": "open",
    "creat": "open",
    "write": "write",
    "pwrite64": "write",
    "writev": "write",
    "pwritev": "write",
    "pwritev2": "write",
    "sendfile": "write",
    "copy_file_range": "write",
    "fallocate": "write",
    "truncate": "truncate",
    "ftruncate": "truncate",
    "fsync": "fsync",
    "fdatasync": "fsync",
    "link": "link",
    "linkat": "link",
    "symlink": "link",
    "symlinkat": "link",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "rmdir": "rmdir",
    "mmap": "map",
}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_recorder_sees_every_call_that_changes_a_file(tmp_path: Path) -> None:
    root, trace = tmp_path / "root", tmp_path / "trace"
    root.mkdir()
    command = [
        "strace",
        "-f",
        "-yy",
        "-s",
        "0",
        "--seccomp-bpf",
        "-e",
        f"trace={','.join(CALLS)}",
        "-o",
        str(trace),
    ]
    ended = subprocess.run(
        [*command, sys.executable, "-c", TRACED, str(root)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    # The log is for people and never the truth: it is written as best it can be.
    lines = ended.stdout.splitlines()
    seen = [line for line in lines if "open folder" not in line and not line.endswith("log.jsonl")]
    assert len(seen) > 100
    assert Counter(traced(trace.read_text(), str(root))) == Counter(seen)


def traced(text: str, root: str) -> list[str]:
    """The calls in strace's words that change something below a folder, as the recorder names them."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)\) = (.*)", line)
        if match is None or root not in match[2] or match[3].startswith("-1"):
            continue
        kind = CALLS[match[1]]
        places = re.findall(rf'[<"]{re.escape(root)}/?([^">]*)[">]', match[2])
        if kind == "open" and not re.search("O_CREAT|O_WRONLY|O_RDWR", match[2]):
            continue
        if kind == "map" and not re.search("PROT_WRITE.*MAP_SHARED", match[2]):
            continue
        if "AT_REMOVEDIR" in match[2]:
            kind = "rmdir"
        # With a folder's descriptor comes a name of its own.
        name = re.search(r'"([^"/]+)"', match[2])
        place = (
            f"{places[-1]}/{name[1]}"
            if name and match[1].endswith("at") and name[1] != places[-1]
            else places[-1]
        )
        if not place.endswith("log.jsonl"):
            found.append(f"{kind} {place}")
    return found
