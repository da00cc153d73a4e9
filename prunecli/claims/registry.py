"""Claims by paper: what it says, the rule that decides, and the function that applies it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from prunecli.claims.answers import UNTESTED, Answer, Finding
from prunecli.errors import PrunecliError

Test = Callable[[Any, Any], tuple[Answer, str]]  # Any: each paper has a study and subjects of its own
"""The answer on a subject of a study, and the numbers that say so.

Raises:
    PrunecliError: it cannot be tested on these, and why.
"""


class Study(Protocol):
    """Stored runs as a paper's claims look at them."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answers should know."""
        ...

    def subjects(self, scope: str) -> Iterable[tuple[str, Any]]:  # Any: as above
        """What a claim of this scope is tested on, each with its name."""
        ...


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the rule by which it holds here or does not; `scope` is what it is tested on."""

    number: str
    text: str
    rule: str
    scope: str
    test: Test

    def findings(self, study: Study) -> Iterator[Finding]:
        """What it comes to on everything that it can be tested on."""
        for name, subject in study.subjects(self.scope):
            try:
                yield Finding(name, *self.test(study, subject))
            except PrunecliError as error:
                yield Finding(name, UNTESTED, str(error))


claims_by_paper: dict[str, list[Claim]] = {}


def claim_of(paper: str) -> Callable[[str, str, str, str], Callable[[Test], Test]]:
    """A decorator for the paper's claims: `@claim(number, text, rule, scope)`."""

    def decorator(number: str, text: str, rule: str, scope: str) -> Callable[[Test], Test]:
        def register(test: Test) -> Test:
            claims_by_paper.setdefault(paper, []).append(Claim(number, text, rule, scope, test))
            return test

        return register

    return decorator
