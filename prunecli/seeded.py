"""A dataset as a seed has it: what the seed draws of its inputs, and what the recipe does to them."""

from __future__ import annotations

import torch

from prunecli.datasets.values import Dataset
from prunecli.experiment import Experiment
from prunecli.inputs import with_inputs


def seeded(dataset: Dataset, experiment: Experiment, seed: int, device: torch.device) -> Dataset:
    """The dataset of an experiment's seed, on the device."""
    return with_inputs(dataset.of(seed, device), experiment.inputs, seed)
