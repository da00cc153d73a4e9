"""`prunecli plan`: a recipe's levels, sizes, what is reused, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.cli import output
from prunecli.cli.recipes import duration, load_recipe, make_settings, places_of, size
from prunecli.errors import shown

if TYPE_CHECKING:
    from prunecli.experiment import Experiment
    from prunecli.plan import PlannedRun
    from prunecli.procedure import Foreseen
    from prunecli.recipe.load import Recipe
    from prunecli.reuse import Reused
    from prunecli.runs import Settings
    from prunecli.workers import Chosen

SHOWN_LEVELS = 40


def plan(
    recipe: output.RecipeArgument,
    overrides: output.Overrides = None,
    runs: output.Runs = Path("runs"),
    seeds: output.Seeds = "",
    device: output.Device = "auto",
    data_root: output.DataRoot = None,
    allow_code: output.AllowCode = False,
    allow_download: output.AllowDownload = False,
    verbose: output.Verbose = False,
    json: output.AsJson = False,
) -> None:
    """Check a recipe and show what it will do: its levels, sizes, folders and cost. Runs nothing."""
    del verbose
    allowed = {"allow_code": allow_code, "allow_download": allow_download}
    loaded = load_recipe(recipe, overrides or (), seeds, places_of(runs, data_root), **allowed)
    settings = make_settings(runs, device, data_root, download=False, source=loaded.source)
    print_plan(loaded, settings, as_json=json)


def print_plan(recipe: Recipe, settings: Settings, *, as_json: bool) -> None:
    """Print the plan of a recipe."""
    from prunecli import plan, plan_told

    plans = plan.make_plan(recipe, settings)
    workers = plan.workers_of(plans, settings)
    if as_json:
        at_once = None if workers is None else workers.count
        output.print_json([plan_told.as_json(one) | {"workers": at_once} for one in plans])
        return
    lines = chain(chain.from_iterable(map(_plan_lines, plans)), _plan_of_all(plans, workers))
    for line in "\n".join(lines).split("\n"):
        print(shown(line))


def _plan_lines(plan: PlannedRun) -> Iterator[str]:
    """What a run will do and what it comes to."""
    from prunecli.plan_told import described
    from prunecli.trained_weights import trained_at

    experiment, counts = plan.point.experiment, plan.counts
    yield f"{plan.point.label}: {described(experiment.model)} on {described(experiment.data)}"
    yield f"  folder      {plan.folder or 'known once the dataset is there'}"
    if plan.parameters is not None and plan.task is not None:
        shape = "x".join(map(str, plan.task.shape))
        excluded = f", {plan.excluded:,} weights excluded" if plan.excluded else ""
        yield (
            f"  model       {plan.parameters:,} parameters, {plan.prunable:,} prunable in {plan.tensors} tensors"
            f"{excluded}; {shape} inputs, {plan.task.classes} classes"
        )
    if where := trained_at(experiment.model.name):
        yield f"  pretrained  {where}"
    if counts.train is not None:
        left = f", {counts.left_out:,} left out" if counts.left_out else ""
        yield f"  examples    {counts.train:,} training, {counts.validation:,} validation{left}, {counts.test:,} test"
        yield f"  steps       {plan.steps_per_epoch:,} an epoch of batches of {experiment.batch_size}{_joined(plan)}"
    if experiment.inputs.name != "clean":
        yield f"  inputs      {described(experiment.inputs)}"
    yield from _remarks(plan)
    yield f"  rate        {_rate(experiment)}"
    yield from _elided(
        [("level", "stages", "weights remaining", "epochs spent"), *map(_level_row, plan.levels)]
    )
    seeds = len(experiment.seeds)
    total = plan.epochs * seeds
    yield f"  in all      {len(plan.levels)} levels x {seeds} seeds, {plan.epochs:g} epochs a seed, {total:g} epochs"
    for start, line in zip(chain(["reused"], repeat("")), _reused_lines(plan.reused), strict=False):
        yield f"  {start:<11} {line}"
    if plan.seconds is not None:
        left = "what is left" if plan.reused else "all of it"
        saved = f"; {duration(plan.saved)} saved" if plan.reused and plan.saved is not None else ""
        yield f"  time        about {duration(plan.seconds)} for {left} on this machine (steps timed now){saved}"
    if plan.store_bytes is not None and plan.state_bytes is not None:
        store, states = size(plan.store_bytes), size(plan.state_bytes)
        weights = f", {size(plan.weights_bytes)} of weights" if plan.weights_bytes else ""
        yield f"  disk        at most {store} of store, {states} of states to go on from{weights}"
    yield ""


def _remarks(plan: PlannedRun) -> Iterator[str]:
    """What is to be said of its data, and of the recipe on them."""
    from prunecli.fitting import cautions
    from prunecli.selections import lacking_in_words

    counts = plan.counts
    if plan.split:
        yield f"  split       {plan.split}"
    if counts.lacking:
        yield f"  lacking     {lacking_in_words(counts.lacking)}"
    for caution in cautions(plan.levels, plan.prunable or 0, counts.train or 0):
        yield f"  caution     {caution}"
    if plan.missing:
        yield "  missing     " + plan.missing.replace("\n", "\n              ")


def _reused_lines(reused: Sequence[Reused]) -> Iterator[str]:
    """What need not be done, a line for each source and range of levels."""
    seeds: dict[tuple[int, int, str], list[int]] = {}
    for one in reused:
        seeds.setdefault((one.first, one.last, one.source), []).append(one.seed)
    for (first, last, source), those in seeds.items():
        levels = f"level {first}" if first == last else f"levels {first} to {last}"
        yield f"{levels} of seed{'s' * (len(those) > 1)} {', '.join(map(str, those))}: {source}"


def _plan_of_all(plans: Sequence[PlannedRun], workers: Chosen | None) -> Iterator[str]:
    """What all runs come to together, where there are several, and how many seeds go on side by side."""
    known = [(one.seconds, one.saved) for one in plans if one.seconds is not None and one.saved is not None]
    if len(plans) > 1 and len(known) == len(plans):
        left, saved = (sum(numbers) for numbers in zip(*known, strict=True))
        less = f"; {duration(saved)} saved" if saved else ""
        yield f"all {len(plans)} runs   about {duration(left)} for what is left, one seed after another{less}"
    if workers is not None:
        yield f"side by side  {workers.count} ({workers.why})"


def _level_row(foreseen: Foreseen) -> tuple[str, ...]:
    """A level's number, stages, weights remaining of the prunable ones and of all, and epochs."""
    from prunecli.plan_told import described

    outlook, level = foreseen.outlook, foreseen.level
    remaining = "?" if outlook.density is None else f"{100 * outlook.density:.2f}%"
    if outlook.density is None and outlook.expected is not None:
        remaining = f"{100 * outlook.expected:.2f}% expected"
    if outlook.excluded and outlook.density_of_all is not None:
        remaining += f" ({100 * outlook.density_of_all:.2f}% of all)"
    spent = f"{outlook.spent:g}" + (" at most" if outlook.early else "")
    return str(level.number), ", ".join(map(described, level.stages)), remaining, spent


def _joined(plan: PlannedRun) -> str:
    """That an epoch's last batch is one larger, where it is."""
    size = plan.point.experiment.batch_size
    joined = size > 1 and (plan.counts.train or 0) > size and (plan.counts.train or 0) % size == 1
    return f", the last of {size + 1}: one example left over is joined to it" if joined else ""


def _rate(experiment: Experiment) -> str:
    """The learning rate at the start and the end of the schedule; a schedule that never moves says so."""
    rate, epochs = experiment.learning_rate(experiment.epochs), experiment.epochs
    values = [rate(epochs * number / 200) for number in range(201)]
    ends = f"{values[0]:g} at the start, {rate(epochs * (1 - 1e-9)):g} at the end of {epochs:g} epochs"
    still = experiment.learning_rate.name != "constant" and len(set(values[:-1])) == 1
    return ends + ("; it never changes, so rewinding it does nothing" if still else "")


def _elided(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    shown = list(rows)
    if len(rows) > SHOWN_LEVELS:
        gap = ("", f"… {len(rows) - SHOWN_LEVELS} levels more (--json has them) …", "", "")
        shown = [*rows[: SHOWN_LEVELS // 2], gap, *rows[-SHOWN_LEVELS // 2 :]]
    widths = [max(len(row[column]) for row in shown) for column in range(4)]
    for level, stages, remaining, spent in shown:
        yield f"  {level:>{widths[0]}}  {stages:<{widths[1]}}  {remaining:>{widths[2]}}  {spent:>{widths[3]}}".rstrip()
