"""The language of `--fail-if`: conditions such as `optimal.test_error > dense.test_error + 0.5`."""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prunecli.errors import Mistake, Place, UsageError, suggest

Values = Mapping[str, float]
_Condition = Callable[[Values], bool]
_Number = Callable[[Values], float]

LEVELS = ("dense", "optimal", "sparsest_better", "sparsest_better_corrected", "last")
"""The words for a level of any run."""
_WORDS = (*LEVELS, "against")
_MAX_LENGTH = 500
_MAX_DEPTH = 40

_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ORDER: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Expression:
    """A condition on the values in `names`, each written `level.metric`."""

    text: str
    names: tuple[str, ...]
    _holds: _Condition = field(repr=False)

    def holds(self, values: Values) -> bool:
        """Whether it is true of these values; ArithmeticError where it divides by zero or overflows."""
        return self._holds(values)


def parse(text: str) -> Expression:
    """The condition that `text` writes: numbers, `level.metric`, + - * / ( ), comparisons, and, or, not."""
    line = " ".join(text.split())
    if len(line) > _MAX_LENGTH:
        raise UsageError(f"--fail-if: {len(line)} characters; at most {_MAX_LENGTH} can be read")
    compiler = _Compiler(line)
    tree = compiler.tree()
    if _depth(tree) > _MAX_DEPTH:
        raise UsageError(f"--fail-if: nested too deep; at most {_MAX_DEPTH} steps can be read")
    holds = compiler.condition(tree)
    names = (compiler.name(node) for node in ast.walk(tree) if _is_outermost(node, tree))
    return Expression(line, tuple(dict.fromkeys(names)), holds)


@dataclass(frozen=True)
class _Compiler:
    """Turns the nodes of `text` into functions; what is not listed here is refused."""

    text: str

    def tree(self) -> ast.expr:
        try:
            return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise self._mistake(
                max(0, (error.offset or 1) - 1), 1, error.msg or "not an expression"
            ) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise UsageError(
                f"--fail-if: {self.text!r} cannot be read: {error or 'nested too deep'}"
            ) from None

    def condition(self, node: ast.AST) -> _Condition:
        match node:
            case ast.BoolOp(op=ast.And(), values=nodes):
                parts = [self.condition(part) for part in nodes]
                return lambda values: all(part(values) for part in parts)
            case ast.BoolOp(values=nodes):
                parts = [self.condition(part) for part in nodes]
                return lambda values: any(part(values) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.condition(operand)
                return lambda values: not inner(values)
            case ast.Compare(ops=ops) if all(type(op) in _ORDER for op in ops):
                return self._comparison(node)
        raise self._refusal(node, "is no condition; a gate compares, as in 'optimal.test_error > 2.5'")

    def _comparison(self, node: ast.Compare) -> _Condition:
        numbers = [self.number(part) for part in (node.left, *node.comparators)]
        orders = [_ORDER[type(op)] for op in node.ops]

        def holds(values: Values) -> bool:
            sides = [number(values) for number in numbers]
            return all(order(*pair) for order, pair in zip(orders, itertools.pairwise(sides), strict=True))

        return holds

    def number(self, node: ast.AST) -> _Number:
        match node:
            # bool is an int to Python, and `True < dense.test_error` is a slip.
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return self._constant(node, value)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.number(operand)
                return lambda values: -inner(values)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.number(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _arithmetic(_ARITHMETIC[type(op)], self.number(left), self.number(right))
            case ast.Attribute():
                name = self.name(node)
                return lambda values: values[name]
        raise self._refusal(node, "is no number; known are numbers, 'level.metric', + - * / and brackets")

    def name(self, node: ast.AST) -> str:
        """`optimal.test_error`; what observers add may have more dots."""
        parts: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise self._refusal(node, "is no number; a value is written 'level.metric'")
        if inner.id not in _WORDS and not re.fullmatch(r"level_[0-9]{1,6}", inner.id):
            raise self._refusal(inner, f"is no level{suggest(inner.id, (*_WORDS, 'level_12'))}")
        return ".".join((inner.id, *parts))

    def _constant(self, node: ast.AST, value: float) -> _Number:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number):
            raise self._refusal(node, "is too large a number")
        return lambda _values: number

    def _refusal(self, node: ast.AST, why: str) -> UsageError:
        found = ast.get_source_segment(self.text, node) or self.text
        # The parser counts bytes.
        before = len(self.text.encode()[: getattr(node, "col_offset", 0)].decode())
        return self._mistake(before, len(found), f"'{found}' {why}")

    def _mistake(self, column: int, length: int, message: str) -> UsageError:
        return UsageError(str(Mistake(Place("--fail-if", 1, column + 1, self.text, length), message)))


def _arithmetic(operate: Callable[[float, float], float], left: _Number, right: _Number) -> _Number:
    def number(values: Values) -> float:
        result = operate(left(values), right(values))
        if not math.isfinite(result):
            raise OverflowError("result too large")
        return result

    return number


def _depth(tree: ast.AST) -> int:
    depth, row = 0, [tree]
    while row:
        row = [child for node in row for child in ast.iter_child_nodes(node)]
        depth += 1
    return depth


def _is_outermost(node: ast.AST, tree: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and not any(
        isinstance(parent, ast.Attribute) and parent.value is node for parent in ast.walk(tree)
    )
