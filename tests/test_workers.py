"""How many pieces of work go on side by side where nobody says: by work, cores and memory, never by a clock."""

from __future__ import annotations

import os

import pytest
import torch
from conftest import SMALL, small

from prunecli.engine import carry_out_all
from prunecli.memory import memory
from prunecli.plan import make_plan, workers_of
from prunecli.progress import Event, Said
from prunecli.recipe.load import load_text
from prunecli.runs import Settings, prepare
from prunecli.workers import (
    BYTES_A_PROCESS,
    SECONDS_A_PROCESS,
    Load,
    Machine,
    bytes_of,
    choose,
    chosen,
    footprint,
    machine_of,
    seconds_of,
)

MUCH, GIB = 1e6, 2**30


@pytest.mark.parametrize(
    ("load", "machine", "count", "why"),
    [
        (Load(3, MUCH, 1, GIB), Machine(8, 64 * GIB), 3, "there are 3"),
        (Load(9, MUCH, 1, GIB), Machine(8, 64 * GIB), 8, "8 cores, 1 a piece"),
        (Load(9, MUCH, 4, GIB), Machine(8, 64 * GIB), 2, "8 cores, 4 a piece"),
        (Load(9, MUCH, 16, GIB), Machine(8, 64 * GIB), 1, "8 cores, 16 a piece"),
        (Load(9, MUCH, 1, 3 * GIB), Machine(8, 10 * GIB), 3, "10.7 GB of memory, 3.22 GB a piece"),
        (Load(9, MUCH, 1, 3 * GIB), Machine(8, GIB), 1, "of memory"),
        (Load(9, 0.1, 1, GIB), Machine(8, 64 * GIB), 1, "the work is too little"),
        (Load(9, 2.5 * SECONDS_A_PROCESS, 1, GIB), Machine(8, 64 * GIB), 2, "the work is too little"),
    ],
)
def test_the_least_of_pieces_cores_memory_and_work_decides(load, machine, count, why):
    found = choose(load, machine)
    assert found.count == count
    assert why in found.why


def test_this_machine_has_the_cores_that_the_process_may_use():
    machine = machine_of(torch.device("cpu"))
    assert machine.cores == len(os.sched_getaffinity(0)) >= 1
    assert machine.bytes_free == memory()


def test_a_models_footprint_is_counted(digits):
    """64 inputs, 16 hidden, 10 classes: a multiplication and an addition for each weight."""
    one = footprint(small(), digits)
    assert one.flops == 2 * (64 * 16 + 16 * 10)
    assert one.parameters == 64 * 16 + 16 + 16 * 10 + 10
    assert one.bytes_kept >= 4 * 16


def test_what_work_takes_rises_with_steps_and_batches_and_not_with_the_clock(digits):
    cpu, one = torch.device("cpu"), footprint(small(), digits)
    assert seconds_of(small(), one, 0, 0, cpu) == 0
    once, twice = (seconds_of(small(), one, steps, 0, cpu) for steps in (100, 200))
    assert twice == 2 * once == 2 * seconds_of(small(), footprint(small(), digits), 100, 0, cpu)
    assert seconds_of(small("batch_size=400"), one, 100, 0, cpu) > once
    assert bytes_of(small("batch_size=400"), one, digits, cpu) > bytes_of(small(), one, digits, cpu)
    assert bytes_of(small(), one, digits, cpu) > BYTES_A_PROCESS


def test_small_work_starts_no_processes_and_says_so_once(tmp_path):
    heard: list[Event] = []
    given = load_text(SMALL, "x", ["seeds=[0, 1, 2]", "epochs=0.1", "learning_rate=0.1"], stem="x")
    carry_out_all(given, Settings(runs=tmp_path), heard.append)
    messages = [event for event in heard if isinstance(event, Said)]
    assert [event.message for event in messages] == [
        "1 of 3 seeds side by side: the work is too little for more processes (--workers N chooses)"
    ]
    assert messages[0].informational


def test_a_number_that_is_asked_for_is_taken(tmp_path):
    (run,) = prepare(load_text(SMALL, "x"), Settings(runs=tmp_path))
    assert chosen([(run, 1.0)] * 3, Settings(workers=5)).count == 5
    assert chosen([(run, 1.0)], Settings()).count == 1
    assert chosen([(run, 1e6)] * 3, Settings()).count == min(3, len(os.sched_getaffinity(0)))


def test_a_plan_tells_how_many_go_side_by_side(tmp_path):
    settings = Settings(runs=tmp_path)
    plans = make_plan(load_text(SMALL, "x", ["seeds=[0, 1]"]), settings, timed=False)
    assert workers_of(plans, settings).count == 1
    plans = make_plan(load_text(SMALL, "x", ["seeds=[0, 1]", "epochs=100000"]), settings, timed=False)
    assert workers_of(plans, settings).count == min(2, len(os.sched_getaffinity(0)))
