"""A sweep over densities with its thresholds, and what is learned over time, in tables (Yang et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from prunecli.compare import Compared
from prunecli.courses import Learned
from prunecli.report.cells import NONE, Table
from prunecli.report.numbers import spread, statistic_json
from prunecli.report.words import describe
from prunecli.statistics import Statistic, statistic
from prunecli.store.values import Floats
from prunecli.thresholds import ACCURACY, DensitySweep, Spot, density_sweeps

_COLUMNS = {
    "classes_kept": ("C", ".2g"),
    "head_without_signal": ("(1-p)^m", ".3g"),
    ACCURACY: ("accuracy %", ".2f"),
    "test_loss": ("test loss", ".3f"),
    "train_error": ("train error %", ".2f"),
    "train_loss": ("train loss", ".4f"),
    "signal_learned": ("signal learned", ".3f"),
    "noise_learned": ("noise learned", ".3f"),
}
"""Each metric's heading and decimals."""
_EXACT = frozenset({"head_without_signal"})
"""What hardly differs between seeds."""


def thresholds_tables(compared: Compared, *, brief: bool = False) -> list[Table]:
    """A table a sweep; then what runs learned over time, all in one table where it is to be brief."""
    sweeps = density_sweeps(compared)
    made = [_table(sweep) for sweep in sweeps]
    if compared.learned:
        made += [_kept(compared)]
        made += [_all_over_time(compared)] if brief else [_over_time(learned) for learned in compared.learned]
    return [*made, Table("", (), (), tuple(_footnotes(compared, sweeps)))]


def thresholds_records(compared: Compared) -> list[dict[str, Any]]:  # Any: JSON
    """A mapping a level of a run, with all digits; what is not there is null."""
    return [
        {
            "run": spot.summary.run.name,
            "level": spot.level.level,
            "density": spot.level.density,
            "p_mild": sweep.mild,
            "p_excessive": sweep.excessive,
            "chance": 100 / sweep.classes if sweep.classes else None,
            **{name: statistic_json(_statistic(spot, name)) for name in _COLUMNS},
            "learned": _learned_json(compared, spot),
        }
        for sweep in density_sweeps(compared)
        for spot in sweep.spots
    ]


def title_of(sweep: DensitySweep) -> str:
    """What was trained, in words, and the sweep's thresholds."""
    recipe = sweep.recipe
    words = [describe({key: recipe[key] for key in ("model", "data", "labels") if key in recipe})]
    if recipe.get("inputs", "clean") != "clean":
        words.append(f"inputs {describe({'model': recipe['inputs']})}")
    if sweep.mild and sweep.excessive:
        words.append(f"p_mild {sweep.mild:.3g}, p_excessive {sweep.excessive:.2g}")
    if sweep.classes:
        words.append(f"chance {100 / sweep.classes:.3g}%, ln K {math.log(sweep.classes):.3f}")
    return "; ".join(words)


def _table(sweep: DensitySweep) -> Table:
    names = [name for name in _COLUMNS if sweep.has(name)]
    rows = tuple(
        (
            f"{spot.level.density:.4g}",
            *(_cell(_statistic(spot, name), name) for name in names),
            str(_statistic(spot, "test_loss").n),
            f"{spot.level.spent:.4g}" if math.isfinite(spot.level.spent) else NONE,
            spot.summary.run.name,
        )
        for spot in sweep.spots
    )
    columns = ("p", *(_COLUMNS[name][0] for name in names), "n", "epochs", "run")
    return Table(title_of(sweep), columns, rows, words=frozenset({"run"}), spare=frozenset({"run"}))


def _statistic(spot: Spot, name: str) -> Statistic:
    values = spot.by_seed(name)
    return statistic([values.get(seed, math.nan) for seed in spot.summary.run.seeds])


def _cell(found: Statistic, name: str) -> str:
    decimals = _COLUMNS[name][1]
    if name in _EXACT and found.mean is not None:
        return f"{found.mean:{decimals}}"
    return spread(found, decimals)


def _kept(compared: Compared) -> Table:
    """A row a run, with the neurons that keep each class's signal of each seed."""
    found = _by_density(compared)
    seeds = sorted({seed for _, one in found for seed in one.seeds})
    rows = tuple(
        (f"{density:.4g}", *(_counts(one, seed) for seed in seeds), one.run) for density, one in found
    )
    columns = ("p", *(f"seed {seed}" for seed in seeds), "run")
    title = "neurons that keep their class's signal, class by class"
    return Table(title, columns, rows, words=frozenset({"run"}), spare=frozenset({"run"}))


def _counts(learned: Learned, seed: int) -> str:
    if seed not in learned.seeds:
        return NONE
    return " ".join(f"{count:g}" for count in learned.kept[learned.seeds.index(seed)])


def _by_density(compared: Compared) -> list[tuple[float, Learned]]:
    """What was learned with its density, the densest first."""
    levels = {summary.run.name: summary.levels for summary in compared.summaries}
    found = [(levels[one.run][one.level].density, one) for one in compared.learned]
    return sorted(found, key=lambda pair: -pair[0])


def _all_over_time(compared: Compared) -> Table:
    """A row an epoch and a column a run: signal and noise learned, means over the seeds that are not done by then."""
    found = _by_density(compared)
    epochs = sorted({epoch for _, one in found for epoch in one.epochs.tolist()})
    rows = tuple((f"{epoch:g}", *(_both(one, epoch) for _, one in found)) for epoch in epochs)
    return Table(
        "signal / noise learned by epoch",
        ("epoch", *(f"p {density:.3g}" for density, _ in found)),
        rows,
        (
            "means over seeds that still train at that epoch; --all-levels shows their sd and number, run by run",
        ),
    )


def _both(learned: Learned, epoch: float) -> str:
    (places,) = np.nonzero(learned.epochs == epoch)
    if not len(places):
        return NONE
    means = [statistic(values[:, places[0]].tolist()).mean for values in (learned.signal, learned.noise)]
    return " / ".join(NONE if mean is None else f"{mean:.3f}" for mean in means)


def _over_time(learned: Learned) -> Table:
    rows = tuple(
        (
            f"{epoch:g}",
            *(spread(statistic(list(values)), ".3f") for values in (signal, noise)),
            str(_there(signal)),
        )
        for epoch, signal, noise in zip(learned.epochs, learned.signal.T, learned.noise.T, strict=True)
    )
    return Table(
        f"{learned.run}: signal and noise learned over time",
        ("epoch", "signal learned", "noise learned", "n"),
        rows,
    )


def _there(values: Floats) -> int:
    return int(np.isfinite(values).sum())


def _learned_json(compared: Compared, spot: Spot) -> dict[str, Any] | None:  # Any: JSON
    """The means over seeds by epoch, and the neurons kept of each seed and class."""
    for one in compared.learned:
        if (one.run, one.level) == (spot.summary.run.name, spot.level.level):
            signal, noise = (
                [statistic(list(column)).mean for column in values.T] for values in (one.signal, one.noise)
            )
            kept = {str(seed): list(row) for seed, row in zip(one.seeds, one.kept.tolist(), strict=True)}
            return {"epoch": one.epochs.tolist(), "signal": signal, "noise": noise, "kept": kept}
    return None


def _footnotes(compared: Compared, sweeps: list[DensitySweep]) -> Iterator[str]:
    yield "p: density, prunable weights remaining; ±: sd over seeds (ddof 1); epochs: trained in all"
    if any(sweep.mild for sweep in sweeps):
        yield (
            "p_mild: ln d / m; p_excessive: 1 / (K m ln d); C: classes whose signal some neuron of their head keeps; "
            "(1-p)^m: the probability that none of a head's does (Yang et al., 2023)"
        )
        yield (
            "signal learned: the largest <w_jr, mu e_j> over a head's neurons; noise learned: the largest "
            "<w_jr, xi_i>, the mean over training examples of the class; both are means over heads"
        )
    for summary in compared.summaries:
        if summary.run.status != "complete":
            yield f"{summary.run.name}: {summary.run.status}: shown are the levels sealed so far"
