"""Where what recipes name is looked for on this machine: datasets, files and runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from prunecli.errors import UsageError
from prunecli.registry import NoResult


def _without_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("should have no NUL character, which no path can have")
    return path


PathInRecipe = Annotated[str, Field(max_length=4096), AfterValidator(_without_nul), NoResult()]
"""A path that a recipe names: where the data is changes no result."""


@dataclass(frozen=True)
class Roots:
    """Where datasets are looked for, in this order, and whether they may be downloaded."""

    folders: tuple[Path, ...] = ()
    download: bool = False
    before_recipe: int = 0
    """How many of the folders go before the root that a recipe names."""
    recipe: Path | None = None
    """The folder that the recipe is in."""

    @property
    def allowed(self) -> tuple[Path, ...]:
        """The folders that a recipe's paths may lead into: the roots, the working directory, the recipe's own."""
        own = () if self.recipe is None else (self.recipe,)
        return tuple(dict.fromkeys((*self.folders, Path(), *own)))

    def search(self, root: str = "") -> tuple[Path, ...]:
        """The folders to look in, each once, with a recipe's root at its place.

        Raises:
            UsageError: the recipe's root leads out of the folders that are allowed.
        """
        first, rest = self.folders[: self.before_recipe], self.folders[self.before_recipe :]
        return tuple(dict.fromkeys((*first, *(self._inside(root, [Path(root)]) if root else []), *rest)))

    def paths(self, path: str) -> tuple[Path, ...]:
        """Where a recipe's own file or folder may be: under each root, in the working directory, by the recipe.

        Raises:
            UsageError: the path leads out of the folders that are allowed.
        """
        return self._inside(path, [folder / path for folder in self.allowed])

    def _inside(self, path: str, candidates: Sequence[Path]) -> tuple[Path, ...]:
        """Those candidates that are, links followed, inside an allowed folder: a recipe may be a stranger's."""
        allowed = [_resolved(folder) for folder in self.allowed]
        found = [
            candidate
            for candidate in dict.fromkeys(candidates)
            if any(_resolved(candidate).is_relative_to(folder) for folder in allowed)
        ]
        if not found:
            raise UsageError(
                f"the recipe's path '{path}' leads to {_resolved(candidates[0])}, which is outside "
                f"{', '.join(map(str, dict.fromkeys(allowed)))}; --data-root DIR allows another folder"
            )
        return tuple(found)


def roots(data_root: str | None, download: bool, environ: Mapping[str, str]) -> Roots:
    """`--data-root`, [a recipe's root,] $PRUNECLI_DATA, ~/.cache/prunecli/data."""
    chosen = [data_root] if data_root else []
    named = [*chosen, environ.get("PRUNECLI_DATA", ""), "~/.cache/prunecli/data"]
    return Roots(tuple(_expanded(name) for name in named if name), download, before_recipe=len(chosen))


@dataclass(frozen=True)
class Places:
    """Where runs are kept, and where a recipe's own paths are looked for; `roots` are as without `--data-root`."""

    runs: Path = Path("runs")
    roots: Roots = field(default_factory=lambda: roots(None, False, os.environ))

    def beside(self, folder: Path | None) -> Places:
        """The same, for a recipe in this folder."""
        return replace(self, roots=replace(self.roots, recipe=folder))


def _resolved(path: Path) -> Path:
    # Path.resolve raises where links go in circles; os.path's stops there.
    return Path(os.path.realpath(path))


def _expanded(path: str) -> Path:
    # Where there is no home, Path.expanduser raises; os.path's leaves the name as it is.
    return Path(os.path.expanduser(path))  # noqa: PTH111
