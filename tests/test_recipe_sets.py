"""The sets of recipes of a study are of one setting: each differs from the others in what its name says alone."""

from __future__ import annotations

import re

import pytest
import yaml

from prunecli.experiment import Experiment
from prunecli.models.parameters import prunable_names
from prunecli.procedure import foresee, unroll
from prunecli.recipe.library import folder, names, path_of
from prunecli.recipe.load import load
from prunecli.task import Task
from prunecli.trajectories import prefix_digest

WIDTHS = sorted(name for name in names() if name.endswith("_width"))
EXTENDED = sorted(name for name in names() if name.endswith("_extended"))
DENSE = sorted(name.removesuffix("_extended") for name in EXTENDED)
WITHOUT = sorted(name for name in names() if "/" in name and "_without_" in name)
IMP = "jin2022/resnet20_cifar10"


def experiments(name: str, *overrides: str) -> list[Experiment]:
    return [point.experiment for point in load(path_of(name), list(overrides)).points]


def beside_procedure(experiment: Experiment) -> dict[str, object]:
    plain = experiment.plain(results_only=True)
    return {name: value for name, value in plain.items() if name != "procedure"}


def stages_of(experiment: Experiment) -> list[object]:
    return [stage.plain() for stage in unroll(experiment.procedure) if not stage.entry.traits.get("prunes")]


def test_there_are_the_papers_sets_and_those_of_the_digits():
    assert {name.partition("/")[0] for name in DENSE} == {"jin2022", "digits"}
    assert {"digits/lenet", "digits/resnet", IMP, "jin2022/resnet50_imagenet"} <= set(DENSE)


@pytest.mark.parametrize("name", EXTENDED)
def test_extended_training_is_imp_without_its_pruning(name):
    pairs = zip(experiments(name), experiments(name.removesuffix("_extended")), strict=True)
    for extended, imp in pairs:
        assert not any(stage.entry.traits.get("prunes") for stage in unroll(extended.procedure))
        assert beside_procedure(extended) == beside_procedure(imp)
        assert stages_of(extended) == stages_of(imp)
        spent = ([level.outlook.spent for level in foresee(one)] for one in (extended, imp))
        assert next(spent) == next(spent)


@pytest.mark.parametrize("name", WIDTHS)
def test_a_set_of_widths_begins_with_the_dense_model_of_imp(name):
    widths = {prefix_digest(one, "f", 0) for one in experiments(name)}
    imp = {prefix_digest(one, "f", 0) for one in experiments(name.removesuffix("_width"))}
    assert imp <= widths


@pytest.mark.parametrize("name", ["digits/lenet", "digits/resnet"])
def test_the_digits_sets_have_every_noise_level_and_go_to_28_levels(name):
    for part in ("", "_extended", "_width"):
        fractions = {one.labels.options["fraction"] for one in experiments(name + part)}
        assert fractions == {0, 0.15, 0.3, 0.6}
    for imp in experiments(name):
        levels = foresee(imp)
        assert levels[-1].outlook.density == pytest.approx(0.8**28)
        assert isinstance(imp.validation, float)
        assert len(imp.seeds) == 3


@pytest.mark.parametrize("name", [name for name in DENSE if name.startswith("jin2022")])
def test_every_benchmark_says_how_its_examples_are_scored(name):
    text = path_of(name).read_text()
    assert f"prunecli score {name} --output" in text
    epoch = 4 if "lenet" in name else 10
    assert f"# EL2N (section 3) at epoch {epoch}," in text


@pytest.mark.parametrize("path", sorted((folder() / "jin2022").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_paper_says_what_is_inferred(path):
    header = path.read_text().partition("\nabout:")[0]
    assert "nferred" in header or "ours" in header


def pruned_of(name: str) -> dict[str, Experiment]:
    """The experiments of the recipes that a retraining refers to, by the labels of their runs."""
    base = name.partition("_without_")[0]
    recipes = [path_of(one) for one in (base, f"{base}_noise") if one in names()]
    return {point.label: point.experiment for recipe in recipes for point in load(recipe).points}


def run_of(name: str) -> str:
    """The one run that a retraining refers to, in every arm."""
    arms = yaml.safe_load(path_of(name).read_text())["sweep"]["examples"]
    (run,) = set(re.findall(r"'run': '([^']+)'", str(arms)))
    return run


def test_every_benchmark_has_its_three_retrainings():
    parts = ("improved", "harmed", "misclassified")
    assert sorted(f"{name}_without_{part}" for name in DENSE for part in parts) == WITHOUT


@pytest.mark.parametrize("name", WITHOUT)
def test_a_retraining_is_the_dense_training_of_the_run_that_it_refers_to(name):
    (retraining,) = experiments(name, "examples=all")
    pruned = pruned_of(name)[run_of(name)]
    apart = {"about", "procedure", "replicate"}
    both = [
        {key: value for key, value in one.plain().items() if key not in apart} for one in (retraining, pruned)
    ]
    assert both[0] == both[1]
    assert retraining.replicate == 1
    assert [stage.name for stage in retraining.procedure] == ["train"]
    assert stages_of(retraining) == stages_of(pruned)[:1]


@pytest.mark.parametrize("name", WITHOUT)
def test_each_arm_of_a_retraining_has_its_control_and_asks_for_levels_that_there_are(name):
    first, *arms = yaml.safe_load(path_of(name).read_text())["sweep"]["examples"]
    assert first == "all"
    those, controls = arms[: len(arms) // 2], arms[len(arms) // 2 :]
    assert [{"without_random": {"like": one}} for one in those] == controls
    (part,) = {key for one in those for key in one}
    assert part == "without_" + name.partition("_without_")[2]
    last = len(foresee(pruned_of(name)[run_of(name)])) - 1
    levels = [one[part].get("level", "") for one in those]
    assert levels == [""] or all(0 < level <= last for level in levels)


def test_the_narrow_resnet_differs_from_the_wide_one_in_its_width_alone():
    (narrow,), (wide,) = (
        experiments("jin2022/resnet32_cifar100_narrow"),
        experiments("jin2022/resnet32_cifar100"),
    )
    (same,) = experiments("jin2022/resnet32_cifar100", "model.width=1")
    assert narrow.plain(results_only=True) == same.plain(results_only=True)
    assert narrow.model != wide.model


def total_of(experiment: Experiment) -> int:
    model = experiment.model(Task((3, 32, 32), 10))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return sum(sizes[name] for name in prunable_names(model))


def test_the_ablations_reach_the_densities_of_imp():
    (imp,) = experiments(IMP)
    total = total_of(imp)
    wanted = [level.outlook.kept for level in foresee(imp, total=total)]
    for ablation in experiments(f"{IMP}_ablations"):
        levels = foresee(ablation, total=total)
        assert len(levels) == len(wanted)
        known = [level.outlook.kept for level in levels if level.outlook.density is not None]
        assert known == wanted
        assert [level.outlook.spent for level in levels] == [level.outlook.spent for level in foresee(imp)]
    shots = [foresee(one, total=total) for one in experiments(f"{IMP}_one_shot")]
    assert all(len(levels) == 2 for levels in shots)
    kept = [round((levels[1].outlook.density or 0) * total) for levels in shots]
    assert kept == pytest.approx(wanted[1:], abs=2)
    ends = [foresee(one, total=total)[-1].outlook for one in experiments(f"{IMP}_gradual")]
    assert [round((one.density or 0) * total) for one in ends] == pytest.approx(wanted[4::4], abs=2)
    assert {one.spent for one in ends} == {imp.epochs}


def test_ablations_differ_from_imp_in_their_procedure_alone():
    (imp,) = experiments(IMP)
    for part in ("_ablations", "_one_shot", "_gradual"):
        for one in experiments(IMP + part):
            assert beside_procedure(one) == beside_procedure(imp)
    for one in experiments(f"{IMP}_one_shot"):
        assert prefix_digest(one, "f", 0) == prefix_digest(imp, "f", 0)
