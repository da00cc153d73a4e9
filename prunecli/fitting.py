"""Whether a recipe fits its model: what can be known of that before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import nn

from prunecli.building import drops_filters
from prunecli.errors import Mistake, RecipeError, UsageError, suggest
from prunecli.evidence import check_needs
from prunecli.experiment import Experiment
from prunecli.filters import Filters, filters_of
from prunecli.gradients import check_differentiable
from prunecli.observers import SEEN
from prunecli.procedure import Foreseen, levels, unroll
from prunecli.registry import Choice
from prunecli.scopes import groups_of
from prunecli.task import Task
from prunecli.trajectories import curved


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
    mistakes += _not_of_numbers(experiment, task)
    filters = filters_of(model, task, names) if drops_filters(experiment) else {}
    mistakes += _misfits(experiment, stages.values(), names, filters)
    for choice in (inner for stage in stages.values() for inner in stage.named()):
        try:
            if fits := choice.entry.traits.get("model_fits"):
                fits(model, task)
            if choice.kind == "scopes":
                groups_of(choice, {name: tuple(model.get_parameter(name).shape) for name in names}, 0.0)
            elif choice.kind == "criteria":
                check_needs(choice)
                check_differentiable(choice, model, names)
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


def _not_of_numbers(experiment: Experiment, task: Task) -> Iterator[Mistake]:
    """What a recipe asks for that has no meaning where labels are numbers."""
    if not task.is_regression:
        return
    place, data = experiment.data.place, f"data '{experiment.data.name}' has numbers for labels"
    if experiment.label_smoothing:
        yield Mistake(place, f"{data}, and 'label_smoothing' goes with classes")
    if experiment.batched_seeds:
        yield Mistake(place, f"{data}, and 'batched_seeds' goes with classes")
    for observer in curved(experiment):
        if observer.entry.traits.get("curved"):
            yield Mistake(observer.place, f"observer '{observer.name}' has errors of classes, and {data}")


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


def check_problem(experiment: Experiment, model: nn.Module, problem: object) -> None:
    """Whether the data's problem is one that criteria and observers know, and the model is of it.

    Raises:
        RecipeError: it is not.
    """
    mistakes = []
    stages = [inner for stage in unroll(experiment.procedure) for inner in stage.named()]
    for choice in (*stages, *experiment.observe):
        try:
            if fits := choice.entry.traits.get("problem_fits"):
                fits(model, problem)
            if choice.entry.traits.get("clean_inputs") and experiment.inputs.name != "clean":
                raise UsageError(
                    f"'{choice.name}' knows the problem that inputs were drawn from, and 'inputs: "
                    f"{experiment.inputs.name}' makes others of them; leave one of the two out"
                )
        except UsageError as error:
            mistakes.append(Mistake(choice.place, str(error)))
    if mistakes:
        raise RecipeError(list(dict.fromkeys(mistakes)))


def cautions(foreseen: Sequence[Foreseen], weights: int, examples: int) -> list[str]:
    """What is to be said of levels that can be carried out, with so many prunable weights and training examples."""
    found: list[str] = []
    for one in foreseen:
        density = one.outlook.density
        for stage in one.level.stages:
            if density is not None and (tell := stage.entry.traits.get("cautions")):
                found += tell(round(density * weights), examples)
    return list(dict.fromkeys(found))


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
            if together and stage.options.get("until_loss") is not None:
                raise UsageError(
                    "seeds of 'batched_seeds' train for equally long; leave it or 'until_loss' out"
                )
        except UsageError as error:
            if str(error) not in said:
                yield Mistake(stage.place, str(error))
            said.add(str(error))
    if together and curved(experiment):
        observer = curved(experiment)[0]
        yield Mistake(observer.place, f"'batched_seeds' does not go with observer '{observer.name}'")


def _observed_inside(stages: Iterable[Choice]) -> list[Choice]:
    """The observers of `observe` stages."""
    return [one for stage in stages for one in stage.options.get("observers", ())]
