"""What is to be scored: the scores asked for, of a recipe's dense training, and the scoring runs that they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from prunecli import own_code
from prunecli.building import LEFT_OUT, TRAINING
from prunecli.datasets.values import Dataset
from prunecli.example_evidence import Mode, over
from prunecli.experiment import Experiment, digest
from prunecli.lab import Lab, Watch, make_lab
from prunecli.randomness import bits, drawing, key
from prunecli.registry import Choice
from prunecli.runs import Settings
from prunecli.schedules import Schedule
from prunecli.scores import RUNS
from prunecli.store.codec import FORMAT_VERSION
from prunecli.store.score_parts import ScoreParts

Average = Literal["mean", "median"]
_AT_ONCE = 2**24
"""Draws of subsets that are ranked at a time."""


@dataclass(frozen=True)
class Asked:
    """What is asked of scoring; where `epoch` is None each score has its own, see `epoch_of`."""

    scores: tuple[Choice, ...]
    runs: int = 10
    epoch: float | None = None
    mode: Mode = "evaluation"
    average: Average = "mean"


@dataclass(frozen=True)
class ScoringRun:
    """A training to score by, the `number`-th of `of`: of all that the recipe trains on, or of a score's subset."""

    seed: int
    number: int
    of: int
    score: Choice | None = None

    @property
    def name(self) -> str:
        """What its part is called."""
        kind = "run" if self.score is None else f"subset-{digest(self.score.plain())[:8]}"
        return f"{kind}-{self.number:05d}"

    @property
    def told(self) -> str:
        """What it is called for people: `scoring run 3 of 10`."""
        of = "" if self.score is None else f" on a subset for {self.score.name}"
        return f"scoring run {self.number + 1} of {self.of}{of}"


@dataclass(frozen=True)
class Piece:
    """Epochs of the dense training, from `start` to before `end`, that a stage trains by a schedule of its own."""

    start: float
    end: float
    schedule: Choice


@dataclass(frozen=True)
class Scoring:
    """What is to be scored; `epochs` has each score's own, `seeds` one a row of the store.

    `experiment` is the recipe's dense training alone. Where labels are clean there is one row, which serves all seeds.
    """

    label: str
    experiment: Experiment
    pieces: tuple[Piece, ...]
    dataset: Dataset
    asked: Asked
    epochs: Mapping[str, float]
    seeds: tuple[int, ...]
    settings: Settings
    output: Path

    @property
    def trained(self) -> dict[str, Any]:  # Any: a recipe's values
        """What of the recipe can change a score: not what is pruned and observed afterwards."""
        plain = self.experiment.plain(results_only=True)
        own = [
            {"start": piece.start, "end": piece.end, "schedule": piece.schedule.plain(results_only=True)}
            for piece in self.pieces
        ]
        after = ("procedure", "observe", "prunable")
        return {**{name: value for name, value in plain.items() if name not in after}, "schedules": own}

    @property
    def recipe_digest(self) -> str:
        """Names how the runs are trained."""
        return digest(
            {"format": FORMAT_VERSION, "recipe": self.trained, "fingerprint": self.dataset.fingerprint}
        )

    @property
    def work(self) -> dict[str, Any]:  # Any: JSON
        """What each scoring run is of, however many there are."""
        chosen = [*self.asked.scores, *(piece.schedule for piece in self.pieces)]
        own = [choice.name for choice in chosen if choice.name.startswith(own_code.PREFIX)]
        return {
            "recipe": self.recipe_digest,
            "scores": [score.plain() for score in self.asked.scores],
            "code": {name: own_code.source_digest(name) for name in own},
            "epochs": dict(self.epochs),
            "mode": self.asked.mode,
        }

    @property
    def whole(self) -> dict[str, Any]:  # Any: JSON
        """All that is asked for."""
        asked = {"runs": self.asked.runs, "average": self.asked.average, "seeds": list(self.seeds)}
        return {**self.work, **asked}

    @property
    def parts(self) -> ScoreParts:
        """Where scoring runs are sealed until the store has them."""
        name = digest(self.work)
        return ScoreParts(self.settings.runs / ".scores" / name[:16], name)

    @property
    def runs(self) -> list[ScoringRun]:
        """All scoring runs, seed by seed."""
        common = self.asked.runs if any(over(score) != RUNS for score in self.asked.scores) else 0
        found = []
        for seed in self.seeds:
            found += [ScoringRun(seed, number, common) for number in range(common)]
            for score in self.asked.scores:
                count = runs_of(score, self.asked) if over(score) == RUNS else 0
                found += [ScoringRun(seed, number, count, score) for number in range(count)]
        return found

    def last(self, run: ScoringRun) -> float:
        """The epochs that a scoring run trains for."""
        if run.score is not None:
            return self.epochs[run.score.name]
        return max(self.epochs[score.name] for score in self.asked.scores if over(score) != RUNS)

    def rate_at(self, lab: Lab) -> Schedule:
        """The learning rate of the dense training as a function of the epoch."""
        whole = lab.rate_at()
        own = [(piece.start, piece.end, lab.rate_at(piece.schedule)) for piece in self.pieces]
        return lambda epoch: next(
            (rate(epoch) for start, end, rate in own if start <= epoch < end), whole(epoch)
        )

    def lab(
        self,
        run: ScoringRun,
        watch: Watch = lambda _seen: None,
        say: Callable[[str], None] = lambda _message: None,
    ) -> Lab:
        """The lab of a scoring run: its seed's labels and split, and initialization and order of its own."""
        lab = make_lab(self.experiment, run.seed, self.dataset, self.settings.device, watch, say)
        split, of = lab.targets.split, () if run.score is None else (run.score.name,)
        if run.score is not None:
            inside = subsets(run.seed, run.score, len(split))[run.number]
            split = torch.where((split != TRAINING) | inside, split, LEFT_OUT).to(torch.uint8)
        targets = replace(lab.targets, split=split)
        return replace(lab, drawing=drawing(key("scoring", run.seed, *of, run.number)), targets=targets)


def runs_of(score: Choice, asked: Asked) -> int:
    """The scoring runs of a seed that a score is taken of."""
    return int(score.options["runs"]) if over(score) == RUNS else asked.runs


@lru_cache(maxsize=2)
def _drawn(purpose: int, runs: int, inside: int, examples: int) -> Tensor:
    """Which run has which example (R, N) bool: each example is in exactly `inside` of the runs."""
    chosen = torch.zeros(runs, examples, dtype=torch.bool)
    for index in torch.split(torch.arange(examples), max(1, _AT_ONCE // runs)):
        ranked = torch.stack([bits(key(purpose, run), index) for run in range(runs)]).argsort(
            dim=0, stable=True
        )
        chosen[:, index] = torch.zeros_like(ranked, dtype=torch.bool).scatter_(0, ranked[:inside], True)
    return chosen


def subsets(seed: int, score: Choice, examples: int) -> Tensor:
    """Which of a score's runs has which example (R, N) bool."""
    runs, fraction = int(score.options["runs"]), float(score.options["fraction"])
    return _drawn(key("subset", seed, score.name), runs, round(fraction * runs), examples)
