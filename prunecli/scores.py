"""Scores of training examples: how hard each is to learn, by what scoring runs make of it.

Positional parameters name what a score is made of. Those of one epoch are handed a batch of B examples at a time:
`logits` (B, C) float64 on the CPU, `labels` (B,), and `gradients`, a mapping from parameter names to the gradients of
each example's loss (B, *shape). Those over the epochs of a run are handed `correct` (E, N) bool and `probability`
(E, N) float64, that of the label, after each of E epochs. Those over R runs on random subsets are handed `correct` and
`trained` (R, N) bool, and their options say how many `runs` there are and on what `fraction` of the examples each
is trained. Labels are those that training uses, noisy ones included. A score is a number for each example, (B,) or
(N,); over runs it is what each run adds, (R, N), and the score their mean.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from prunecli.masks import Tensors
from prunecli.registry import scores

EPOCH, EPOCHS, RUNS = "epoch", "epochs", "runs"
"""What a score is taken over, its trait `over`: a state of a run, the epochs of a run, or runs on subsets."""


@scores
def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """||softmax(f(x)) - onehot(y)||_2, the norm of the error (Paul et al., 2021; Jin et al., 2022, section 3).

    From 0 to √2; √((C - 1) / C) where all C classes are as probable.
    """
    errors = logits.softmax(1) - functional.one_hot(labels, logits.shape[1])
    norms: Tensor = torch.linalg.vector_norm(errors, dim=1)
    return norms


@scores
def grand(gradients: Tensors) -> Tensor:
    """||∇ loss(x, y)||_2, the norm of the example's own gradient over all parameters (Paul et al., 2021).

    The loss is the cross-entropy, without label smoothing, weight decay or augmentation.
    """
    squares = [gradient.flatten(1).double().square().sum(1) for gradient in gradients.values()]
    return torch.stack(squares).sum(0).sqrt()


@scores
def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(y | x), the cross-entropy in nats."""
    return functional.cross_entropy(logits, labels, reduction="none")


@scores
def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """f_y(x) - max_{k ≠ y} f_k(x), the logit margin; negative where the prediction is another (Pleiss et al., 2020).

    Pleiss et al. take its mean over epochs, the area under the margin; this is the margin at one.
    """
    own = functional.one_hot(labels, logits.shape[1]).bool()
    return logits[own] - logits.masked_fill(own, -torch.inf).amax(1)


@scores
def entropy(logits: Tensor) -> Tensor:
    """-Σ_k p_k log p_k of the prediction, in nats, from 0 to log C (Shannon, 1948; Coleman et al., 2020)."""
    pieces: Tensor = torch.special.entr(logits.softmax(1))
    return pieces.sum(1)


@scores(over=EPOCHS)
def forgetting(correct: Tensor) -> Tensor:
    """Forgetting events: how often an example is right after an epoch and wrong after the next (Toneva et al., 2019).

    An example that is never right gets E, the number of epochs, which no other example reaches, as in the paper's
    code. The paper looks at an example when its batch is trained on; here it is evaluated after each epoch.
    """
    events = (correct[:-1] & ~correct[1:]).sum(0)
    return torch.where(correct.any(0), events, len(correct)).double()


@scores(over=EPOCHS)
def first_learned(correct: Tensor) -> Tensor:
    """The first epoch, from 1, after which an example is right: its first learning event (Toneva et al., 2019).

    It may be forgotten later. E + 1 where it is right after none of E epochs.
    """
    # argmax gives the first of equal values.
    first = correct.to(torch.uint8).argmax(0) + 1
    return torch.where(correct.any(0), first, len(correct) + 1).double()


@scores(over=EPOCHS)
def confidence(probability: Tensor) -> Tensor:
    """The mean of p(y | x) over epochs (dataset cartography: Swayamdipta et al., 2020, section 2)."""
    return probability.mean(0)


@scores(over=EPOCHS)
def variability(probability: Tensor) -> Tensor:
    """The standard deviation of p(y | x) over epochs, ddof 0 (Swayamdipta et al., 2020, section 2)."""
    return probability.std(0, correction=0)


@scores(over=RUNS)
def memorization(
    correct: Tensor,
    trained: Tensor,
    *,
    runs: Annotated[int, Field(ge=2, le=100_000)] = 100,
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.7,
) -> Tensor:
    """P(right | trained on it) - P(right | not), over runs on random subsets (Feldman and Zhang, 2020, section 2).

    Each training example is in exactly round(fraction × runs) of the runs, drawn for it alone; the paper draws subsets
    of one size instead, and up to 4,000 of them. NaN where an example is in all runs or in none, as those that are held
    out for validation are.
    """
    del runs, fraction  # They say how the runs are made.
    inside, outside = trained.double(), (~trained).double()
    # A difference of two means, as the mean over runs of what each adds.
    return len(trained) * correct * (inside / inside.sum(0) - outside / outside.sum(0))
