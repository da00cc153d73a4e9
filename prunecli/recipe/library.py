"""The built-in recipes: they travel inside the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunecli.errors import UsageError, suggest

_PACKAGE = Path(__file__).parent.parent


def folder() -> Path:
    """Where the built-in recipes are: in the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def names() -> list[str]:
    """The built-in recipes' names, such as `jin2022/lenet_mnist`."""
    return sorted(path.relative_to(folder()).with_suffix("").as_posix() for path in folder().rglob("*.yaml"))


def about(name: str) -> str:
    """A built-in recipe's `about` line."""
    for line in path_of(name).read_text(encoding="utf-8").splitlines():
        if line.startswith("about:"):
            return line.removeprefix("about:").strip().strip("\"'")
    return ""


def path_of(name: str, files: Sequence[str] = ()) -> Path:
    """A built-in recipe's file; `files` are others that may have been meant.

    Raises:
        UsageError: there is none of this name.
    """
    known = names()
    wanted = name.removeprefix("recipes/").removesuffix(".yaml")
    if wanted not in known:
        hints = [suggest(name, files), suggest(wanted, known)]
        hint = next((hint for hint in hints if "did you mean" in hint), hints[-1])
        raise UsageError(f"there is no recipe '{name}', neither a file nor a built-in one{hint}")
    return folder() / f"{wanted}.yaml"


def find(given: str) -> Path:
    """The recipe's file: the path as given, a run's folder, or a built-in recipe's name.

    Raises:
        UsageError: it is none of these.
    """
    path = Path(given)
    try:
        path.exists()
    except OSError as error:
        raise UsageError(f"{given}: {(error.strerror or str(error)).lower()}") from error
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_dir():
        raise UsageError(f"{path}: a folder that is no run; give a recipe, such as {path}/NAME.yaml")
    return path if path.exists() else path_of(given, [str(other) for other in path.parent.glob("*.yaml")])
