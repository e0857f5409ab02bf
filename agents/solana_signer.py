"""The key of an agent on Solana, and a signer that signs nothing but its vault's trades.

The keyfile is the Solana CLI's: a JSON list of 64 bytes, the secret and the public key, made by `solana-keygen new`.
It is not encrypted, so that it must be its owner's alone. The key moves no money: all it can spend are lamports for
fees, and the vault's trades are bound by the program.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from agents.errors import Misconfigured
from agents.secrets import Redactor
from agents.signer import SigningRefused
from agents.solana_program import Ledger

SETTING: Final = "MARKETFLOW_SOLANA_KEY_FILE"
COMPUTE_BUDGET: Final = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MAX_UNITS: Final = 1_400_000
# How the data of an instruction begins, by Anchor's rule.
TRADE: Final = hashlib.sha256(b"global:trade").digest()[:8]
_MAX_KEYFILE_BYTES: Final = 4_096


def load_key_file(path: Path | None, *, redactor: Redactor | None = None) -> Keypair:
    """The key in a file of the Solana CLI. Raises Misconfigured, with the file and none of its content."""
    if path is None:
        raise Misconfigured(f"{SETTING} is empty: name the file with the agent's key; `solana-keygen new` makes one")
    content = _read_private(path)
    try:
        numbers = json.loads(content)
    except ValueError:
        numbers = None
    is_list = isinstance(numbers, list) and len(numbers) == 64
    if not is_list or not all(type(number) is int and 0 <= number < 256 for number in numbers):
        raise Misconfigured(f"{path} is no keyfile: expected a JSON list of 64 bytes, as `solana-keygen new` writes")
    secret = bytes(numbers[:32])
    if redactor:
        redactor.add(secret, bytes(numbers))
    key = Keypair.from_seed(secret)
    if bytes(key.pubkey()) != bytes(numbers[32:]):
        raise Misconfigured(f"{path} is damaged: its public key is not that of its secret key; take the backup")
    if redactor:
        redactor.add(str(key))
    return key


def _read_private(path: Path) -> bytes:
    """Raises Misconfigured unless it is a small file that nobody but its owner can use."""
    try:
        # Of the file that was opened, so that nobody exchanges it in between; and no waiting for a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Misconfigured(f"{SETTING}: {path} can't be read ({error.strerror}): name one that is there") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_KEYFILE_BYTES:
            raise Misconfigured(f"{path} is no keyfile: name one that `solana-keygen new` made")
        if (mode := stat.S_IMODE(status.st_mode)) & ~0o600:
            raise Misconfigured(f"the keyfile {path} has mode {mode:04o}, others can use it: `chmod 600 {path}`")
        return os.read(handle, _MAX_KEYFILE_BYTES)
    finally:
        os.close(handle)


class TradeSigner:
    """Signs transactions that are one `trade` of one vault, paid by the key itself, with a limit of compute units and
    a price for them up to a maximum; refuses the rest.

    Not promised: that the key is safe from code in the same process. It is in no repr, attribute, copy or pickle.
    """

    __slots__ = ("_sign", "pubkey", "vault")

    pubkey: Pubkey
    vault: Pubkey
    _sign: Callable[[Message], VersionedTransaction]

    def __init__(self, key: Keypair, *, ledger: Ledger, vault: Pubkey, max_priority_fee_micro_lamports: int) -> None:
        pubkey = key.pubkey()
        place = ledger.accounts_of("trade").index("vault")

        def sign(message: Message) -> VersionedTransaction:
            _check(message, pubkey, ledger.id, (place, vault), max_priority_fee_micro_lamports)
            return VersionedTransaction(message, [key])

        for name, value in {"pubkey": pubkey, "vault": vault, "_sign": sign}.items():
            object.__setattr__(self, name, value)

    def sign(self, message: Message) -> VersionedTransaction:
        """Raises SigningRefused for anything else than a trade of this vault."""
        return self._sign(message)

    def __repr__(self) -> str:
        return f"<TradeSigner {self.pubkey} for vault {self.vault}>"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a signer does not change: make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a signer does not change: make another one")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a signer holds a key: it can't be copied or pickled")


def _check(message: Message, payer: Pubkey, program: Pubkey, vault: tuple[int, Pubkey], most: int) -> None:
    keys, parts = message.account_keys, message.instructions
    if message.header.num_required_signatures != 1 or keys[0] != payer:
        raise SigningRefused(f"the transaction is not {payer}'s alone: this key signs and pays for nothing else")
    programs = [keys[part.program_id_index] for part in parts]
    if programs != [COMPUTE_BUDGET, COMPUTE_BUDGET, program] or bytes(parts[2].data)[:8] != TRADE:
        raise SigningRefused("the transaction is not one trade with its two limits: this key signs nothing else")
    accounts = bytes(parts[2].accounts)
    if len(accounts) <= vault[0] or keys[accounts[vault[0]]] != vault[1]:
        raise SigningRefused(f"the trade is not of vault {vault[1]}: this key signs for no other")
    units, price = units_and_price(message)
    if not 0 < units <= MAX_UNITS:
        raise SigningRefused(f"the transaction may use {units} compute units, 1 to {MAX_UNITS} are right")
    if price > most:
        raise SigningRefused(
            f"the transaction offers {price} micro-lamports for a compute unit, "
            f"MARKETFLOW_MAX_PRIORITY_FEE_MICRO_LAMPORTS allows {most}"
        )


def units_and_price(message: Message) -> tuple[int, int]:
    """The limit of compute units and the price of one in micro-lamports, of a transaction that begins with both."""
    limit, price = (bytes(part.data) for part in message.instructions[:2])
    if limit[:1] != b"\x02" or len(limit) != 5 or price[:1] != b"\x03" or len(price) != 9:
        raise SigningRefused("the transaction does not begin with a limit of compute units and their price")
    return int.from_bytes(limit[1:], "little"), int.from_bytes(price[1:], "little")
