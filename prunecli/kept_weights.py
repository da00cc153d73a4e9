"""The weights that a run keeps of its levels, where its recipe asks for them: `keep_weights`.

They are written before their level is sealed, so that a sealed level has those that it is to have. Where levels were
sealed without, or are another run's, weights are kept as far as a state or the other run still has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prunecli.errors import DamagedRun, NewerFormat
from prunecli.kept import Kept, misfit
from prunecli.lab import Lab
from prunecli.masks import Tensors
from prunecli.runs import Prepared
from prunecli.state import State
from prunecli.store.folder import RunFolder
from prunecli.store.run_file import read_run_json
from prunecli.store.sealing import record_path
from prunecli.store.weight_files import read_weights_file, weights_path
from prunecli.store.weights import load_weights, parts_of, save_weights, state_dict_of


def lacking_weights(run: Prepared, seeds: Sequence[int]) -> str:
    """What to say of stored seeds that lack weights which the recipe asks for; empty where none do."""
    wanted = [level for level in range(len(run.foreseen)) if is_wanted(run, level)]
    lacking = [
        seed
        for seed in seeds
        if not all(record_path(weights_path(run.folder, seed, level)).exists() for level in wanted)
    ]
    if not lacking:
        return ""
    return (
        f"{run.folder.path}: not all weights that keep_weights asks for are there of seed{'s' * (len(lacking) > 1)} "
        f"{', '.join(map(str, lacking))}: what is complete is not made again; another --runs folder has them made"
    )


def is_wanted(run: Prepared, level: int) -> bool:
    """Whether the recipe asks for a level's weights."""
    wanted = run.experiment.keep_weights
    return wanted == "all" or (wanted == "ends" and level in (0, len(run.foreseen) - 1))


@dataclass(frozen=True)
class KeptWeights:
    """The weights that a seed of a run keeps, beside the states `kept` that it goes on from."""

    kept: Kept

    def wants(self, level: int) -> bool:
        """Whether the recipe asks for a level's weights."""
        return is_wanted(self.kept.run, level)

    def save(self, level: int, state: State, lab: Lab) -> None:
        """Keep the weights at a level's end, if the recipe asks for them."""
        if self.wants(level):
            self._save(level, state_dict_of(lab.model, state.weights, state.buffers))

    def fill(self, levels: Iterable[int], lab: Lab, other: str = "") -> None:
        """Keep the weights of levels that have none yet, from kept states and from the run of the name `other`."""
        lacking = []
        for level in filter(self.wants, levels):
            if self._has(level):
                continue
            found = self._of_state(level, lab) or (self._of_run(other, level, lab) if other else None)
            if found is None:
                lacking.append(level)
            else:
                self._save(level, found)
        if lacking:
            whose = f"are those of {other}, which keeps no weights of them" if other else "are sealed without"
            self.kept.say(
                f"seed {self.kept.seed}: weights of level{'s' * (len(lacking) > 1)} "
                f"{', '.join(map(str, lacking))} are not kept: the levels {whose}, and are not made again; "
                "another --runs folder has them made"
            )

    def _has(self, level: int) -> bool:
        try:
            return read_weights_file(self.kept.run.folder, self.kept.seed, level) is not None
        except NewerFormat:
            raise
        except DamagedRun:
            return False  # It is set aside, and named, where they are written anew.

    def _save(self, level: int, tensors: Tensors) -> None:
        for message in save_weights(self.kept.run.folder, self.kept.seed, level, tensors):
            self.kept.say(message)

    def _of_state(self, level: int, lab: Lab) -> Tensors | None:
        """The weights of a level's kept state; None where there is none."""
        state = self.kept.read(self.kept.name(level))
        if state is None or misfit(state, lab):
            return None
        return state_dict_of(lab.model, state.weights, state.buffers)

    def _of_run(self, name: str, level: int, lab: Lab) -> Tensors | None:
        """The weights that another run keeps of a level; None where it has none that are whole."""
        path = self.kept.settings.runs / name
        try:
            folder = RunFolder(path, read_run_json(path)["recipe_digest"])
            tensors = load_weights(folder, self.kept.seed, level)
            if tensors is not None:
                parts_of(lab.model, tensors, lab.initial().buffers, str(path))
            return tensors
        except DamagedRun as error:
            self.kept.say(str(error))
            return None
