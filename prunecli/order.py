"""In which order seeds of runs begin that go on side by side: none makes what another is just making."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunecli.kept import dense_state
from prunecli.placing import Task
from prunecli.progress import Event, LevelDone, Listener
from prunecli.reuse import common, reused, sealed_levels
from prunecli.runs import Prepared, Settings


@dataclass(frozen=True)
class Wait:
    """A task that another waits for, and the levels that it then has sealed."""

    task: Task
    levels: int


class Order:
    """Which tasks may begin: one that shares the beginning of an earlier one waits until that is sealed, or ended."""

    def __init__(self, runs: Sequence[Prepared], tasks: Sequence[Task], settings: Settings) -> None:
        self.waits = waits(runs, tasks, settings)
        self.ended = set[Task]()
        names = {run.folder.path.name: number for number, run in enumerate(runs)}
        self._numbers: Mapping[str, int] = names
        self._sealed = {
            (number, seed): sealed_levels(runs[number].folder, seed, len(runs[number].foreseen))
            for number, seed in tasks
        }

    def hearing(self, tell: Listener) -> Listener:
        """The listener, with what it is told of levels taken into account."""

        def listen(event: Event) -> None:
            if isinstance(event, LevelDone) and event.run in self._numbers:
                self._sealed[self._numbers[event.run], event.seed] = event.level + 1
            tell(event)

        return listen

    def may_begin(self, task: Task) -> bool:
        """Whether a task need not wait any more."""
        other = self.waits.get(task)
        return other is None or other.task in self.ended or self._sealed[other.task] >= other.levels


def waits(runs: Sequence[Prepared], tasks: Sequence[Task], settings: Settings) -> dict[Task, Wait]:
    """For each task that shares more levels with an earlier one of its seed than are stored, the one it waits for."""
    dense = [dense_state(run, settings) for run in runs]
    shared: dict[tuple[int, int], int] = {}
    found: dict[Task, Wait] = {}
    for position, (number, seed) in enumerate(tasks):
        most = sum(one.levels for one in reused(runs[number], seed, settings))
        for other, same_seed in tasks[:position]:
            if same_seed != seed:
                continue
            if (number, other) not in shared:
                levels = common(runs[number], runs[other])
                shared[number, other] = max(levels, int(dense[number] == dense[other]))
            if shared[number, other] > most:
                most = shared[number, other]
                found[number, seed] = Wait((other, seed), most)
    return found
