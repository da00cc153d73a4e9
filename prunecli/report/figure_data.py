"""What the figures of the papers show, as numbers: panels of curves, bars or points, still undrawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prunecli.compare import Compared, Level, Summary
from prunecli.errors import NotComparable
from prunecli.methods import is_retraining, method
from prunecli.report.figure_double_descent import double_descent_drawn
from prunecli.report.figure_methods import methods_of, panels_of, setting_of
from prunecli.report.figure_stability import correlations_drawn, training_drawn
from prunecli.report.figure_thresholds import learned_drawn, thresholds_drawn
from prunecli.report.marks import mark
from prunecli.report.panels import Bar, Curve, Drawing, Panel, drawable
from prunecli.subgroups import Side, Subgroups

PARTS = {"train_loss_clean": "clean labels", "train_loss_noisy": "noisy labels"}
WEIGHTS = "weights remaining (%)"
MOST_PANELS = 64
SMALLEST = 1e-12
"""What a logarithmic axis of percents can hold; what is beyond is left out."""


def drawing(compared: Compared, name: str = "") -> Drawing:
    """What the figure of this name shows; without a name, the one that fits what was compared.

    Raises:
        NotComparable: there is nothing to draw, or more panels than a page has room for.
    """
    name = name or _fitting(compared)
    made = FIGURES[name](compared)
    if not any(panel.curves or panel.bars or panel.clouds for panel in made.panels):
        raise NotComparable(f"nothing to draw in the figure '{name}': {'; '.join(made.messages)}")
    if max(len(made.panels), len(made.labels)) > MOST_PANELS:
        raise NotComparable(
            f"the figure '{name}' would have {len(made.panels)} panels and {len(made.labels)} lines in its legend; "
            f"there is room for {MOST_PANELS} of each: name fewer runs"
        )
    return made


def heading(run_units: Mapping[str, str], metric: str) -> str:
    """`test error (%)`."""
    percent = run_units.get(metric) in ("percent", "%")
    return metric.replace("_", " ") + (" (%)" if percent else "")


def _fitting(compared: Compared) -> str:
    if compared.subgroups:
        return "subgroups"
    if compared.correlations:
        return "correlations"
    pruned = any(level.density != 1 for summary in compared.summaries for level in summary.levels)
    several = any(len(summary.levels) > 1 for summary in compared.summaries)
    return "epochs" if several and not pruned else "density"


def _density(compared: Compared) -> Drawing:
    """A metric against weights remaining (Jin et al., 2022, Figures 1a, 3, 6 and 7)."""
    return _of_paths(compared, "density", WEIGHTS, _weights)


def _epochs(compared: Compared) -> Drawing:
    """A metric against the epochs trained in all (Jin et al., 2022, Figure 1)."""
    return _of_paths(compared, "epochs", "epochs trained", _spent)


def _parts(compared: Compared) -> Drawing:
    """Training losses of the examples with clean and with noisy labels (Jin et al., 2022, Figure 4)."""
    return _of_curves(compared, "parts", PARTS, WEIGHTS, _weights)


@dataclass(frozen=True)
class _Placed:
    """Where a run's levels stand on the x axis, NaN where they do not, and what is to be said of it."""

    x: tuple[float, ...]
    suffix: str = ""
    messages: tuple[str, ...] = ()


_Place = Callable[[Summary, Sequence[Summary]], _Placed]


def _of_paths(compared: Compared, name: str, x: str, place: _Place) -> Drawing:
    """The metric along the levels of the runs; single points that only hide others are left out."""
    points = dict(_points(compared.summaries))
    rest = tuple(one for one in compared.summaries if one.run.path not in points)
    made = _of_curves(replace(compared, summaries=rest), name, {compared.metric: ""}, x, place)
    return replace(made, messages=(*points.values(), *made.messages))


def _points(summaries: Sequence[Summary]) -> Iterator[tuple[Path, str]]:
    """The runs of one level that a figure of whole paths has no place for, each with what is to be said."""
    for panel in panels_of(summaries):
        paths = [summary for summary in panel if len(summary.levels) > 1 and summary.dense is not None]
        pruned = any(method(summary) == "pruning" for summary in paths)
        for summary in panel:
            run = summary.run
            if len(summary.levels) == 1 and is_retraining(summary):
                yield run.path, f"{run.name}: left out, for it is a retraining of a single level"
            elif len(summary.levels) == 1 and pruned and method(summary) == "dense":
                yield run.path, f"{run.name}: left out, for its panel has the dense level of a pruned run"


def _of_curves(
    compared: Compared,
    name: str,
    metrics: Mapping[str, str],
    x: str,
    place: _Place,
) -> Drawing:
    summaries = [one for one in compared.summaries if all(map(one.has, metrics))]
    methods = methods_of(summaries)
    messages = list(_lacking(compared, metrics))
    drawn: list[tuple[Summary, list[Curve]]] = []
    for panel in panels_of(summaries):
        curves: list[Curve] = []
        for summary in panel:
            placed = place(summary, panel)
            messages += [f"{summary.run.name}: {what}" for what in _left_out(summary, placed, metrics)]
            if any(map(math.isfinite, placed.x)):
                label = methods[summary.run.name] + placed.suffix
                curves += [
                    _curve(summary, metric, placed.x, f"{label}, {part}" if part else label)
                    for metric, part in metrics.items()
                ]
        if curves:
            drawn.append((panel[0], curves))
    title, titles = _titles([summary for summary, _ in drawn])
    panels = [Panel(*words, curves=tuple(curves)) for words, (_, curves) in zip(titles, drawn, strict=True)]
    units = drawn[0][0].run.units if drawn else {}
    y = heading(units, next(iter(metrics))) if len(metrics) == 1 else "training loss"
    return Drawing(name, title, x, y, tuple(panels), tuple(messages))


def _lacking(compared: Compared, metrics: Iterable[str]) -> Iterator[str]:
    for summary in compared.summaries:
        if names := [metric.replace("_", " ") for metric in metrics if not summary.has(metric)]:
            yield f"{summary.run.name}: left out, for it has no {' or '.join(names)}"


def _left_out(summary: Summary, placed: _Placed, metrics: Iterable[str]) -> Iterator[str]:
    yield from placed.messages
    if not placed.messages and not any(map(math.isfinite, placed.x)):
        yield "left out, for none of its levels has a place on the x axis"
    for metric in metrics:
        means = {level.level: level.value(metric) for level in summary.levels}
        beyond = [number for number, mean in means.items() if mean is not None and math.isnan(drawable(mean))]
        if beyond:
            levels = ", ".join(map(str, beyond))
            yield f"{metric.replace('_', ' ')} is beyond what can be drawn at levels {levels}"


def _curve(summary: Summary, metric: str, x: tuple[float, ...], label: str) -> Curve:
    found = [level.statistic(metric) for level in summary.levels]
    means = tuple(drawable(each.mean) for each in found)
    dense, optimal = summary.pick("dense"), summary.pick("optimal")
    # Of a single level it says nothing that this one is the optimal one.
    several = len(summary.levels) > 1
    star = (x[optimal.level], means[optimal.level]) if optimal and several else (math.nan, math.nan)
    return Curve(
        label,
        x,
        means,
        tuple(drawable(each.std) for each in found),
        means[dense.level] if dense and math.isfinite(means[dense.level]) else None,
        star if all(map(math.isfinite, star)) else None,
    )


def _titles(summaries: Sequence[Summary], *, whole: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """A title over all panels of what they share, and title and subtitle of each; a panel alone has all in its title.

    Panels that share all, labels too, have the `whole` title over them.
    """
    settings = [setting_of(summary.run) for summary in summaries]
    if whole and len(set(settings)) == 1:
        return settings[0].title, [("", "")] * len(settings)
    if len(settings) == 1:
        return "", [(settings[0].title, "")]
    if len({setting.where for setting in settings}) == 1:
        return settings[0].where, [(setting.labels, "") for setting in settings]
    return "", [(setting.where, setting.labels) for setting in settings]


def _spent(summary: Summary, _panel: Sequence[Summary]) -> _Placed:
    return _Placed(tuple(drawable(level.value("spent")) for level in summary.levels))


def _weights(summary: Summary, panel: Sequence[Summary]) -> _Placed:
    if len(summary.levels) > 1 and all(level.density == 1 for level in summary.levels):
        return _by_epochs(summary, panel)
    percent = [100 * drawable(level.value("density")) for level in summary.levels]
    x = tuple(value if value > SMALLEST else math.nan for value in percent)
    empty = [level.level for level, place in zip(summary.levels, percent, strict=True) if place <= SMALLEST]
    message = f"levels without weights have no place on a logarithmic axis: {', '.join(map(str, empty))}"
    return _Placed(x, messages=(message,) if empty else ())


def _by_epochs(summary: Summary, panel: Sequence[Summary]) -> _Placed:
    """Each level at the weights of a pruned run's level of as many epochs (Jin et al., 2022, Figure 6)."""
    candidates = [_by_spent(other) for other in panel]
    matched = [_matches(summary, found) for found in candidates]
    best = max(matched, key=lambda found: sum(map(math.isfinite, found)))
    if not any(map(math.isfinite, best)):
        why = "left out, for its panel has no pruned run with levels of as many epochs to stand with"
        return _Placed(best, messages=(why,))
    alone = [
        level.level
        for level, place in zip(summary.levels, best, strict=True)
        if math.isnan(place) and level.value("spent") is not None
    ]
    message = f"left out, for no pruned level has as many epochs: levels {', '.join(map(str, alone))}"
    return _Placed(best, " (at equal epochs)", (message,) if alone else ())


def _matches(summary: Summary, density: Mapping[float, float]) -> tuple[float, ...]:
    return tuple(
        next((100 * kept for spent, kept in density.items() if math.isclose(spent, level.spent)), math.nan)
        for level in summary.levels
    )


def _by_spent(summary: Summary) -> dict[float, float]:
    """The density after each number of epochs of a pruned run; empty of a run whose epochs do not tell levels apart."""
    levels = [level for level in summary.levels if level.value("spent") is not None and level.density > 0]
    found = {level.spent: level.density for level in levels}
    pruned = any(level.density < 1 for level in levels)
    return found if pruned and len(found) == len(levels) else {}


def _subgroups(compared: Compared) -> Drawing:
    """Differences of training losses by percentiles of a score (Jin et al., 2022, Figures 2 and 5)."""
    known = {summary.run.name: summary for summary in compared.summaries}
    if compared.reference:
        known.setdefault(compared.reference.summary.run.name, compared.reference.summary)
    over, titles = _titles([known[found.a.run] for found in compared.subgroups], whole=True)
    panels = tuple(
        _panel_of_groups(known, found, ", ".join(filter(None, words)))
        for found, words in zip(compared.subgroups, titles, strict=True)
    )
    scores = dict.fromkeys(found.score for found in compared.subgroups)
    message = "no levels were compared by groups of examples; --groups SCORES names a score store"
    return Drawing(
        "subgroups",
        over,
        f"percentile of {', '.join(scores)}",
        "difference in training loss",
        panels,
        () if panels else (message,),
    )


def _panel_of_groups(known: Mapping[str, Summary], found: Subgroups, title: str) -> Panel:
    bars = tuple(
        Bar(group.lo, group.hi, drawable(group.difference.mean), drawable(group.difference.std))
        for group in found.groups
    )
    methods = methods_of(list(known.values()))
    run = "" if len(known) == 1 else f"{methods[found.a.run]}: "
    other = "" if found.a.run == found.b.run else f"{methods[found.b.run]} "
    a, b = (_side(known[side.run], side) for side in (found.a, found.b))
    return Panel(title, f"{run}{a} minus {other}{b}", bars=bars)


def _side(summary: Summary, side: Side) -> str:
    level = summary.levels[side.level]
    marked = mark(summary, level).split(", ")[0] or f"level {level.level}"
    return f"{marked}{_kept(level)}"


def _kept(level: Level) -> str:
    return f" ({100 * level.density:.3g}% of weights)" if 0 <= level.density < 1 else ""


FIGURES: Mapping[str, Callable[[Compared], Drawing]] = {
    "density": _density,
    "epochs": _epochs,
    "parts": _parts,
    "subgroups": _subgroups,
    "correlations": correlations_drawn,
    "training": training_drawn,
    "double_descent": double_descent_drawn,
    "thresholds": thresholds_drawn,
    "learned": learned_drawn,
}
"""What `--figure` may name."""
