"""Laws of training: it can be split anywhere, dropped weights stay 0, and nobody who looks disturbs it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import same
from torch import nn

from prunecli.batching import batches_in
from prunecli.errors import Diverged
from prunecli.lab import Lab
from prunecli.masks import prune
from prunecli.registry import Choice, observers, optimizers, schedules
from prunecli.training import Batch, Manner, fit, undisturbed

CONVOLUTIONAL = (
    "model={cifar_resnet_20: {width: 0.125}}",
    "augmentation=[flip, {crop: {padding: 1}}]",
    "examples={first: {count: 300}}",
    "batch_size=64",
)


def sparse(lab: Lab, fraction: float = 0.5):
    """An initial state with the lowest magnitudes dropped."""
    state = lab.initial()
    scores = {name: state.weights[name].abs() for name in lab.names}
    return state.with_masks(prune(state.masks, scores, [(lab.names, fraction)]))


def equal(one, other) -> bool:
    return (
        same(one.weights, other.weights)
        and same(one.buffers, other.buffers)
        and same(one.optimizer, other.optimizer)
        and (one.step, one.spent) == (other.step, other.spent)
    )


@pytest.mark.parametrize("cut", [1, 4, 5, 7])
@pytest.mark.parametrize("optimizer", optimizers)
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_training_can_be_split_anywhere(lab_of, cut, optimizer, memory):
    momentum = "{sgd: {momentum: 0.9}}" if optimizer == "sgd" else optimizer
    overrides = (f"optimizer={momentum}", "learning_rate={cosine: {start: 0.01}}", f"memory_format={memory}")
    lab = lab_of(*CONVOLUTIONAL, *overrides)
    rate, state = lab.rate_at(), sparse(lab)
    assert lab.steps_per_epoch == 5
    whole = lab.train(state, 9, rate)
    parts = lab.train(lab.train(state, cut, rate), 9 - cut, rate)
    assert equal(whole, parts)
    assert not equal(whole, lab.train(state, 8, rate))


def test_momentum_and_nesterov_survive_a_split(lab_of):
    lab = lab_of("optimizer={sgd: {momentum: 0.9, nesterov: true, weight_decay: 0.01, decayed: weights}}")
    whole = lab.train(sparse(lab), 5, lab.rate_at())
    assert equal(whole, lab.train(lab.train(sparse(lab), 2, lab.rate_at()), 3, lab.rate_at()))


def test_a_split_that_forgets_momentum_or_buffers_is_seen(lab_of):
    lab = lab_of(*CONVOLUTIONAL)
    rate, state = lab.rate_at(), sparse(lab)
    whole, half = lab.train(state, 6, rate), lab.train(state, 3, rate)
    assert not same(whole.weights, lab.train(half.without_momentum(), 3, rate).weights)
    fresh = replace(half, buffers=state.buffers)
    assert not same(whole.buffers, lab.train(fresh, 3, rate).buffers)


@pytest.mark.parametrize("optimizer", optimizers)
def test_a_dropped_weight_never_revives(lab_of, optimizer):
    decaying = lab_of(
        *CONVOLUTIONAL, f"optimizer={{{optimizer}: {{weight_decay: 0.1}}}}", "learning_rate=0.01"
    )
    dense = decaying.train(decaying.initial(), 3, decaying.rate_at())
    scores = {name: dense.weights[name].abs() for name in decaying.names}
    pruned = dense.with_masks(prune(dense.masks, scores, [(decaying.names, 0.7)]))
    trained = decaying.train(pruned, 4, decaying.rate_at())
    for state in (pruned, trained):
        for name, mask in state.masks.items():
            assert not state.weights[name][~mask].any()
            for place, slot in state.optimizer.items():
                if place.endswith(f"/{name}") and slot.shape == mask.shape:
                    assert not slot[~mask].any()
    assert any(not torch.equal(trained.weights[name], pruned.weights[name]) for name in decaying.names)


def test_extended_training_is_rewinding_with_masks_of_ones(lab_of):
    lab = lab_of(*CONVOLUTIONAL)
    rewind = Choice("stages", "rewind")
    train, keep_all = Choice("stages", "train"), Choice("stages", "prune", {"fraction": 0.0})
    extended = pruned = lab.initial()
    for _ in range(2):
        extended = train(rewind(train(extended, lab), lab), lab)
        pruned = train(rewind(keep_all(train(pruned, lab), lab), lab), lab)
        extended, pruned = rewind(extended, lab), rewind(pruned, lab)
    assert equal(extended, pruned)
    assert extended.spent == 4 * lab.steps_per_epoch * 2


def test_a_full_mask_changes_no_bit_of_a_step():
    weight = nn.Linear(4, 3)
    images, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])

    def after(mask):
        model = nn.Linear(4, 3)
        model.load_state_dict(weight.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        list(fit(model, optimizer, [Batch(images, labels, 0.1, 0)] * 3, mask, Manner()))
        return model.weight.detach()

    from prunecli.masks import Masks

    almost = torch.ones(3, 4, dtype=torch.bool)
    assert torch.equal(after(Masks({})), after(Masks({"weight": almost})))


def batches_of(lab: Lab, epoch: int = 0, offset: int = 0) -> list[Batch]:
    return list(lab._batches(epoch, offset, lab.steps_per_epoch - offset, 0, lab.rate_at()))


def test_training_images_are_augmented_by_epoch_and_example(lab_of):
    plain, flipped = lab_of("augmentation=[]"), lab_of("augmentation=[{flip: {p: 1.0}}]")
    for one, other in zip(batches_of(plain), batches_of(flipped), strict=True):
        assert torch.equal(one.images.flip(-1), other.images)
    lab = lab_of("augmentation=[{crop: {padding: 2}}]")
    whole = torch.cat([b.images for b in batches_of(plain, 1)])
    moved = [torch.cat([b.images for b in batches_of(lab, epoch)]) for epoch in (0, 1)]
    assert not torch.equal(moved[1], whole)
    order = [torch.cat([b.labels for b in batches_of(lab, epoch)]) for epoch in (0, 1)]
    assert not torch.equal(order[0], order[1])


def test_each_step_has_a_random_key_of_its_own(lab_of):
    lab = lab_of()
    keys = [batch.key for epoch in (0, 1) for batch in batches_of(lab, epoch)]
    assert len(set(keys)) == len(keys)
    assert [batch.key for batch in batches_of(lab, 0, 3)] == keys[3 : lab.steps_per_epoch]


def test_noise_is_drawn_by_seed_outside_a_validation_split_that_is_not(lab_of):
    overrides = ("labels={uniform: {fraction: 0.5}}", "validation=0.2")
    first, second = (lab_of(*overrides, seed=seed).targets for seed in (0, 1))
    assert torch.equal(first.split, second.split)
    assert not torch.equal(first.noisy, second.noisy)
    for targets in (first, second):
        assert not targets.noisy[targets.split == 1].any()
        assert int(targets.noisy.sum()) == round(0.5 * int((targets.split != 1).sum()))


def test_nesterov_momentum_is_another_step(lab_of):
    heavy, nesterov = (
        lab_of(f"optimizer={{sgd: {{momentum: 0.9, nesterov: {word}}}}}") for word in ("false", "true")
    )
    trained = [lab.train(lab.initial(), 3, lab.rate_at()) for lab in (heavy, nesterov)]
    assert not same(trained[0].weights, trained[1].weights)


def test_order_depends_on_seed_and_epochs_spent_alone(lab_of):
    lab, other = lab_of(), lab_of(seed=1)
    first, again = (list(lab._batches(3, 0, 2, step, lab.rate_at())) for step in (0, 50))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].images, next(iter(other._batches(3, 0, 1, 0, other.rate_at()))).images)
    assert not torch.equal(first[0].images, next(iter(lab._batches(4, 0, 1, 0, lab.rate_at()))).images)


def test_an_epoch_sees_every_training_example_once(lab_of):
    lab = lab_of("validation=0.1", "batch_size=100")
    count = lab.steps_per_epoch
    seen = sum(len(batch.labels) for batch in lab._batches(0, 0, count, 0, lab.rate_at()))
    assert seen == int((lab.targets.split == 0).sum()) == 1437 - 144


@pytest.mark.parametrize(
    ("examples", "size", "batches"), [(10, 4, 3), (9, 4, 2), (8, 4, 2), (1, 4, 1), (5, 1, 5)]
)
def test_a_last_batch_of_one_is_joined(examples, size, batches):
    assert batches_in(examples, size) == batches


def test_a_lab_takes_as_many_steps_as_it_says(lab_of):
    lab = lab_of("examples={first: {count: 201}}", "batch_size=100")
    assert lab.steps_per_epoch == 2
    assert [len(b.labels) for b in lab._batches(0, 0, 2, 0, lab.rate_at())] == [100, 101]


@pytest.mark.parametrize("observer", observers)
def test_looking_changes_nothing(lab_of, observer):
    """Law: outcomes and observers leave mode, buffers and random state as they were."""
    from prunecli.observers import observe

    lab = lab_of(*CONVOLUTIONAL)
    state = lab.train(lab.initial(), 2, lab.rate_at())
    lab.model.train()
    before = torch.get_rng_state()
    test = lab.outcomes(state, lab.dataset.test, lab.dataset.test.labels)
    train = lab.outcomes(state, lab.dataset.train, lab.targets.used)
    observe(
        Choice("observers", observer),
        {"train": train, "test": test, "before": test, "after": test, "lab": lab},
    )
    assert lab.model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert same(dict(lab.model.named_buffers()), state.buffers)
    assert equal(lab.train(state, 2, lab.rate_at()), lab.train(state, 2, lab.rate_at()))


def test_undisturbed_puts_everything_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[2].eval()
    before, seen = torch.get_rng_state(), [module.training for module in model.modules()]
    with undisturbed(model):
        model.train()
        model(torch.randn(4, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == seen
    assert model[1].num_batches_tracked == 0


def test_evaluation_is_without_augmentation_and_at_running_statistics(lab_of):
    lab = lab_of(*CONVOLUTIONAL)
    state = lab.train(lab.initial(), 2, lab.rate_at())
    first = lab.outcomes(state, lab.dataset.train, lab.targets.used)
    second = lab.outcomes(state, lab.dataset.train, lab.targets.used)
    assert torch.equal(first.loss, second.loss)
    lab.model.eval()
    with torch.no_grad():
        pixels = lab.dataset.train.images.pixels[:128]
        logits = lab.model(lab.dataset.train.images.normalize(pixels))
    expected = nn.functional.cross_entropy(logits, lab.targets.used[:128], reduction="none")
    assert torch.equal(first.loss[:128], expected)


def test_a_loss_that_is_not_finite_stops_with_the_epoch_named(lab_of):
    lab = lab_of(
        "learning_rate=1e6", "optimizer={sgd: {momentum: 0.9}}", "model={mlp: {hidden: [16, 16, 16]}}"
    )
    with pytest.raises(
        Diverged,
        match=r"epoch \d+, step \d+: the loss is (nan|inf) \(learning rate 1e\+06, gradient norm nan",
    ):
        lab.train(lab.initial(), 10 * lab.steps_per_epoch, lab.rate_at())


@pytest.mark.parametrize(
    "manner",
    ["precision=bfloat16", "memory_format=contiguous", "label_smoothing=0.1", "gradient_clipping=0.01"],
)
def test_every_manner_of_training_changes_the_result_and_trains(lab_of, manner):
    plain, other = lab_of(*CONVOLUTIONAL), lab_of(*CONVOLUTIONAL, manner)
    assert same(plain.initial().weights, other.initial().weights)
    trained = [lab.train(lab.initial(), 3, lab.rate_at()) for lab in (plain, other)]
    assert all(torch.isfinite(w).all() for w in trained[1].weights.values())
    assert not same(trained[0].weights, trained[1].weights)


def test_clipping_bounds_the_gradient_of_kept_weights(lab_of):
    lab = lab_of("gradient_clipping=0.01", "optimizer=sgd", "learning_rate=1.0")
    state = lab.initial()
    moved = lab.train(state, 1, lab.rate_at())
    change = torch.cat([(moved.weights[n] - state.weights[n]).flatten() for n in state.weights])
    assert change.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_decay_of_weights_alone_leaves_biases(lab_of):
    lab = lab_of("optimizer={sgd: {weight_decay: 0.5, decayed: weights}}")
    groups = lab.experiment.optimizer(dict(lab.model.named_parameters())).param_groups
    assert [(group["weight_decay"], {p.dim() for p in group["params"]}) for group in groups] == [
        (0.5, {2}),
        (0, {1}),
    ]


SCHEDULES = {
    ("constant", 10): ({"value": 0.3}, {0: 0.3, 20: 0.3}),
    ("steps", 160): (
        {"start": 0.1, "at": [80, 120], "factor": 0.1},
        {0: 0.1, 79.99: 0.1, 80: 0.01, 200: 0.001},
    ),
    ("linear", 10): ({"start": 1.0}, {0: 1.0, 5: 0.5, 10: 0.0, 12: 0.0}),
    ("cosine", 10): ({"start": 1.0, "end": 0.2}, {0: 1.0, 5: 0.6, 10: 0.2, 12: 0.2}),
    ("cubic", 10): ({"start": 1.0, "end": 0.1}, {0: 1.0, 5: 0.1 + 0.9 / 8, 10: 0.1, 12: 0.1}),
    ("exponential", 10): ({"start": 1.0, "end": 0.01}, {0: 1.0, 5: 0.1, 10: 0.01, 12: 0.01}),
    ("warmup", 90): (
        {"over": 5.0, "then": Choice("schedules", "constant", {"value": 0.4})},
        {0: 0, 1: 0.08, 5: 0.4, 9: 0.4},
    ),
    ("cyclic", 10): (
        {"then": Choice("schedules", "linear", {"start": 1.0}), "to": 4.0},
        {0: 1.0, 9: 0.1, 10: 0.6, 15: 0.1, 16: 0.6, 17: 0.5},
    ),
}


@pytest.mark.parametrize(("name", "epochs"), SCHEDULES, ids=[name for name, _ in SCHEDULES])
def test_schedules_have_their_known_values(name, epochs):
    options, expected = SCHEDULES[name, epochs]
    rate = schedules[name].function(epochs, **options)
    for epoch, value in expected.items():
        assert math.isclose(rate(epoch), value, abs_tol=1e-12)


def test_every_schedule_has_known_values():
    assert {name for name, _ in SCHEDULES} == set(schedules)


def test_a_cyclic_schedule_is_what_rewinding_does_on_two_clocks(lab_of):
    replayed = lab_of("learning_rate={cyclic: {to: 0.5, then: {steps: {start: 0.1, at: [1]}}}}")
    rewound = lab_of()
    state = replayed.train(replayed.initial(), 28, replayed.rate_at())
    other = rewound.train(rewound.initial(), 16, rewound.rate_at())
    other = rewound.train(replace(other, step=4), 12, rewound.rate_at())
    assert same(state.weights, other.weights)
