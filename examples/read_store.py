"""Read a run's store with h5py alone: which training examples does pruning hurt most?

python examples/read_store.py runs/imp_lrr-0bf1e32d
"""

import sys
from pathlib import Path

import h5py
import numpy as np


def most_hurt(run: Path, count: int = 5) -> list[tuple[int, float]]:
    """The training examples whose mean loss over seeds grows most from level 0 to the last, with the growth in nats."""
    with h5py.File(run / "store.h5") as store:
        loss = store["examples/loss"][()].mean(axis=0, dtype=np.float64)
        trained = store["examples/split"][0] == 0
    growth = np.where(trained, loss[-1] - loss[0], -np.inf)
    return [(int(example), float(growth[example])) for example in np.argsort(-growth, kind="stable")[:count]]


if __name__ == "__main__":
    for example, growth in most_hurt(Path(sys.argv[1])):
        print(f"example {example}: loss grows by {growth:.3f}")
