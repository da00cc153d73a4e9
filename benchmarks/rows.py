"""A row of the table: what was measured against what, its spread, and whether its target is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.measure import Spread, Taken, spread

Kind = Literal["at least", "at most"]


@dataclass(frozen=True)
class Target:
    """A bound that a median has to keep."""

    kind: Kind
    bound: float

    def reached(self, found: Spread) -> str:
        """Whether the median keeps the bound, and whether the bound lies between the quartiles."""
        kept = found.median >= self.bound if self.kind == "at least" else found.median <= self.bound
        near = found.low < self.bound < found.high
        return ("yes" if kept else "no") + (", within the spread" if near else "")


def at_least(bound: float) -> Target:
    """A target from below."""
    return Target("at least", bound)


def at_most(bound: float) -> Target:
    """A target from above."""
    return Target("at most", bound)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison or one figure; `found` is what the target judges, in `unit`.

    `unit` is `times` for a ratio of the peer's time to ours: above 1 ours is quicker. `cpu` is the same ratio of CPU
    seconds. `absent` says why there is no figure.
    """

    id: str
    what: str
    against: str = ""
    found: Spread | None = None
    unit: str = "times"
    cpu: Spread | None = None
    target: Target | None = None
    note: str = ""
    absent: str = ""
    seconds: Mapping[str, Sequence[Taken]] = field(default_factory=dict)

    @property
    def reached(self) -> str:
        """Whether the target is reached; empty where there is none, or no figure."""
        return self.target.reached(self.found) if self.target and self.found else ""


def compared(
    id: str,
    what: str,
    against: str,
    taken: Mapping[str, Sequence[Taken]],
    ours: str,
    peer: str,
    *,
    target: Target | None = None,
    note: str = "",
) -> Row:
    """The row of two sides' interleaved rounds: the ratios of the peer's time to ours, round by round."""
    pairs = list(zip(taken[peer], taken[ours], strict=True))
    return Row(
        id=id,
        what=what,
        against=against,
        found=spread([theirs.wall / our.wall for theirs, our in pairs]),
        # A clock of CPU seconds ticks in microseconds: a short piece may have none.
        cpu=spread([theirs.cpu / max(our.cpu, 1e-6) for theirs, our in pairs]),
        target=target,
        note=note,
        seconds={ours: taken[ours], peer: taken[peer]},
    )


def figure(
    id: str, what: str, values: Sequence[float], unit: str, *, target: Target | None = None, note: str = ""
) -> Row:
    """The row of a figure that has no peer."""
    return Row(id=id, what=what, found=spread(values), unit=unit, target=target, note=note)


def not_there(id: str, what: str, why: str, *, target: Target | None = None) -> Row:
    """The row of what cannot be measured here, and why."""
    return Row(id=id, what=what, absent=why, target=target)
