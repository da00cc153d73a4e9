"""What scores are made of: what a model makes of every training example, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from prunecli.datasets.values import Augment
from prunecli.errors import Diverged, UsageError, suggest
from prunecli.lab import Lab, Pause
from prunecli.losses import mean_loss
from prunecli.masks import Tensors
from prunecli.memory import allocating, in_words
from prunecli.randomness import key
from prunecli.registry import Choice
from prunecli.schedules import Schedule
from prunecli.scores import EPOCH, EPOCHS, RUNS
from prunecli.state import State
from prunecli.training import Manner, forward, seed_, undisturbed

SCORED_AT_ONCE = 128
"""Examples in a batch, whatever the device: in training mode BatchNorm sees it."""

Mode = Literal["evaluation", "training"]
"""Whether BatchNorm and dropout work as when a network is used, or as when it is trained."""

ASKED_FOR = {
    EPOCH: ("logits", "labels", "gradients"),
    EPOCHS: ("correct", "probability"),
    RUNS: ("correct", "trained"),
}
"""What a score may be made of, by what it is taken over."""
GRADIENT_BYTES = 2**28
"""Memory that the gradients of single examples may take at once."""


@dataclass(frozen=True)
class Look:
    """What a state makes of the N training examples: scores (N,), whether each is right (N,), p(y | x) (N,)."""

    scores: Mapping[str, Tensor]
    correct: Tensor
    probability: Tensor


@dataclass(frozen=True)
class Reached:
    """How far a scoring run has come: its state, and what was made of the examples so far, by the step."""

    state: State
    looks: Mapping[int, Look] = field(default_factory=dict)


Keep = Callable[[Mapping[int, Look], Callable[[], State]], None]
"""Called wherever a scoring run can be interrupted, with its looks so far and what makes the state there; it may keep
them, and may raise Stopped."""


def _forget(_looks: Mapping[int, Look], _now: Callable[[], State]) -> None:
    """Keep nothing."""


def over(score: Choice) -> str:
    """What a score is taken over: `epoch`, `epochs` or `runs`.

    Raises:
        UsageError: something else, or it asks for what there is not.
    """
    found = str(score.entry.traits.get("over", EPOCH))
    if found not in ASKED_FOR:
        raise UsageError(f"score '{score.name}' is taken over '{found}'{suggest(found, ASKED_FOR)}")
    for name in score.entry.needs:
        if name not in ASKED_FOR[found]:
            raise UsageError(f"score '{score.name}' asks for '{name}'{suggest(name, ASKED_FOR[found])}")
    return found


def scored_run(
    lab: Lab,
    scores: Sequence[tuple[Choice, float]],
    rate_at: Schedule,
    mode: Mode = "evaluation",
    begun: Reached | None = None,
    keep: Keep = _forget,
) -> dict[str, Tensor]:
    """Train a lab's model, and score each training example by it: (N,) float64 a score.

    Each score, taken over an epoch or the epochs of a run, comes with the epoch at which, or up to which, the model is
    looked at. Where the run is `begun` it is gone on with: it has looked at all moments before its state's.

    Raises:
        Diverged: a loss, or a score, is NaN or infinite.
        Stopped: `keep` stops the work.
    """
    moments = moments_of(lab, scores)
    state, looks = (begun.state, dict(begun.looks)) if begun else (lab.initial(), dict[int, Look]())
    for step in sorted(set(moments) - set(looks)):
        # What is kept has the looks of its moment, and not those of later ones.
        here = replace(lab, pause=_pause(keep, dict(looks)))
        if step > state.step:
            state = here.train(state, step - state.step, rate_at)
        looks[step] = look(here, state, moments[step], mode)
    found = {name: values for one in looks.values() for name, values in one.scores.items()}
    for score, last in scores:
        if over(score) == EPOCHS:
            steps = [lab.steps(epoch) for epoch in epochs_seen(score, last)]
            kept = {
                "correct": torch.stack([looks[step].correct for step in steps]),
                "probability": torch.stack([looks[step].probability for step in steps]),
            }
            found[score.name] = _called(score, kept, (len(kept["correct"][0]),))
    return {name: _finite(name, values) for name, values in sorted(found.items())}


def run_on_subset(
    lab: Lab,
    epoch: float,
    rate_at: Schedule,
    mode: Mode = "evaluation",
    begun: Reached | None = None,
    keep: Keep = _forget,
) -> Tensor:
    """Train a lab's model on its examples, and tell which of all it has right: (N,) bool; see `scored_run`."""
    state, here = begun.state if begun else lab.initial(), replace(lab, pause=_pause(keep, {}))
    if steps := lab.steps(epoch) - state.step:
        state = here.train(state, steps, rate_at)
    return look(here, state, (), mode).correct


def moments_of(lab: Lab, scores: Sequence[tuple[Choice, float]]) -> dict[int, list[Choice]]:
    """The steps after which a scoring run is looked at, each with the scores that are taken of that state alone."""
    found: dict[int, list[Choice]] = {}
    for score, last in scores:
        for epoch in epochs_seen(score, last):
            found.setdefault(lab.steps(epoch), []).extend([score] if over(score) == EPOCH else [])
    return found


def over_runs(score: Choice, correct: Tensor, trained: Tensor) -> Tensor:
    """What each run adds to a score over runs, (R, N) float64; `correct` and `trained` are (R, N) bool."""
    return _called(score, {"correct": correct, "trained": trained}, tuple(correct.shape))


def look(lab: Lab, state: State, scores: Sequence[Choice], mode: Mode = "evaluation") -> Look:
    """Look at every training example, without augmentation and with the labels as used.

    Raises:
        OutOfMemory: a batch does not fit.
    """
    lab.load_(state)
    order = _batches(len(lab.dataset.train), mode)
    images = lab.dataset.train.images.batches(order, Augment(), lab.device)
    found: dict[str, list[Tensor]] = {score.name: [] for score in scores}
    correct, probability = [], []
    pause = partial(lab.pause, lambda: state, 0)
    with undisturbed(lab.model):
        lab.model.train(mode == "training")
        for number, (batch, index) in enumerate(zip(images, order, strict=True)):
            pause()
            seed_(lab.device, key("look", lab.drawing, state.spent, number))
            labels = lab.targets.used[index]
            with allocating(f"the evaluation of {len(index)} examples"), torch.no_grad():
                logits = forward(lab.model, batch, lab.manner).double().cpu()
            correct.append(logits.argmax(1) == labels)
            probability.append(logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1))
            for score in scores:
                found[score.name] += _of_batch(score, lab, batch, logits, labels, pause)
    return Look(
        {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(correct), torch.cat(probability)
    )


def check_scores(lab: Lab, scores: Sequence[Choice], mode: Mode) -> None:
    """Whether the scores can be taken of the lab's model, tried on a few examples before anything is trained.

    Raises:
        UsageError: one cannot be, or gives something else than a number for each example.
    """
    for score in scores:
        taken = over(score)
        if taken == EPOCH and "gradients" in score.entry.needs and mode == "training":
            raise UsageError(
                f"score '{score.name}' takes the gradients of one example at a time, which has no batch to train "
                "with: it needs --mode evaluation"
            )
        if taken == RUNS and not {"runs", "fraction"} <= set(score.options):
            raise UsageError(
                f"score '{score.name}' is taken over runs: it needs the options 'runs' and 'fraction'"
            )
        if taken == EPOCH:
            _try_at_an_epoch(lab, score)
        else:
            shape = (3, 4)
            drawn = torch.arange(12).view(shape)
            kept = {"correct": drawn % 2 == 0, "trained": drawn % 3 == 0, "probability": drawn.double() / 12}
            _called(score, kept, shape if taken == RUNS else shape[1:])


def example_gradients(model: nn.Module, images: Tensor, labels: Tensor, manner: Manner) -> Tensors:
    """The gradients of each example's cross-entropy, (B, *shape) for each parameter, in the model's own mode."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: Tensors, image: Tensor, label: Tensor) -> Tensor:
        with torch.autocast(images.device.type, manner.autocast, enabled=manner.autocast is not None):
            logits = functional_call(model, {**parameters, **buffers}, (image.unsqueeze(0),))
        return mean_loss(logits.float(), label.unsqueeze(0))

    of_each: Callable[..., dict[str, Tensor]] = vmap(grad(loss), in_dims=(None, 0, 0))
    return of_each(parameters, images, labels)


def _pause(keep: Keep, looks: Mapping[int, Look]) -> Pause:
    return lambda now, _steps: keep(looks, now)


def epochs_seen(score: Choice, last: float) -> Sequence[float]:
    """The epochs at which a score looks at a run."""
    return [last] if over(score) == EPOCH else range(1, math.floor(last) + 1)


def _batches(examples: int, mode: Mode) -> list[Tensor]:
    batches = list(torch.split(torch.arange(examples), SCORED_AT_ONCE))
    if mode == "training" and len(batches) > 1 and len(batches[-1]) == 1:
        # BatchNorm has no statistics of a single example.
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _of_batch(
    score: Choice, lab: Lab, images: Tensor, logits: Tensor, labels: Tensor, pause: Callable[[], None]
) -> Iterator[Tensor]:
    """A score of a batch's examples; those of gradients for as many at a time as memory is given to."""
    at_once = len(labels)
    if "gradients" in score.entry.needs:
        size = sum(parameter.numel() for parameter in lab.model.parameters())
        at_once = max(1, min(at_once, GRADIENT_BYTES // (4 * size)))
    for index in torch.split(torch.arange(len(labels)), at_once):
        evidence: dict[str, Any] = {"logits": logits[index], "labels": labels[index]}  # Any: see ASKED_FOR
        if "gradients" in score.entry.needs:
            pause()
            some = index.to(images.device)
            with allocating(f"the gradients of {len(index)} examples ({in_words(4 * size * len(index))})"):
                evidence["gradients"] = example_gradients(
                    lab.model, images[some], labels[index].to(images.device), lab.manner
                )
        yield _called(score, evidence, (len(index),))


def _called(
    score: Choice, evidence: Mapping[str, Any], shape: tuple[int, ...]
) -> Tensor:  # Any: see ASKED_FOR
    """What a score's function gives, once it is found to be numbers of this shape."""
    found = score(*(evidence[name] for name in score.entry.needs))
    if not isinstance(found, Tensor) or tuple(found.shape) != shape or found.is_complex():
        what = (
            f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__qualname__
        )
        raise UsageError(f"score '{score.name}' gives {what}; it should give real numbers of shape {shape}")
    return found.detach().double().cpu()


def _try_at_an_epoch(lab: Lab, score: Choice) -> None:
    index = torch.arange(min(2, len(lab.dataset.train)))
    (images,) = lab.dataset.train.images.batches([index], Augment(), lab.device)
    labels = lab.targets.used[index]
    with undisturbed(lab.model):
        lab.model.eval()
        with torch.no_grad():
            logits = forward(lab.model, images, lab.manner).double().cpu()
        try:
            list(_of_batch(score, lab, images, logits, labels, lambda: None))
        except RuntimeError as error:
            if "gradients" not in score.entry.needs:
                raise
            first = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"score '{score.name}': torch.func cannot take the gradients of single examples of model "
                f"'{lab.experiment.model.name}' ({first}); leave this score out"
            ) from error


def _finite(name: str, values: Tensor) -> Tensor:
    if wrong := int((~values.isfinite()).sum()):
        raise Diverged(f"score '{name}' of {wrong:,} of {len(values):,} examples is NaN or infinite")
    return values
