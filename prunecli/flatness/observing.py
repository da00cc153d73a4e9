"""Observers of flatness: curvature, gradients' spread, and the loss around the weights (Bartoldson et al., 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from prunecli.building import TRAINING
from prunecli.datasets.values import Augment
from prunecli.errors import UsageError
from prunecli.flatness.spectrum import Spectrum, room, spectrum, trace
from prunecli.flatness.surface import Surface, full_precision, rise_distance
from prunecli.lab import Lab
from prunecli.losses import example_losses
from prunecli.masks import Tensors
from prunecli.memory import allocating, check_fits
from prunecli.observers import Arrays
from prunecli.randomness import key
from prunecli.registry import observers
from prunecli.state import State
from prunecli.training import undisturbed

AT_MOST = 512
"""Examples that are looked at where the recipe does not say how many: as many as in Bartoldson et al. (2020)."""
PIXELS_AT_ONCE = {"cpu": 2**16, "cuda": 2**19}
"""Pixels of the images whose second derivatives are taken at once: 64 or 512 of 32 x 32."""
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

Of = Literal["test", "train"]
Precision = Literal["float32", "float64"]
Norms = Literal["included", "excluded"]
Examples = Annotated[int, Field(ge=1, le=1_000_000)] | None
Count = Annotated[int, Field(ge=1, le=10_000)]
CountOrNone = Annotated[int, Field(ge=0, le=10_000)]
Positive = Annotated[float, Field(gt=0, le=1_000_000)]


def fits(sizes: Mapping[str, int], /, *, of: Of, examples: Examples, **_options: object) -> None:
    """Whether the split of so many examples, by name, has as many as an observer is to look at.

    Raises:
        UsageError: it has fewer.
    """
    if examples is not None and examples > sizes[of]:
        raise UsageError(
            f"'examples' is {examples:,}, and there are {sizes[of]:,} {of} examples; give fewer, or leave it "
            f"out for the first {AT_MOST}, or all where there are fewer"
        )


@observers(fits=fits)
def flatness(
    state: State,
    lab: Lab,
    *,
    of: Of = "test",
    examples: Examples = None,
    eigenvalues: Count = 10,
    sum_of: CountOrNone = 100,
    trace_draws: CountOrNone = 20,
    directions: CountOrNone = 10,
    rise: Positive = 0.1,
    farthest: Positive = 0.4,
    step: Positive = 0.01,
    norms: Norms = "included",
    precision: Precision = "float32",
    tolerance: Annotated[float, Field(ge=1e-12, le=0.1)] = 1e-4,
    products: Annotated[int, Field(ge=1, le=1_000_000)] = 2000,
) -> Arrays:
    """Curvature, gradients' spread and epsilon-flatness of the loss (Bartoldson et al., 2020, section 4.4).

    The loss is the mean cross-entropy, without label smoothing, of the first `examples` of a split as the source orders
    them (none given: the first 512, or all), of training examples with the labels as used; in evaluation mode, with
    running statistics held fixed. Its parameters are the kept weights, of norms too unless they are `excluded`.

    `hessian_top` is the Hessian's eigenvalue of largest magnitude, `hessian_sum` the sum of the `sum_of` of largest
    magnitude, `hessian_trace` Hutchinson's estimate by `trace_draws`. `gradient_covariance_trace` is the mean squared
    norm of an example's gradient, `noise_to_curvature` its ratio to `hessian_sum`. `epsilon_flatness` is the least
    multiple of `step`, up to `farthest`, that raises the loss by `rise` along one of the first `directions`
    eigenvectors or against it; NaN where none does. 0 leaves out what takes a number. An eigenvalue is NaN where
    `products` do not bring its residual to `tolerance` times the largest; so is all of a network that diverged.
    """
    there = _surface(lab, state, of, examples, norms, precision)
    count = max(eigenvalues, sum_of, directions)
    _check_memory(lab, there, count)
    with _looking(lab, state, f"the curvature of {there.size:,} weights, {count} eigenvectors of them"):
        draw, signs = (_drawn(lab, state, there, what) for what in ("start", "signs"))
        found = spectrum(there.product, draw, count, tolerance=tolerance, most=products)
        arrays = _of_spectrum(lab, found, eigenvalues, sum_of)
        if trace_draws:
            mean, error = trace(there.product, lambda: signs().sign(), found, max(2, trace_draws))
            arrays |= {"metrics/hessian_trace": mean, "trace_error": error}
        noise = there.gradient_square()
        arrays["metrics/gradient_covariance_trace"] = noise
        if sum_of:
            total = arrays["metrics/hessian_sum"]
            arrays["metrics/noise_to_curvature"] = noise / total if total else math.nan
        if directions:
            along = found.vectors[: directions if found.settled[:directions].all() else 0]
            arrays["metrics/epsilon_flatness"] = rise_distance(
                there.loss, along, rise, farthest=farthest, step=step
            )
        return {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}


@observers(fits=fits)
def perturbation(
    state: State,
    lab: Lab,
    *,
    sizes: Annotated[list[Positive], Field(min_length=1, max_length=1000)] = [0.01, 0.02, 0.05, 0.1],  # noqa: B006  (read, never changed)
    draws: Annotated[int, Field(ge=2, le=10_000)] = 10,
    of: Of = "test",
    examples: Examples = None,
    norms: Norms = "included",
    precision: Precision = "float32",
) -> Arrays:
    """How much the loss rises under random perturbations of the kept weights, mean and sd over `draws` directions.

    A perturbation is normal noise, in each parameter tensor scaled to a norm of `size` times the tensor's own; the
    directions are the same for all sizes. `perturbed_loss_increase` is the mean at the largest size. Loss, examples and
    norms are as for `flatness`.
    """
    there = _surface(lab, state, of, examples, norms, precision)
    with _looking(lab, state, f"the perturbation of {there.size:,} weights"):
        start, draw = there.loss(), _drawn(lab, state, there, "perturbation")
        noise = (_as_long_as(there.tensors(draw()), there.tensors(there.here)) for _ in range(draws))
        along = (there.vector(one) for one in noise)
        rises = np.array([[there.loss(size * one) - start for size in sizes] for one in along])
    return {
        "metrics/perturbed_loss_increase": rises[:, int(np.argmax(sizes))].mean(),
        "size": np.array(sizes),
        "loss_increase": rises.mean(axis=0),
        "loss_increase_sd": rises.std(axis=0, ddof=1),
    }


def _of_spectrum(lab: Lab, found: Spectrum, eigenvalues: int, sum_of: int) -> dict[str, Any]:  # Any: numbers
    """What is stored of a spectrum, and a message where products did not suffice."""
    values, places = found.found, max(0, eigenvalues - len(found.values))
    if (missing := int((~found.settled).sum())) and math.isfinite(found.values.sum()):
        lab.say(
            f"flatness: {missing} of {len(values)} eigenvalues did not settle in {found.products:,} products and are "
            "NaN; give more products, a larger tolerance or float64"
        )
    arrays: dict[str, Any] = {  # Any: numbers and arrays of them
        "metrics/hessian_top": values[0],
        "eigenvalues": np.pad(values[:eigenvalues], (0, places), constant_values=np.nan),
        "residuals": np.pad(found.residuals[:eigenvalues], (0, places), constant_values=np.nan),
        "products": found.products,
    }
    return arrays | ({"metrics/hessian_sum": values[:sum_of].sum()} if sum_of else {})


def _check_memory(lab: Lab, there: Surface, count: int) -> None:
    """Raises OutOfMemory where so many eigenvectors, and what finds them, do not fit."""
    needed = room(there.size, count) * there.size * there.here.element_size()
    if lab.device.type == "cpu":
        check_fits(f"finding {count} eigenvectors of {there.size:,} weights", needed)


def _surface(
    lab: Lab, state: State, of: Of, examples: Examples, norms: Norms, precision: Precision
) -> Surface:
    """The loss of a state around its kept weights."""
    kind = PRECISIONS[precision]
    held = {
        name: one.to(kind) if one.is_floating_point() else one
        for name, one in {**state.weights, **state.buffers}.items()
    }
    among = {name: held[name] for name in _names(lab.model, norms)}

    def losses(parameters: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(lab.model, {**held, **parameters}, (images,))
        return example_losses(logits.to(kind), labels)

    chunks = [(images.to(kind), labels) for images, labels in _chunks(lab, of, examples)]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in chunks:
            lab.pause(lambda: state, 0)
            yield chunk

    return Surface(losses, among, batches, state.masks)


def _chunks(lab: Lab, of: Of, examples: Examples) -> Iterator[tuple[Tensor, Tensor]]:
    """The first images of a split with their labels, as many at a time as memory is given to.

    Raises:
        UsageError: the split has fewer than the recipe asks for.
    """
    split, labels = (
        (lab.dataset.train, lab.targets.used)
        if of == "train"
        else (lab.dataset.test, lab.dataset.test.labels)
    )
    those = (
        (lab.targets.split == TRAINING).nonzero().squeeze(1) if of == "train" else torch.arange(len(split))
    )
    fits({of: len(those)}, of=of, examples=examples)
    pixels = math.prod(lab.dataset.task.shape[1:])
    at_once = max(1, PIXELS_AT_ONCE.get(lab.device.type, 2**16) // pixels)
    order = torch.split(those[: examples or AT_MOST], at_once)
    made = split.images.batches(order, Augment(), lab.device)
    for images, index in zip(made, order, strict=True):
        yield images.contiguous(memory_format=lab.manner.memory_format), labels[index].to(lab.device)


def _names(model: nn.Module, norms: Norms) -> list[str]:
    """The parameters that are trained, those of norms among them or not, in the model's order."""
    of_norms = {
        id(one) for module in model.modules() if isinstance(module, NORMS) for one in module.parameters()
    }
    return [
        name
        for name, one in model.named_parameters()
        if one.requires_grad and (norms == "included" or id(one) not in of_norms)
    ]


@contextmanager
def _looking(lab: Lab, state: State, what: str) -> Iterator[None]:
    """Have the model as it is when it is used, with a state's channels closed; when the block ends it is as it was."""
    with undisturbed(lab.model), full_precision(), allocating(what):
        lab.gates.load_(state.masks)
        lab.model.eval()
        yield


def _drawn(lab: Lab, state: State, there: Surface, what: str) -> Callable[[], Tensor]:
    """Normal vectors of this seed and moment, one after another."""
    made = torch.Generator()
    made.manual_seed(key("flatness", what, lab.drawing, state.spent))
    return lambda: torch.randn(there.size, generator=made).to(there.here)


def _as_long_as(noise: Tensors, weights: Tensors) -> dict[str, Tensor]:
    """The noise, each tensor scaled to the norm of the weights'."""
    return {
        name: one * (weights[name].norm() / one.norm()) if bool(one.any()) else one
        for name, one in noise.items()
    }
