"""Criteria of linear problems: what Chang et al. (2021) prune by beside magnitude."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunecli.linear_models import check_linear, check_saliencies
from prunecli.masks import Tensors
from prunecli.registry import criteria
from prunecli.task import Task


def _check_hessian(model: nn.Module, task: Task) -> None:
    check_linear("criterion 'hessian'", model, task)


def _check_oracle(model: nn.Module, problem: Any) -> None:  # Any: data's problems are its own
    check_saliencies("criterion 'oracle'", model, problem)


@criteria(model_fits=_check_hessian)
def hessian(weights: Tensors, feature_deviations: Tensors) -> Tensors:
    """sqrt(Sigma^_ii)|w_i|, of the order of w_i^2 H_ii / 2 (optimal brain damage; LeCun et al., 1990).

    Sigma^_ii is the variance of the weight's feature in the training examples; for models linear in their parameters.
    """
    return {name: feature_deviations[name] * weight.abs() for name, weight in weights.items()}


@criteria(problem_fits=_check_oracle, clean_inputs=True)
def oracle(saliencies: Tensors) -> Tensors:
    """lam_i beta_i^2 of the problem that the data were drawn from, which no data tell (Chang et al., 2021)."""
    return dict(saliencies)
