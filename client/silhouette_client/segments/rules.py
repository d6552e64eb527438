"""The rules that make segments: a small part of Python's expressions, read as a tree and never run as code.

    "Drama" in tags and trait.breadth > 0.4 and count.purchase >= 3 and recency_days < 30
    guess.gender == "F" and weight.purchases > 0.3 and rfm.recency >= 4

A rule compares names with numbers and texts, and joins comparisons by `and`, `or` and `not`. What a person's record
does not say makes a comparison false, whichever it is, so `not (trait.breadth > 0.4)` holds for people without that
trait and `trait.breadth <= 0.4` does not.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from silhouette_shared.errors import UsageError

Value = float | str | tuple[str, ...]
Facts = Mapping[str, Value]
"""What a rule asks of one person, by name; what is not known is not there."""

_LONGEST = 2000
_ORDERED: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_Test = Callable[[Facts], bool]
_Operand = Callable[[Facts], Value | None]


class RuleError(UsageError):
    """A rule that cannot be read. Exit code 2."""


@dataclass(frozen=True)
class Rule:
    """A rule that was read; equal texts are equal rules."""

    text: str
    names: frozenset[str]  # that it asks for
    _test: _Test

    def __call__(self, facts: Facts) -> bool:
        """Whether it holds for a person."""
        return self._test(facts)


def parse_rule(text: str, known: Collection[str]) -> Rule:
    """Read a rule.

    Args:
        text: As above, at most 2,000 characters.
        known: Names that the node's profiles have.

    Raises:
        RuleError: If it is none, or asks for another name.

    >>> rule = parse_rule('events >= 10 and "Drama" in tags', ["events", "tags"])
    >>> rule({"events": 12, "tags": ("Drama",)}), rule({"events": 12})
    (True, False)
    """
    if not text.strip() or len(text) > _LONGEST:
        raise RuleError(f"expected a rule of 1 to {_LONGEST} characters, got {len(text)}; for example: events >= 10")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        where = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise RuleError(
            f'expected a rule like `events >= 10 and "Drama" in tags`, got something else{where}; correct it'
        ) from None
    reader = _Reader(frozenset(known))
    try:
        test = reader.test(tree.body)
    except RecursionError:
        raise RuleError("expected a rule without deep nesting, got one that is too deep; split it") from None
    return Rule(text.strip(), frozenset(reader.names), test)


class _Reader:
    """Turns a tree into a function, part by part; what is not listed here is refused."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known, self.names = known, set[str]()

    def test(self, node: ast.expr) -> _Test:
        if isinstance(node, ast.BoolOp):
            parts = [self.test(one) for one in node.values]
            if isinstance(node.op, ast.And):
                return lambda facts: all(part(facts) for part in parts)
            return lambda facts: any(part(facts) for part in parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.test(node.operand)
            return lambda facts: not inner(facts)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        raise self._refused(node, "a comparison like `events >= 10`")

    def _compare(self, node: ast.Compare) -> _Test:
        operands = [node.left, *node.comparators]
        pairs = [
            self._pair(node, left, sign, right)
            for left, sign, right in zip(operands, node.ops, operands[1:], strict=False)
        ]
        return lambda facts: all(pair(facts) for pair in pairs)

    def _pair(self, whole: ast.Compare, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> _Test:
        if isinstance(sign, ast.In | ast.NotIn):
            one, many = self._operand(left), self._many(right)
            wanted = isinstance(sign, ast.In)

            def contained(facts: Facts) -> bool:
                value, values = one(facts), many(facts)
                return value is not None and values is not None and (value in values) is wanted

            return contained
        first, second = self._operand(left), self._operand(right)
        if isinstance(sign, ast.Eq | ast.NotEq):
            equal = isinstance(sign, ast.Eq)

            def same(facts: Facts) -> bool:
                one, other = first(facts), second(facts)
                return one is not None and other is not None and (one == other) is equal

            return same
        if type(sign) not in _ORDERED:
            raise self._refused(whole, "one of < <= > >= == != in, not in")
        compare = _ORDERED[type(sign)]

        def ordered(facts: Facts) -> bool:
            one, other = first(facts), second(facts)
            if not isinstance(one, int | float) or not isinstance(other, int | float):
                return False
            return compare(one, other)

        return ordered

    def _many(self, node: ast.expr) -> Callable[[Facts], tuple[Value, ...] | None]:
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            values = tuple(self._constant(one) for one in node.elts)
            return lambda facts: values
        name = self._name(node)

        def several(facts: Facts) -> tuple[Value, ...] | None:
            found = facts.get(name)
            return found if isinstance(found, tuple) else None

        return several

    def _operand(self, node: ast.expr) -> _Operand:
        if isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)):
            value = self._constant(node)
            return lambda facts: value
        name = self._name(node)
        return lambda facts: facts.get(name)

    def _constant(self, node: ast.expr) -> Value:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._constant(node.operand)
            if isinstance(value, float):
                return -value
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return node.value
            if isinstance(node.value, int | float) and not isinstance(node.value, bool):
                return float(node.value)
        raise self._refused(node, "a number or a text in quotes")

    def _name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
        else:
            raise self._refused(node, "a name like `events` or `trait.breadth`, a number or a text in quotes")
        if name not in self.known:
            near = difflib.get_close_matches(name, self.known, n=3) or sorted(self.known)
            raise RuleError(
                f"expected a name that profiles here have, got {name[:60]!r}; did you mean {', '.join(near[:12])}?"
            )
        self.names.add(name)
        return name

    @staticmethod
    def _refused(node: ast.AST, expected: str) -> RuleError:
        kind = type(node).__name__
        place = getattr(node, "col_offset", 0) + 1
        return RuleError(f"expected {expected} in a rule, got {kind} at character {place}; correct it")
