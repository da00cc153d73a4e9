"""Seeds that train together: what each of them gets is what it gets alone, and nobody waits for ever."""

from __future__ import annotations

import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL, same
from torch import nn

from prunecli.engine import carry_out_all
from prunecli.errors import Diverged, PrunecliError, Stopped, StorageError, UsageError
from prunecli.lab import Lab
from prunecli.masks import prune
from prunecli.progress import EpochDone, Event, LevelDone, RunDone, SeedFailed
from prunecli.recipe.load import load_text
from prunecli.runs import Settings
from prunecli.state import State
from prunecli.stopping import Stop
from prunecli.together.chain import chain_of
from prunecli.together.meeting import Meeting
from prunecli.training import denormals_flushed

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""What training together may change of a weight of these trainings: the order of additions, some steps on."""


def sparse(lab: Lab, fraction: float) -> State:
    """An initial state with the lowest magnitudes dropped."""
    state = lab.initial()
    scores = {name: state.weights[name].abs() for name in lab.names}
    return state.with_masks(prune(state.masks, scores, [(lab.names, fraction)]))


def together(
    labs: list[Lab], work: Callable[[Lab], State], stop: Stop | None = None
) -> list[State | PrunecliError]:
    """What the work gives for each lab, or its error, all of them meeting."""
    meeting = Meeting(len(labs), stop or Stop())

    def attend(lab: Lab) -> State | PrunecliError:
        with meeting.attended():
            try:
                return work(replace(lab, together=meeting.train))
            except PrunecliError as error:
                return error

    with ThreadPoolExecutor(len(labs)) as pool:
        return list(pool.map(attend, labs))


def close(one: State, other: State) -> bool:
    for mine, theirs in ((one.weights, other.weights), (one.optimizer, other.optimizer)):
        assert set(mine) == set(theirs)
        if not all(torch.allclose(mine[name], theirs[name], **TOLERANCE) for name in mine):
            return False
    return (one.step, one.spent) == (other.step, other.spent)


def equal(one: State, other: State) -> bool:
    clocks = (one.step, one.spent) == (other.step, other.spent)
    return clocks and same(one.weights, other.weights) and same(one.optimizer, other.optimizer)


OPTIMIZERS = [
    "{sgd: {momentum: 0.9, weight_decay: 0.01}}",
    "{sgd: {momentum: 0.9, nesterov: true, weight_decay: 0.1, decayed: weights}}",
    "{sgd: {weight_decay: 0.01}}",
    "{adam: {weight_decay: 0.01}}",
    "{adamw: {weight_decay: 0.5, decayed: weights}}",
    "{rmsprop: {momentum: 0.5}}",
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "manner",
    [
        [],
        ["gradient_clipping=0.5", "label_smoothing=0.1"],
        ["model={mlp: {hidden: [12, 7], activation: gelu}}", "augmentation=[{crop: {padding: 1}}]"],
    ],
)
def test_a_seed_gets_what_it_gets_alone(lab_of, optimizer, manner):
    overrides = [f"optimizer={optimizer}", "learning_rate={cosine: {start: 0.01}}", *manner]
    labs = [lab_of(*overrides, seed=seed) for seed in range(3)]

    def work(lab: Lab) -> State:
        return lab.train(lab.train(sparse(lab, 0.2 * lab.seed), 9, lab.rate_at()), 11, lab.rate_at())

    for lab, found in zip(labs, together(labs, work), strict=True):
        assert close(found, work(lab))
        assert not close(
            found, work(lab_of(*overrides, "label_smoothing=0.5", "gradient_clipping=0.01", seed=lab.seed))
        )
        for name, mask in found.masks.items():
            assert not found.weights[name][~mask].any()


def test_where_a_seed_trains_alone_or_which_others_there_are_changes_no_bit(lab_of):
    """With one thread on a CPU, the recipe's default: sums over many threads depend on how the work was cut."""
    labs = [lab_of("gradient_clipping=1", seed=seed) for seed in range(4)]

    def work(lab: Lab) -> State:
        return lab.train(sparse(lab, 0.5), 20, lab.rate_at())

    four, two = together(labs, work), together([labs[3], labs[1]], work)
    assert equal(four[3], two[0])
    assert equal(four[1], two[1])


def test_seeds_at_other_places_meet_again(lab_of):
    labs = [lab_of("optimizer=adam", "learning_rate={cosine: {start: 0.01}}", seed=seed) for seed in range(3)]
    starts = [
        lab.train(sparse(lab, 0.5), steps, lab.rate_at()) for lab, steps in zip(labs, (0, 4, 11), strict=True)
    ]

    def work(lab: Lab) -> State:
        start = starts[lab.seed]
        end = lab.train(start, 17 - start.spent, lab.rate_at())
        return lab.train(replace(end, step=0), 3, lab.rate_at())

    for lab, found in zip(labs, together(labs, work), strict=True):
        assert close(found, work(lab))


def test_those_that_are_behind_catch_up_and_then_go_on_with_the_others(lab_of):
    spots = []

    def noting(lab: Lab) -> Lab:
        return replace(lab, pause=lambda now, _steps: spots.append((now().spent, lab.seed)))

    plain = [lab_of(seed=seed) for seed in range(3)]
    starts = [
        lab.train(lab.initial(), steps, lab.rate_at()) for lab, steps in zip(plain, (2, 4, 4), strict=True)
    ]

    def work(lab: Lab) -> State:
        start = starts[lab.seed]
        return lab.train(start, 6 - start.spent, lab.rate_at())

    together([noting(lab) for lab in plain], work)
    alone = [(3, 0), (4, 0)]
    assert spots[:2] == alone
    assert [spent for spent, _ in spots[2:]] == [5, 5, 5, 6, 6, 6]


def test_a_training_is_gone_on_with_from_inside(lab_of):
    steps = []
    lab = replace(lab_of(), pause=lambda _now, step: steps.append(step))
    start = lab_of().initial()
    inside = lab_of().train(start, 4, lab.rate_at())
    spot = replace(inside, step=start.step, spent=start.spent)
    (found,) = together([replace(lab, taken=4)], lambda lab: lab.train(spot, 7, lab.rate_at()))
    assert steps == [5, 6, 7]
    assert close(found, lab_of().train(start, 7, lab.rate_at()))


def test_who_asks_to_stop_stops_all_at_the_same_step(lab_of):
    stop, kept = Stop(), {}

    def pausing(lab: Lab) -> Lab:
        def pause(_now: Callable[[], State], steps: int) -> None:
            if lab.seed == 1 and steps == 3:
                stop.by = "somebody"
            if stop.by:
                kept[lab.seed] = steps
                raise Stopped("stopped")

        return replace(lab, pause=pause)

    labs = [pausing(lab_of(seed=seed)) for seed in range(3)]
    found = together(labs, lambda lab: lab.train(lab.initial(), 9, lab.rate_at()), stop)
    assert kept == {0: 3, 1: 3, 2: 3}
    assert all(isinstance(one, Stopped) for one in found)


def test_seeds_with_other_numbers_of_examples_train_too(lab_of):
    labs = [
        lab_of(f"examples={{first: {{count: {count}}}}}", seed=seed)
        for seed, count in enumerate((500, 500, 730))
    ]

    def work(lab: Lab) -> State:
        return lab.train(lab.initial(), 2 * lab.steps_per_epoch + 1, lab.rate_at())

    for lab, found in zip(labs, together(labs, work), strict=True):
        assert close(found, work(lab))


def test_one_that_diverges_leaves_the_others_what_they_are(lab_of):
    labs = [lab_of(seed=seed) for seed in range(3)]

    def work(lab: Lab) -> State:
        state = lab.initial()
        if lab.seed == 1:
            state = state.with_weights({**state.weights, "fc.bias": state.weights["fc.bias"] + math.nan}, {})
        return lab.train(lab.train(state, 12, lab.rate_at()), 3, lab.rate_at())

    first, wrong, last = together(labs, work)
    with pytest.raises(Diverged) as alone:
        work(labs[1])
    assert str(wrong) == str(alone.value)
    assert "epoch 1, step 1: the loss is nan" in str(wrong)
    for lab, found in ((labs[0], first), (labs[2], last)):
        assert close(found, work(lab))


def test_each_seed_is_told_of_its_steps_and_epochs(lab_of):
    seen, paused = {0: [], 1: []}, {0: [], 1: []}
    labs = []
    for seed in (0, 1):
        lab = lab_of(seed=seed, watch=seen[seed].append)
        labs.append(replace(lab, pause=lambda now, steps, seed=seed: paused[seed].append((steps, now()))))

    def work(lab: Lab) -> State:
        return lab.train(lab.initial(), lab.steps_per_epoch + 2, lab.rate_at())

    together(labs, work)
    for seed in (0, 1):
        mine, spots = list(seen[seed]), list(paused[seed])
        seen[seed].clear()
        paused[seed].clear()
        work(labs[seed])
        assert len(mine) == 2
        for one, other in zip(mine, seen[seed], strict=True):
            assert vars(one) == pytest.approx(vars(other))
        assert [steps for steps, _ in spots] == [steps for steps, _ in paused[seed]]
        assert all(close(one, other) for (_, one), (_, other) in zip(spots, paused[seed], strict=True))


def test_what_a_pause_raises_ends_that_seed_alone(lab_of):
    def pause(_now: Callable[[], State], steps: int) -> None:
        if steps == 3:
            raise Stopped("enough")

    labs = [replace(lab_of(), pause=pause), lab_of(seed=1)]

    def work(lab: Lab) -> State:
        return lab.train(lab.initial(), 8, lab.rate_at())

    stopped, other = together(labs, work)
    assert str(stopped) == "enough"
    assert close(other, work(labs[1]))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return self.first(flat) + self.last(flat)


class Choosing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.sum() > 0 else -images


def hooked(position: int | None) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    part = model if position is None else model[position]
    part.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(), nn.Linear(8, 10)),
            "layer '2' is Dropout",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)), "layer '2' is BatchNorm1d"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.PReLU()), "layer '2' is PReLU"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10)), "layer '0' is Conv2d"),
        (nn.Sequential(nn.Linear(8, 3), nn.Flatten()), "layer '0' is Linear before nn.Flatten"),
        (nn.Sequential(nn.Flatten(2), nn.Linear(64, 10)), "layer '0' is Flatten"),
        (Branching(), "no step of a chain"),
        (Choosing(), "cannot be read from its forward"),
        (hooked(1), "layer '1' has hooks"),
        (hooked(None), "it has hooks"),
    ],
)
def test_what_is_no_chain_is_refused_by_name(model, said):
    with pytest.raises(UsageError, match=re.escape(said)) as refused:
        chain_of(model)
    assert "nn.Flatten, nn.Linear and activations" in str(refused.value)


class Written(nn.Module):
    """A chain as people write it, with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 9), nn.Linear(9, 10, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.leaky_relu(self.one(torch.flatten(images, 1)), 0.3)
        return self.two(hidden.tanh())


@pytest.mark.parametrize(
    "make",
    [
        Written,
        lambda: nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(64, 5), nn.SiLU(), nn.Linear(5, 10)),
    ],
)
def test_a_chain_gives_what_each_model_gives(make):
    torch.manual_seed(0)
    models, images = [make() for _ in range(3)], torch.randn(3, 6, 1, 8, 8)
    names = dict(models[0].named_parameters())
    parameters = {
        name: torch.stack([dict(model.named_parameters())[name] for model in models]) for name in names
    }
    values = images
    for layer in chain_of(models[0]):
        values = layer(values, parameters)
    expected = torch.stack([model(batch) for model, batch in zip(models, images, strict=True)])
    assert torch.allclose(values, expected, atol=1e-6)


def test_a_recipe_that_cannot_train_so_is_refused_where_it_is_prepared(lab_of):
    with pytest.raises(
        UsageError, match=r"model 'lenet_5': layer '\S+' is Conv2d; 'batched_seeds' takes a chain"
    ):
        lab_of("batched_seeds=true", "model=lenet_5")
    with pytest.raises(UsageError, match="'batched_seeds' trains with 'precision: float32'"):
        lab_of("batched_seeds=true", "precision=bfloat16")


# Whole runs.

PRUNING = "procedure=[train, {repeat: {times: 2, stages: [{prune: {fraction: 0.5}}, rewind, train]}}]"
BATCHED = [PRUNING, "batched_seeds=true", "seeds=[0, 1, 2]", "examples={first: {count: 600}}"]


def carried_out(runs: Path, *overrides: str, tell=lambda _event: None, **wanted: object) -> Path:
    recipe = load_text(SMALL, "small.yaml", [*BATCHED, *overrides], stem="small")
    (finished,) = carry_out_all(recipe, Settings(runs=runs, **wanted), tell)
    return finished.folder.path


def arrays(run: Path) -> dict[str, np.ndarray]:
    found = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fui":
            found[name] = item[...]

    with h5py.File(run / "store.h5") as store:
        store.visititems(visit)
    return found


@pytest.fixture(scope="module")
def batched(tmp_path_factory) -> Path:
    return carried_out(tmp_path_factory.mktemp("batched"))


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_a_run_has_the_numbers_of_one_seed_after_another(batched, tmp_path):
    alone = carried_out(tmp_path, "batched_seeds=false")
    assert alone.name != batched.name
    mine, theirs = arrays(batched), arrays(alone)
    assert set(mine) == set(theirs)
    assert len(mine) > 10
    for name, numbers in mine.items():
        assert np.allclose(numbers, theirs[name], rtol=1e-3, atol=1e-4, equal_nan=True), name


def test_seeds_go_through_their_epochs_side_by_side(tmp_path):
    heard: list[Event] = []
    carried_out(tmp_path, tell=heard.append)
    seeds = [event.seed for event in heard if isinstance(event, EpochDone)]
    assert len(seeds) == 18
    assert all(set(seeds[first : first + 3]) == {0, 1, 2} for first in range(0, 18, 3))


def test_two_runs_give_the_same_bytes(batched, tmp_path):
    again = carried_out(tmp_path)
    assert (again / "store.h5").read_bytes() == (batched / "store.h5").read_bytes()


class Interrupting:
    """Sends a signal, or raises, at the event of a kind that it counts down to."""

    def __init__(self, kind: type, count: int, number: int | None = signal.SIGTERM) -> None:
        self.kind, self.count, self.number, self.heard = kind, count, number, list[Event]()

    def __call__(self, event: Event) -> None:
        self.heard.append(event)
        if isinstance(event, self.kind):
            if self.count == 0:
                if self.number is None:
                    raise KeyboardInterrupt
                os.kill(os.getpid(), self.number)
            self.count -= 1


@pytest.mark.parametrize(("kind", "count"), [(EpochDone, 7), (LevelDone, 0), (LevelDone, 4)])
@pytest.mark.parametrize("number", [signal.SIGTERM, None])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(batched, tmp_path, kind, count, number):
    with pytest.raises(KeyboardInterrupt if number is None else Stopped):
        carried_out(tmp_path, tell=Interrupting(kind, count, number))
    run = carried_out(tmp_path)
    assert (run / "store.h5").read_bytes() == (batched / "store.h5").read_bytes()


def test_a_signal_keeps_every_seed_at_the_same_step(tmp_path):
    with pytest.raises(Stopped, match=r"stopped by SIGTERM: seed \d, level \d is kept up to epoch"):
        carried_out(tmp_path, tell=Interrupting(EpochDone, 7))
    listener = Interrupting(RunDone, 9)
    carried_out(tmp_path, tell=listener)
    left = dict.fromkeys(range(3), 0.0)
    for event in listener.heard:
        if isinstance(event, EpochDone):
            left[event.seed] += event.seen.epochs
    # Of three levels of two epochs, the first level's and one of the second's were trained when the signal came.
    assert left[0] <= 3
    assert left == {seed: pytest.approx(left[0]) for seed in range(3)}


def test_seeds_that_diverge_are_told_of_with_the_reason(tmp_path):
    heard: list[Event] = []
    factor = "learning_rate={steps: {start: 1e6, at: [1], factor: 1}}"
    recipe = load_text(SMALL, "small.yaml", [*BATCHED, factor], stem="small")
    (finished,) = carry_out_all(recipe, Settings(runs=tmp_path), heard.append)
    assert set(finished.failures) == {0, 1, 2}
    assert {event.seed for event in heard if isinstance(event, SeedFailed)} == {0, 1, 2}
    assert all("seed" in why and "the loss is" in why for why in finished.failures.values())


def test_what_goes_wrong_in_a_thread_is_raised_to_the_caller_and_stops_the_others(tmp_path):
    levels = []

    def fail(event: Event) -> None:
        if isinstance(event, LevelDone):
            levels.append(event.level)
            if event.seed == 1:
                raise StorageError("the disk is gone")

    with pytest.raises(StorageError, match="the disk is gone"):
        carried_out(tmp_path, tell=fail)
    assert max(levels) == 0


def test_runs_side_by_side_have_the_same_bytes(batched, tmp_path):
    text = SMALL + "sweep: {label_smoothing: [0, 0.1]}\n"
    recipe = load_text(text, "small.yaml", BATCHED, stem="small")
    found = carry_out_all(recipe, Settings(runs=tmp_path, workers=2), lambda _event: None)
    stores = [one.folder.path / "store.h5" for one in found]
    assert (batched / "store.h5").read_bytes() in [store.read_bytes() for store in stores]
    assert len(stores) == 2


def test_threads_flush_denormals_as_the_one_that_starts_them():
    def product() -> float:
        return float(torch.tensor([1e-30]) * torch.tensor([1e-10]))

    assert product() != 0
    with denormals_flushed(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(product).result() == 0


def test_left_at_its_default_it_is_no_part_of_the_digest():
    plain = load_text(SMALL, "small.yaml").points[0].experiment.plain(results_only=True)
    assert "batched_seeds" not in plain
    asked = load_text(SMALL, "small.yaml", ["batched_seeds=true"]).points[0].experiment
    assert asked.plain(results_only=True)["batched_seeds"] is True
