"""Training losses by percentiles of a score: groups of equal size, known answers, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import SMALL
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.cli.groups import Grouping, scores_for
from prunecli.engine import carry_out_all
from prunecli.errors import NotComparable
from prunecli.recipe.load import load_text
from prunecli.runs import Settings
from prunecli.store.examples import SeedExamples, read_examples
from prunecli.store.reading import read_run
from prunecli.store.scores import Provenance, Score, ScoreStore, encode_scores
from prunecli.store.sealing import commit
from prunecli.subgroups import Side, groups_of, subgroups

DENSE, SPARSE = Side("run", 0), Side("run", 3)


def seed_examples(loss: list[float], *, level: int = 0, split: list[int] | None = None) -> SeedExamples:
    n = len(loss)
    values = np.array(loss, dtype=np.float32)
    return SeedExamples(
        np.arange(n) % 10,
        np.array(split or [0] * n, dtype=np.uint8),
        {level: values},
        {level: values < 1},
        "2" * 64,
    )


def store_of(values: list[list[float]], labels: np.ndarray | None = None, clean: bool = True) -> ScoreStore:
    scores = np.array(values, dtype=np.float64)
    rows, n = scores.shape
    used = np.tile(np.arange(n) % 10, (rows, 1)) if labels is None else labels
    return ScoreStore(
        seeds=tuple(range(rows)),
        labels=used,
        clean=np.arange(n) % 10 if clean else (np.arange(n) + 1) % 10,
        split=np.zeros((rows, n), dtype=np.uint8),
        scores={"el2n": Score(scores, np.full(rows, np.nan), 1, 4.0)},
        recipe_digest="0" * 64,
        scoring_digest="1" * 64,
        fingerprint="2" * 64,
    )


@given(n=st.integers(1, 200), bins=st.integers(1, 30), ties=st.integers(1, 5), seed=st.integers(0, 9))
def test_groups_are_of_equal_size_in_the_order_of_scores_then_positions(n, bins, ties, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, ties, n).astype(float)
    which = rng.random(n) < 0.8
    groups = groups_of(values, which, bins)
    sizes = [len(group) for group in groups]
    assert (len(groups), sum(sizes)) == (bins, int(which.sum()))
    assert max(sizes) - min(sizes) <= 1
    order = np.concatenate(groups)
    assert order.tolist() == sorted(which.nonzero()[0], key=lambda position: (values[position], position))


def test_differences_and_ratios_by_hand():
    """Ten examples in five groups; the two highest lose 1 and 3, the others gain 0.1 each."""
    scores = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    dense = {seed: seed_examples([1.0] * 10) for seed in (0, 1)}
    sparse = {
        0: seed_examples([2.0, 4.0, *[0.9] * 8], level=3),
        1: seed_examples([2.0, 4.0, *[0.9] * 8], level=3),
    }
    found = subgroups((SPARSE, sparse), (DENSE, dense), store_of([scores]), "el2n", bins=5)
    assert [group.difference.mean for group in found.groups] == pytest.approx([-0.1] * 4 + [2.0])
    assert [(group.lo, group.hi, group.size) for group in found.groups][:2] == [(0, 20, 2), (20, 40, 2)]
    assert found.counts == {"lower": 4, "match": 0, "higher": 1}
    assert found.ratio == pytest.approx(2.0 / 0.1, rel=1e-5)
    assert found.ratio_by_example == pytest.approx(((1 + 3) / 2) / 0.1, rel=1e-5)


def test_a_seed_is_grouped_by_its_own_scores_where_labels_are_noisy():
    scores = store_of([[0, 1, 2, 3], [3, 2, 1, 0]], clean=False)
    dense = {seed: seed_examples([0.0] * 4) for seed in (0, 1)}
    sparse = {0: seed_examples([0, 0, 1, 1], level=3), 1: seed_examples([1, 1, 0, 0], level=3)}
    found = subgroups((SPARSE, sparse), (DENSE, dense), scores, "el2n", bins=2)
    assert [group.difference.mean for group in found.groups] == [0, 1]
    assert found.ratio is None


def test_only_what_both_were_trained_on_is_grouped():
    dense = {0: seed_examples([0.0] * 6, split=[0, 0, 0, 0, 1, 2])}
    sparse = {0: seed_examples([1, 1, 1, 1, 50, 50], level=3, split=[0, 0, 0, 2, 0, 0])}
    found = subgroups((SPARSE, sparse), (DENSE, dense), store_of([[0, 1, 2, 3, 4, 5]]), "el2n", bins=3)
    assert [(group.size, group.difference.mean) for group in found.groups] == [(1, 1.0)] * 3


def test_one_seed_has_differences_and_no_verdict():
    side = {0: seed_examples([1.0, 2.0])}
    found = subgroups(
        (SPARSE, {0: seed_examples([2.0, 2.0], level=3)}), (DENSE, side), store_of([[0, 1]]), "el2n", 2
    )
    assert [(one.difference.mean, one.difference.std, one.difference.verdict) for one in found.groups] == [
        (1.0, None, None),
        (0.0, None, None),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda side: {1: side[0]}, "have no seed in common"),
        (lambda side: {0: replace(side[0], label=side[0].label + 1)}, "of other label draws"),
        (lambda side: {0: seed_examples([0.0] * 3, level=3)}, "they are of other data"),
        (lambda side: {0: replace(side[0], split=np.array([0, 2, 2, 2], np.uint8))}, "make no 2 groups"),
        (lambda side: {0: replace(side[0], fingerprint="3" * 64)}, "of other data"),
        (lambda side: {0: seed_examples([np.inf] * 4, level=3)}, "NaN or infinite"),
    ],
)
def test_what_cannot_be_compared_is_named(change, message):
    dense, sparse = {0: seed_examples([0.0] * 4)}, {0: seed_examples([1.0] * 4, level=3)}
    with pytest.raises(NotComparable, match=message):
        subgroups((SPARSE, change(sparse)), (DENSE, dense), store_of([[0, 1, 2, 3]]), "el2n", 2)


NOISY = "labels={uniform: {fraction: 0.2}}"
PRUNED = "procedure=[train, {prune: {fraction: 0.5}}, rewind, train]"


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> Path:
    """A run of two seeds on noisy labels, and scores that are each example's loss at level 0."""
    folder = tmp_path_factory.mktemp("studied")
    given = load_text(SMALL, "small.yaml", [PRUNED, NOISY, "seeds=[0, 1]", "validation=0.1"], stem="small")
    (finished,) = carry_out_all(given, Settings(runs=folder / "runs"), lambda _event: None)
    found = read_examples(finished.folder.path, [0])
    store = ScoreStore(
        seeds=(0, 1),
        labels=np.stack([found[seed].label for seed in (0, 1)]),
        clean=np.zeros(1437, dtype=np.int64),
        split=np.stack([found[seed].split for seed in (0, 1)]),
        scores={
            "loss": Score(
                np.stack([found[s].loss[0] for s in (0, 1)]).astype(float), np.full(2, np.nan), 1, 2.0
            )
        },
        recipe_digest="0" * 64,
        scoring_digest="1" * 64,
        fingerprint=found[0].fingerprint,
    )
    runs = {"loss": store.scores["loss"].values[:, None]}
    texts = dict.fromkeys(("recipe", "versions", "dataset_fingerprint"), "")
    facts = {"recipe_digest": store.recipe_digest, "scoring_digest": store.scoring_digest}
    commit(folder / "scores.h5", encode_scores(store, runs, Provenance(texts)), facts)
    return folder


def compared(folder: Path, *more: str) -> Result:
    (run,) = (folder / "runs").glob("small-*")
    return CliRunner().invoke(app, ["compare", str(run), "--groups", str(folder / "scores.h5"), *more])


def test_compare_groups_a_run_by_stored_scores(studied):
    done = compared(studied, "--level", "1", "--bins", "10", "--json")
    assert done.exit_code == 0, done.output
    [found] = json.loads(done.stdout)["subgroups"]
    assert (found["level"], found["level_against"], found["score"]) == (1, 0, "loss")
    (run,) = (studied / "runs").glob("small-*")
    sides = read_examples(run, [0, 1])
    for number, group in enumerate(found["groups"]):
        means = []
        for seed in (0, 1):
            trained = sides[seed].split == 0
            ranked = sorted(trained.nonzero()[0], key=lambda n: (sides[seed].loss[0][n], n))
            chosen = np.array_split(ranked, 10)[number]
            means.append(float((sides[seed].loss[1].astype(float) - sides[seed].loss[0])[chosen].mean()))
        assert group["difference"] == pytest.approx(np.mean(means))
        assert group["std"] == pytest.approx(np.std(means, ddof=1))
    table = compared(studied, "--level", "1").stdout
    assert "by percentiles of loss" in table
    assert "95 to 100" in table


def test_the_interval_is_of_the_confidence_that_is_asked_for(studied):
    """With two seeds Student's t has one degree of freedom: 12.706 at 95%, 1 at 50%."""
    widths = []
    for confidence in ("0.95", "0.5"):
        done = compared(studied, "--level", "1", "--confidence", confidence, "--json")
        low, high = json.loads(done.stdout)["subgroups"][0]["groups"][0]["interval"]
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(12.706, abs=1e-3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--claims", "jin2021"],
            "--claims jin2021: unknown; known: jin2022, bartoldson2020, yang2023, chang2021; did you mean 'jin2022'?",
        ),
        (
            ["--claims", "jin2022", "--metric", "test_loss"],
            "--metric test_loss: --claims sets each claim's own runs",
        ),
        (
            ["--claims", "jin2022", "--against", "small:0"],
            "--against small:0: --claims sets each claim's own runs",
        ),
    ],
)
def test_claims_that_cannot_be_asked_for_are_refused(studied, more, said):
    done = compared(studied, *more)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())


def test_claims_go_by_scores_of_the_runs_own_model_alone(studied):
    (path,) = (studied / "runs").glob("small-*")
    run, examples = read_run(path), read_examples(path, [0])
    grouping = Grouping((studied / "scores.h5",))
    assert scores_for(run, examples, grouping)[1] == "loss"
    with pytest.raises(NotComparable, match="no scores of its model: --groups has no title"):
        scores_for(run, examples, grouping, own_model=True)


def test_parts_are_read_like_stores(studied, tmp_path):
    given = load_text(SMALL, "small.yaml", [PRUNED, NOISY, "seeds=[0]", "validation=0.1"], stem="small")

    def interrupt(event: object) -> None:
        if type(event).__name__ == "LevelDone" and event.level == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out_all(given, Settings(runs=tmp_path), interrupt)
    (run,) = tmp_path.glob("small-*")
    (whole,) = (studied / "runs").glob("small-*")
    sealed, stored = read_examples(run, [0, 1])[0], read_examples(whole, [0, 1])[0]
    for level in (0, 1):
        assert np.array_equal(sealed.loss[level], stored.loss[level])
        assert np.array_equal(sealed.correct[level], stored.correct[level])
    assert np.array_equal(sealed.label, stored.label)
    assert read_run(run).status == "partial"


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--score", "los"], 2, "did you mean 'loss'?"),
        (["--level", "optimum"], 2, "--level optimum: unknown"),
        (["--level", "0"], 4, "has no level to group by loss (0)"),
        (["--bins", "2000", "--level", "1"], 2, "less than or equal to 1000"),
        (["--groups", "nowhere.h5"], 2, "no such score store"),
        (["--groups", "."], 2, "is a folder"),
        (["--level", "1", "--level", "99"], 4, "--level 99: it has no such level; it has levels 0 to 1"),
    ],
)
def test_bad_questions_are_answered_in_a_line(studied, more, status, message):
    done = compared(studied, *more)
    assert done.exit_code == status, done.output
    assert message in " ".join(done.stderr.split())


def test_a_run_of_another_label_draw_is_refused_and_the_rest_is_tabulated(studied):
    given = load_text(SMALL, "small.yaml", [PRUNED, "seeds=[0]", "validation=0.1"], stem="other")
    carry_out_all(given, Settings(runs=studied / "others"), lambda _event: None)
    (other,) = (studied / "others").glob("other-*")
    done = compared(studied, str(other), "--level", "1", "--json")
    assert done.exit_code == 4
    assert "of another label draw" in done.stderr
    document = json.loads(done.stdout)
    assert (len(document["runs"]), len(document["subgroups"])) == (2, 1)


def test_what_is_grouped_needs_scores():
    done = CliRunner().invoke(app, ["compare", "--level", "1"])
    assert (done.exit_code, "give --groups SCORES too" in done.stderr) == (2, True)
