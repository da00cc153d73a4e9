"""What lies where in parts and stores, as the contract says, for those who write them and those who read."""

from __future__ import annotations

from prunecli.store.values import is_name

FORMAT_VERSION = 1
KEPT = 255
MAX_PRUNED_AT = 254
PART_LIMIT = 2**30
"""Bytes that a part's arrays come to at most."""

PER_SEED = frozenset({"examples/label", "examples/target", "examples/noisy", "examples/split", "test/target"})
COMMON = frozenset({"examples/clean_label", "test/label", "layers/name", "layers/total"})
"""Places that do not vary by level, and by neither level nor seed; everything else varies by both."""

SEED_SPENT = "metrics/seed_spent"
"""Where a store has each seed's epochs (S, L), if trainings ended at different ones: `metrics/spent` has the means."""
REGRESSION = "examples/target"
"""Which place tells that labels are numbers, and losses squared errors."""

LAST_SCALE = {"examples": "example", "test": "example", "layers": "name"}
"""What labels the last axis of a group's arrays."""
GROUPS = ("metrics", *LAST_SCALE)


def is_place(place: str) -> bool:
    """Whether an array may lie here: in one of the groups, or in a group of its own under `observations`."""
    *groups, name = place.split("/")
    fits = groups[0] in GROUPS if len(groups) == 1 else len(groups) == 2 and groups[0] == "observations"
    return fits and is_name(groups[-1]) and is_name(name)


def store_limit(size: int) -> int:
    """Bytes that a store's arrays come to at most, by the file's size: only masks pack to almost nothing."""
    return min(2**33, 2**31 + 64 * size)


def group_of(place: str) -> str:
    """`examples` of `examples/loss`, and `observations/hessian` of `observations/hessian/eigenvalues`."""
    return place.rpartition("/")[0]
