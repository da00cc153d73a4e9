"""What tests share: experiments from a few lines of YAML, and one thread for all arithmetic."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest
import torch

import prunecli.catalog  # noqa: F401  (registers what recipes name)
from prunecli.experiment import Experiment
from prunecli.lab import Lab, make_lab
from prunecli.places import Roots
from prunecli.recipe.library import names, path_of
from prunecli.recipe.load import load_text

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has its background jobs ignore Ctrl-C, and what tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REFERRING = [name for name in names() if re.search(r"\brun: ", path_of(name).read_text())]
"""The built-in recipes that refer to a run, which has to be there; test_run_examples makes them one."""
FREE = [name for name in names() if name not in REFERRING]

SMALL = """
model: {mlp: {hidden: [16]}}
data: digits
optimizer: {sgd: {momentum: 0.9, weight_decay: 1e-3}}
learning_rate: {steps: {start: 0.1, at: [1], factor: 0.1}}
epochs: 2
batch_size: 200
seeds: [0]
procedure: [train]
"""


@pytest.fixture(scope="session")
def digits() -> object:
    """scikit-learn's digits, loaded once."""
    from prunecli.registry import data

    return data["digits"].function(Roots())


def small(*overrides: str) -> Experiment:
    """A small experiment on the digits, with overrides as on the command line."""
    return load_text(SMALL, "small.yaml", overrides).points[0].experiment


@pytest.fixture
def lab_of(digits) -> Callable[..., Lab]:
    """Makes the lab of a small experiment with overrides."""

    def make(*overrides: str, seed: int = 0, **more: object) -> Lab:
        return make_lab(small(*overrides), seed, digits, torch.device("cpu"), **more)

    return make


def same(first, second) -> bool:
    """Whether two mappings of tensors are equal to the bit."""
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)
