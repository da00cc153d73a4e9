"""Regression data that each seed draws from a problem of `prunecli.theory`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from prunecli.datasets.values import Dataset, InMemory, Normalization, Split
from prunecli.memory import check_fits
from prunecli.randomness import key
from prunecli.task import Task
from prunecli.theory import CorrelatedProblem, LinearProblem, RandomFeatures

VERSION = 1
"""Of how examples are drawn: other draws are other data."""
Problem = LinearProblem | CorrelatedProblem | RandomFeatures
FeatureCount = Annotated[int, Field(ge=1, le=100_000)]
ExampleCount = Annotated[int, Field(ge=2, le=1_000_000)]
TestCount = Annotated[int, Field(ge=1, le=1_000_000)]
Noise = Annotated[float, Field(ge=0, le=1e9)]
_AS_IT_IS = Normalization(1.0, (0.0,), (1.0,))


def regression(problem_of: Callable[[int], Problem], examples: int, test: int, digest: str) -> Dataset:
    """Examples of a problem, each seed's own; `problem_of` gives that of a seed and can be pickled.

    The features of an example are one row of an image, targets are numbers; `digest` names all that they depend on.
    """
    draw = partial(_of_seed, problem_of, examples, test, digest)
    return replace(draw(0), drawn=draw)


def generator(*purpose: int | str) -> np.random.Generator:
    """Draws for a purpose."""
    return np.random.Generator(np.random.PCG64(key(*purpose)))


def digest_of(name: str, options: Mapping[str, object], *arrays: np.ndarray) -> str:
    """Names what is drawn by the generator's name, its options and arrays that it was given."""
    found = hashlib.sha256(json.dumps([name, VERSION, dict(options)], sort_keys=True).encode())
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def check_size(name: str, features: int, examples: int, *, squares: int = 0) -> None:
    """Whether the examples, and so many matrices of features by features, fit into memory.

    Raises:
        OutOfMemory: they do not.
    """
    numbers = 3 * examples * features + squares * features**2
    check_fits(f"data '{name}' of {examples:,} examples with {features:,} features", 8 * numbers)


def _of_seed(
    problem_of: Callable[[int], Problem], examples: int, test: int, digest: str, seed: int
) -> Dataset:
    problem = problem_of(seed)
    # The draws know nothing of the problem's numbers: problems of one size share them.
    train, held = (
        _split(problem, count, generator("drawn problem", part, seed))
        for part, count in (("train", examples), ("test", test))
    )
    task = Task((1, 1, problem.size), 1, "squared_error")
    return Dataset(task, train, held, digest, problem=problem)


def _split(problem: Problem, count: int, draws: np.random.Generator) -> Split:
    sample = problem.draw(count, draws)
    features = torch.from_numpy(sample.features.astype(np.float32)).view(count, 1, 1, -1)
    return Split(InMemory(features, _AS_IT_IS), torch.from_numpy(sample.targets.astype(np.float32)))
