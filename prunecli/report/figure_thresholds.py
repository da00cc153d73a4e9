"""Accuracy, loss and what is learned against density, with thresholds, and over time (Yang et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from prunecli.claims.answers import of_zero
from prunecli.compare import Compared
from prunecli.courses import Learned
from prunecli.methods import equal_key
from prunecli.report.figure_methods import setting_of
from prunecli.report.panels import Curve, Drawing, Panel, Rule, drawable
from prunecli.report.words import differences
from prunecli.store.values import Floats
from prunecli.thresholds import ACCURACY, DensitySweep, density_sweeps

_Part = tuple[Mapping[str, str], str, tuple[Rule, ...], bool]
"""Metrics with the words for them, the y axis, its lines, and whether it is logarithmic."""
_SAID = frozenset({"about", "seeds", "keep_weights", "observe", "learning_rate"})


def thresholds_drawn(compared: Compared) -> Drawing:
    """For each data and labels a row of panels over p: test accuracy, losses, and signal and noise learned."""
    rows: dict[str, list[DensitySweep]] = {}
    for sweep in density_sweeps(compared):
        key = [sweep.recipe.get("data"), sweep.recipe.get("labels"), sweep.mild, sweep.excessive]
        rows.setdefault(equal_key(key), []).append(sweep)
    over, panels = f"means over seeds with {100 * compared.confidence:.6g}% intervals", list[Panel]()
    for row in rows.values():
        title = setting_of(row[0].spots[0].summary.run).title
        # One row has its title over it, and not over each of its panels.
        panels += _row(row, "" if len(rows) == 1 else title, compared.confidence)
        over = f"{title}; {over}" if len(rows) == 1 else over
    drawn = tuple(panel for panel in panels if panel.curves)
    messages = () if drawn else ("no run has test errors or losses",)
    return Drawing("thresholds", over, "p (weights remaining)", "", drawn, messages)


def learned_drawn(compared: Compared) -> Drawing:
    """A panel a run: signal and noise learned over the epochs of its training."""
    titles = [_titled(compared, one) for one in compared.learned]
    ordered = sorted(zip(titles, compared.learned, strict=True), key=lambda pair: -pair[0][0])
    panels = tuple(_over_time(one, title, compared.confidence) for (_, title), one in ordered)
    messages = () if panels else ("no run has this observed; `observe: [signal_noise]` in a recipe does",)
    over = f"means over seeds with {100 * compared.confidence:.6g}% intervals"
    return Drawing("learned", over, "epochs trained", "inner product", panels, messages)


def _row(sweeps: Sequence[DensitySweep], title: str, confidence: float) -> Iterator[Panel]:
    names = _names(sweeps)
    first = sweeps[0]
    chance = (Rule("chance", 100 / first.classes, upright=False),) if first.classes else ()
    guess = (Rule("ln K", math.log(first.classes), upright=False),) if first.classes else ()
    thresholds = tuple(_thresholds(first))
    # Of several sweeps a panel has no room for two losses each.
    losses: tuple[_Part, ...] = (({"test_loss": "test", "train_loss": "training"}, "loss", guess, True),)
    if len(sweeps) > 1:
        losses = (
            ({"test_loss": ""}, "test loss", guess, True),
            ({"train_loss": ""}, "training loss", (), True),
        )
    parts: tuple[_Part, ...] = (
        ({ACCURACY: "test" if len(sweeps) == 1 else ""}, "test accuracy (%)", chance, False),
        *losses,
        ({"signal_learned": "signal learned", "noise_learned": "noise learned"}, "inner product", (), False),
    )
    for metrics, y, rules, log_y in parts:
        curves = tuple(
            _curve(sweep, metric, ", ".join(filter(None, (name, word))), confidence)
            for sweep, name in zip(sweeps, names, strict=True)
            for metric, word in metrics.items()
            if sweep.has(metric)
        )
        positive = all(value > 0 for curve in curves for value in curve.y if math.isfinite(value))
        yield Panel(
            title,
            curves=curves,
            y=y,
            rules=(*thresholds, *rules),
            log_x=True,
            log_y=log_y and positive,
        )


def _names(sweeps: Sequence[DensitySweep]) -> list[str]:
    """What tells the sweeps of a row apart; nothing of one alone, runs' names where recipes do not tell."""
    if len(sweeps) == 1:
        return [""]
    recipes = [{key: value for key, value in one.recipe.items() if key not in _SAID} for one in sweeps]
    found = {
        path: values for path, values in differences(recipes).items() if not path.startswith("procedure.")
    }
    return [
        ", ".join(_in_words(path, values[number]) for path, values in found.items())
        or one.spots[0].summary.run.name
        for number, one in enumerate(sweeps)
    ]


def _in_words(path: str, value: str) -> str:
    """`noise 1.0`, `power 2.0`, or what is chosen."""
    option = path.rpartition(".")[2]
    names = {"inputs.std": "noise "}
    return names.get(path, "" if "." not in path else f"{option.replace('_', ' ')} ") + value


def _thresholds(sweep: DensitySweep) -> Iterator[Rule]:
    if sweep.mild:
        yield Rule("p_mild", sweep.mild)
    if sweep.excessive:
        yield Rule("p_excessive", sweep.excessive)


def _curve(sweep: DensitySweep, metric: str, label: str, confidence: float) -> Curve:
    return Curve(
        label,
        tuple(spot.level.density for spot in sweep.spots),
        tuple(drawable(spot.mean(metric)) for spot in sweep.spots),
        tuple(drawable(spot.half(metric, confidence)) for spot in sweep.spots),
    )


def _titled(compared: Compared, learned: Learned) -> tuple[float, str]:
    """The density of what was learned, and the panel's title."""
    summary = next(one for one in compared.summaries if one.run.name == learned.run)
    density = summary.levels[learned.level].density
    several = len({one.level for one in compared.learned if one.run == learned.run}) > 1
    return density, f"p {density:.3g}: {learned.run}{f' level {learned.level}' if several else ''}"


def _over_time(learned: Learned, title: str, confidence: float) -> Panel:
    curves = tuple(
        _of_time(learned, name, values, confidence)
        for name, values in (("signal learned", learned.signal), ("noise learned", learned.noise))
    )
    return Panel(title, curves=curves)


def _of_time(learned: Learned, label: str, values: Floats, confidence: float) -> Curve:
    # A mean over the seeds that train longest is none over seeds.
    whole = np.isfinite(values).all(axis=0)
    found = [
        of_zero(dict(zip(learned.seeds, column.tolist(), strict=True)), confidence)
        for column in values.T[whole]
    ]
    halves = [(one.interval[1] - one.interval[0]) / 2 if one.interval else math.nan for one in found]
    return Curve(
        label,
        tuple(map(drawable, learned.epochs[whole].tolist())),
        tuple(drawable(one.mean) for one in found),
        tuple(map(drawable, halves)),
        dots=False,
    )
