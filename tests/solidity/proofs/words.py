"""EVM byte code over the integers: every result is a formula, exact, and every overflow is a question.

A bit-vector solver gives up on 256-bit products and quotients. Here a word is an integer term with bounds, so that a
product of two amounts is a product, and a quotient q of a by b is the number with q b <= a < q b + b. What wraps at
2^256 becomes an equation with a counted carry. `run` follows every path of a pure function of compiled code and answers
each with what it needs to be taken (constraints), and what it returns or how it reverts. An operation or a shape of
operands that is not modelled exactly ends the run with `Unmodelled`: there are no guesses.

`prove` asks z3 for a counterexample; no answer in time is no proof.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import z3

WORD = 2**256
TOP = 2**255
MAX_STEPS = 20_000


class Unmodelled(Exception):
    """The code does something that this machine has no exact formula for."""


@dataclass(frozen=True)
class Word:
    """A value in [lo, hi], both inclusive, and what is known of where it came from."""

    value: z3.ArithRef | int
    lo: int
    hi: int
    truth: z3.BoolRef | None = None  # of a word that is 0 or 1
    factors: tuple[Word, Word] | None = None  # of a product
    carry: z3.ArithRef | None = None  # how often a product wrapped
    zeros: int = 0  # low bits that are zero for certain
    xor: tuple[Word, Word] | None = None  # a word known only as the exclusive or of two
    chosen: tuple[Word, Word, z3.BoolRef] | None = None  # xor x condition

    @property
    def known(self) -> bool:
        return isinstance(self.value, int) and not self.xor and not self.chosen


def constant(value: int) -> Word:
    zeros = (value & -value).bit_length() - 1 if value else 256
    return Word(value, value, value, truth=z3.BoolVal(bool(value)) if value in (0, 1) else None, zeros=zeros)


def variable(name: str, hi: int, lo: int = 0) -> Word:
    return Word(z3.Int(name), lo, hi) if lo < hi else constant(lo)


def boolean(truth: z3.BoolRef | bool) -> Word:
    if isinstance(truth, bool):
        return constant(int(truth))
    return Word(z3.If(truth, 1, 0), 0, 1, truth=truth)


@dataclass
class Path:
    """One way through the code."""

    constraints: list[z3.BoolRef]
    pc: int = 0
    stack: list[Word] = field(default_factory=list)
    memory: dict[int, Word] = field(default_factory=dict)
    known: dict[tuple[object, ...], Word] = field(default_factory=dict)
    # x y = term for each product: kept apart, because most questions are linear without them
    products: list[tuple[z3.ArithRef, z3.ArithRef, z3.ArithRef]] = field(default_factory=list)
    returned: list[Word] | None = None
    reverted: str | None = None

    def fork(self, condition: z3.BoolRef) -> Path:
        return Path(
            [*self.constraints, condition],
            self.pc,
            list(self.stack),
            dict(self.memory),
            dict(self.known),
            list(self.products),
        )


_fresh = itertools.count()


def _new(name: str, lo: int, hi: int, path: Path) -> z3.ArithRef:
    term = z3.Int(f"{name}!{next(_fresh)}")
    path.constraints += [term >= lo, term <= hi]
    return term


_alive: dict[int, z3.ArithRef] = {}  # a term that is kept never gives its number to another


def _key(word: Word) -> tuple[str, int]:
    if isinstance(word.value, int):
        return ("", word.value)
    number = word.value.get_id()
    _alive[number] = word.value
    return ("term", number)


class Arithmetic:
    """The operations, each adding to the path what defines its result."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _once(self, key: tuple[object, ...], make) -> Word:
        if key not in self.path.known:
            self.path.known[key] = make()
        return self.path.known[key]

    def wrapped(self, value: z3.ArithRef, lo: int, hi: int, zeros: int = 0, factors=None) -> Word:
        """`value`, which lies in [lo, hi], modulo 2^256."""
        if isinstance(value, int):
            return constant(value % WORD)
        if 0 <= lo and hi < WORD:
            return Word(value, lo, hi, factors=factors, zeros=zeros)
        carry = _new("carry", lo // WORD, hi // WORD, self.path)
        low = _new("low", 0, WORD - 1, self.path)
        self.path.constraints.append(value == low + carry * WORD)
        return Word(low, 0, WORD - 1, factors=factors, carry=carry, zeros=zeros)

    def add(self, a: Word, b: Word) -> Word:
        key = ("add", *sorted((_key(a), _key(b))))
        return self._once(key, lambda: self.wrapped(a.value + b.value, a.lo + b.lo, a.hi + b.hi))

    def sub(self, a: Word, b: Word) -> Word:
        if _key(a) == _key(b):
            return constant(0)
        key = ("sub", _key(a), _key(b))
        return self._once(key, lambda: self.wrapped(a.value - b.value, a.lo - b.hi, a.hi - b.lo))

    def product(self, a: Word, b: Word) -> tuple[z3.ArithRef | int, int, int]:
        """The exact product, as a term that stands for it, and its bounds."""
        lo, hi = a.lo * b.lo, a.hi * b.hi
        if a.known or b.known:
            return a.value * b.value, lo, hi

        def make() -> Word:
            term = _new("product", lo, hi, self.path)
            self.path.products.append((a.value, b.value, term))
            return Word(term, lo, hi)

        return self._once(("product", *sorted((_key(a), _key(b)))), make).value, lo, hi

    def mul(self, a: Word, b: Word) -> Word:
        for flag, other in ((a, b), (b, a)):
            if flag.truth is not None and not flag.known:
                if other.xor:
                    return Word(-1, 0, WORD - 1, chosen=(*other.xor, flag.truth))
                return Word(z3.If(flag.truth, other.value, 0), 0, other.hi, zeros=other.zeros)
        value, lo, hi = self.product(a, b)
        key = ("mul", *sorted((_key(a), _key(b))))
        return self._once(key, lambda: self.wrapped(value, lo, hi, min(256, a.zeros + b.zeros), (a, b)))

    def div(self, a: Word, b: Word) -> Word:
        if b.known and b.value == 0:
            return constant(0)
        if b.known and a.hi < b.value:
            return constant(0)
        if a.factors and any(_key(f) == _key(b) for f in a.factors):
            return self._undo(a, b)
        return self._once(("div", _key(a), _key(b)), lambda: self._divmod(a.value, a.lo, a.hi, b)[0])

    def mod(self, a: Word, b: Word) -> Word:
        if b.known and b.value == 0:
            return constant(0)
        if a.hi < b.lo:
            return a
        return self._once(("mod", _key(a), _key(b)), lambda: self._divmod(a.value, a.lo, a.hi, b)[1])

    def mulmod(self, a: Word, b: Word, modulus: Word) -> Word:
        value, lo, hi = self.product(a, b)
        if hi < modulus.lo:
            return Word(value, lo, hi)
        key = ("mulmod", *sorted((_key(a), _key(b))), _key(modulus))
        return self._once(key, lambda: self._divmod(value, lo, hi, modulus)[1])

    def _divmod(self, a: z3.ArithRef, lo: int, hi: int, b: Word) -> tuple[Word, Word]:
        """The quotient and the rest, both zero where b is."""
        if isinstance(a, int) and b.known:
            return constant(a // b.value), constant(a % b.value)
        path, least = self.path, max(b.lo, 1)
        rest = _new("rest", 0, min(hi, max(b.hi - 1, 0)), path)
        if b.known:
            quotient = _new("quotient", lo // b.hi, hi // least, path)
            path.constraints.append(a == quotient * b.value + rest)
            path.constraints.append(rest < b.value)
            return Word(quotient, lo // b.hi, hi // least), Word(rest, 0, b.hi - 1)
        quotient = _new("quotient", 0 if b.lo == 0 else lo // b.hi, hi // least, path)
        word = Word(quotient, 0 if b.lo == 0 else lo // b.hi, hi // least)
        whole, _, _ = self.product(word, b)
        exact = z3.And(a == whole + rest, rest < b.value)
        path.constraints.append(exact if b.lo > 0 else z3.If(b.value == 0, z3.And(quotient == 0, rest == 0), exact))
        return word, Word(rest, 0, min(hi, b.hi - 1))

    def _undo(self, a: Word, b: Word) -> Word:
        """(x y mod 2^256) / x: it is y exactly where nothing wrapped (y x <= the wrapped product < 2^256 otherwise)."""
        other = a.factors[1] if _key(a.factors[0]) == _key(b) else a.factors[0]
        if a.carry is None:
            if b.lo > 0:
                return other
            return Word(z3.If(b.value == 0, 0, other.value), 0, other.hi)

        def make() -> Word:
            quotient = _new("quotient", 0, WORD - 1, self.path)
            self.path.constraints.append(
                z3.If(b.value == 0, quotient == 0, (a.carry == 0) == (quotient == other.value))
            )
            return Word(quotient, 0, WORD - 1)

        return self._once(("undo", _key(a), _key(b)), make)

    def lt(self, a: Word, b: Word) -> Word:
        if a.hi < b.lo:
            return constant(1)
        if a.lo >= b.hi or _key(a) == _key(b):
            return constant(0)
        return boolean(a.value < b.value)

    def slt(self, a: Word, b: Word) -> Word:
        """Where the bounds tell each sign."""
        for word in (a, b):
            if word.lo < TOP <= word.hi:
                raise Unmodelled("comparison of numbers whose signs are open")
        if (a.lo >= TOP) != (b.lo >= TOP):
            return constant(int(a.lo >= TOP))
        return self.lt(a, b)

    def eq(self, a: Word, b: Word) -> Word:
        if _key(a) == _key(b):
            return constant(1)
        if a.hi < b.lo or b.hi < a.lo:
            return constant(0)
        return boolean(a.value == b.value)

    def iszero(self, a: Word) -> Word:
        if a.truth is not None:
            return boolean(z3.simplify(z3.Not(a.truth))) if not a.known else constant(1 - a.lo)
        return self.eq(a, constant(0))

    def bit_and(self, a: Word, b: Word) -> Word:
        if a.known and b.known:
            return constant(a.value & b.value)
        if a.truth is not None and b.truth is not None:
            return boolean(z3.And(a.truth, b.truth))
        mask, other = (a, b) if a.known else (b, a)
        if mask.known and mask.value & (mask.value + 1) == 0:
            return other if other.hi <= mask.value else self.mod(other, constant(mask.value + 1))
        raise Unmodelled(f"and of two unknown words: {a} {b}")

    def bit_or(self, a: Word, b: Word) -> Word:
        if a.known and b.known:
            return constant(a.value | b.value)
        if a.truth is not None and b.truth is not None:
            return boolean(z3.Or(a.truth, b.truth))
        for low, high in ((a, b), (b, a)):
            if low.hi < 2**high.zeros:
                return self.add(low, high)
        raise Unmodelled("or of two words that may overlap")

    def _either(self, truth: z3.BoolRef, x: Word, y: Word) -> Word:
        """`x` where `truth`, else `y`; as narrow as a minimum or a maximum is."""
        value = z3.If(truth, x.value, y.value)
        lo, hi = min(x.lo, y.lo), max(x.hi, y.hi)
        if not feasible([*self.path.constraints, value > min(x.hi, y.hi)]):
            hi = min(x.hi, y.hi)
        if not feasible([*self.path.constraints, value < max(x.lo, y.lo)]):
            lo = max(x.lo, y.lo)
        return Word(value, lo, hi)

    def bit_xor(self, a: Word, b: Word) -> Word:
        if a.known and b.known:
            return constant(a.value ^ b.value)
        for word, other in ((a, b), (b, a)):
            if word.chosen:  # y ^ ((x ^ y) * c) is x where c holds, and y otherwise
                x, y, truth = word.chosen
                if _key(other) == _key(x):
                    x, y = y, x
                if _key(other) != _key(y):
                    raise Unmodelled("exclusive or")
                return self._either(truth, x, y)
        return Word(-1, 0, WORD - 1, xor=(a, b))

    def shift(self, a: Word, bits: Word, left: bool) -> Word:
        if not bits.known:
            raise Unmodelled("shift by an unknown number of bits")
        power = constant(2**bits.value) if bits.value < 256 else None
        if power is None:
            return constant(0)
        return self.mul(a, power) if left else self.div(a, power)


def feasible(constraints: Sequence[z3.BoolRef], timeout_ms: int = 1_000) -> bool:
    """False only where z3 has shown that nothing satisfies them all."""
    solver = z3.SimpleSolver()
    solver.set("timeout", timeout_ms)
    solver.add(*constraints)
    return solver.check() != z3.unsat


def run(
    code: bytes,
    selector: bytes,
    arguments: Sequence[Word],
    assumptions: Sequence[z3.BoolRef] = (),
    after: Path | None = None,
) -> list[Path]:
    """Every path of one call, or of one that follows `after` and shares its terms."""
    start = after.fork(z3.BoolVal(True)) if after else Path([])
    start.pc, start.stack, start.memory = 0, [], {}
    bounds = start.constraints
    for word in arguments:
        if not word.known:
            bounds += [word.value >= word.lo, word.value <= word.hi]
    jumps = _jump_destinations(code)
    bounds += assumptions
    waiting, done = [start], []
    while waiting:
        path = waiting.pop()
        _follow(code, jumps, selector, arguments, path, waiting)
        if path.returned is not None or path.reverted is not None:
            done.append(path)
    return done


def _jump_destinations(code: bytes) -> set[int]:
    found, at = set(), 0
    while at < len(code):
        if code[at] == 0x5B:
            found.add(at)
        at += code[at] - 0x5E if 0x60 <= code[at] <= 0x7F else 1
    return found


def _follow(
    code: bytes, jumps: set[int], selector: bytes, arguments: Sequence[Word], path: Path, waiting: list[Path]
) -> None:
    """Go on until the call ends, or a branch splits the path: then both parts wait."""
    math, stack = Arithmetic(path), path.stack
    binary = {
        0x01: math.add,
        0x02: math.mul,
        0x03: math.sub,
        0x04: math.div,
        0x06: math.mod,
        0x10: math.lt,
        0x11: lambda a, b: math.lt(b, a),
        0x12: math.slt,
        0x13: lambda a, b: math.slt(b, a),
        0x14: math.eq,
        0x16: math.bit_and,
        0x17: math.bit_or,
        0x18: math.bit_xor,
        0x1B: lambda bits, a: math.shift(a, bits, True),
        0x1C: lambda bits, a: math.shift(a, bits, False),
    }
    for _ in range(MAX_STEPS):
        op = code[path.pc]
        path.pc += 1
        if op in binary:
            a, b = stack.pop(), stack.pop()
            if (a.xor or b.xor or a.chosen or b.chosen) and op not in (0x02, 0x18):
                raise Unmodelled("an exclusive or used as a number")
            stack.append(binary[op](a, b))
        elif 0x5F <= op <= 0x7F:
            size = op - 0x5F
            stack.append(constant(int.from_bytes(code[path.pc : path.pc + size], "big")))
            path.pc += size
        elif 0x80 <= op <= 0x8F:
            stack.append(stack[-(op - 0x7F)])
        elif 0x90 <= op <= 0x9F:
            other = -(op - 0x8E)
            stack[-1], stack[other] = stack[other], stack[-1]
        elif op == 0x15:
            stack.append(math.iszero(stack.pop()))
        elif op == 0x19:
            stack.append(math.sub(constant(WORD - 1), stack.pop()))
        elif op == 0x09:
            stack.append(math.mulmod(stack.pop(), stack.pop(), stack.pop()))
        elif op == 0x0A:
            base, exponent = stack.pop(), stack.pop()
            stack.append(constant(pow(_number(base), _number(exponent), WORD)))
        elif op == 0x34:
            stack.append(constant(0))
        elif op == 0x35:
            stack.append(_calldata(_number(stack.pop()), selector, arguments))
        elif op == 0x36:
            stack.append(constant(4 + 32 * len(arguments)))
        elif op == 0x50:
            stack.pop()
        elif op == 0x51:
            stack.append(path.memory.get(_number(stack.pop()), constant(0)))
        elif op == 0x52:
            at = _number(stack.pop())
            if any(0 < abs(at - other) < 32 for other in path.memory) and at != 4:
                raise Unmodelled("overlapping memory")
            path.memory[at] = stack.pop()
        elif op == 0x56:
            path.pc = _jump(_number(stack.pop()), jumps)
        elif op == 0x57:
            target, condition = _jump(_number(stack.pop()), jumps), stack.pop()
            if condition.hi == 0:
                continue
            if condition.lo > 0:
                path.pc = target
            else:
                taken = condition.truth if condition.truth is not None else condition.value != 0
                for choice, pc in ((taken, target), (z3.Not(taken), path.pc)):
                    part = path.fork(choice)
                    part.pc = pc
                    if feasible(part.constraints):
                        waiting.append(part)
                return
        elif op == 0x5B:
            pass
        elif op == 0xF3:
            at, size = _number(stack.pop()), _number(stack.pop())
            path.returned = [path.memory[at + i] for i in range(0, size, 32)]
            return
        elif op == 0xFD:
            at, size = _number(stack.pop()), _number(stack.pop())
            panic = size == 36 and path.memory.get(at + 4)
            path.reverted = f"Panic({panic.value:#x})" if panic else f"revert with {size} bytes"
            return
        else:
            raise Unmodelled(f"operation {op:#x}")
    raise Unmodelled("a loop that does not end")


def _number(word: Word) -> int:
    if not word.known:
        raise Unmodelled("an unknown offset")
    return word.lo


def _jump(target: int, jumps: set[int]) -> int:
    if target not in jumps:
        raise Unmodelled("a jump to nowhere")
    return target


def _calldata(offset: int, selector: bytes, arguments: Sequence[Word]) -> Word:
    if offset == 0:
        return constant(int.from_bytes(selector, "big") << 224)  # read for the selector only: what follows is cut off
    index, rest = divmod(offset - 4, 32)
    if rest or not 0 <= index < len(arguments):
        raise Unmodelled("calldata at an odd place")
    return arguments[index]


def prove(
    constraints: Sequence[z3.BoolRef],
    claim: z3.BoolRef,
    products: Sequence[tuple[z3.ArithRef, z3.ArithRef, z3.ArithRef]] = (),
    timeout_s: int = 20,
) -> tuple[str, z3.ModelRef | None]:
    """`proved`, `refuted` with a counterexample, or `unknown`. First without telling what the products are made of."""
    exact = [x * y == term for x, y, term in products]
    for make, definitions, limit_s in (
        (z3.SimpleSolver, [], 2),
        (lambda: z3.SolverFor("QF_NIA"), exact, timeout_s),
        (z3.Solver, exact, timeout_s),
    ):
        solver = make()
        solver.set("timeout", limit_s * 1_000)
        solver.add(*constraints, *definitions, z3.Not(claim))
        answer = solver.check()
        if answer == z3.unsat:
            return "proved", None
        if answer == z3.sat and len(definitions) == len(products):
            return "refuted", solver.model()
    return "unknown", None
