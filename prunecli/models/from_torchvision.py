"""The classification models of torchvision, without weights."""

from __future__ import annotations

from torch import nn

from prunecli.errors import UsageError, suggest
from prunecli.models.parameters import allocated
from prunecli.models.stem import Stem, with_channels_, with_stem_
from prunecli.registry import models
from prunecli.task import Task


def torchvision_names() -> tuple[str, ...]:
    """The names of torchvision's classification models."""
    from torchvision import models as zoo

    return tuple(zoo.list_models(module=zoo))


@models(name="torchvision:", names=torchvision_names)
def torchvision_model(name: str, task: Task, *, stem: Stem = "own") -> nn.Module:
    """A classification model of torchvision.

    Where the input has other than 3 channels, the first convolution is drawn anew from N(0, 2 / fan out).
    """
    from torchvision import models as zoo

    if name not in (known := torchvision_names()):
        raise UsageError(f"torchvision has no classification model '{name}'{suggest(name, known)}")
    options = {"num_classes": task.classes, **_options(name, task)}
    try:
        model = allocated(f"torchvision:{name}", lambda: zoo.get_model(name, weights=None, **options))
    except (AssertionError, ValueError) as error:
        raise UsageError(f"torchvision:{name} cannot be made with {options}: {error}") from error
    return with_stem_(with_channels_(model, task.shape[0]), stem, f"torchvision:{name}")


def _options(name: str, task: Task) -> dict[str, object]:
    """What the models must be told that have a fixed input size, or more than one output by default."""
    _, height, width = task.shape
    if name.startswith("vit_"):
        if height != width:
            raise UsageError(f"torchvision:{name} takes square images, not {height}x{width}")
        return {"image_size": height}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}
