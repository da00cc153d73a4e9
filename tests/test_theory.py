"""Theory of Chang et al. (2021): identities, known answers, and experiments that come out as predicted."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from prunecli.errors import UsageError
from prunecli.theory import (
    SETTINGS,
    CorrelatedProblem,
    LinearProblem,
    RandomFeatures,
    block_correlated,
    correlated_oracle_risk,
    curve,
    effective_dimension,
    experiment,
    finite_law,
    fit,
    fixed_point,
    identity,
    law,
    near_peak,
    of_saliencies,
    oracle_risk,
    oracle_support,
    poly,
    pruned_risk,
    random_features,
    retrained_risk,
    spiked,
    spiked_strong,
    support,
    trained_on,
)
from prunecli.theory.random_features import relu_moments
from prunecli.theory.risks import PRUNERS

RNG = np.random.default_rng
PRUNED = ("magnitude", "hessian", "oracle")


def risk_of(weights, kept, pruner):
    return (
        oracle_risk(weights, kept=kept)
        if pruner == "oracle"
        else pruned_risk(weights, kept=kept, pruner=pruner)
    )


def replicated(problem, times):
    """Each feature so many times over, with the same power in all: the same ratios at another size."""
    repeat = np.repeat(problem.coefficients / math.sqrt(times), times)
    return LinearProblem(np.repeat(problem.spectrum, times), repeat, problem.noise)


@st.composite
def problems(draw, least=3, most=40):
    size = draw(st.integers(least, most))
    logs = draw(st.lists(st.floats(-8, 8), min_size=size, max_size=size))
    beta = draw(st.lists(st.floats(-3, 3), min_size=size, max_size=size))
    spectrum = 10.0 ** np.array(logs)
    return LinearProblem(spectrum, np.array(beta) / np.sqrt(spectrum), draw(st.floats(0.01, 2)))


# The characterization


@given(problems(), st.data())
def test_gamma_is_the_risk_without_pruning(problem, data):
    n = data.draw(st.integers(1, 60).filter(lambda n: n != problem.size))
    weights = law(problem, n=n)
    lam, beta, a = problem.spectrum, problem.coefficients, weights.shrinkage
    risk = problem.noise + lam @ ((1 - a) ** 2 * beta**2 + weights.variances)
    assert weights.gamma == pytest.approx(risk, rel=1e-10)
    for pruner in PRUNED:
        assert risk_of(weights, problem.size, pruner) == pytest.approx(risk, rel=1e-9)


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=60), st.data())
def test_the_fixed_point_is_found_and_there_is_no_other(logs, data):
    spectrum = 10.0 ** np.array(logs)
    n = data.draw(st.integers(1, len(logs) - 1))
    xi = fixed_point(spectrum, n=n)
    assert effective_dimension(spectrum, xi) == pytest.approx(n, rel=1e-11)
    assert effective_dimension(spectrum, xi * (1 - 1e-3)) < n < effective_dimension(spectrum, xi * (1 + 1e-3))
    sizes = [effective_dimension(spectrum, x) for x in xi * np.logspace(-3, 3, 31)]
    # Until all features count, to rounding, more always count.
    assert all(low < high or low > len(logs) - 1e-9 for low, high in pairwise(sizes))


@pytest.mark.parametrize(("p", "n"), [(1000, 300), (301, 300), (7, 1)])
def test_equal_variances_have_closed_forms(p, n):
    problem = LinearProblem(np.full(p, 4.0), RNG(1).normal(size=p), 0.3)
    signal = float(problem.saliencies.sum())
    weights = law(problem, n=n)
    assert weights.xi * 4 == pytest.approx(n / (p - n), rel=1e-10)
    assert weights.gamma == pytest.approx(0.3 * p / (p - n) + signal * (1 - n / p), rel=1e-10)
    np.testing.assert_allclose(weights.shrinkage, n / p, rtol=1e-10)


def test_least_squares_leaves_the_means_and_loses_what_it_fits_of_the_noise():
    weights = law(spiked().first(200), n=300)
    noise = weights.problem.noise
    assert weights.gamma == pytest.approx(noise * 300 / 100, rel=1e-12)
    np.testing.assert_allclose(weights.variances, noise / (weights.problem.spectrum * 100), rtol=1e-12)
    np.testing.assert_array_equal(weights.means, weights.problem.coefficients)


def test_few_examples_of_very_many_features_teach_nothing():
    problem = identity(2000)
    assert law(problem, n=1).gamma == pytest.approx(problem.null_risk, rel=2e-3)


@pytest.mark.parametrize("pruner", ["none", *PRUNED])
@pytest.mark.parametrize("p", [20, 40, 120, 200])
def test_only_ratios_matter(pruner, p):
    small, large = (
        curve(problem, n=60 * times, kept=20 * times, widths=[p * times])
        for times, problem in ((1, poly(200)), (5, replicated(poly(200), 5)))
    )
    ours, theirs = (one.none if pruner == "none" else one.pruned[pruner] for one in (small, large))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-9)
    np.testing.assert_allclose(small.retrained["oracle"], large.retrained["oracle"], rtol=1e-9)


@given(problems(least=6), st.sampled_from([1 / 64, 0.5, 2.0, 128.0]), st.data())
def test_units_do_not_matter(problem, unit, data):
    """Powers of two are exact: rounding cannot tell features of equal saliency apart."""
    n, kept = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    other = LinearProblem(problem.spectrum * unit**2, problem.coefficients / unit, problem.noise)
    for pruner in PRUNED:
        one, two = (risk_of(law(each, n=n), kept, pruner) for each in (problem, other))
        assert one == pytest.approx(two, rel=1e-7)


TABLE = """
50   .906207 .906207 .906207 .906207 -
100  .615517 .615517 .615517 .615517 -
200  1.127586 1.421888 1.149421 .786207 -
400  1.406150 1.572301 1.252131 .861612 2.05830052
600  .712936 1.158905 .701546 .624936 .69735925
1000 .507143 .930125 .566108 .551840 .30722720
"""


@pytest.mark.parametrize("row", TABLE.strip().splitlines())
def test_spiked_strong_has_the_risks_of_the_table(row):
    """Numbers of an independent script, to all the digits it gave."""
    p, *risks, xi = row.split()
    found = curve(spiked_strong(), n=300, kept=100, widths=[int(p)])
    ours = [found.none[0], *(found.pruned[pruner][0] for pruner in PRUNED)]
    np.testing.assert_allclose(ours, np.array(risks, dtype=float), atol=6e-7, rtol=0)
    if xi != "-":
        assert fixed_point(spiked_strong().first(int(p)).spectrum, n=300) == pytest.approx(
            float(xi), abs=6e-9
        )


# Pruning in theory


def test_magnitude_is_hessian_where_variances_are_equal():
    equal, unequal = law(identity(300), n=90), law(spiked_strong(300), n=90)
    one, two = (pruned_risk(equal, kept=30, pruner=name) for name in PRUNERS)
    assert one == pytest.approx(two, rel=1e-12)
    one, two = (pruned_risk(unequal, kept=30, pruner=name) for name in PRUNERS)
    assert one > 1.3 * two


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
def test_the_threshold_is_what_ranking_comes_to(make, pruner):
    """Weights drawn from the law, ranked and cut: among 2000 the threshold hardly moves."""
    weights = law(make(2000), n=600)
    beta, lam = weights.problem.coefficients, weights.problem.spectrum
    drawn = weights.means + np.sqrt(weights.variances) * RNG(0).normal(size=(60, 2000))
    scores = PRUNERS[pruner](lam) * np.abs(drawn)
    kept = scores >= -np.sort(-scores, axis=1)[:, 199:200]
    risk = (weights.problem.noise + (drawn * kept - beta) ** 2 @ lam).mean()
    assert pruned_risk(weights, kept=200, pruner=pruner) == pytest.approx(risk, rel=0.01)


@given(problems(), st.data())
def test_pruning_costs_at_least_the_noise_and_the_oracle_drops_the_least(problem, data):
    n, kept = data.draw(st.integers(1, 60)), data.draw(st.integers(1, problem.size))
    weights = law(problem, n=n)
    index = oracle_support(problem, kept=kept)
    assert len(index) == kept
    assert min(problem.saliencies[index]) >= max(np.delete(problem.saliencies, index), default=0)
    if problem.size != n:
        for pruner in PRUNED:
            assert risk_of(weights, kept, pruner) >= problem.noise * (1 - 1e-9)


def test_more_noise_is_more_risk():
    quiet, loud = (curve(poly(noise=v), n=300, kept=100, widths=[50, 200, 600, 1000]) for v in (0.1, 0.5))
    assert (loud.none > quiet.none).all()
    assert all((loud.pruned[name] > quiet.pruned[name]).all() for name in PRUNED)


def test_certain_weights_lose_what_is_dropped():
    """All features, no noise, enough examples: the truth is found, and pruning takes the least salient away."""
    beta = np.array([3.0, 0.5, -2.0, 2.0, 0.1])
    exact = law(LinearProblem(np.ones(5), beta, 0.0), n=9)
    assert exact.gamma == 0
    for kept, dropped in ((5, 0.0), (3, 0.25 + 0.01), (2, 4 + 0.25 + 0.01), (1, 8.26)):
        for pruner in PRUNED:
            assert risk_of(exact, kept, pruner) == pytest.approx(dropped, abs=1e-12)
    assert law(exact.problem, n=5).gamma == 0
    almost = law(LinearProblem(np.ones(5), beta, 1e-12), n=9)
    assert pruned_risk(almost, kept=3, pruner="magnitude") == pytest.approx(0.26, abs=1e-6)


def test_retraining_the_oracle_is_training_its_features():
    problem = spiked_strong()
    dropped = float(np.sort(problem.saliencies)[:900].sum())
    expected = (problem.noise + dropped) * 300 / 200
    assert retrained_risk(problem, n=300, kept=100) == pytest.approx(expected, rel=1e-12)
    assert law(problem.first(100), n=300).gamma == pytest.approx(expected, rel=1e-12)
    # Wherever they stand.
    assert retrained_risk(problem.using(np.arange(1000)[::-1]), n=300, kept=100) == pytest.approx(
        expected, rel=1e-12
    )
    # Beyond n it is the minimum-norm interpolator of these features.
    assert retrained_risk(problem, n=300, kept=400) == law(problem.first(400), n=300).gamma


def test_the_peak_is_infinite_and_told_of():
    found = curve(spiked(), n=300, kept=100, widths=[200, 270, 290, 300, 310, 330, 331, 400])
    assert found.near_peak.tolist() == [False, True, True, True, True, True, False, False]
    assert math.isinf(found.none[3])
    assert all(math.isinf(found.pruned[name][3]) for name in PRUNED)
    assert np.isfinite(found.retrained["oracle"]).all()
    assert (np.diff(found.none[:3]) > 0).all()
    assert (np.diff(found.none[4:]) < 0).all()
    assert found.null == spiked().null_risk
    assert law(identity(100), n=100).near_peak
    assert not near_peak(100, 300)


def test_headlines_of_the_theory():
    """Double descent of the pruned risk; large, then pruned, beats training the best; Hessian beats magnitude."""
    widths = [50, 100, 200, 299, 301, 400, 600, 1000]
    strong, equal = (curve(make(), n=300, kept=100, widths=widths) for make in (spiked_strong, identity))
    oracle = strong.pruned["oracle"]
    assert (np.diff(oracle[:2]) < 0).all()
    assert oracle[1] < oracle[2] < oracle[3]
    assert oracle[4] > oracle[5] > oracle[6] > oracle[7]
    assert oracle[-1] < oracle[:4].min()
    assert max(oracle[-1], strong.pruned["hessian"][-1]) < strong.retrained["oracle"][-1]
    assert equal.pruned["oracle"][-1] < equal.retrained["oracle"][-1]
    assert strong.pruned["hessian"][-1] < 0.7 * strong.pruned["magnitude"][-1]


# Experiments


@pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
def test_experiments_come_out_as_predicted(make):
    """d = 500 puts finite-size bias at 1 to 3%; 60 seeds put two standard errors of the mean below 8%."""
    widths = [100, 200, 300, 500]
    theory = curve(make(500), n=150, kept=50, widths=widths)
    found = experiment(make(500), n=150, kept=50, widths=widths, seeds=range(60))
    np.testing.assert_allclose(found.none.mean(axis=0), theory.none, rtol=0.08)
    for pruner in PRUNED:
        np.testing.assert_allclose(found.pruned[pruner].mean(axis=0), theory.pruned[pruner], rtol=0.08)
    again = found.retrained["oracle"].mean(axis=0)
    np.testing.assert_allclose(again, theory.retrained["oracle"], rtol=0.08)


def test_finite_least_squares_is_exact():
    """10 features, 30 examples: 29/19, not 30/20; 4000 seeds put the standard error at 0.5%."""
    problem = of_saliencies(np.ones(15), np.arange(15, 0, -1)).first(10)
    weights = finite_law(problem, n=30)
    assert weights.gamma == pytest.approx(problem.noise * 29 / 19, rel=1e-12)
    found = experiment(problem, n=30, kept=5, widths=[10], seeds=range(4000), pruners=["oracle"])
    assert found.none.mean() == pytest.approx(weights.gamma, rel=0.015)
    assert found.pruned["oracle"].mean() == pytest.approx(oracle_risk(weights, kept=5), rel=0.01)
    assert law(problem, n=30).gamma < 0.985 * weights.gamma


@pytest.mark.parametrize("make", [spiked, poly])
def test_weights_follow_their_law(make):
    problem = make(1000)
    weights = law(problem, n=300)
    sample = problem.draw(300, RNG(3))
    standard = (fit(sample.features, sample.targets) - weights.means) / np.sqrt(weights.variances)
    assert kstest(standard, "norm").pvalue > 0.01
    shifted = (weights.problem.coefficients - weights.means) / np.sqrt(weights.variances)
    assert kstest(standard - shifted, "norm").pvalue < 1e-3


def test_retraining_in_experiments_is_training_the_support():
    problem = spiked_strong(60)
    index = oracle_support(problem, kept=6)
    found = experiment(problem, n=20, kept=6, widths=[60], seeds=range(5), pruners=["oracle"])
    directly = experiment(problem, n=20, kept=6, widths=[6], seeds=range(5), pruners=["oracle"])
    np.testing.assert_allclose(found.retrained["oracle"], directly.none, rtol=1e-10)
    sample = problem.draw(20, RNG(0))
    weights = trained_on(sample.features, sample.targets, index)
    assert np.flatnonzero(weights).tolist() == index.tolist()
    np.testing.assert_allclose(
        weights[index], np.linalg.pinv(sample.features[:, index]) @ sample.targets, rtol=1e-9
    )


@pytest.mark.parametrize(("n", "p"), [(30, 80), (80, 30), (40, 40)])
def test_models_fit_with_the_least_norm_even_with_very_unequal_features(n, p):
    features = RNG(0).normal(size=(n, p)) * np.logspace(3, -3, p)
    targets = features @ RNG(1).normal(size=p) + RNG(2).normal(size=n)
    weights = fit(features, targets)
    left = targets - features @ weights
    assert abs(features.T @ left).max() < 1e-6 * abs(features.T @ targets).max()
    expected, *_ = np.linalg.lstsq(features, targets, rcond=None)
    assert np.linalg.norm(weights - expected) < 1e-6 * np.linalg.norm(expected)


def test_a_seed_alone_is_that_seed_among_others():
    for problem in (spiked(50), lambda generator: random_features(40, 5, generator)):
        both = experiment(
            problem, n=20, kept=4, widths=[10, 40], seeds=[3, 8], pruners=["magnitude", "random"]
        )
        one = experiment(problem, n=20, kept=4, widths=[40], seeds=[8], pruners=["magnitude", "random"])
        assert both.none[1, 1] == pytest.approx(one.none[0, 0], rel=1e-12)
        for name in both.pruned:
            assert both.pruned[name][1, 1] == pytest.approx(one.pruned[name][0, 0], rel=1e-12)
        assert not np.isclose(both.none[0, 0], both.none[1, 0])


def test_nothing_is_pruned_where_fewer_are_trained_than_kept():
    found = experiment(spiked(50), n=20, kept=10, widths=[5, 10, 11], seeds=[0], pruners=["magnitude"])
    np.testing.assert_allclose(found.pruned["magnitude"][:, :2], found.none[:, :2], rtol=1e-12)
    np.testing.assert_allclose(found.retrained["magnitude"][:, :2], found.none[:, :2], rtol=1e-12)
    assert found.pruned["magnitude"][0, 2] != found.none[0, 2]
    assert curve(spiked(50), n=20, kept=10, widths=[5]).pruned["hessian"][0] == pytest.approx(
        law(spiked(50).first(5), n=20).gamma
    )


def test_pruned_weights_are_an_exact_count_as_trained():
    weights = np.array([1.0, -3.0, 2.0, 2.0, -0.5])
    assert support(weights, np.abs(weights), kept=2).tolist() == [0, -3, 2, 0, 0]
    assert support(weights, np.zeros(5), kept=3).tolist() == [1, -3, 2, 0, 0]


# Problems


def test_settings_have_their_spectra_and_signals():
    found = {name: make(1000) for name, make in SETTINGS.items()}
    for problem in found.values():
        assert problem.saliencies.sum() == pytest.approx(1)
        assert problem.null_risk == pytest.approx(1.1)
        assert (np.diff(problem.saliencies) <= 1e-18).all()
    assert found["spiked"].spectrum[[0, 99, 100, 999]].tolist() == [25, 25, 1, 1]
    assert found["poly"].spectrum[[0, 99]].tolist() == [100, 1]
    np.testing.assert_allclose(found["spiked"].saliencies, found["identity"].saliencies)
    assert found["spiked_strong"].saliencies[0] == pytest.approx(20 * found["spiked_strong"].saliencies[100])
    assert found["identity"].saliencies[500] == pytest.approx(found["identity"].saliencies[0] / 4)
    assert found["poly"].saliencies[3] == pytest.approx(found["poly"].saliencies[0] / 8)


def correlated():
    shuffled = LinearProblem([2.0, 1, 3, 0.5, 1, 4], [1.0, -2, 0.3, 0, 2, 0.7], 0.2)
    return block_correlated(shuffled, correlation=0.6, block=3)


@pytest.mark.parametrize("problem", [spiked(6), correlated(), random_features(6, 4, RNG(5), noise=0.3)])
def test_the_risk_is_that_of_fresh_examples(problem):
    weights = RNG(1).normal(size=4)
    sample = problem.draw(400_000, RNG(2))
    errors = (sample.targets - sample.features[:, :4] @ weights) ** 2
    assert problem.risk(weights) == pytest.approx(errors.mean(), rel=0.01)
    assert problem.risk(np.zeros(6)) == pytest.approx(problem.null_risk)
    assert sample.targets.var() == pytest.approx(problem.null_risk, rel=0.01)
    both = problem.risk(np.stack([weights, 2 * weights]))
    np.testing.assert_allclose(both, [problem.risk(weights), problem.risk(2 * weights)])


@pytest.mark.parametrize("problem", [spiked(6), correlated()])
def test_what_is_not_seen_is_noise(problem):
    index = np.array([4, 0, 3])
    seen, weights = problem.using(index), np.zeros(6)
    weights[index] = [0.4, -1, 2]
    assert seen.risk(weights[index]) == pytest.approx(float(problem.risk(weights)))
    assert seen.null_risk == pytest.approx(problem.null_risk)
    best = seen.risk(seen.coefficients)
    assert best == pytest.approx(seen.noise)
    assert all(seen.risk(seen.coefficients + step) > best for step in np.eye(3) * 0.01)


def test_a_diagonal_covariance_is_a_linear_problem():
    linear = spiked_strong(50)
    general = CorrelatedProblem(np.diag(linear.spectrum), linear.coefficients, linear.noise)
    np.testing.assert_allclose(general.saliencies, linear.saliencies)
    weights = law(linear, n=15)
    assert law(general.rotated()[0], n=15).gamma == pytest.approx(weights.gamma, rel=1e-10)
    expected = oracle_risk(weights, kept=5)
    assert correlated_oracle_risk(general, n=15, kept=5) == pytest.approx(expected, rel=1e-9)
    expected = retrained_risk(linear, n=15, kept=5)
    assert retrained_risk(general, n=15, kept=5) == pytest.approx(expected, rel=1e-9)


def test_correlated_features_come_out_as_predicted_and_make_retraining_help():
    """d = 200: retraining on magnitude's support hurts without correlation and helps with much (Chang et al., 2021)."""
    gains = []
    for correlation in (0.0, 0.6):
        problem = block_correlated(identity(200), correlation=correlation, block=10)
        found = experiment(
            problem, n=60, kept=20, widths=[200], seeds=range(40), pruners=["magnitude", "oracle"]
        )
        assert found.none.mean() == pytest.approx(law(problem.rotated()[0], n=60).gamma, rel=0.08)
        predicted = correlated_oracle_risk(problem, n=60, kept=20)
        assert found.pruned["oracle"].mean() == pytest.approx(predicted, rel=0.05)
        predicted = retrained_risk(problem, n=60, kept=20)
        assert found.retrained["oracle"].mean() == pytest.approx(predicted, rel=0.08)
        gains.append(np.mean(found.pruned["magnitude"] - found.retrained["magnitude"]))
    assert gains[0] < -0.1
    assert gains[1] > 0.1


# Random features


def test_relu_moments_have_closed_forms():
    directions = np.array([[3.0, 0], [0, 2], [3, 0], [-3, 0], [1, 1]])
    moments = relu_moments(directions)
    assert moments[0, 1] == pytest.approx(6 / (2 * math.pi), rel=1e-12)
    assert moments[0, 0] == pytest.approx(9 / 2, rel=1e-12)
    assert moments[0, 2] == pytest.approx(9 / 2, rel=1e-12)
    assert moments[0, 3] == pytest.approx(0, abs=1e-12)
    at_45 = 3 * math.sqrt(2) / (2 * math.pi) * (math.sqrt(0.5) + 0.75 * math.pi * math.sqrt(0.5))
    assert moments[0, 4] == pytest.approx(at_45, rel=1e-12)


def test_random_features_have_the_moments_of_their_examples():
    problem = random_features(8, 3, RNG(0), noise=0.2, signal=1.5)
    sample = problem.draw(400_000, RNG(1))
    count = len(sample.targets)
    np.testing.assert_allclose(sample.features.T @ sample.features / count, problem.covariance, atol=0.03)
    np.testing.assert_allclose(sample.features.T @ sample.targets / count, problem.shared, atol=0.02)
    assert problem.null_risk == pytest.approx(1.5**2 + 0.2)


def test_the_equivalent_problem_has_the_same_risks():
    problem = random_features(30, 6, RNG(0), noise=0.1)
    same = problem.equivalent()
    for p in (5, 30):
        weights = RNG(p).normal(size=(4, p))
        np.testing.assert_allclose(problem.risk(weights), same.risk(weights), rtol=1e-9)
    assert problem.noise < same.noise < problem.null_risk
    np.testing.assert_allclose(problem.first(9).saliencies, same.first(9).saliencies, rtol=1e-7)


def test_retrained_random_features_descend_twice():
    """Up to a peak at n = 60, then below the first minimum; a support at random stays behind."""
    found = experiment(
        lambda generator: random_features(480, 5, generator),
        n=60,
        kept=6,
        widths=[6, 20, 60, 480],
        seeds=range(20),
        pruners=["magnitude", "random"],
    )
    first, small, peak, large = np.median(found.retrained["magnitude"], axis=0)
    assert small < first
    assert peak > 1.2 * small
    assert large < 0.8 * small
    assert large < 0.5 * np.median(found.retrained["random"], axis=0)[-1]


# Refusals


ONES = np.ones(4)


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (
            lambda: LinearProblem([1.0, -2.0], [1.0, 1], 0.1),
            "spectrum: number 2 is -2; each has to be above 0",
        ),
        (lambda: LinearProblem([1.0, 0.0], [1.0, 1], 0.1), "number 2 is 0"),
        (lambda: LinearProblem([1.0, math.nan], [1.0, 1], 0.1), "spectrum: 1 are NaN or infinite"),
        (lambda: LinearProblem([], [], 0.1), "spectrum: has shape (0,)"),
        (lambda: LinearProblem(np.eye(2), [1.0, 1], 0.1), "spectrum: has shape (2, 2)"),
        (lambda: LinearProblem(["a"], [1.0], 0.1), "spectrum: is no list of numbers"),
        (lambda: LinearProblem(ONES, [1.0], 0.1), "coefficients: has 1 numbers, but there are 4 features"),
        (lambda: LinearProblem(ONES, ONES, -0.1), "noise: is -0.1; has to be 0 or more"),
        (lambda: LinearProblem(ONES, ONES, math.inf), "noise: is inf"),
        (lambda: of_saliencies(ONES, [1.0, 1, 1, -1]), "saliencies: from -1 to 1"),
        (lambda: of_saliencies(ONES, 0 * ONES), "not all 0"),
        (lambda: identity(0), "size: is 0; has to be at least 1"),
        (lambda: identity(4).first(5), "p: is 5; has to be from 1 to 4, the number of features"),
        (lambda: identity(4).first(1.5), "p: is 1.5; has to be a whole number"),
        (lambda: identity(4).using([1, 1]), "needs different ones from 0 to 3"),
        (lambda: identity(4).using([4]), "needs different ones from 0 to 3"),
        (lambda: identity(4).using([]), "needs a list of whole numbers"),
        (lambda: law(identity(4), n=0), "n: is 0; has to be at least 1"),
        (lambda: finite_law(identity(4), n=5), "n: is 5 with 4 features; exact risks need at least 6"),
        (lambda: fixed_point(ONES, n=4), "n: is 4; has to be below 4"),
        (lambda: oracle_risk(law(identity(4), n=2), kept=5), "kept: is 5; has to be from 1 to 4"),
        (lambda: pruned_risk(law(identity(4), n=2), kept=0, pruner="hessian"), "kept: is 0"),
        (lambda: pruned_risk(law(identity(4), n=2), kept=1, pruner="hesian"), "did you mean 'hessian'?"),
        (lambda: curve(identity(4), n=2, kept=5, widths=[1]), "kept: is 5; has to be from 1 to 4"),
        (lambda: curve(identity(4), n=2, kept=1, widths=[5]), "p: is 5"),
        (lambda: curve(identity(4), n=2, kept=1, widths=[]), "widths: there are none"),
        (lambda: experiment(identity(4), n=2, kept=1, widths=[5]), "p: is 5"),
        (lambda: experiment(identity(4), n=0, kept=1, widths=[4]), "n: is 0"),
        (lambda: experiment(identity(4), n=2, kept=1, widths=[4], seeds=[]), "seeds: there are none"),
        (lambda: experiment(identity(4), n=2, kept=1, widths=[4], seeds=[-1]), "seed: is -1"),
        (lambda: experiment(identity(4), n=2, kept=1, widths=[4], pruners=["obd"]), "unknown pruner 'obd'"),
        (lambda: support(ONES, ONES, kept=5), "kept: is 5"),
        (lambda: support(ONES, [1.0], kept=1), "scores: has 1 numbers"),
        (lambda: trained_on(np.eye(3), ONES, [0]), "targets: there are 4 for 3 examples"),
        (lambda: block_correlated(identity(4), correlation=0.2, block=3), "4 features are no multiple of 3"),
        (lambda: block_correlated(identity(4), correlation=-0.5, block=4), "between -0.333333 and 1"),
        (lambda: CorrelatedProblem([[1.0, 2], [2, 1]], [1.0, 1], 0.1), "smallest eigenvalue is -1"),
        (lambda: CorrelatedProblem([[1, 1], [1, 1 + 2.0**-51]], [1.0, 1], 0.1), "no feature a sum of others"),
        (lambda: CorrelatedProblem([[1.0, 0.5], [0, 1]], [1.0, 1], 0.1), "has to be symmetric"),
        (lambda: CorrelatedProblem([[1.0, 0.5]], [1.0, 1], 0.1), "has to be square"),
        (lambda: RandomFeatures(np.zeros((2, 2)), [1.0, 1], 0.1), "row 1 is 0"),
        (lambda: RandomFeatures(np.eye(2), [1.0], 0.1), "signal: has 1 numbers"),
        (
            lambda: RandomFeatures(np.ones((2, 2)), [1.0, 1], 0.1).equivalent(),
            "no feature a sum of others",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_work(act, told):
    with pytest.raises(UsageError) as caught:
        act()
    assert told in str(caught.value)


def test_a_problem_cannot_be_changed_from_outside():
    spectrum = np.ones(3)
    problem = LinearProblem(spectrum, np.ones(3), 0.1)
    spectrum[0] = 9
    assert problem.spectrum[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        problem.spectrum[0] = 9


@settings(max_examples=3)
@given(st.permutations(range(6)))
def test_importance_is_an_order_of_the_features(order):
    problem = poly(6).using(order)
    np.testing.assert_allclose(problem.by_importance().saliencies, poly(6).saliencies)


def test_the_theory_needs_no_torch():
    done = "import sys, prunecli.theory; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", done], check=False).returncode == 0


def test_the_code_of_the_page_runs(capsys):
    page = (Path(__file__).parent.parent / "docs" / "theory.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for block in blocks:
        exec(block, {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PRUNED)
    assert len(blocks) == 2


def test_the_table_of_the_page_is_that_of_the_theory():
    page = (Path(__file__).parent.parent / "docs" / "theory.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (0[.\d]+|1[.\d]+) \|(.*)\|$", page, re.MULTILINE)
    assert len(rows) == 6
    found = curve(spiked_strong(), n=300, kept=100, widths=[int(p) for p, *_ in rows])
    for place, (_, none, others) in enumerate(rows):
        assert none == f"{found.none[place]:.4f}"
        told = [none if risk.strip() == "=" else risk.strip() for risk in others.split("|")]
        assert told == [f"{found.pruned[name][place]:.4f}" for name in PRUNED]
