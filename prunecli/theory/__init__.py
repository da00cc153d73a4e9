"""Theory of pruning overparameterized linear models (Chang et al., 2021): problems, predicted risks, experiments."""

from prunecli.theory.correlated import CorrelatedProblem, block_correlated
from prunecli.theory.curves import Curve, curve
from prunecli.theory.described import of_setting, predicted_risk
from prunecli.theory.experiments import Experiment, Problem, experiment
from prunecli.theory.fixed_point import Law, effective_dimension, finite_law, fixed_point, law, near_peak
from prunecli.theory.problems import LinearProblem, Sample
from prunecli.theory.random_features import RandomFeatures, random_features
from prunecli.theory.risks import (
    correlated_oracle_risk,
    oracle_risk,
    oracle_support,
    pruned_risk,
    retrained_risk,
)
from prunecli.theory.solutions import fit, keep, support, trained_on
from prunecli.theory.spectra import SETTINGS, identity, of_saliencies, poly, spiked, spiked_strong

__all__ = [
    "SETTINGS",
    "CorrelatedProblem",
    "Curve",
    "Experiment",
    "Law",
    "LinearProblem",
    "Problem",
    "RandomFeatures",
    "Sample",
    "block_correlated",
    "correlated_oracle_risk",
    "curve",
    "effective_dimension",
    "experiment",
    "finite_law",
    "fit",
    "fixed_point",
    "identity",
    "keep",
    "law",
    "near_peak",
    "of_saliencies",
    "of_setting",
    "oracle_risk",
    "oracle_support",
    "poly",
    "predicted_risk",
    "pruned_risk",
    "random_features",
    "retrained_risk",
    "spiked",
    "spiked_strong",
    "support",
    "trained_on",
]
