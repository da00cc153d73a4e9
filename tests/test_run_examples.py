"""Examples left out by what a stored run made of them: which, how many, and that a recipe keeps to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import REFERRING, SMALL, same, small

from prunecli.batching import batches_in, in_order
from prunecli.building import make_targets
from prunecli.engine import carry_out_all
from prunecli.errors import DamagedRun, EnvironmentMissing, UsageError
from prunecli.lab import make_lab
from prunecli.places import Places
from prunecli.recipe.library import path_of
from prunecli.recipe.load import load, load_text
from prunecli.recipe.writing import dump
from prunecli.registry import examples
from prunecli.runs import Settings, run_digest

CLEAN = (
    SMALL
    + """
validation: 0.1
"""
)
PRUNED = "procedure=[train, {prune: {criterion: magnitude, fraction: 0.9}}, rewind, train]"
NOISY = "labels={uniform: {fraction: 0.3}}"


def carried_out(text: str, stem: str, runs: Path, *overrides: str) -> Path:
    recipe = load_text(text, f"{stem}.yaml", overrides, stem=stem, places=Places(runs))
    (finished,) = carry_out_all(recipe, Settings(runs), lambda _event: None)
    return finished.folder.path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a run on clean labels and one on noisy ones, of two seeds and two levels each."""
    runs = tmp_path_factory.mktemp("of_runs") / "runs"
    carried_out(CLEAN, "clean", runs, PRUNED, "seeds=[0, 1]")
    carried_out(CLEAN, "noisy", runs, PRUNED, NOISY, "seeds=[0, 1]")
    return runs


def stored(folder: Path, label: str) -> dict[str, np.ndarray]:
    """The run's examples as the store has them: (S, L, N) and (S, N)."""
    (path,) = folder.glob(f"{label}-*/store.h5")
    with h5py.File(path) as file:
        return {name: file[f"examples/{name}"][()] for name in ("loss", "correct", "label", "split")}


def retraining(folder: Path, examples: str, *overrides: str):
    recipe = load_text(CLEAN, "again.yaml", [f"examples={examples}", *overrides], places=Places(folder))
    return recipe.points[0].experiment


def left_out(folder: Path, digits, examples: str, *overrides: str, seed: int = 0) -> np.ndarray:
    """Which examples (N,) are left out for a seed."""
    split = make_targets(retraining(folder, examples, *overrides), seed, digits).split
    return (split == 2).numpy()


def most(values: np.ndarray, trained: np.ndarray, count: int) -> set[int]:
    """The positions of the `count` highest values among those trained on, by plain sorting."""
    there = [position for position in range(len(values)) if trained[position]]
    return set(sorted(there, key=lambda position: (-values[position], position))[:count])


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
@pytest.mark.parametrize(("name", "sign"), [("without_improved", 1), ("without_harmed", -1)])
def test_the_most_improved_or_harmed_of_the_seed_mean_are_left_out(folder, digits, name, sign, fraction):
    run = stored(folder, "clean")
    fall = (run["loss"][:, 0].astype(np.float64) - run["loss"][:, 1]).mean(axis=0)
    trained = run["split"][0] == 0
    found = left_out(folder, digits, f"{{{name}: {{run: clean, level: 1, fraction: {fraction}}}}}")
    assert found.sum() == round(fraction * trained.sum())
    assert set(found.nonzero()[0]) == most(sign * fall, trained, round(fraction * trained.sum()))


@pytest.mark.parametrize("seed", [0, 1])
def test_on_noisy_labels_each_seed_has_its_own_subset(folder, digits, seed):
    run = stored(folder, "noisy")
    fall = run["loss"][seed, 0].astype(np.float64) - run["loss"][seed, 1]
    trained = run["split"][seed] == 0
    found = left_out(folder, digits, "{without_improved: {run: noisy, level: 1}}", NOISY, seed=seed)
    assert set(found.nonzero()[0]) == most(fall, trained, round(0.2 * trained.sum()))


@pytest.mark.parametrize("level", [0, 1])
def test_the_misclassified_are_left_out(folder, digits, level):
    examples = f"{{without_misclassified: {{run: noisy, level: {level}}}}}"
    run = stored(folder, "noisy")
    for seed in (0, 1):
        wrong = (run["correct"][seed, level] == 0) & (run["split"][seed] == 0)
        assert wrong.any()
        assert np.array_equal(left_out(folder, digits, examples, NOISY, seed=seed), wrong)


def test_by_mean_those_that_more_than_half_of_the_seeds_misclassify_are_left_out(folder, digits):
    run = stored(folder, "clean")
    wrong = ((run["correct"][:, 1] == 0).mean(axis=0) > 0.5) & (run["split"][0] == 0)
    examples = "{without_misclassified: {run: clean, level: 1}}"
    assert np.array_equal(left_out(folder, digits, examples), wrong)


@pytest.mark.parametrize("stratified", [False, True])
def test_the_control_leaves_out_as_many_of_the_training_examples_at_random(folder, digits, stratified):
    like = "{without_improved: {run: noisy, level: 1}}"
    control = f"{{without_random: {{like: {like}, stratified: {str(stratified).lower()}}}}}"
    seen = []
    for seed in (0, 1):
        labels = stored(folder, "noisy")["label"][seed]
        those, others = (left_out(folder, digits, text, NOISY, seed=seed) for text in (like, control))
        assert others.sum() == those.sum()
        assert not np.array_equal(others, those)
        counts = [np.bincount(labels[one], minlength=10).tolist() for one in (those, others)]
        assert (counts[0] == counts[1]) == stratified
        seen.append(others)
    assert not np.array_equal(*seen)


def test_every_choice_that_asks_for_more_than_a_number_is_tried_here():
    asking = {name for name in examples if examples[name].needs != ("size",)}
    assert asking == {"without_improved", "without_harmed", "without_misclassified", "without_random"}


def test_a_recipe_is_filled_in_with_what_the_run_says(folder):
    examples = retraining(folder, "{without_improved: {run: clean, level: last}}").examples
    digest = json.loads(next(folder.glob("clean-*/run.json")).read_text())["recipe_digest"]
    wanted = {"level": 1, "against": 0, "by": "mean", "digest": digest, "seeds": [0, 1]}
    assert {name: examples.options[name] for name in wanted} == wanted
    noisy = retraining(folder, "{without_improved: {run: noisy, level: last}}", NOISY).examples
    assert (noisy.options["by"], noisy.options["seeds"]) == ("seed", None)


def test_a_run_goes_on_with_its_examples_when_the_other_run_gets_more_seeds(tmp_path, digits, monkeypatch):
    runs = tmp_path / "runs"
    carried_out(CLEAN, "clean", runs, PRUNED, "seeds=[0, 1]")
    text = CLEAN + "examples: {without_improved: {run: clean, level: 1}}\n"
    path = carried_out(text, "again", runs)
    before = (path / "store.h5").read_bytes()
    carried_out(CLEAN, "clean", runs, PRUNED, "seeds=[0, 1, 2]")
    own = load(path / "recipe.yaml", places=Places(runs))
    assert [one.folder.path for one in carry_out_all(own, Settings(runs), lambda _event: None)] == [path]
    assert (path / "store.h5").read_bytes() == before
    fresh = load_text(text, "again.yaml", places=Places(runs)).points[0].experiment
    assert fresh.examples.options["seeds"] == [0, 1, 2]
    monkeypatch.chdir(tmp_path)
    (run,) = runs.glob("clean-*")
    moved = run.rename(runs / run.name.replace("clean", "renamed"))
    found = load(path / "recipe.yaml", places=Places(runs)).points[0].experiment
    assert found.examples.found == moved.resolve()
    assert run_digest(found, digits.fingerprint) == run_digest(own.points[0].experiment, digits.fingerprint)


@pytest.mark.parametrize("inside", ["{}", "{{without_random: {{like: {}}}}}"])
@pytest.mark.parametrize("label", ["clean", "noisy"])
def test_what_a_recipe_with_a_digest_leaves_open_is_filled_in_too(folder, label, inside):
    digest = json.loads(next(folder.glob(f"{label}-*/run.json")).read_text())["recipe_digest"]
    texts = (
        f"{{without_improved: {{run: {label}, level: last{end}" for end in (f", digest: {digest}}}}}", "}}")
    )
    given, whole = (retraining(folder, inside.format(text)).examples for text in texts)
    assert given == whole
    with pytest.raises(EnvironmentMissing, match="no run 'clean'"):
        retraining(folder / "none", f"{{without_improved: {{run: clean, digest: {digest}}}}}")


def test_a_recipe_that_says_all_is_shown_without_the_run(folder):
    examples = retraining(folder, "{without_improved: {run: clean, level: 1}}").examples
    text = json.dumps(examples.plain())
    assert retraining(folder / "none", text).examples == examples


def test_the_seeds_of_the_mean_are_those_that_came_to_both_levels(tmp_path, digits):
    runs = tmp_path / "runs"
    recipe = load_text(CLEAN, "clean.yaml", [PRUNED, "seeds=[0, 1]"], stem="clean", places=Places(runs))
    carry_out_all(recipe, Settings(runs, dense_only=True), lambda _event: None)
    carried_out(CLEAN, "clean", runs, PRUNED, "seeds=[0]")
    examples = "{without_improved: {run: clean, level: 1}}"
    assert retraining(runs, examples).examples.options["seeds"] == [0]
    assert left_out(runs, digits, examples).any()
    dense = "{without_misclassified: {run: clean, level: 0}}"
    assert retraining(runs, dense).examples.options["seeds"] == [0, 1]


def test_a_path_that_no_file_can_have_is_refused_where_it_stands(folder):
    with pytest.raises(UsageError, match=r"(?s)^argument:1:.*'run' should have no NUL character"):
        retraining(folder, '{without_improved: {run: "a\\0b"}}')
    with pytest.raises(UsageError, match=r"(?s)^argument:1:.*'root' should have no NUL character"):
        retraining(folder, "all", 'data={mnist: {root: "a\\0b"}}')
    with pytest.raises(EnvironmentMissing, match="there is no run"):
        retraining(folder, f"{{without_improved: {{run: {'a' * 300}}}}}")


def test_a_run_of_other_data_under_a_forged_fingerprint_is_refused(folder, digits):
    run = retraining(folder, "{without_improved: {run: clean, level: 1}}").examples
    less = torch.zeros(17, dtype=torch.long)
    with pytest.raises(UsageError, match=r"is of other data .*1,437 training examples, not 17"):
        run(less, 0, digits.fingerprint, run.found)


@pytest.mark.parametrize(
    ("examples", "overrides", "error", "message"),
    [
        ("{without_improved: {run: claen}}", (), EnvironmentMissing, "no run 'claen'.*did you mean 'clean'"),
        ("{without_improved: {run: clean, level: 7}}", (), UsageError, "no level '7'; it has 0 to 1"),
        ("{without_improved: {run: clean, level: lsat}}", (), UsageError, "no level 'lsat'.*did you mean 'last'"),
        ("{without_improved: {run: clean, level: 0}}", (), UsageError, "level '0' is level 0, and so is 'dense'"),
        ("{without_improved: {run: clean, level: 1}}", (NOISY,), UsageError, "of another label draw"),
        ("{without_improved: {run: noisy, level: 1, by: mean}}", (NOISY,), UsageError, "rank `by: seed`"),
        ("{without_improved: {run: ../../x}}", (), UsageError, "leads to .*outside"),
        (
            "{without_random: {like: {without_harmed: {run: claen}}}}",
            (),
            EnvironmentMissing,
            "^argument:1:.*no run 'claen'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_said_of_the_run_is_refused(
    folder, digits, tmp_path, monkeypatch, examples, overrides, error, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        left_out(folder, digits, examples, *overrides)


def test_a_seed_that_the_run_lacks_is_refused(folder, digits):
    examples = "{without_misclassified: {run: noisy, level: 1}}"
    with pytest.raises(UsageError, match="no seed 5 at level 1; it has seeds 0, 1"):
        left_out(folder, digits, examples, NOISY, seed=5)


def test_a_run_of_other_data_is_refused(folder, digits):
    from dataclasses import replace

    other = replace(digits, fingerprint="0" * 64)
    with pytest.raises(UsageError, match="is of other data"):
        left_out(folder, other, "{without_improved: {run: clean, level: 1}}")


def test_a_damaged_run_is_refused(folder, tmp_path):
    runs = tmp_path / "runs"
    (source,) = folder.glob("clean-*")
    target = runs / source.name
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    data = bytearray((target / "store.h5").read_bytes())
    data[len(data) // 2] ^= 255
    (target / "store.h5").write_bytes(data)
    with pytest.raises(DamagedRun, match=r"store\.h5"):
        retraining(runs, "{without_improved: {run: clean}}")


def test_a_label_of_two_runs_is_refused(folder, tmp_path):
    runs = tmp_path / "runs"
    (source,) = folder.glob("clean-*")
    for name in ("clean-00000000", "clean-11111111"):
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_bytes((source / "run.json").read_bytes())
    with pytest.raises(UsageError, match="'clean' is the label of several runs: clean-00000000, clean-1"):
        retraining(runs, "{without_improved: {run: clean}}")


def order_of(lab, epoch: int) -> torch.Tensor:
    return in_order(lab._training, lab._seen_in_an_epoch, lab.drawing, epoch)


def test_a_replicate_has_its_seeds_labels_and_an_initialization_and_order_of_its_own(digits):
    first, again, third = (small(NOISY, f"replicate={number}") for number in (0, 1, 2))
    labs = [make_lab(one, 0, digits, torch.device("cpu")) for one in (first, again, third)]
    assert all(torch.equal(lab.targets.used, labs[0].targets.used) for lab in labs)
    weights = [lab.initial().weights for lab in labs]
    orders = [order_of(lab, 0) for lab in labs]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not same(weights[one], weights[other])
        assert not torch.equal(orders[one], orders[other])


def test_a_replicate_stores_its_own_seeds(tmp_path):
    path = carried_out(CLEAN, "again", tmp_path / "runs", "replicate=1", "seeds=[3]")
    with h5py.File(path / "store.h5") as file:
        assert file["metrics/seed"][()].tolist() == [3]


def test_what_recipes_did_not_have_at_first_leaves_digests_alone(digits):
    plain = small()
    assert {"replicate", "equal_steps"} <= plain.plain().keys()
    assert not {"replicate", "equal_steps"} & plain.plain(results_only=True).keys()
    digests = [
        run_digest(small(*given), digits.fingerprint)
        for given in ((), ("replicate=0",), ("replicate=1",), ("equal_steps=true",))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def seen_in(lab, epoch: int) -> Sequence[int]:
    counts = torch.bincount(order_of(lab, epoch), minlength=len(lab.targets.split))
    return counts[lab.targets.split == 0].tolist()


@pytest.mark.parametrize("count", [1, 300, 700, 1437])
def test_equal_steps_take_as_many_as_all_examples_and_each_as_often_as_may_be(lab_of, count):
    chosen, every = f"examples={{first: {{count: {count}}}}}", lab_of()
    lab = lab_of(chosen, "equal_steps=true")
    assert lab.steps_per_epoch == every.steps_per_epoch
    seen = seen_in(lab, 0)
    assert (sum(seen), len(seen)) == (1437, count)
    assert max(seen) - min(seen) <= 1
    assert lab_of(chosen).steps_per_epoch == batches_in(count, 200)


def test_equal_steps_see_the_examples_in_another_order_each_time(lab_of):
    order = order_of(lab_of("examples={first: {count: 300}}", "equal_steps=true"), 0)
    assert sorted(order[:300].tolist()) == sorted(order[300:600].tolist())
    assert not torch.equal(order[:300], order[300:600])


def test_equal_steps_change_nothing_where_nothing_is_left_out(lab_of):
    plain, equal = lab_of("validation=0.2"), lab_of("validation=0.2", "equal_steps=true")
    trained = [lab.train(lab.initial(), 5, lab.rate_at()) for lab in (plain, equal)]
    assert same(trained[0].weights, trained[1].weights)


def test_equal_steps_can_be_split_anywhere(lab_of):
    lab = lab_of("examples={first: {count: 500}}", "equal_steps=true")
    whole = lab.train(lab.initial(), 12, lab.rate_at())
    parts = lab.train(lab.train(lab.initial(), 5, lab.rate_at()), 7, lab.rate_at())
    assert same(whole.weights, parts.weights)


LEADING = {
    "imp_lrr": ("imp_lrr", []),
    "label_noise": ("label_noise", ["labels.fraction=0.3"]),
    **{
        f"{family}-fraction-{fraction}": (f"digits/{family}", [f"sweep.labels.fraction=[{fraction}]"])
        for family in ("lenet", "resnet")
        for fraction in ("0", "0.3")
    },
}
"""For each run that a built-in recipe refers to, the recipe and overrides that make it."""
SHORT = ["epochs=3", "seeds=[0]"]


@pytest.fixture(scope="module")
def led(tmp_path_factory) -> Path:
    """A folder with short runs of all that built-in recipes refer to."""
    runs = tmp_path_factory.mktemp("led") / "runs"
    for name, overrides in LEADING.values():
        shallow = ["procedure.1.times=10"] if name == "imp_lrr" else ["procedure.1.times=8"]
        recipe = load(path_of(name), [*overrides, *SHORT, *shallow])
        carry_out_all(recipe, Settings(runs), lambda _event: None)
    return runs


@pytest.mark.parametrize("name", [name for name in REFERRING if "data: digits" in path_of(name).read_text()])
def test_the_built_in_recipes_lead_from_a_run_to_its_retraining(led, name):
    overrides = list(SHORT)
    if name.endswith("harmed"):
        # One seed says of no level that it is better than dense.
        harmed = f"{{without_harmed: {{run: {name[7:].partition('_')[0]}-fraction-0, level: last}}}}"
        overrides.append(f"sweep.examples=[all, {harmed}, {{without_random: {{like: {harmed}}}}}]")
    recipe = load(path_of(name), overrides, places=Places(led))
    for point in recipe.points:
        assert (
            load_text(dump(point.experiment), "again", places=Places(led)).points[0].experiment
            == point.experiment
        )
    done = carry_out_all(recipe, Settings(led), lambda _event: None)
    counts = []
    for one in done:
        with h5py.File(one.folder.path / "store.h5") as file:
            counts.append(int((file["examples/split"][0] == 2).sum()))
    arms = len(counts) // 2
    assert counts[0] == 0
    assert min(counts[1:]) > 0
    assert counts[1 : 1 + arms] == counts[1 + arms :]
