"""The recipe's model at other widths: how many of its weights could be pruned there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from prunecli.building import chosen_names
from prunecli.errors import UsageError
from prunecli.experiment import Experiment
from prunecli.task import Task


@dataclass(frozen=True)
class Widths:
    """An experiment's model for a task, at widths that the recipe does not have."""

    experiment: Experiment
    task: Task

    @property
    def own(self) -> float:
        """The width that the recipe's model has.

        Raises:
            UsageError: it has none.
        """
        choice = self.experiment.model
        if "width" not in choice.entry.options:
            raise UsageError(
                f"model '{choice.name}' has no option 'width'; leave a count or a density instead"
            )
        return float(choice.options["width"])

    def prunable(self, width: float) -> int:
        """The weights that could be pruned at a width."""
        assert self.own
        choice = self.experiment.model
        other = replace(choice, options={**choice.options, "width": width})
        # On the meta device tensors have shapes alone; torch's generator is not to notice.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = other(self.task)
        return sum(model.get_parameter(name).numel() for name in chosen_names(self.experiment, model))
