"""The architectures of timm, without weights."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import nn

from prunecli.errors import UsageError, suggest
from prunecli.models.parameters import allocated
from prunecli.models.stem import Stem, with_stem_
from prunecli.registry import models
from prunecli.task import Task

Rate = Annotated[float, Field(ge=0, lt=1)]


def timm_names() -> tuple[str, ...]:
    """The names of timm's architectures, without the tags of trained weights."""
    import timm

    return tuple(timm.list_models())


@models(name="timm:", names=timm_names)
def timm_model(
    name: str,
    task: Task,
    *,
    stem: Stem = "own",
    drop_rate: Rate | None = None,
    drop_path_rate: Rate | None = None,
) -> nn.Module:
    """An architecture of timm; rates that are left out are the architecture's own."""
    import timm

    if name not in (known := timm_names()):
        # Nothing with a slash, a colon or a tag: `hf-hub:` and `local-dir:` would load strangers' files.
        raise UsageError(f"timm has no architecture '{name}'{suggest(name, known)}")
    options: dict[str, Any] = {"num_classes": task.classes, "in_chans": task.shape[0]}  # Any: each its own
    if (about := timm.get_pretrained_cfg(name)) and about.fixed_input_size:
        options["img_size"] = task.shape[1:]  # by timm's convention only models so marked take it
    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    options |= {rate: value for rate, value in rates.items() if value is not None}
    try:
        model = allocated(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, **options))
    except (AssertionError, TypeError, ValueError) as error:
        raise UsageError(f"timm:{name} cannot be made with {options}: {error}") from error
    return with_stem_(model, stem, f"timm:{name}")
