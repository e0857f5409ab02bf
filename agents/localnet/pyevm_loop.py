"""py-evm's Prague rules with a quicker main loop.

Most instructions only move numbers on the stack and in memory; here they are done in place, on integers. Everything that
touches state, calls, logs, hashes or grows memory is done by py-evm's own functions. Gas is checked where control can
leave a straight line: it never comes back, and what ran in vain before a check has no effect that the failure does not
undo.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from eth.exceptions import FullStack, Halt, InsufficientStack, InvalidJumpDestination, OutOfGas
from eth.vm.computation import NO_RESULT
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.logic.invalid import InvalidOpcode

_WORD = 2**256 - 1
_SIGN = 2**255
_STACK_LIMIT = 1024


class FastComputation(PragueComputation):
    """Prague's computation; only how instructions are gone through differs."""

    @classmethod
    def apply_computation(
        cls, state: Any, message: Any, transaction_context: Any, parent_computation: Any = None
    ) -> Any:
        with cls(state, message, transaction_context) as computation:
            if computation.is_origin_computation:
                computation.contracts_created = []
                if message.is_create:
                    cls.consume_initcode_gas_cost(computation)
            if parent_computation is not None:
                computation.contracts_created = parent_computation.contracts_created
            if message.is_create:
                computation.contracts_created.append(message.storage_address)
            precompile = computation.precompiles.get(message.code_address, NO_RESULT)
            if precompile is not NO_RESULT:
                if not message.is_delegation:
                    precompile(computation)
                return computation
            try:
                _run(computation, bytes(message.code))
            except Halt:
                pass
            except IndexError:
                raise InsufficientStack("stack underflow") from None
        return computation


@lru_cache(maxsize=512)
def _analyse(code: bytes) -> tuple[bytes, dict[int, int], frozenset[int]]:
    """Code that ends in STOP, what each PUSH pushes (by position), and where one may jump to."""
    pushes: dict[int, int] = {}
    targets = set()
    position, size = 0, len(code)
    padded = code + bytes(33)
    while position < size:
        op = code[position]
        if 0x5F <= op <= 0x7F:
            width = op - 0x5F
            pushes[position] = int.from_bytes(padded[position + 1 : position + 1 + width], "big")
            position += width
        elif op == 0x5B:
            targets.add(position)
        position += 1
    return padded, pushes, frozenset(targets)


def _run(computation: Any, code: bytes) -> None:
    """Execute until something halts. Raises Halt or a VMError; IndexError stands for too short a stack."""
    ops, pushes, targets = _analyse(code)
    stack, pop, push = computation._stack.values, computation._stack.values.pop, computation._stack.values.append
    memory, meter, functions = computation._memory, computation._gas_meter, computation.opcodes
    gas, pc = meter.gas_remaining, 0
    while True:
        op = ops[pc]
        pc += 1
        if op >= 0x5F and op <= 0x9F:
            if op <= 0x8F and len(stack) >= _STACK_LIMIT:
                raise FullStack("stack overflow")
            if op <= 0x7F:  # PUSH
                gas -= 3 if op > 0x5F else 2
                push(pushes[pc - 1])
                pc += op - 0x5F
            elif op <= 0x8F:  # DUP
                gas -= 3
                push(stack[0x7F - op])
            else:  # SWAP
                gas -= 3
                other = 0x8E - op
                stack[-1], stack[other] = stack[other], stack[-1]
        elif op == 0x5B:  # JUMPDEST
            gas -= 1
            if gas < 0:
                raise OutOfGas("JUMPDEST")
        elif op == 0x50:  # POP
            gas -= 2
            pop()
        elif op == 0x56:  # JUMP
            gas -= 8
            pc = pop()
            if pc not in targets:
                raise InvalidJumpDestination("JUMP")
        elif op == 0x57:  # JUMPI
            gas -= 10
            target = pop()
            if pop():
                if target not in targets:
                    raise InvalidJumpDestination("JUMPI")
                pc = target
        elif op == 0x01:  # ADD
            gas -= 3
            a = pop()
            stack[-1] = (a + stack[-1]) & _WORD
        elif op == 0x03:  # SUB
            gas -= 3
            a = pop()
            stack[-1] = (a - stack[-1]) & _WORD
        elif op == 0x15:  # ISZERO
            gas -= 3
            stack[-1] = 0 if stack[-1] else 1
        elif op == 0x16:  # AND
            gas -= 3
            a = pop()
            stack[-1] &= a
        elif op == 0x52 and stack[-1] + 32 <= len(memory._bytes):  # MSTORE that does not grow memory
            gas -= 3
            offset = pop()
            memory._bytes[offset : offset + 32] = pop().to_bytes(32, "big")
        elif op == 0x51 and stack[-1] + 32 <= len(memory._bytes):  # MLOAD that does not grow memory
            gas -= 3
            offset = stack[-1]
            stack[-1] = int.from_bytes(memory._bytes[offset : offset + 32], "big")
        elif op == 0x14:  # EQ
            gas -= 3
            a = pop()
            stack[-1] = 1 if a == stack[-1] else 0
        elif op == 0x10:  # LT
            gas -= 3
            a = pop()
            stack[-1] = 1 if a < stack[-1] else 0
        elif op == 0x11:  # GT
            gas -= 3
            a = pop()
            stack[-1] = 1 if a > stack[-1] else 0
        elif op == 0x1C:  # SHR
            gas -= 3
            a = pop()
            stack[-1] = stack[-1] >> a if a < 256 else 0
        elif op == 0x1B:  # SHL
            gas -= 3
            a = pop()
            stack[-1] = (stack[-1] << a) & _WORD if a < 256 else 0
        elif op == 0x02:  # MUL
            gas -= 5
            a = pop()
            stack[-1] = (a * stack[-1]) & _WORD
        elif op == 0x04:  # DIV
            gas -= 5
            a = pop()
            stack[-1] = a // stack[-1] if stack[-1] else 0
        elif op == 0x17:  # OR
            gas -= 3
            a = pop()
            stack[-1] |= a
        elif op == 0x18:  # XOR
            gas -= 3
            a = pop()
            stack[-1] ^= a
        elif op == 0x19:  # NOT
            gas -= 3
            stack[-1] ^= _WORD
        elif op == 0x12 or op == 0x13:  # SLT, SGT: as unsigned, once the sign bit is flipped
            gas -= 3
            a, b = pop() ^ _SIGN, stack[-1] ^ _SIGN
            stack[-1] = 1 if (a < b if op == 0x12 else a > b) else 0
        elif op == 0x09:  # MULMOD
            gas -= 8
            a, b = pop(), pop()
            stack[-1] = a * b % stack[-1] if stack[-1] else 0
        else:
            if gas < 0:
                raise OutOfGas("before an instruction of py-evm's")
            meter.gas_remaining = gas
            computation.code.program_counter = pc
            (functions.get(op) or InvalidOpcode(op))(computation)
            gas = meter.gas_remaining
            if stack and type(stack[-1]) is not int:
                stack[-1] = int.from_bytes(stack[-1], "big")
