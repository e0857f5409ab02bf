"""Before each instruction of a protocol's life is sent, it is sent with each account wrong in every way, and with its
data cut and lengthened: nothing of that may work. What is tried is generated, so no account is forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from solders.account import Account as Stored
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from agents.solana_program import SYSTEM_PROGRAM, TOKEN_PROGRAM
from tests.solana.test_compute_units import story
from tests.solana.world import UNITS_LIMIT, World

# What is not looked at: the prices of a vault that is over.
MAY_DIFFER = {("withdraw_bond", "base_feed"), ("withdraw_bond", "quote_feed")}


@dataclass
class Saboteur:
    """Tries everything else first. `tried` counts, `worked` names what should not have."""

    world: World
    tried: int = 0
    seen: set[str] = field(default_factory=set)
    worked: list[str] = field(default_factory=list)

    def __call__(self, instructions: Sequence[Instruction], keys: Sequence[Keypair]) -> None:
        [instruction] = instructions
        if instruction.program_id != self.world.ledger.id:
            return
        name = self._name(instruction)
        if name in self.seen:
            return
        self.seen.add(name)
        names = self.world.ledger.accounts_of(name)
        for what, wrong, signers in self._sabotage(name, instruction, names, keys):
            self.tried += 1
            before = self._everything()
            error = self._try(wrong, signers)
            if error is None or self._everything() != before:
                self.worked.append(f"{name}: {what}")

    def _name(self, instruction: Instruction) -> str:
        for name in self.world.ledger._accounts:
            if hashlib.sha256(f"global:{name}".encode()).digest()[:8] == bytes(instruction.data)[:8]:
                return name
        raise KeyError(bytes(instruction.data)[:8])

    def _sabotage(
        self, verb: str, good: Instruction, names: Sequence[str], keys: Sequence[Keypair]
    ) -> Iterator[tuple[str, Instruction, Sequence[Keypair]]]:
        program, data, metas = good.program_id, bytes(good.data), list(good.accounts)

        def other(at: int, meta: AccountMeta) -> Instruction:
            return Instruction(program, data, [*metas[:at], meta, *metas[at + 1 :]])

        for size in (0, 7, 8, len(data) - 1):
            if size < len(data):
                yield f"{size} bytes of data", Instruction(program, data[:size], metas), keys
        yield "a byte more", Instruction(program, data + b"\0", metas), keys
        yield "an account less", Instruction(program, data, metas[:-1]), keys
        yield (
            "an account more",
            Instruction(program, data, [*metas, AccountMeta(Pubkey.new_unique(), False, False)]),
            keys,
        )
        for at, (name, meta) in enumerate(zip(names, metas, strict=True)):
            if meta.is_signer and meta.pubkey != keys[0].pubkey():
                unsigned = other(at, AccountMeta(meta.pubkey, False, meta.is_writable))
                yield f"{name} has not signed", unsigned, [key for key in keys if key.pubkey() != meta.pubkey]
            if meta.is_writable and meta.pubkey != keys[0].pubkey():
                yield f"{name} can't be written to", other(at, AccountMeta(meta.pubkey, meta.is_signer, False)), keys
            if len(metas) > 1:
                twin = metas[at - 1].pubkey
                yield f"{name} is {names[at - 1]}", other(at, AccountMeta(twin, False, meta.is_writable)), keys
            is_none = name in ("last_vault", "vault") and meta.pubkey == program
            if (verb, name) in MAY_DIFFER or meta.is_signer or is_none:
                continue
            for kind, address in self._impostors(name, meta.pubkey):
                yield f"{name} is {kind}", other(at, AccountMeta(address, False, meta.is_writable)), keys

    def _impostors(self, name: str, real: Pubkey) -> Iterator[tuple[str, Pubkey]]:
        stored = self.world.svm.get_account(real)
        data = bytes(stored.data) if stored else b""
        owners = {"nobody's": SYSTEM_PROGRAM, "another program's": self.world.market.id}
        if stored and stored.owner == TOKEN_PROGRAM and name not in ("source", "destination", "to"):
            owners["another one like it"] = TOKEN_PROGRAM
        for kind, owner in owners.items():
            address = Pubkey.from_bytes(hashlib.sha256(f"{name} {kind}".encode()).digest())
            self.world.svm.set_account(address, Stored(10**9, data, owner, False, 0))
            yield f"a copy that is {kind}", address
        yield "nothing", Pubkey.new_unique()

    def _try(self, instruction: Instruction, signers: Sequence[Keypair]) -> str | None:
        svm = self.world.svm
        svm.expire_blockhash()
        message = Message([set_compute_unit_limit(UNITS_LIMIT), instruction], self.world.payer.pubkey())
        keys = list({bytes(key.pubkey()): key for key in (self.world.payer, *signers)}.values())
        named = [key for key in keys if key.pubkey() in message.account_keys[: message.header.num_required_signatures]]
        result = svm.send_transaction(Transaction(named, message, svm.latest_blockhash()))
        return str(result.err()) if hasattr(result, "err") else None

    def _everything(self) -> list[bytes]:
        names = ("protocol", "agent", "vault", "treasury", "rewards", "vault_quote", "vault_base")
        accounts = (self.world.svm.get_account(self.world.known.get(name, SYSTEM_PROGRAM)) for name in names)
        return [bytes(account.data) if account else b"" for account in accounts]


def test_nothing_works_with_a_wrong_account_or_other_data() -> None:
    world = World()
    saboteur = world.before_send = Saboteur(world)
    world.before_send = lambda instructions, keys: saboteur(instructions, keys) if len(instructions) == 1 else None
    story(world)
    assert saboteur.worked == []
    assert saboteur.seen == set(world.ledger._accounts) - {"skip_decision", "close_by_decision"}
    assert saboteur.tried > 600
