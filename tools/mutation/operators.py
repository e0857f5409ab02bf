"""What is changed in a contract, one place at a time: from solc's syntax tree, so that only code is mutated.

Not mutated: the arguments of a revert (tests compare them anyway, and they would flatter the score), names, types,
visibility, and what solc already refuses.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Node = dict[str, Any]

ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "%": "*", "**": "*", "&": "|", "|": "&", ">>": "<<", "<<": ">>"}
COMPARISONS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
}
LOGIC = {"&&": "||", "||": "&&"}
ASSIGNMENTS = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "|=": "&=", "&=": "|="}
OTHER_BOUND = {"min": "max", "max": "min"}
# Of these the first two arguments may change places.
COMMUTATIVE = {"min", "max", "mulDiv", "valueDown", "valueUp", "shareDown", "shareUp", "unitsValueDown"}
ZEROS = {"uint": "0", "int": "0", "bytes32": "bytes32(0)", "address": "address(0)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change: the bytes from `start` to `end` of `file` become `text`."""

    id: str
    file: str
    # The contract's name, as its file is called; and where in it.
    contract: str
    function: str
    # The declaration's number in the syntax tree; zero for a constructor.
    declaration: int
    operator: str
    line: int
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants_of(file: str, tree: Node, trees: dict[str, Node]) -> list[Mutant]:
    """Every mutant of a file, in the order of the code. Ids depend on the code around a change, not on line numbers."""
    return _Walk(file, tree, trees).mutants()


class _Walk:
    def __init__(self, file: str, tree: Node, trees: dict[str, Node]) -> None:
        self.file, self.tree = file, tree
        self.source: bytes = tree["source"]
        self.siblings = _siblings(trees)

    def mutants(self) -> list[Mutant]:
        found: list[Mutant] = []
        seen: Counter[str] = Counter()
        changes = [
            (where, change)
            for contract in self.tree["nodes"]
            if contract["nodeType"] == "ContractDefinition" and contract["contractKind"] != "interface"
            for part in contract["nodes"]
            for where in [_where(part)]
            for change in self.changes(part, part)
        ]
        for (function, declaration), (operator, start, end, text, statement) in changes:
            old = self.source[start:end].decode()
            if old == text:
                continue
            content = "|".join((self.file, function, operator, self.text(statement), old, text))
            seen[content] += 1
            digest = hashlib.sha256(f"{content}|{seen[content]}".encode()).hexdigest()[:8]
            found.append(
                Mutant(
                    id=digest, file=self.file, contract=self.file.rsplit("/", 1)[-1].removesuffix(".sol"),
                    function=function, declaration=declaration, operator=operator,
                    line=self.source.count(b"\n", 0, start) + 1, start=start, end=end, text=text,
                )
            )  # fmt: skip
        return sorted(found, key=lambda mutant: (mutant.start, mutant.end, mutant.operator, mutant.text))

    def changes(self, node: Node, statement: Node) -> Iterator[tuple[str, int, int, str, Node]]:
        """(operator, start, end, text, statement) for everything below a node; not in a revert's arguments."""
        kind = node.get("nodeType", "")
        if kind.endswith("Statement") or kind == "Return":
            statement = node
        change = getattr(self, "at_" + kind, None)
        for operator, start, end, text in change(node) if change else ():
            yield operator, start, end, text, statement
        if kind == "RevertStatement" or (kind == "FunctionCall" and _name(node["expression"]) == "revert"):
            return
        for child in _children(node):
            yield from self.changes(child, statement)

    # One method for each kind of node: (operator, start, end, text)

    def at_BinaryOperation(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        old, left, right = node["operator"], node["leftExpression"], node["rightExpression"]
        start = self.source.index(old.encode(), _end(left), _start(right))
        for operator, table in (("arithmetic", ARITHMETIC), ("logic", LOGIC)):
            if old in table:
                yield operator, start, start + len(old), table[old]
        for new in COMPARISONS.get(old, ()):
            yield "comparison", start, start + len(old), new
        if old in LOGIC:
            yield "operand", *_span(node), self.text(left)
            yield "operand", *_span(node), self.text(right)

    def at_UnaryOperation(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        if node["operator"] in ("!", "-") and node["prefix"]:
            yield "unary", *_span(node), self.text(node["subExpression"])

    def at_Assignment(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        old = node["operator"]
        if old in ASSIGNMENTS:
            start = self.source.index(old.encode(), _end(node["leftHandSide"]), _start(node["rightHandSide"]))
            yield "assignment", start, start + len(old), ASSIGNMENTS[old]
            yield "assignment", start, start + len(old), "="

    def at_Literal(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        if node["kind"] == "bool":
            yield "constant", *_span(node), "false" if node["value"] == "true" else "true"
        elif node["kind"] == "number" and not node["typeDescriptions"]["typeString"].startswith("address"):
            yield "constant", *_span(node), "1" if node["value"] == "0" else f"({self.text(node)} + 1)"
            if node["value"] == "1" and not node.get("subdenomination"):
                yield "constant", *_span(node), "0"

    def at_MemberAccess(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        """Another value of the same enum, another reason, the other rounding."""
        start, end = _end(node) - len(node["memberName"]), _end(node)
        if other := self.siblings.get(node.get("referencedDeclaration")):
            yield "name", start, end, other
        if node["memberName"] in OTHER_BOUND and _is_function(node):
            yield "bound", start, end, OTHER_BOUND[node["memberName"]]
        for old, new in (("Down", "Up"), ("Up", "Down")):
            other = node["memberName"].removesuffix(old) + new
            if node["memberName"].endswith(old) and other in self.siblings["names"]:
                yield "rounding", start, end, other

    def at_Conditional(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        yes, no = node["trueExpression"], node["falseExpression"]
        between = self.source[_end(yes) : _start(no)].decode()
        yield "branches", _start(yes), _end(no), self.text(no) + between + self.text(yes)

    def at_FunctionCall(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        arguments, name = node["arguments"], _name(node["expression"])
        if name == "ceilDiv":
            yield "rounding", *_span(node), f"(({self.text(arguments[0])}) / ({self.text(arguments[1])}))"
        if name == "mulDiv":
            last = arguments[-1]
            if len(arguments) == 4:
                yield "rounding", _end(arguments[2]), _end(last), ""
            else:
                yield "rounding", _end(last), _end(last), ", Math.Rounding.Ceil"
        if node["kind"] == "typeConversion" or node["names"] or name == "revert":
            return
        for left, right in zip(arguments, arguments[1:], strict=False):
            commutes = name in COMMUTATIVE and arguments.index(left) == 0
            if not commutes and _type(left) == _type(right):
                between = self.source[_end(left) : _start(right)].decode()
                yield "arguments", _start(left), _end(right), self.text(right) + between + self.text(left)

    def at_IfStatement(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        if _only_reverts(node["trueBody"]) and not node.get("falseBody"):
            yield "guard", *self.whole(node), "{}"
        else:
            yield "condition", *_span(node["condition"]), "true"
            yield "condition", *_span(node["condition"]), "false"

    def at_ExpressionStatement(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        if _name(node["expression"].get("expression", {})) != "revert":
            yield "statement", *self.whole(node), "{}"

    def at_EmitStatement(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        yield "event", *self.whole(node), "{}"

    def at_Return(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        value = node.get("expression")
        if value is None:
            yield "statement", *self.whole(node), "{}"
        elif _type(value) == "bool":
            yield "return", *_span(value), f"!({self.text(value)})"
        elif (base := _type(value).rstrip("0123456789")) in ZEROS or (base := _type(value)) in ZEROS:
            yield "return", *_span(value), ZEROS[base]

    def at_ModifierInvocation(self, node: Node) -> Iterator[tuple]:  # noqa: N802
        if node.get("kind") == "modifierInvocation":
            yield "modifier", *_span(node), ""

    def text(self, node: Node) -> str:
        return self.source[_start(node) : _end(node)].decode()

    def whole(self, statement: Node) -> tuple[int, int]:
        """A statement's span with the semicolon that the tree leaves out."""
        start, end = _span(statement)
        after = end + len(self.source[end:]) - len(self.source[end:].lstrip())
        return (start, after + 1) if self.source[after : after + 1] == b";" else (start, end)


def _siblings(trees: dict[str, Node]) -> dict[Any, Any]:
    """For an enum's value or a constant of Reasons: the next one's name. Under "names": every library function's."""
    found: dict[Any, Any] = {"names": set()}
    for tree in trees.values():
        for node in walk(tree):
            values: list[Node] = []
            if node["nodeType"] == "EnumDefinition":
                values = node["members"]
            elif node["nodeType"] == "ContractDefinition" and node["contractKind"] == "library":
                values = [part for part in node["nodes"] if part.get("constant")] if node["name"] == "Reasons" else []
                functions = [part for part in node["nodes"] if part["nodeType"] == "FunctionDefinition"]
                found["names"] |= {part["name"] for part in functions if node["name"] == "GuardMath"}
            for value, after in zip(values, values[1:] + values[:1], strict=True):
                found[value["id"]] = after["name"]
    return found


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in _children(node):
        yield from walk(child)


def _children(node: Node) -> Iterator[Node]:
    for value in node.values():
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, dict) and "nodeType" in item:
                yield item


def _where(part: Node) -> tuple[str, int]:
    name = part.get("name") or part.get("kind") or part["nodeType"]
    return name, part["id"] if part.get("kind") != "constructor" else 0


def _span(node: Node) -> tuple[int, int]:
    start, length, _ = map(int, node["src"].split(":"))
    return start, start + length


def _start(node: Node) -> int:
    return _span(node)[0]


def _end(node: Node) -> int:
    return _span(node)[1]


def _name(expression: Node) -> str:
    return expression.get("memberName") or expression.get("name") or ""


def _type(expression: Node) -> str:
    return expression["typeDescriptions"].get("typeString", "")


def _is_function(expression: Node) -> bool:
    return _type(expression).startswith("function")


def _only_reverts(body: Node) -> bool:
    statements = body["statements"] if body["nodeType"] == "Block" else [body]
    return len(statements) == 1 and (
        statements[0]["nodeType"] == "RevertStatement"
        or _name(statements[0].get("expression", {}).get("expression", {})) == "revert"
    )
