"""A procedure: stages in a row, cut into levels; what it will do, and the fold that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from prunecli.building import asks_for_firing, drops_filters
from prunecli.errors import Diverged, Mistake, RecipeError, UsageError
from prunecli.experiment import Experiment, digest
from prunecli.lab import Lab, Pause
from prunecli.measuring import measure, tested
from prunecli.registry import Choice
from prunecli.registry import plain as plain_value
from prunecli.stages import Outlook
from prunecli.state import Midway, Outcomes, State
from prunecli.store.codec import FORMAT_VERSION
from prunecli.store.values import Measured

MAX_STAGES = 100_000
SAVE = "save"
"""The stage that remembers a point and changes no weight."""


@dataclass(frozen=True)
class Level:
    """A level's stages; `event` is its first and last pruning, which are one event (see the contract)."""

    number: int
    stages: tuple[Choice, ...]
    event: tuple[int, int] | None


@dataclass(frozen=True)
class Foreseen:
    """A level and what is known of its end before anything runs."""

    level: Level
    outlook: Outlook


def unroll(procedure: Iterable[Choice]) -> Iterator[Choice]:
    """The stages one after the other, `repeat` written out."""
    for stage in procedure:
        if stage.entry.traits.get("macro"):
            for inner in unroll(_written_out(stage)):
                yield inner if inner.place else replace(inner, place=stage.place)
        else:
            yield stage


def _written_out(macro: Choice) -> Iterator[Choice]:
    try:
        yield from macro()
    except UsageError as error:
        raise RecipeError([Mistake(macro.place, str(error))]) from error


def levels(procedure: Sequence[Choice]) -> list[Level]:
    """The procedure cut into levels: a new one begins where masks or clocks first change after training.

    Raises:
        RecipeError: the procedure unrolls to too many stages.
    """
    cut: list[list[Choice]] = [[]]
    trained = False
    for count, stage in enumerate(unroll(procedure)):
        if count >= MAX_STAGES:
            message = f"the procedure unrolls to more than {MAX_STAGES:,} stages"
            raise RecipeError([Mistake(procedure[0].place, message)])
        traits = stage.entry.traits
        if trained and (traits.get("prunes") or traits.get("rewinds")):
            cut.append([])
            trained = False
        trained = trained or bool(traits.get("trains"))
        cut[-1].append(stage)
    return [Level(number, tuple(stages), _event(stages)) for number, stages in enumerate(cut)]


def foresee(
    experiment: Experiment,
    steps_per_epoch: int | None = None,
    total: int | None = None,
    excluded: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Foreseen]:
    """Each level with what it comes to, as far as the recipe, an epoch's steps and the prunable weights tell.

    Raises:
        RecipeError: stages that could not be carried out, all of them.
    """
    outlook, foreseen = Outlook(experiment.epochs, steps_per_epoch, total, excluded, shapes=shapes), []
    mistakes: list[Mistake] = []
    _try_schedule(experiment, mistakes)
    mistakes += _unchecked(experiment)
    for level in levels(experiment.procedure):
        outlook = replace(outlook, level=level.number)
        for stage in level.stages:
            try:
                # A stage of the user's own may have no foresight: the outlook stays as it is.
                _check_free(stage, outlook)
                foresight = stage.entry.traits.get("foresee")
                outlook = foresight(outlook, **stage.options) if foresight else outlook
            except (UsageError, ValueError) as error:
                mistakes.append(Mistake(stage.place, str(error)))
        foreseen.append(Foreseen(level, outlook))
    if (last := max(outlook.busy_until.values(), default=0.0)) > outlook.spent + 1e-9:
        message = (
            f"what the last event injects lasts until {last:g} epochs are spent, and the procedure ends "
            f"after {outlook.spent:g}; give fewer 'batches', or train on"
        )
        mistakes.append(Mistake(experiment.procedure[-1].place, message))
    if mistakes:
        # A stage inside `repeat` goes wrong in every turn: say it once.
        raise RecipeError(
            list({mistake.place or mistake: mistake for mistake in reversed(mistakes)}.values())[::-1]
        )
    return foreseen


def _unchecked(experiment: Experiment) -> Iterator[Mistake]:
    """What macros say of themselves that their stages do not show."""
    for stage in (inner for outer in experiment.procedure for inner in outer.named()):
        try:
            if check := stage.entry.traits.get("check"):
                check(experiment.epochs, **stage.options)
        except UsageError as error:
            yield Mistake(stage.place, str(error))


def _check_free(stage: Choice, outlook: Outlook) -> None:
    """Raises UsageError where weights are replaced or dropped while something is injected into them."""
    until = max(outlook.busy_until.values(), default=0.0)
    traits = stage.entry.traits
    changes = traits.get("prunes") and not traits.get("by_layer")
    changes = changes or traits.get("redraws") or stage.options.get("what") == "weights"
    if changes and until > outlook.spent + 1e-9:
        raise UsageError(
            f"'{stage.name}' after {outlook.spent:g} epochs changes weights that something is injected into until "
            f"{until:g}; give fewer 'batches', or put it later"
        )


def dense_end(procedure: Sequence[Choice]) -> int:
    """How many levels the dense training comes to: those before the first pruning, or all."""
    cut = levels(procedure)
    return next((level.number for level in cut if level.event is not None), len(cut))


def prefix_digest(experiment: Experiment, fingerprint: str, level: int) -> str:
    """Names the state at a level's end by all that led to it: what comes after in the recipe does not count."""
    stages = [stage for cut in levels(experiment.procedure)[: level + 1] for stage in cut.stages]
    prefix = replace(experiment, procedure=stages, observe=curved(experiment)).plain(results_only=True)
    return digest(
        {"format": FORMAT_VERSION, "experiment": prefix, "fingerprint": fingerprint, **_held(experiment)}
    )


def prefixes(experiment: Experiment, fingerprint: str) -> list[str]:
    """Names each level by all that led to its end and by what is observed: equal names, equal numbers."""
    names: list[str] = []
    # The stages of a `repeat` are the same ones in each turn.
    forms: dict[tuple[int, ...], str] = {}
    for level in levels(experiment.procedure):
        stages = tuple(map(id, level.stages))
        if stages not in forms:
            turn = replace(experiment, procedure=list(level.stages))
            forms[stages] = digest(turn.plain(results_only=True))
        first = {"format": FORMAT_VERSION, "fingerprint": fingerprint, **_held(experiment)}
        before = names[-1] if names else first
        names.append(digest({"before": before, "level": forms[stages]}))
    return names


def trajectory_digest(
    experiment: Experiment, fingerprint: str, steps_per_epoch: int, stages: Sequence[Choice]
) -> str:
    """Names the weights that first stages lead to: `save` alone changes none, and training can be cut anywhere."""
    plain = replace(experiment, procedure=list(stages), observe=curved(experiment)).plain(results_only=True)
    plain["procedure"] = _trajectory(experiment, steps_per_epoch, stages)
    return digest(
        {"format": FORMAT_VERSION, "trajectory": plain, "fingerprint": fingerprint, **_held(experiment)}
    )


def _held(experiment: Experiment) -> dict[str, bool]:
    """What a state holds from its beginning on for stages that come later; nothing of what is not held."""
    held = {"filters": drops_filters(experiment), "activations": asks_for_firing(experiment)}
    return {what: True for what, is_held in held.items() if is_held}


def curved(experiment: Experiment) -> list[Choice]:
    """The observers that a state has notes of, which it cannot be shared without."""
    return [choice for choice in experiment.observe if choice.entry.traits.get("curved")]


def _trajectory(experiment: Experiment, steps_per_epoch: int, stages: Sequence[Choice]) -> list[Any]:
    """The stages, adjacent trainings by one schedule joined, each from a step to a step.

    `save` is left out where nothing rewinds: otherwise what a point holds decides what comes after.
    """
    if not all(stage.entry.traits.get("foresee") for stage in stages):
        # What a stage of the user's own does to the clocks is not known.
        return [stage.plain(results_only=True) for stage in stages]
    outlook, form = Outlook(experiment.epochs, steps_per_epoch), list[Any]()
    rewinds = any(stage.entry.traits.get("rewinds") for stage in stages)
    for stage in stages:
        start = outlook.step
        outlook = stage.entry.traits["foresee"](outlook, **stage.options)
        if stage.entry.traits.get("one_training"):
            rate = plain_value(stage.options.get("learning_rate"), results_only=True)
            ends = {"start": round(start * steps_per_epoch), "end": round(outlook.step * steps_per_epoch)}
            if form and isinstance(form[-1], _Training) and form[-1]["rate"] == rate:
                ends["start"] = form.pop()["start"]
            form.append(_Training(ends | {"rate": rate}))
        elif rewinds or stage.name != SAVE:
            form.append(stage.plain(results_only=True))
    return form


class _Training(dict[str, Any]):  # Any: what JSON holds
    """A training in a trajectory's form: its first and last step, and its schedule."""


def saved_after(level: Level) -> dict[str, int]:
    """How many of a level's stages lead to each point that it saves, the last time that it does."""
    return {stage.options["point"]: n for n, stage in enumerate(level.stages) if stage.name == SAVE}


Keep = Callable[[Midway, Callable[[], State]], None]
"""Called wherever a level can be interrupted, with the spot and what makes the state there."""


def carry_out(
    level: Level,
    state: State,
    lab: Lab,
    previous: Outcomes | None,
    midway: Midway | None = None,
    keep: Keep = lambda _midway, _now: None,
) -> tuple[State, Measured, Outcomes]:
    """The state at the level's end, what is stored of the level, and its test outcomes.

    `previous` are the test outcomes at the end of the level before, if they are at hand. `midway` is the spot
    inside the level that the state is of; without one the level begins with it.

    Raises:
        Diverged: the loss is NaN or infinite, or the scores are; the message names the level.
        Stopped: `keep` stops the work.
    """
    whole = len(level.stages) + 1
    state, around, here = carry_out_stages(level, state, lab, previous, midway, keep, whole)
    return state, *measure(level.number, state, here, around)


def carry_out_stages(
    level: Level,
    state: State,
    lab: Lab,
    previous: Outcomes | None,
    midway: Midway | None,
    keep: Keep,
    end: int,
) -> tuple[State, dict[str, Outcomes], Lab]:
    """The state after a level's first `end` stages, the test outcomes around its pruning, and the paused lab."""
    if midway is None:
        midway, state = Midway(level.number), replace(state, observed={})
    around, inside, here = dict(midway.around), midway.steps, lab
    # A training that is gone on with gets the clocks of its start: it is those that it reckons with.
    state = replace(state, step=state.step - inside, spent=state.spent - inside)
    for position in range(midway.stage, end):
        here = replace(lab, taken=inside, pause=_pause(keep, level, position, dict(around), state))
        if not inside:
            here.pause(partial(_same, state), 0)
            around |= _tested_around(level, position, state, here, around, previous)
            here = replace(here, pause=_pause(keep, level, position, dict(around), state))
        if position < len(level.stages):
            state = _staged(level, position, state, here)
        inside = 0
    return state, around, here


def _staged(level: Level, position: int, state: State, lab: Lab) -> State:
    try:
        done: State = level.stages[position](state, lab)
    except Diverged as error:
        raise Diverged(
            f"seed {lab.seed}, level {level.number}, {error}; {safe_levels(level.number)}"
        ) from error
    return done


def safe_levels(level: int) -> str:
    """Which levels are sealed while a level is worked on."""
    if level == 0:
        return "no level is sealed yet"
    return "level 0 is safe" if level == 1 else f"levels 0 to {level - 1} are safe"


def _tested_around(
    level: Level,
    position: int,
    state: State,
    lab: Lab,
    known: Mapping[str, Outcomes],
    previous: Outcomes | None,
) -> dict[str, Outcomes]:
    """The test outcomes before the level's pruning or after it, where this is the place to take them."""
    first, last = level.event or (-1, -2)
    found = {}
    if position == last + 1 and "after" not in known:
        found["after"] = tested(lab, state)
    if position == first and "before" not in known:
        found["before"] = previous if previous is not None and position == 0 else tested(lab, state)
    return found


def _pause(keep: Keep, level: Level, position: int, around: Mapping[str, Outcomes], entry: State) -> Pause:
    """What a stage calls where it can be interrupted.

    A stage that is one training goes on from inside it; any other begins again.
    """
    within = position < len(level.stages) and bool(level.stages[position].entry.traits.get("one_training"))

    def pause(now: Callable[[], State], steps: int) -> None:
        if steps and within:
            keep(Midway(level.number, position, steps, around), now)
        else:
            keep(Midway(level.number, position, 0, around), partial(_same, entry))

    return pause


def _same(state: State) -> State:
    return state


def _event(stages: Sequence[Choice]) -> tuple[int, int] | None:
    prunings = [position for position, stage in enumerate(stages) if stage.entry.traits.get("prunes")]
    return (prunings[0], prunings[-1]) if prunings else None


def _try_schedule(experiment: Experiment, mistakes: list[Mistake]) -> None:
    try:
        experiment.learning_rate(experiment.epochs)
    except ValueError as error:
        mistakes.append(Mistake(experiment.learning_rate.place, str(error)))
