"""What makes a lab's model fast, as the device and the model allow; nothing of it where the recipe asks for the plain
loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import nn
from torch.optim import Optimizer

from prunecli.building import manner_of
from prunecli.captured import Captured, Inference, Record
from prunecli.experiment import Experiment
from prunecli.folding import Folded, fold
from prunecli.own_code import PREFIX


@dataclass
class Machinery:
    """The quicker ways of one model, each made when it is first needed and then used again."""

    experiment: Experiment
    model: nn.Module
    names: tuple[str, ...]
    record: Record | None
    say: Callable[[str], None]
    gated: bool = False
    """Whether hooks close channels of the model, which no folded copy would have."""

    @cached_property
    def folded(self) -> Folded | None:
        """The model with its BatchNorms folded, where that can be done."""
        return fold(self.model) if self._fast and not self.gated else None

    @cached_property
    def inference(self) -> nn.Module | None:
        """What gives the model's logits more quickly; where it is `folded`, that has to be loaded."""
        module = None if self.folded is None else self.folded.module
        if self.record is None or not self._fast:
            return module
        return Inference(module or self.model, self.record, self.say)

    @cached_property
    def captured(self) -> Captured | None:
        """The model's training steps as they are replayed, where they are; an optimizer of the user's is not known to
        work on fixed memory.
        """
        experiment = self.experiment
        if self.record is None or not self._fast:
            return None
        if experiment.optimizer.name.startswith(PREFIX):
            self.say(
                f"steps of optimizer '{experiment.optimizer.name}' are not recorded: they are taken one by one"
            )
            return None
        optimizer: Optimizer = experiment.optimizer(dict(self.model.named_parameters()))
        return Captured.of(self.model, optimizer, self.names, manner_of(experiment), self.record, self.say)

    @property
    def _fast(self) -> bool:
        return self.experiment.loop == "fast"
