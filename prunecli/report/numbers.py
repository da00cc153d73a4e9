"""Statistics and differences as data, and in a cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prunecli.report.cells import NONE
from prunecli.statistics import Difference, Statistic, false_positives


def statistic_json(found: Statistic) -> dict[str, Any]:  # Any: JSON
    """Mean, sd, how many, and each seed's value; what is not a number is null."""
    return {"mean": found.mean, "std": found.std, "n": found.n, "values": list(found.values)}


def difference_json(found: Difference) -> dict[str, Any]:  # Any: JSON
    """All that is known of a difference of paired seeds."""
    return {
        "difference": found.mean,
        "std": found.std,
        "n": found.n,
        "interval": None if found.interval is None else list(found.interval),
        "verdict": found.verdict,
        "effect": found.effect,
        "p": found.p,
    }


def spread(found: Statistic, decimals: str) -> str:
    """`1.50 ± 0.10`: mean and sd, in decimals such as `.2f`."""
    if found.mean is None:
        return NONE
    return f"{found.mean:{decimals}}" + (f" ± {found.std:{decimals}}" if found.std is not None else "")


def signed(found: Difference, decimals: str) -> str:
    """`-0.50 ± 0.10`: a difference's mean and sd, the mean with its sign."""
    if found.mean is None:
        return NONE
    return f"{found.mean:+{decimals}}" + (f" ± {found.std:{decimals}}" if found.std is not None else "")


def interval(found: Difference, decimals: str) -> str:
    """`[-0.65, -0.15]`."""
    low_high = ", ".join(f"{end:+{decimals}}" for end in found.interval or ())
    return f"[{low_high}]" if low_high else NONE


def verdict_notes(found: Sequence[Difference]) -> Iterator[str]:
    """What the verdicts on these differences mean, and how often they are wrong where nothing differs."""
    numbers = sorted({one.n for one in found if one.verdict})
    if found:
        yield (
            "verdict: lower or higher where |mean difference| is at least the sd of the seed-paired "
            "differences, else match (Jin et al., 2022)"
        )
    for n in numbers:
        yield (
            f"with {n} seeds that rule calls a difference {100 * false_positives(n):.1f}% of the time "
            "where there is none; the interval is Student's t on the same differences"
        )


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:  # Any: JSON
    """Nested mappings as one, its names joined by underscores; without seeds' values, and intervals as their ends."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name == "interval":
            found[f"{prefix}interval_low"], found[f"{prefix}interval_high"] = value or (None, None)
        elif isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}_")
        elif name != "values":
            found[prefix + name] = value
    return found
