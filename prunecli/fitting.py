"""Whether a recipe fits its model: what can be known of that before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import nn

from prunecli.building import drops_filters
from prunecli.errors import Mistake, RecipeError, UsageError, suggest
from prunecli.evidence import check_needs
from prunecli.experiment import Experiment
from prunecli.filters import Filters, filters_of
from prunecli.observers import SEEN
from prunecli.procedure import curved, levels, unroll
from prunecli.registry import Choice
from prunecli.task import Task


def check_fits(experiment: Experiment, model: nn.Module, names: Sequence[str], task: Task) -> None:
    """Whether optimizer, stages, scopes, criteria and observers can do what the recipe asks of this model.

    Raises:
        RecipeError: what they cannot do, with its place.
    """
    mistakes: list[Mistake] = []
    try:
        experiment.optimizer(dict(model.named_parameters()))
    except (UsageError, ValueError) as error:
        mistakes.append(Mistake(experiment.optimizer.place, str(error)))
    stages = {id(stage): stage for stage in unroll(experiment.procedure)}
    filters = filters_of(model, task, names) if drops_filters(experiment) else {}
    mistakes += _misfits(experiment, stages.values(), names, filters)
    for choice in (inner for stage in stages.values() for inner in stage.named()):
        try:
            if choice.kind == "scopes":
                choice(names, 0.0)
            elif choice.kind == "criteria":
                check_needs(choice)
        except UsageError as error:
            mistakes.append(Mistake(choice.place, str(error)))
    for level in levels(experiment.procedure):
        mistakes += _twice([*_observed_inside(level.stages), *experiment.observe])
    for observer in (*experiment.observe, *_observed_inside(stages.values())):
        unknown = [name for name in observer.entry.needs if name not in SEEN]
        if unknown:
            message = f"observer '{observer.name}' asks for '{unknown[0]}'{suggest(unknown[0], SEEN)}"
            mistakes.append(Mistake(observer.place, message))
    if mistakes:
        raise RecipeError(list(dict.fromkeys(mistakes)))


def check_examples(experiment: Experiment, sizes: Mapping[str, int]) -> None:
    """Whether splits of these sizes, `train` and `test`, have the examples that observers are to look at.

    Raises:
        RecipeError: one has not.
    """
    mistakes = []
    for choice in (*experiment.observe, *_observed_inside(unroll(experiment.procedure))):
        try:
            if fits := choice.entry.traits.get("fits"):
                fits(sizes, **choice.options)
        except UsageError as error:
            mistakes.append(Mistake(choice.place, f"observer '{choice.name}': {error}"))
    if mistakes:
        raise RecipeError(mistakes)


def _twice(observers: Sequence[Choice]) -> Iterator[Mistake]:
    """Observers of one name that look at one level: they would write to the same places."""
    names = [choice.name for choice in observers]
    for number, choice in enumerate(observers):
        if choice.name in names[:number]:
            message = f"observer '{choice.name}' looks at a level twice, and the second time would overwrite the first"
            yield Mistake(choice.place, message)


def _misfits(
    experiment: Experiment, stages: Iterable[Choice], names: Sequence[str], filters: Mapping[str, Filters]
) -> Iterator[Mistake]:
    """What stages ask for that the model has not, each once."""
    together = experiment.batched_seeds
    said: set[str] = set()
    for stage in stages:
        try:
            if fits := stage.entry.traits.get("fits"):
                fits(names, filters, **stage.options)
            elif (criterion := stage.options.get("criterion")) and criterion.entry.traits.get("filters"):
                raise UsageError(
                    f"criterion '{criterion.name}' scores whole filters, and '{stage.name}' drops single weights; "
                    "use prune_layers or prune_during_training, or a criterion such as magnitude"
                )
            if together and (filters or stage.options.get("effect", "remove") != "remove"):
                raise UsageError("'batched_seeds' goes with pruning single weights alone; leave it out")
        except UsageError as error:
            if str(error) not in said:
                yield Mistake(stage.place, str(error))
            said.add(str(error))
    if together and curved(experiment):
        yield Mistake(curved(experiment)[0].place, "'batched_seeds' does not go with observer 'epochs'")


def _observed_inside(stages: Iterable[Choice]) -> list[Choice]:
    """The observers of `observe` stages."""
    return [one for stage in stages for one in stage.options.get("observers", ())]
