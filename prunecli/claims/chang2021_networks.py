"""What Chang et al. (2021) claim of networks: wide ones, pruned to the weights of a narrow one and trained again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prunecli.claims import answers
from prunecli.claims.answers import Answer, BySeed, told
from prunecli.claims.registry import claim_of
from prunecli.double_descent import Line, Point, Sweep, sweeps
from prunecli.errors import NotComparable
from prunecli.statistics import Difference
from prunecli.store.values import StoredRun

WIDTH = ("model", "width")
INTERPOLATES = 1.0
"""Percent of training error below which a network is said to fit its training set."""
NEAR = 2.0
"""How far apart widths may be, as a ratio, that are said to be about the same."""
FAR = 5.0
"""Points of test error by which the paper's widest network is better, and retrained ones at least."""
Found = tuple[Answer, str]
claim = claim_of("chang2021")


@dataclass(frozen=True)
class Networks:
    """A sweep over widths: its test errors, and its training errors as another sweep."""

    tested: Sweep
    trained: Sweep | None
    confidence: float

    @property
    def retrained(self) -> tuple[Line, ...]:
        """The lines of networks pruned by magnitude and trained again, one for each budget; none is an error."""
        found = tuple(
            line for line in self.tested.lines if (line.pruner, line.retrained) == ("magnitude", True)
        )
        if not found:
            raise NotComparable("no runs pruned by magnitude and trained again")
        return found

    def as_pruned(self, line: Line) -> Line:
        """The same networks before retraining; none is an error."""
        return self._like(line, "magnitude", retrained=False, what="their errors before retraining")

    def at_random(self, line: Line) -> Line:
        """Networks pruned at random to the same budget and trained again; none is an error."""
        return self._like(line, "random", retrained=True, what="runs that prune at random to the same budget")

    def _like(self, line: Line, pruner: str, *, retrained: bool, what: str) -> Line:
        for one in _by_options(line, self.tested):
            alike = one.way.before == line.way.before and (not retrained or one.way.after == line.way.after)
            if (one.pruner, one.retrained) == (pruner, retrained) and alike and one.is_like(line):
                return one
        raise NotComparable(f"no {what}")

    def interpolating(self, line: Line) -> float | None:
        """The narrowest width of a line whose median training error vanishes; None where none does."""
        for one in _by_options(line, self.trained) if self.trained else ():
            trained = (one.pruner, one.retrained, one.way.before, one.way.after)
            if trained == (line.pruner, line.retrained, line.way.before, line.way.after) and one.is_like(
                line
            ):
                return next((point.x for point in one.points if point.median < INTERPOLATES), None)
        return None

    def apart(self, a: Point, b: Point) -> Difference:
        """a - b over the seeds that both have, in points of error."""
        return answers.difference(a.values, b.values, self.confidence)


def networks_of(runs: Sequence[StoredRun], confidence: float) -> tuple[Networks, ...]:
    """The sweeps over widths of networks among runs."""
    tested = [one for one in sweeps(runs, "test_error") if one.path == WIDTH]
    trained: Mapping[str, Sweep] = {
        one.title: one for one in sweeps(runs, "train_error") if one.path == WIDTH
    }
    return tuple(Networks(one, trained.get(one.title), confidence) for one in tested)


@claim(
    "C9",
    "the widest network, pruned to the weights of a narrow one, beats the narrow one",
    "test error, pruned and retrained, at the widest minus that at the width where nothing is pruned, lies below 0; on "
    "CIFAR-10 its mean is -5 points or less. Of each budget",
    "network",
)
def wide_then_pruned_beats_narrow(study: object, networks: Networks) -> Found:
    del study
    parts, shown = [], []
    for line in networks.retrained:
        narrow, wide = _ends(line)
        found = networks.apart(wide, narrow)
        parts.append(answers.below(found))
        if "cifar10" in networks.tested.title and (found.mean is None or found.mean > -FAR):
            parts.append(answers.FAILS)
        shown.append(f"{_named(line)}{told(found, ' points')}")
    return answers.all_of(parts), "; ".join(shown)


@claim(
    "C10",
    "the error of the pruned network descends twice: it peaks between the narrow and the wide, near the width at which "
    "training errors vanish, and ends below both",
    "test error, pruned and retrained: at the worst width between the ends minus that at the narrowest lies above 0; "
    "at the widest minus the worst, and minus the narrowest, below 0; the worst is within a factor of 2 of the "
    "narrowest width with a median training error below 1%. Of each budget",
    "network",
)
def pruned_networks_descend_twice(study: object, networks: Networks) -> Found:
    del study
    parts, shown = [], []
    for line in networks.retrained:
        narrow, wide = _ends(line)
        if len(line.points) < 3:
            raise NotComparable("fewer than three widths")
        worst = max(line.points[1:-1], key=_mean)
        threshold = networks.interpolating(line)
        if threshold is None:
            raise NotComparable("no width at which training errors vanish")
        near = 1 / NEAR <= worst.x / threshold <= NEAR
        rises = networks.apart(worst, narrow)
        parts += [
            answers.above(rises),
            answers.below(networks.apart(wide, worst)),
            answers.below(networks.apart(wide, narrow)),
            answers.HOLDS if near else answers.FAILS,
        ]
        shown.append(
            f"{_named(line)}worst at width {worst.x:g}, {told(rises, ' points')} above the narrowest; training errors "
            f"vanish from {threshold:g} on"
        )
    return answers.all_of(parts), "; ".join(shown)


@claim(
    "C11",
    "pruned networks of all budgets fit their training set from about the same width on",
    "the narrowest widths with a median training error below 1%, dense and retrained of each budget, are within a "
    "factor of 2",
    "network",
)
def all_budgets_interpolate_together(study: object, networks: Networks) -> Found:
    del study
    lines = [*filter(None, [networks.tested.line()]), *networks.retrained]
    found = [networks.interpolating(line) for line in lines]
    if len(found) < 2:
        raise NotComparable("fewer than two lines over widths")
    shown = ", ".join(
        f"{line.name} {'never' if width is None else f'{width:g}'}"
        for line, width in zip(lines, found, strict=True)
    )
    known = [width for width in found if width is not None]
    if not known:
        raise NotComparable("no width at which training errors vanish")
    together = len(known) == len(found) and max(known) <= NEAR * min(known)
    return answers.HOLDS if together else answers.FAILS, shown


@claim(
    "C12",
    "pruning by magnitude beats pruning at random at every width",
    "test error retrained, magnitude minus random, lies below 0 at each width at which something is pruned",
    "network",
)
def magnitude_beats_random(study: object, networks: Networks) -> Found:
    del study
    return _at_each_width(networks, networks.at_random, 0.0)


@claim(
    "C13",
    "without retraining pruned networks are far worse",
    "test error, retrained minus as pruned, lies below -5 points at each width at which something is pruned",
    "network",
)
def retraining_is_needed(study: object, networks: Networks) -> Found:
    del study
    return _at_each_width(networks, networks.as_pruned, -FAR)


def _at_each_width(networks: Networks, other_of: Callable[[Line], Line], bound: float) -> Found:
    """Whether test errors lie below others' by the bound wherever something is pruned, of budgets that have others."""
    parts, differences = [], []
    reasons: list[NotComparable] = []
    for line in networks.retrained:
        try:
            other = other_of(line)
        except NotComparable as error:
            reasons.append(error)
            continue
        for point in line.points:
            beside = other.at(point.x)
            if point.kept < point.total and beside is not None:
                differences.append(networks.apart(point, beside))
                parts.append(answers.below(differences[-1], bound))
    if not parts:
        raise reasons[0] if reasons else NotComparable("no width at which something is pruned")
    worst = max(differences, key=lambda one: one.mean if one.mean is not None else 0.0)
    count = parts.count(answers.HOLDS)
    return answers.all_of(
        parts
    ), f"below at {count} of {len(parts)} widths; the least {told(worst, ' points')}"


def _by_options(line: Line, sweep: Sweep) -> list[Line]:
    """The lines of a sweep, those first that were pruned with the same options."""
    return sorted(sweep.lines, key=lambda one: one.way.options != line.way.options)


def _ends(line: Line) -> tuple[Point, Point]:
    """The width at which nothing is pruned, and the widest."""
    narrow, wide = line.points[0], line.points[-1]
    if narrow.kept < narrow.total:
        raise NotComparable(f"{_named(line)}no width at which nothing is pruned")
    if wide is narrow:
        raise NotComparable("a single width")
    return narrow, wide


def _mean(point: Point) -> float:
    values: BySeed = point.values
    return sum(values.values()) / len(values)


def _named(line: Line) -> str:
    return f"{line.more}: " if line.more else ""
