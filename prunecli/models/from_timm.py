"""The architectures of timm, without weights, or with those of a pinned commit on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from prunecli.errors import UsageError, suggest
from prunecli.models.hub import Address, ModelArgs, address_of, is_remote, load_trained_, read_config
from prunecli.models.parameters import allocated
from prunecli.models.stem import Stem, with_stem_
from prunecli.registry import models
from prunecli.task import Task

Rate = Annotated[float, Field(ge=0, lt=1)]


def timm_names() -> tuple[str, ...]:
    """The names of timm's architectures, without the tags of trained weights."""
    import timm

    return tuple(timm.list_models())


@models(name="timm:", names=timm_names, remote=is_remote)
def timm_model(
    name: str,
    task: Task,
    *,
    stem: Stem = "own",
    drop_rate: Rate | None = None,
    drop_path_rate: Rate | None = None,
) -> nn.Module:
    """An architecture of timm; rates that are left out are the architecture's own.

    `timm:hf-hub:ORG/NAME@REVISION` has the trained weights of a commit on the Hugging Face hub, and needs
    `--allow-download`; a classifier for another number of classes is drawn afresh.
    """
    given = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    rates = {rate: value for rate, value in given.items() if value is not None}
    if (address := address_of(name)) is not None:
        return _trained(address, task, stem, rates)
    return with_stem_(_made(name, task, rates, f"timm:{name}"), stem, f"timm:{name}")


def _trained(address: Address, task: Task, stem: Stem, rates: Mapping[str, float]) -> nn.Module:
    """The architecture that a commit's config names, with its weights."""
    if stem != "own":
        raise UsageError(f"'stem: {stem}' would replace trained layers of {address}; leave it out")
    config = read_config(address)
    arguments = config.model_args or ModelArgs()
    side = arguments.img_size
    size = (side, side) if isinstance(side, int) else side
    if size not in (None, task.shape[1:]):
        raise UsageError(f"{address}: the weights are for images of {size}; the data's are {task.shape[1:]}")
    pool = {} if arguments.global_pool is None else {"global_pool": arguments.global_pool}
    model = _made(config.architecture, task, {**rates, **pool}, str(address))
    load_trained_(model, address, f"timm:{config.architecture} for images of {task.shape}")
    return model


def _made(name: str, task: Task, given: Mapping[str, float | str], about: str) -> nn.Module:
    """The architecture for the task; `about` is what errors call it."""
    import timm

    if name not in (known := timm_names()):
        # Nothing with a slash, a colon or a tag: `hf-hub:` and `local-dir:` would load strangers' files.
        raise UsageError(f"{about}: timm has no architecture '{name}'{suggest(name, known)}")
    options: dict[str, Any] = {"num_classes": task.classes, "in_chans": task.shape[0]}  # Any: each its own
    if (published := timm.get_pretrained_cfg(name)) and published.fixed_input_size:
        options["img_size"] = task.shape[1:]  # by timm's convention only models so marked take it
    options |= given
    try:
        return allocated(about, lambda: timm.create_model(name, pretrained=False, **options))
    except (AssertionError, TypeError, ValueError) as error:
        raise UsageError(f"{about} cannot be made with {options}: {error}") from error
