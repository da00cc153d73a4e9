"""What `compare` found, laid out in tables: cells of raw text, notes and footnotes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from prunecli.compare import SIGNIFICANCE, Compared, Level, Summary
from prunecli.report.cells import NONE, Table
from prunecli.report.claims import claims_table
from prunecli.report.classes import class_table
from prunecli.report.correlations import correlations_table
from prunecli.report.label_parts import parts_table
from prunecli.report.layers import layers_tables
from prunecli.report.marks import mark
from prunecli.report.methods import methods_table, optimal_note
from prunecli.report.numbers import verdict_notes
from prunecli.report.stability import stability_table
from prunecli.report.subgroups import subgroup_table
from prunecli.report.theory import theory_tables
from prunecli.report.thresholds import thresholds_tables
from prunecli.report.words import describe, differences
from prunecli.statistics import Statistic
from prunecli.store.values import StoredRun
from prunecli.trained_weights import trained_at

NAMED_LAYERS = 4


def tables(compared: Compared, *, brief: bool = False) -> list[Table]:
    """The tables asked for: of levels, methods, parts, stability or layers; then those of groups and the like."""
    made = [subgroup_table(found, compared.confidence) for found in compared.subgroups]
    made += [class_table(found, compared.confidence, brief=brief) for found in compared.classes]
    made += [correlations_table(compared)] if compared.correlations else []
    if compared.table == "methods":
        return [methods_table(compared), *made]
    if compared.table == "claims":
        return [claims_table(compared), *made]
    if compared.table in ("stability", "correlations"):
        return [stability_table(compared), *made]
    if compared.table == "layers":
        return [*layers_tables(compared, brief=brief), *made]
    if compared.table == "theory":
        return [*theory_tables(compared), *made]
    if compared.table == "thresholds":
        return [*thresholds_tables(compared, brief=brief), *made]
    if compared.table == "parts":
        return [parts_table(compared, brief=brief), *made]
    return [*_level_tables(compared, brief), *made, Table("", (), (), tuple(_footnotes(compared)))]


def notes(compared: Compared, summary: Summary) -> Iterator[str]:
    """What a reader of the run's numbers should know: its state, missing values, seeds left out."""
    run, metric = summary.run, compared.metric
    if run.status != "complete":
        yield f"{run.status}: shown are the levels sealed so far"
    if where := trained_at(run.recipe.get("model")):
        yield f"pretrained: {where}"
    yield from run.notes
    yield from _excluded(summary)
    if compared.reference and compared.reference.summary.run.recipe.get("data") != run.recipe.get("data"):
        yield "other data than the run it is compared with: seeds pair by number alone"
    if len(run.seeds) == 1:
        yield "n = 1: one seed has no sd, interval or verdict"
    yield from _unpaired(compared, summary)
    empty = [level.level for level in summary.levels if not level.statistic(metric).n]
    if empty and summary.has(metric):
        yield f"no {_name(metric)} at {_at(summary, empty)}"
    if compared.reference is None and summary.dense is None:
        yield "no dense level to compare with; --against RUN:LEVEL names another"
    yield from _collapsed(summary)
    yield from _diverged(summary)


def flaws(summary: Summary, level: Level) -> str:
    """What makes the level's numbers worth little: `collapsed 1/3, diverged 2/3` of the seeds, or empty."""
    gone = {seed for seeds in level.collapsed.values() for seed in seeds}
    counts = {"collapsed": len(gone), "diverged": len(level.diverged)}
    return ", ".join(f"{name} {count}/{len(summary.run.seeds)}" for name, count in counts.items() if count)


def _level_tables(compared: Compared, brief: bool) -> list[Table]:
    """One table a run, a summary and the recipes' differences where there are several."""
    made = [_run_table(compared, summary, brief) for summary in compared.summaries]
    if len(compared.summaries) > 1:
        made.append(_summary_table(compared))
        made += _recipe_tables([summary.run for summary in compared.summaries])
    return made


def _run_table(compared: Compared, summary: Summary, brief: bool) -> Table:
    run = summary.run
    levels = [
        level for level in summary.levels if not brief or mark(summary, level) or level is summary.levels[-1]
    ]
    corrected = compared.corrected(summary, compared.metric)
    cells = [_cells(compared, summary, level, corrected.get(level.level)) for level in levels]
    beside = {
        _heading(run, name): name for name in ("validation_error", "instability") if name != compared.metric
    }
    columns = tuple(name for name in next(iter(cells), ()) if name not in beside or summary.has(beside[name]))
    rows = tuple(tuple(row[name] for name in columns) for row in cells)
    hidden = len(summary.levels) - len(levels)
    more = [f"{hidden} further levels; --all-levels shows them"] if hidden else []
    title = f"{run.name}: {describe(run.recipe)}; seeds {_listed(run.seeds)}; {run.status}"
    words = frozenset({"verdict", "mark"})
    spare = frozenset({*beside, "effect", "p (Holm)"})
    return Table(title, columns, rows, (*notes(compared, summary), *more), words, spare)


def _cells(compared: Compared, summary: Summary, level: Level, corrected: float | None) -> dict[str, str]:
    run, metric = summary.run, compared.metric
    difference = compared.difference(summary, level, metric)
    signed = f"+{_decimals(run, metric)}"
    low_high = ", ".join(f"{end:{signed}}" for end in difference.interval or ())
    return {
        "level": str(level.level),
        "weights %": _weights(level.density),
        "epochs": NONE if level.value("spent") is None else f"{level.spent:g}",
        _heading(run, "validation_error"): _spread(run, level, "validation_error"),
        _heading(run, metric): _spread(run, level, metric),
        "n": str(level.statistic(metric).n),
        "difference": NONE if difference.mean is None else f"{difference.mean:{signed}}",
        f"{100 * compared.confidence:.6g}% interval": f"[{low_high}]" if low_high else NONE,
        "verdict": difference.verdict or NONE,
        "effect": NONE if difference.effect is None else f"{difference.effect:+.3g}",
        "p (Holm)": NONE if corrected is None else f"{corrected:.2g}",
        _heading(run, "instability"): _spread(run, level, "instability"),
        "mark": ", ".join(filter(None, (mark(summary, level), flaws(summary, level)))),
    }


def _summary_table(compared: Compared) -> Table:
    metric = compared.metric
    columns = (
        *("run", "seeds", "weights in all", "dense"),
        *("optimal at %", "optimal", "verdict", "sparsest better at %", "sparsest better", "area"),
    )
    rows = []
    for summary in compared.summaries:
        run = summary.run
        dense, optimal, sparsest = (summary.pick(word) for word in ("dense", "optimal", "sparsest_better"))
        row = [run.name, str(len(run.seeds)), str(run.total), _spread(run, dense, metric)]
        verdict = compared.difference(summary, optimal, metric).verdict if optimal else None
        row += [
            _weights(optimal.density) if optimal else NONE,
            _spread(run, optimal, metric),
            verdict or NONE,
        ]
        row += [_weights(sparsest.density) if sparsest else NONE, _spread(run, sparsest, metric)]
        rows.append((*row, _shown_statistic(run, summary.area(metric), metric)))
    title = f"{_heading(compared.summaries[0].run, metric)} of the marked levels, at % of weights remaining"
    words = frozenset({"run", "verdict"})
    return Table(
        title, columns, tuple(rows), tuple(_counts(compared)), words, frozenset({"weights in all", "area"})
    )


def _counts(compared: Compared) -> Iterator[str]:
    """In how many of the runs the optimal level is better than what it is compared with."""
    metric = compared.metric
    found = [
        compared.difference(summary, level, metric).verdict
        for summary in compared.summaries
        if (level := summary.pick("optimal"))
    ]
    counts = {word: found.count(word) for word in ("lower", "match", "higher")}
    known = sum(counts.values())
    dense = sum(
        summary.optimal is not None and summary.optimal.level == summary.dense
        for summary in compared.summaries
    )
    if known:
        told = ", ".join(f"{word} in {count}" for word, count in counts.items())
        yield f"optimal level against {_reference(compared)}: {told} of {known}"
    if dense:
        yield f"the dense level is the optimal one in {dense} of {len(compared.summaries)}"
    yield "area: mean over the logarithm of the weights remaining, of seeds with every level"


def _recipe_tables(runs: Sequence[StoredRun]) -> Iterator[Table]:
    said = frozenset({"about", "seeds", "keep_weights"})
    found = differences([{key: run.recipe[key] for key in run.recipe if key not in said} for run in runs])
    paths = list(found)
    rows = [(run.name, *(found[path][number] for path in paths)) for number, run in enumerate(runs)]
    grid = [("run", *paths), *rows]
    if len(paths) > len(runs):
        grid = list(zip(*grid, strict=True))
    if paths:
        yield Table("what differs between the recipes", grid[0], tuple(grid[1:]), words=frozenset(grid[0]))


def _footnotes(compared: Compared) -> Iterator[str]:
    found = list(compared.comparisons(compared.metric))
    percent = _is_percent(compared.summaries[0].run, compared.metric)
    yield "±: sd over seeds (ddof 1); weights %: prunable weights remaining; epochs: trained in all"
    if found:
        points = "percentage points" if percent else "the metric's units"
        yield f"difference: to {_reference(compared)}, mean over the seeds both have, in {points}"
    yield from verdict_notes([each.difference for each in found])
    if any(each.difference.p is not None for each in found):
        yield (
            "effect: mean difference / its sd; p (Holm): of Student's two-sided t test, corrected over the levels "
            "of the run"
        )
    for metric in sorted({summary.optimal.selected_by for summary in compared.summaries if summary.optimal}):
        yield optimal_note(metric)
    if any(summary.sparsest_better is not None for summary in compared.summaries):
        yield "sparsest better: the sparsest level with a lower test error than the dense level, by that rule"
    if any(summary.sparsest_better_corrected is not None for summary in compared.summaries):
        yield f"sparsest corrected: the same by the corrected test, p at most {SIGNIFICANCE:g}"


def _reference(compared: Compared) -> str:
    if compared.reference is None:
        return "the run's own dense level"
    run, word = compared.reference.summary.run.name, compared.reference.word
    return f"{run}, level by level" if word == "same" else f"{run}, level {word}"


def _excluded(summary: Summary) -> Iterator[str]:
    """The density of all linear and convolution weights, where some are excluded from pruning."""
    run = summary.run
    if run.excluded and summary.levels:
        whole = run.total + run.excluded
        named = [level for level in summary.levels if mark(summary, level) or level is summary.levels[-1]]
        of_all = [
            f"{_weights((level.density * run.total + run.excluded) / whole)} at level {level.level}"
            for level in named
        ]
        yield (
            f"weights %: of the {run.total:,} eligible for pruning; with the {run.excluded:,} excluded ones "
            f"{', '.join(of_all)}"
        )


def _unpaired(compared: Compared, summary: Summary) -> Iterator[str]:
    other = compared.reference.summary.run if compared.reference else None
    if other and set(summary.run.seeds).isdisjoint(other.seeds):
        yield f"no seed in common with {other.name}: nothing is compared"
        return
    levels_without: dict[tuple[int, ...], list[int]] = {}
    for level in summary.levels:
        if seeds := compared.difference(summary, level, compared.metric).unpaired:
            levels_without.setdefault(seeds, []).append(level.level)
    for seeds, levels in levels_without.items():
        where = f"seeds {_listed(seeds)} at {_at(summary, levels)}"
        yield f"left out of the difference, for want of a partner: {where}"


def _collapsed(summary: Summary) -> Iterator[str]:
    """A note for each set of layers without weights, with its levels."""
    levels_with: dict[str, list[int]] = {}
    for level in summary.levels:
        named = [f"{layer} (seeds {_listed(seeds)})" for layer, seeds in level.collapsed.items()]
        more = f" and {len(named) - NAMED_LAYERS} layers more" if len(named) > NAMED_LAYERS else ""
        if named:
            levels_with.setdefault(", ".join(named[:NAMED_LAYERS]) + more, []).append(level.level)
    for layers, levels in levels_with.items():
        yield f"collapsed at {_levels(levels)}: no weight is left in {layers}"


def _diverged(summary: Summary) -> Iterator[str]:
    levels_with: dict[tuple[int, ...], list[int]] = {}
    for level in summary.levels:
        if level.diverged:
            levels_with.setdefault(level.diverged, []).append(level.level)
    for seeds, levels in levels_with.items():
        yield (
            f"diverged at {_levels(levels)}: seeds {_listed(seeds)} have a training loss above a uniform "
            "guess's; the means include them"
        )


def _spread(run: StoredRun, level: Level | None, metric: str) -> str:
    return _shown_statistic(run, level.statistic(metric), metric) if level else NONE


def _shown_statistic(run: StoredRun, found: Statistic, metric: str) -> str:
    decimals = _decimals(run, metric)
    if found.mean is None:
        return NONE
    return f"{found.mean:{decimals}}" + (f" ± {found.std:{decimals}}" if found.std is not None else "")


def _weights(density: float) -> str:
    if not math.isfinite(density):
        return NONE
    return f"{100 * density:.2f}" if density >= 0.001 or density == 0 else f"{100 * density:.2g}"


def _heading(run: StoredRun, metric: str) -> str:
    return _name(metric) + (" %" if _is_percent(run, metric) else "")


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _is_percent(run: StoredRun, metric: str) -> bool:
    return run.units.get(metric) in ("percent", "%")


def _decimals(run: StoredRun, metric: str) -> str:
    return ".2f" if _is_percent(run, metric) else ".3f" if metric == "instability" else ".4f"


def _at(summary: Summary, levels: Sequence[int]) -> str:
    if len(levels) >= len(summary.levels) - 1 > 1:
        return "every level"
    return _levels(levels)


def _levels(numbers: Sequence[int]) -> str:
    return f"level{'s' * (len(numbers) > 1)} {_listed(numbers)}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
