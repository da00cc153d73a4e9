"""The 8x8 digits that come with scikit-learn: enough to try everything, with nothing to download."""

from __future__ import annotations

from pathlib import Path

import torch

from prunecli.datasets.files import in_memory
from prunecli.datasets.values import Dataset, Facts, Normalization
from prunecli.places import Roots
from prunecli.randomness import key
from prunecli.registry import data
from prunecli.selections import stratified
from prunecli.task import Task

_TASK = Task((1, 8, 8), 10)
_TEST = 360


@data(facts=Facts(_TASK, train=1_437, test=_TEST))
def digits(roots: Roots) -> Dataset:  # noqa: ARG001  (every dataset is handed the roots; this one needs no file)
    """Handwritten digits, 8x8 (Alpaydin and Kaynak, 1998); the training pixels' mean and std.

    Pixels are 0 to 16. The test split is fixed, and stratified by label.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels = torch.from_numpy(loaded.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(loaded.target).to(torch.int64)
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[stratified(labels, _TEST, key("digits", "test"))] = True
    normalize = Normalization(16, mean=(0.3054,), std=(0.3759,))
    return in_memory(
        Path("digits"), _TASK, normalize, (pixels[~test], labels[~test]), (pixels[test], labels[test])
    )
