"""An experiment: everything a recipe says that can change a result, as one frozen value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prunecli import own_code
from prunecli.places import Places
from prunecli.registry import (
    AugmentationChoice,
    Choice,
    DataChoice,
    ExamplesChoice,
    InitializationChoice,
    InputsChoice,
    LabelsChoice,
    Later,
    ModelChoice,
    NoResult,
    ObserverChoice,
    OptimizerChoice,
    ScheduleChoice,
    StageChoice,
    left_out_of_digest,
    options_of,
    plain,
)


def _amount(value: float) -> float:
    if isinstance(value, float) and value >= 1:
        raise ValueError("should be a fraction below 1 or a whole number of examples")
    return value or 0


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("should name each seed once")
    return seeds


Epochs = Annotated[float, Field(ge=0, le=1_000_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]],
    Field(min_length=1, max_length=10_000),
    AfterValidator(_distinct),
]


class Prunable(BaseModel):
    """Which parameters can be pruned, by name patterns; without `include`, linear and convolution weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    include: list[str] = []
    exclude: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A recipe with its defaults, of one point of its sweep. Equal experiments give equal results."""

    about: Annotated[str, NoResult()] = ""
    model: ModelChoice
    initialization: InitializationChoice = Choice("initializations", "own")
    data: DataChoice
    examples: ExamplesChoice = Choice("examples", "all")
    equal_steps: Annotated[bool, Later()] = False
    """Whether an epoch takes as many steps as if no example were left out."""
    validation: Annotated[int | float, Field(ge=0), AfterValidator(_amount)] = 0
    labels: LabelsChoice = Choice("labels", "clean")
    inputs: Annotated[InputsChoice, Later()] = Choice("inputs", "clean")
    augmentation: list[AugmentationChoice] = field(default_factory=list)
    optimizer: OptimizerChoice
    learning_rate: ScheduleChoice
    epochs: Annotated[float, Field(gt=0, le=1_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_clipping: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last", "mixed"] = "auto"
    loop: Annotated[Literal["fast", "plain"], Later()] = "fast"
    """Whether what gives the same results sooner is done: see `building.settled`, `folding`, `captured`."""
    determinism: Literal["exact", "seeded", "fast"] = "seeded"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    prunable: Prunable = field(default_factory=Prunable)
    seeds: Annotated[Seeds, NoResult()] = field(default_factory=lambda: [0, 1, 2])
    batched_seeds: Annotated[bool, Later()] = False
    """Whether the seeds of a fully connected network train together, which is sooner but for last digits."""
    replicate: Annotated[int, Field(ge=0, lt=2**31), Later()] = 0
    """Which drawing of initialization and order the seeds get: 0 is the first, and all share their seed's labels."""
    procedure: Annotated[list[StageChoice], Field(min_length=1)]
    keep_weights: Annotated[Literal["none", "ends", "all"], NoResult()] = "none"
    """The levels whose weights are kept as files: level 0 and the last under `ends`; see `kept_weights`."""
    observe: list[ObserverChoice] = field(
        default_factory=lambda: [Choice("observers", "example_losses"), Choice("observers", "instability")]
    )

    def pinned(self, places: Places) -> Experiment:
        """The experiment with what its labels and examples refer to looked for, and its content made a part of it.

        What a file or a run holds changes results and where it lies does not: so a recipe that names one asks, from
        then on, for that content, see `pinned` of `labels` and `examples`.
        """
        beside = places.beside(self.folder)
        return replace(self, labels=_pinned(self.labels, beside), examples=_pinned(self.examples, beside))

    @property
    def folder(self) -> Path | None:
        """The folder that the recipe is in; None where it came from no file."""
        chosen = (self.labels, self.model, self.data, self.optimizer, self.learning_rate, *self.procedure)
        sources = [choice.place.source for choice in chosen if choice.place is not None]
        files = (Path(source) for source in sources if source not in ("argument", "default"))
        return next((path.parent for path in files if path.is_file()), None)

    def plain(self, *, results_only: bool = False) -> dict[str, Any]:  # Any: a recipe's values
        """The recipe's form, defaults spelled out; `results_only` leaves out what changes no result."""
        parameters = options_of(Experiment)
        shown = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if not (results_only and left_out_of_digest(parameters[item.name], getattr(self, item.name)))
        }
        shown["prunable"] = self.prunable.model_dump()
        if results_only and self.own_code:
            # The digests of their files: other code gives other results.
            shown["code"] = {name: own_code.source_digest(name) for name in self.own_code}
        return {name: plain(value, results_only=results_only) for name, value in shown.items()}

    @property
    def own_code(self) -> tuple[str, ...]:
        """The user's own functions that the recipe names."""
        values = [getattr(self, item.name) for item in fields(self)]
        chosen = [inner for value in values for inner in (value if isinstance(value, list) else [value])]
        names = {one.name for choice in chosen if isinstance(choice, Choice) for one in choice.named()}
        return tuple(sorted(name for name in names if name.startswith(own_code.PREFIX)))


def _pinned(choice: Choice, places: Places) -> Choice:
    pinned: Callable[[Choice, Places], Choice] | None = choice.entry.traits.get("pinned")
    return pinned(choice, places) if pinned else choice


def digest(value: Any) -> str:  # Any: whatever JSON can hold
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
