"""The benchmark suite: what it compares does the same work, and all of it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # The suite is no part of what is installed.

from benchmarks import __main__, openlth_study, table, worker  # noqa: E402  (see above)
from benchmarks.bare import Bare, bare, prunecli_draws  # noqa: E402
from benchmarks.measure import Spread, interleaved, observed, spread  # noqa: E402
from benchmarks.parity import CLOSE, against_bare, against_openlth_style, parity_bench  # noqa: E402
from benchmarks.rows import at_least, at_most, compared  # noqa: E402
from benchmarks.startup import made_up_run  # noqa: E402
from benchmarks.workloads import Bench  # noqa: E402
from prunecli.store.reading import read_run  # noqa: E402

CPU = torch.device("cpu")
IDS = [f"P{number}" for number in range(1, 13)]
STEPS = 12


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """What the suite sets for its process is put back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@cache
def bench(name: str) -> Bench:
    """A narrow network of the suite, with a partial batch at an epoch's end."""
    return parity_bench(name, CPU, quick=True)


@pytest.mark.parametrize("name", ["lenet", "resnet", "vgg"])
def test_prunecli_trains_as_the_bare_loop_does_to_the_bit(name):
    assert against_bare(bench(name), steps=STEPS).bitwise


@pytest.mark.parametrize("name", ["lenet", "resnet", "vgg"])
def test_the_openlth_style_loop_does_the_same_work(name):
    assert against_openlth_style(bench(name)).farthest < CLOSE


def without_masks(loop: Bare) -> None:
    loop.masked = []


def other_mean(loop: Bare) -> None:
    loop.mean = loop.mean * 1.0001


def other_rate(loop: Bare) -> None:
    for group in loop.optimizer.param_groups:
        group["lr"] *= 1.0001


def other_mirroring(loop: Bare) -> None:
    drawing = loop.drawing
    loop.drawing = lambda epoch: replace(drawing(epoch), mirrored=~drawing(epoch).mirrored)


@pytest.mark.parametrize("wrong", [without_masks, other_mean, other_rate, other_mirroring])
def test_other_arithmetic_in_the_bare_loop_is_found(wrong):
    loop = bare(bench("resnet"), prunecli_draws(bench("resnet")))
    wrong(loop)
    assert not against_bare(bench("resnet"), loop, 3).bitwise


def test_evaluations_agree():
    made = bench("resnet")
    losses, right = bare(made).evaluate()
    found = made.evaluate()
    torch.testing.assert_close(found["loss"], losses, rtol=1e-4, atol=1e-5)
    assert float((found["correct"] == right).float().mean()) > 0.95


def test_the_timed_steps_end_an_epoch():
    """A shortened epoch keeps the partial batch: its images are those that both loops see."""
    made = bench("resnet")
    short = replace(made, workload=replace(made.workload, steps=2))
    assert short.images == made.workload.batch + made.workload.batch // 2
    assert (
        sum(map(len, torch.split(torch.arange(made.workload.train), made.workload.batch)[short.first :]))
        == 48
    )


def test_the_quick_suite_has_a_row_of_every_id(tmp_path, capsys):
    out = tmp_path / "found.json"
    assert __main__.main(["--quick", "--rounds", "1", "--threads", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(dict.fromkeys(row["id"] for row in found["rows"])) == IDS
    assert all(row["found"] or row["absent"] for row in found["rows"])
    assert "never to be quoted" in found["quick"]
    assert "never to be quoted" in capsys.readouterr().out
    with pytest.raises(ValueError, match="quick run"):
        table.page(found)


def test_one_id_runs_alone(tmp_path):
    out = tmp_path / "found.json"
    assert __main__.main(["--quick", "--only", "P12", "--rounds", "1", "--out", str(out)]) == 0
    assert {row["id"] for row in json.loads(out.read_text())["rows"]} == {"P12"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "P13"], "P13"),
        (["--quick", "--results", "page.md"], "never to be quoted"),
        pytest.param(
            ["--device", "cuda"],
            "no device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_makes_no_sense_is_refused(words, said, capsys):
    assert __main__.main(words) == 2
    assert said in capsys.readouterr().err


def test_the_page_has_a_line_for_every_row():
    taken = {"ours": [table_taken(1.0), table_taken(2.0)], "peer": [table_taken(3.0), table_taken(4.0)]}
    row = compared("P1", "a | thing", "a peer", taken, "ours", "peer", target=at_least(2))
    machine = {"cores": 2}
    found = {"quick": "", "machine": machine, "rows": [json_of(row)]}
    page = table.page(found)
    assert "- cores: 2" in page
    assert "| P1 | a \\| thing | a peer | 2.5 [2.25, 2.75] times |" in page
    assert "| at least 2 times | yes |" in page


def table_taken(wall: float):
    from benchmarks.measure import Taken

    return Taken(wall, wall)


def json_of(row) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(row), "reached": row.reached}


def test_a_ratio_is_the_peers_time_by_ours_and_a_target_its_median():
    taken = {"ours": [table_taken(1.0), table_taken(2.0)], "peer": [table_taken(3.0), table_taken(4.0)]}
    assert compared("P1", "", "", taken, "ours", "peer").found == Spread(2.25, 2.5, 2.75)
    assert at_least(2).reached(Spread(2.25, 2.5, 2.75)) == "yes"
    assert at_least(3).reached(Spread(2.25, 2.5, 2.75)) == "no"
    assert at_most(2.6).reached(Spread(2.25, 2.5, 2.75)) == "yes, within the spread"
    assert spread([5.0]) == Spread(5.0, 5.0, 5.0)


def test_sides_take_turns_in_reversed_order():
    order: list[str] = []
    interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3, CPU, warm=False)
    assert "".join(order) == "abbaab"


def test_a_process_tells_its_own_peak_and_not_its_parents():
    held = np.ones(60_000_000 // 8)
    peak, said = observed("this")
    assert "Beautiful" in said
    assert peak < 50 < held.nbytes / 1e6


def test_a_made_up_run_is_a_run(tmp_path):
    run = read_run(made_up_run(tmp_path, 10).path)
    assert (run.status, run.seeds, run.kept.shape) == ("complete", (0, 1, 2), (3, 21, 2))


def test_a_worker_trains():
    assert worker.train("lenet", tiny=True) > 0


def test_an_openlth_style_study_prunes_level_after_level(tmp_path):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (96, 28, 28), dtype=np.uint8)
    labels = draw.integers(0, 10, 96)
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    openlth_study.main(
        [
            str(tmp_path / "data.npz"),
            str(tmp_path / "study"),
            "--levels",
            "3",
            "--seeds",
            "1",
            "--noise",
            "0.3",
        ]
    )
    kept = [torch.load(path)["fc.weight"] for path in sorted((tmp_path / "study").rglob("masks"))]
    assert len(kept) == 2
    densities = [
        sum(float(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        for masks in (torch.load(path) for path in sorted((tmp_path / "study").rglob("masks")))
    ]
    assert densities == pytest.approx([0.8, 0.64], abs=1e-3)
