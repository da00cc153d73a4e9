"""Names in a recipe are registered functions, and a function's keyword-only parameters are its options.

A criterion, schedule, stage, model or dataset is one function with one decorator::

    @criteria
    def magnitude(weights: Tensors) -> Tensors:
        \"""|w| (Han et al., 2015).\"""

Positional parameters name the evidence a function is handed, as pytest names fixtures. `python:pkg.module:function`
is a name of every kind; looking it up imports the user's code, so recipes are asked first (see `recipe.bind`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints, overload

from pydantic_core import core_schema

from prunecli import own_code
from prunecli.errors import Place, UsageError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """One registered function. Under a prefix such as `timm:`, `rest` is what follows it."""

    kind: str
    name: str
    function: Callable[..., Any]
    traits: Mapping[str, Any]  # Any: each kind of function has traits of its own
    rest: str | None = None

    @property
    def summary(self) -> str:
        """The first line of the function's documentation."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def remote(self) -> bool:
        """Whether the name is of something that is fetched over a network.

        Raises:
            UsageError: it is the address of such a thing, but not one that can be used.
        """
        told: Callable[[str], bool] | None = self.traits.get("remote")
        return self.rest is not None and told is not None and told(self.rest)

    @property
    def needs(self) -> tuple[str, ...]:
        """The positional parameters: the evidence that the function asks for."""
        return tuple(p.name for p in _parameters(self.function) if p.kind is not p.KEYWORD_ONLY)

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters, with their annotations evaluated."""
        return options_of(self.function)


class Registry(Mapping[str, Entry]):
    """The functions of one kind, by name; calling it registers one."""

    all: dict[str, Registry] = {}  # noqa: RUF012  (one table of the kinds, filled as they are made)

    def __init__(self, kind: str, one: str, number: str | None = None) -> None:
        self.kind, self.one = kind, one
        self.number = number
        """The name that a bare number stands for: `0.1` is `{constant: {value: 0.1}}` among schedules."""
        self._entries: dict[str, Entry] = {}
        Registry.all[kind] = self

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, /, *, name: str = "", **traits: Any) -> Callable[[F], F]: ...  # Any: see Entry.traits

    def __call__(self, function: Any = None, /, *, name: str = "", **traits: Any) -> Any:  # Any: overloads
        """Register the decorated function as `name`, by default its own; `timm:` makes a prefix."""

        def register(function: F) -> F:
            known = name or function.__name__.rstrip("_")
            if known in self._entries:
                raise ValueError(f"{self.one} '{known}' is registered twice")
            self._entries[known] = Entry(self.kind, known, function, traits)
            return function

        return register if function is None else register(function)

    def __getitem__(self, name: str) -> Entry:
        if name in self._entries and not name.endswith(":"):
            return self._entries[name]
        prefix, colon, rest = name.partition(":")
        if colon and rest and prefix + colon in self._entries:
            entry = self._entries[prefix + colon]
            return Entry(self.kind, name, entry.function, entry.traits, rest)
        if name.startswith(own_code.PREFIX):
            function = own_code.load(name)
            return Entry(self.kind, name, function, getattr(function, "traits", {}))
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """All entries by name, prefixes included."""
        return [self._entries[name] for name in self]


@dataclass(frozen=True)
class Choice:
    """A registered name with its options, as a recipe chose it; calling it calls the function."""

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)  # Any: typed by the function's signature
    place: Place | None = field(default=None, compare=False, repr=False)
    found: Path | None = field(default=None, compare=False, repr=False)
    """Where on this machine that is what its options refer to, for those whose `pinned` looks for it."""

    @property
    def entry(self) -> Entry:
        """The registered function."""
        return Registry.all[self.kind][self.name]

    def named(self) -> Iterator[Choice]:
        """This choice and those among its options."""
        yield self
        for value in self.options.values():
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, Choice):
                    yield from inner.named()

    def __call__(self, *evidence: Any) -> Any:  # Any: as the function's signature says
        entry = self.entry
        if entry.rest is not None:
            evidence = (entry.rest, *evidence)
        return entry.function(*evidence, **self.options)

    def plain(self, *, results_only: bool = False) -> str | dict[str, Any]:
        """The recipe's form, all options spelled out; `results_only` leaves out what changes no result."""
        parameters = self.entry.options
        options = {
            name: plain(value, results_only=results_only)
            for name, value in sorted(self.options.items())
            if not (results_only and left_out_of_digest(parameters[name], value))
        }
        return {self.name: options} if options else self.name


@dataclass(frozen=True)
class Among:
    """Marks an option whose value is a choice among the registered functions of one kind."""

    kind: str

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: Any
    ) -> core_schema.CoreSchema:  # pydantic's
        return core_schema.is_instance_schema(Choice)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, str]:  # pydantic's
        return {"among": self.kind}  # pydantic would look a "$ref" up; `json_schema` puts it here


class NoResult:
    """Marks an option that changes no result, such as a folder: it stays out of digests and stores."""


class Later:
    """Marks an option that recipes did not have at first: at its default it stays out of digests."""


def left_out_of_digest(parameter: inspect.Parameter, value: object) -> bool:
    """Whether an option changes no result, or is at the default of what recipes did not have at first."""
    marks = getattr(parameter.annotation, "__metadata__", ())
    later = any(isinstance(mark, Later) for mark in marks)
    return any(isinstance(mark, NoResult) for mark in marks) or (later and value == parameter.default)


def plain(value: Any, *, results_only: bool = False) -> Any:  # Any: a recipe's value, as YAML has it
    """A value as YAML writes it: choices become their recipe form, numbers and strings stay."""
    if isinstance(value, Choice):
        return value.plain(results_only=results_only)
    if isinstance(value, Mapping):
        return {name: plain(item, results_only=results_only) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, results_only=results_only) for item in value]
    return value


@cache
def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """A function's keyword-only parameters, or a dataclass's fields, with annotations and defaults evaluated."""
    hints = get_type_hints(function, include_extras=True)
    # A dataclass's signature hides what its default factories make.
    made = {f.name: f.default_factory for f in fields(function)} if is_dataclass(function) else {}
    found = {}
    for p in _parameters(function):
        if p.kind is p.KEYWORD_ONLY:
            factory = made.get(p.name, MISSING)
            default = p.default if factory is MISSING else factory()
            if p.name not in hints:
                raise UsageError(f"the option '{p.name}' of {function.__name__} needs a type annotation")
            found[p.name] = p.replace(annotation=hints[p.name], default=default)
    return found


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


models = Registry("models", "model")
initializations = Registry("initializations", "initialization")
data = Registry("data", "dataset")
examples = Registry("examples", "choice of examples")
labels = Registry("labels", "choice of labels")
inputs = Registry("inputs", "choice of inputs")
augmentations = Registry("augmentations", "augmentation")
optimizers = Registry("optimizers", "optimizer")
schedules = Registry("schedules", "schedule", number="constant")
stages = Registry("stages", "stage")
criteria = Registry("criteria", "criterion")
scopes = Registry("scopes", "scope")
observers = Registry("observers", "observer")
scores = Registry("scores", "score")

ModelChoice = Annotated[Choice, Among("models")]
InitializationChoice = Annotated[Choice, Among("initializations")]
DataChoice = Annotated[Choice, Among("data")]
ExamplesChoice = Annotated[Choice, Among("examples")]
LabelsChoice = Annotated[Choice, Among("labels")]
InputsChoice = Annotated[Choice, Among("inputs")]
AugmentationChoice = Annotated[Choice, Among("augmentations")]
OptimizerChoice = Annotated[Choice, Among("optimizers")]
ScheduleChoice = Annotated[Choice, Among("schedules")]
StageChoice = Annotated[Choice, Among("stages")]
CriterionChoice = Annotated[Choice, Among("criteria")]
ScopeChoice = Annotated[Choice, Among("scopes")]
ObserverChoice = Annotated[Choice, Among("observers")]
