"""A procedure: stages in a row, cut into levels; what it will do, and the fold that does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from prunecli.errors import Diverged, Mistake, RecipeError, UsageError, suggest
from prunecli.evidence import check_needs
from prunecli.experiment import Experiment, digest
from prunecli.lab import Lab, Outcomes
from prunecli.measuring import measure, tested
from prunecli.observers import SEEN
from prunecli.registry import Choice
from prunecli.stages import Outlook
from prunecli.state import State
from prunecli.store.codec import FORMAT_VERSION
from prunecli.store.values import Measured

MAX_STAGES = 100_000


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


def unroll(procedure: Sequence[Choice]) -> Iterator[Choice]:
    """The stages one after the other, `repeat` written out."""
    for stage in procedure:
        if stage.entry.traits.get("macro"):
            yield from unroll(stage())
        else:
            yield stage


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
    experiment: Experiment, steps_per_epoch: int | None = None, total: int | None = None
) -> list[Foreseen]:
    """Each level with what it comes to, as far as the recipe, an epoch's steps and the prunable weights tell.

    Raises:
        RecipeError: stages that could not be carried out, all of them.
    """
    outlook, foreseen = Outlook(experiment.epochs, steps_per_epoch, total), []
    mistakes: list[Mistake] = []
    _try_schedule(experiment, mistakes)
    for level in levels(experiment.procedure):
        for stage in level.stages:
            try:
                # A stage of the user's own may have no foresight: the outlook stays as it is.
                foresight = stage.entry.traits.get("foresee")
                outlook = foresight(outlook, **stage.options) if foresight else outlook
            except (UsageError, ValueError) as error:
                mistakes.append(Mistake(stage.place, str(error)))
        foreseen.append(Foreseen(level, outlook))
    if mistakes:
        # A stage inside `repeat` goes wrong in every turn: say it once.
        raise RecipeError(
            list({mistake.place or mistake: mistake for mistake in reversed(mistakes)}.values())[::-1]
        )
    return foreseen


def dense_end(procedure: Sequence[Choice]) -> int:
    """How many levels the dense training comes to: those before the first pruning, or all."""
    cut = levels(procedure)
    return next((level.number for level in cut if level.event is not None), len(cut))


def prefix_digest(experiment: Experiment, fingerprint: str, level: int) -> str:
    """Names the state at a level's end by all that led to it: what comes after in the recipe does not count."""
    stages = [stage for cut in levels(experiment.procedure)[: level + 1] for stage in cut.stages]
    prefix = replace(experiment, procedure=stages, observe=[]).plain(results_only=True)
    return digest({"format": FORMAT_VERSION, "experiment": prefix, "fingerprint": fingerprint})


def check_fits(experiment: Experiment, model: nn.Module, names: Sequence[str]) -> None:
    """Whether optimizer, scopes, criteria and observers can do what the recipe asks of this model.

    Raises:
        RecipeError: what they cannot do, with its place.
    """
    mistakes: list[Mistake] = []
    try:
        experiment.optimizer(dict(model.named_parameters()))
    except (UsageError, ValueError) as error:
        mistakes.append(Mistake(experiment.optimizer.place, str(error)))
    stages = {id(stage): stage for stage in unroll(experiment.procedure)}
    for choice in (inner for stage in stages.values() for inner in stage.named()):
        try:
            if choice.kind == "scopes":
                choice(names, 0.0)
            elif choice.kind == "criteria":
                check_needs(choice)
        except UsageError as error:
            mistakes.append(Mistake(choice.place, str(error)))
    for observer in experiment.observe:
        unknown = [name for name in observer.entry.needs if name not in SEEN]
        if unknown:
            message = f"observer '{observer.name}' asks for '{unknown[0]}'{suggest(unknown[0], SEEN)}"
            mistakes.append(Mistake(observer.place, message))
    if mistakes:
        raise RecipeError(mistakes)


def carry_out(
    level: Level, state: State, lab: Lab, previous: Outcomes | None
) -> tuple[State, Measured, Outcomes]:
    """The state at the level's end, what is stored of the level, and its test outcomes.

    `previous` are the test outcomes at the end of the level before, if they are at hand.

    Raises:
        Diverged: the loss is NaN or infinite; the message names the level.
    """
    around: dict[str, Outcomes] = {}
    first, last = level.event or (-1, -1)
    for position, stage in enumerate(level.stages):
        if position == first:
            around["before"] = previous if previous is not None and position == 0 else tested(lab, state)
        try:
            state = stage(state, lab)
        except Diverged as error:
            sealed = (
                f"the last level sealed is {level.number - 1}" if level.number else "no level is sealed yet"
            )
            raise Diverged(f"seed {lab.seed}, level {level.number}: {error}; {sealed}") from error
        if position == last:
            around["after"] = tested(lab, state)
    return state, *measure(level.number, state, lab, around)


def _event(stages: Sequence[Choice]) -> tuple[int, int] | None:
    prunings = [position for position, stage in enumerate(stages) if stage.entry.traits.get("prunes")]
    return (prunings[0], prunings[-1]) if prunings else None


def _try_schedule(experiment: Experiment, mistakes: list[Mistake]) -> None:
    try:
        experiment.learning_rate(experiment.epochs)
    except ValueError as error:
        mistakes.append(Mistake(experiment.learning_rate.place, str(error)))
