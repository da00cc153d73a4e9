"""A procedure: stages in a row, cut into levels; what it will do, and the fold that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from prunecli.errors import Diverged, Mistake, RecipeError, UsageError
from prunecli.experiment import Experiment
from prunecli.lab import Lab, Pause
from prunecli.measuring import measure, tested
from prunecli.outlook import Outlook
from prunecli.registry import Choice
from prunecli.stages import tell_emptied
from prunecli.state import Midway, Outcomes, State
from prunecli.store.values import Measured
from prunecli.widths import Widths

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
    widths: Widths | None = None,
) -> list[Foreseen]:
    """Each level with what it comes to, as far as the recipe, an epoch's steps and the prunable weights tell.

    Raises:
        RecipeError: stages that could not be carried out, all of them.
    """
    outlook = Outlook(experiment.epochs, steps_per_epoch, total, excluded, shapes=shapes, widths=widths)
    foreseen, mistakes = list[Foreseen](), list[Mistake]()
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
    where = f"seed {lab.seed}, level {level.number}"
    try:
        done: State = level.stages[position](state, lab)
    except Diverged as error:
        raise Diverged(f"{where}, {error}; {safe_levels(level.number)}") from error
    tell_emptied(where, state.masks, done.masks, lab.say)
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
