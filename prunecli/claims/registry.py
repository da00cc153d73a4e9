"""Claims by paper: what it says, the rule that decides, and the function that applies it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from prunecli.claims.answers import UNTESTED, Answer, Finding
from prunecli.claims.study import Benchmark, Study
from prunecli.errors import PrunecliError

Scope = Literal["clean", "noisy", "all clean", "all noisy", "family"]
"""What a claim is tested on: each benchmark by itself, all of them together, or each family of noise levels."""
Test = Callable[[Study, Sequence[Benchmark]], tuple[Answer, str]]
"""The answer, and the numbers that say so.

Raises:
    PrunecliError: it cannot be tested on these, and why.
"""


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the rule by which it holds here or does not."""

    number: str
    text: str
    rule: str
    scope: Scope
    test: Test

    def findings(self, study: Study) -> Iterator[Finding]:
        """What it comes to on everything that it can be tested on."""
        for name, benchmarks in _subjects(study, self.scope):
            try:
                yield Finding(name, *self.test(study, benchmarks))
            except PrunecliError as error:
                yield Finding(name, UNTESTED, str(error))


claims_by_paper: dict[str, list[Claim]] = {}


def claim_of(paper: str) -> Callable[[str, str, str, Scope], Callable[[Test], Test]]:
    """A decorator for the paper's claims: `@claim(number, text, rule, scope)`."""

    def decorator(number: str, text: str, rule: str, scope: Scope) -> Callable[[Test], Test]:
        def register(test: Test) -> Test:
            claims_by_paper.setdefault(paper, []).append(Claim(number, text, rule, scope, test))
            return test

        return register

    return decorator


def _subjects(study: Study, scope: Scope) -> Iterator[tuple[str, Sequence[Benchmark]]]:
    one_by_one = {"clean": study.clean, "noisy": study.noisy}
    together = {"all clean": study.clean, "all noisy": study.noisy}
    if scope in one_by_one:
        yield from ((one.name, [one]) for one in one_by_one[scope])
    elif scope in together:
        yield f"{scope}: {len(together[scope])}", together[scope]
    else:
        yield from study.families.items()
