"""What `prunecli ls` lists: recipes and registered names, and what a prefix such as `timm:` stands before."""

from __future__ import annotations

from prunecli.errors import UsageError, suggest


def listed(kind: str, pattern: str) -> list[tuple[str, str]]:
    """The names of a kind that contain the pattern, and what is to be said of each.

    Behind a prefix, as in `timm:resnet10`, they are those that contain the rest of the pattern.

    Raises:
        UsageError: there is no such kind.
    """
    rows = [(name, about) for name, about in _every(kind) if pattern in name]
    return _prefixed(kind, pattern) or rows


def _every(kind: str) -> list[tuple[str, str]]:
    from prunecli.recipe import library

    if kind == "recipes":
        return [(name, library.about(name)) for name in library.names()]
    import prunecli.catalog  # noqa: F401  (registers what there is)
    from prunecli.registry import Registry

    if not kind:
        counts = [(name, f"{len(registry)} of them") for name, registry in sorted(Registry.all.items())]
        return [("recipes", f"{len(library.names())} of them"), *counts]
    if kind not in Registry.all:
        raise UsageError(f"there are no '{kind}' to list{suggest(kind, ['recipes', *Registry.all])}")
    return [(entry.name, entry.summary) for entry in Registry.all[kind].entries()]


def _prefixed(kind: str, pattern: str) -> list[tuple[str, str]]:
    from prunecli.registry import Registry

    prefix, colon, rest = pattern.partition(":")
    entries = Registry.all[kind].entries() if colon and kind in Registry.all else []
    return [
        (f"{entry.name}{name}", entry.summary)
        for entry in entries
        if entry.name == f"{prefix}:" and "names" in entry.traits
        for name in entry.traits["names"]()
        if rest in name
    ]
