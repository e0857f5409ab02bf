"""Keys, and a signer that signs nothing but an agent's trades.

    VaultSigner   signs calls of `trade` and `poke` to its own vaults, on one chain, under ceilings; refuses the rest
    Keystore      opens encrypted keyfiles: plain ones, ape accounts, and keyrings that hold the keys of a fleet

The list of what may be signed is the signer's own and can't be changed: whoever gets hold of the daemon's other parts,
or of its orders, can't make it move money anywhere. There is no way to sign messages, typed data, authorisations of
EIP-7702, or hashes.

Not promised: that a key is safe from code in the same process. Python hides nothing from who looks for it
(`__closure__`, `gc`, a debugger), and does not wipe memory. What is promised: a key is in no repr, no attribute, no
copy, no pickle, no error and no frame of a refusal's traceback.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import sha3
from coincurve import PrivateKey
from eth_account import Account
from eth_account.hdaccount import HDPath
from eth_utils import is_checksum_address, to_checksum_address
from hexbytes import HexBytes
from pydantic import SecretStr
from pydantic_core import from_json

from agents.contracts import load_artifact, signature
from agents.errors import Misconfigured
from agents.secrets import Redactor

# https://eips.ethereum.org/EIPS/eip-2681: the highest nonce is one less.
_NONCE_END: Final = 2**64 - 1
_GAS_END: Final = 2**64
_UINT256_END: Final = 2**256
_ALLOWED_CALLS: Final = ("trade", "poke")
_ADDRESS: Final = re.compile("0x[0-9a-fA-F]{40}")


class SigningRefused(Misconfigured):
    """The signer was asked for what it never signs. Nothing will change that but another setting, or corrected code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFields:
    """An EIP-1559 transaction before it is signed; its access list is empty. Fees are wei for a unit of gas."""

    chain_id: int
    nonce: int
    gas: int
    max_fee_per_gas_wei: int
    max_priority_fee_per_gas_wei: int
    # 0x and 40 digits: lower case, upper case, or with a right checksum.
    to: str
    value_wei: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A transaction as nodes take it, and its hash (0x, lower case)."""

    raw: bytes
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTransaction:
    """The same, as eth-account names it."""

    raw_transaction: HexBytes
    hash: HexBytes


# Encoding


class _Read(NamedTuple):
    """Fields in the order of the encoding, all of types that nobody can change: what is checked is what is signed."""

    chain_id: int
    nonce: int
    max_priority_fee_per_gas_wei: int
    max_fee_per_gas_wei: int
    gas: int
    to: bytes
    value_wei: int
    data: bytes


def encode_unsigned(fields: TransactionFields) -> bytes:
    """What is hashed and signed: `0x02 || rlp([...])`. https://eips.ethereum.org/EIPS/eip-1559

    Raises SigningRefused for fields that no transaction can have.
    """
    return b"\x02" + _list(_body(_read(fields)))


def sign_fields(key: PrivateKey, fields: TransactionFields) -> Signed:
    """Signed, byte for byte as eth-account does it. Checks only that it is a transaction: agents use VaultSigner.

    Raises SigningRefused for fields that no transaction can have.
    """
    return _sign(key, _read(fields))


def _sign(key: PrivateKey, read: _Read) -> Signed:
    body = _body(read)
    signature_bytes = key.sign_recoverable(_keccak(b"\x02" + _list(body)), hasher=None)
    r, s, parity = signature_bytes[:32], signature_bytes[32:64], signature_bytes[64]
    raw = b"\x02" + _list(body + _number(parity) + _item(r.lstrip(b"\0")) + _item(s.lstrip(b"\0")))
    return Signed(raw=raw, hash="0x" + _keccak(raw).hex())


def _read(fields: TransactionFields) -> _Read:
    """Each field once. Only the exact types: a subclass of int or str may answer differently the next time."""
    if type(fields) is not TransactionFields:
        raise SigningRefused(f"{type(fields).__name__} is no TransactionFields: make one of it")
    to, data = fields.to, fields.data
    if type(to) is not str:
        raise SigningRefused(f"the transaction has no address as its receiver but {_kind(to)}: name a vault")
    if type(data) is not bytes:
        raise SigningRefused(f"the transaction's data is {_kind(data)}, expected bytes")
    return _Read(
        _whole("chain_id", fields.chain_id, _UINT256_END),
        _whole("nonce", fields.nonce, _NONCE_END),
        _whole("max_priority_fee_per_gas_wei", fields.max_priority_fee_per_gas_wei, _UINT256_END),
        _whole("max_fee_per_gas_wei", fields.max_fee_per_gas_wei, _UINT256_END),
        _whole("gas", fields.gas, _GAS_END),
        _address(to),
        _whole("value_wei", fields.value_wei, _UINT256_END),
        data,
    )


def _whole(name: str, value: int, end: int) -> int:
    if type(value) is not int:
        raise SigningRefused(f"{name} is {_kind(value)}, expected a whole number")
    if not 0 <= value < end:
        raise SigningRefused(f"{name} is {'negative' if value < 0 else 'too large'}: no transaction can have it")
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else f"of type {type(value).__name__}"


@lru_cache(maxsize=16_384)
def _address(text: str) -> bytes:
    if not _ADDRESS.fullmatch(text):
        raise SigningRefused("the receiver is no address: expected 0x and 40 hexadecimal digits")
    if text[2:] not in (text[2:].lower(), text[2:].upper()) and not is_checksum_address(text):
        raise SigningRefused(f"address {text} has a wrong checksum: look where it comes from")
    return bytes.fromhex(text[2:])


def _body(read: _Read) -> bytes:
    """The items of the list up to the access list, which is empty."""
    chain_id, nonce, tip, max_fee, gas, to, value, data = read
    return b"".join((
        _number(chain_id), _number(nonce), _number(tip), _number(max_fee), _number(gas),
        b"\x94", to, _number(value), _item(data), b"\xc0",
    ))  # fmt: skip


# https://ethereum.org/developers/docs/data-structures-and-encoding/rlp


def _number(value: int) -> bytes:
    return _item(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _item(data: bytes) -> bytes:
    if len(data) == 1 and data[0] < 0x80:
        return data
    return _header(len(data), 0x80) + data


def _list(body: bytes) -> bytes:
    return _header(len(body), 0xC0) + body


def _header(size: int, kind: int) -> bytes:
    if size < 56:
        return bytes((kind + size,))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((kind + 55 + len(length),)) + length


def _keccak(data: bytes) -> bytes:
    # eth_utils.keccak takes five times as long when pycryptodome is installed, which it prefers.
    return bytes(sha3.keccak_256(data).digest())


# What may be signed


class _Call(NamedTuple):
    """A function whose arguments are words of fixed meaning: its calldata is well-formed when it has this size and is
    zero wherever `zeros` has a one."""

    name: str
    size: int
    zeros: int


@cache
def _allowed_calls() -> Mapping[bytes, _Call]:
    """By selector, from the vault's ABI."""
    functions = [item for item in load_artifact("StrategyVault").abi if item["type"] == "function"]
    found = [abi for abi in functions if abi["name"] in _ALLOWED_CALLS]
    assert len(found) == len(_ALLOWED_CALLS), "the vault has one function of each name"
    return {_keccak(signature(abi).encode())[:4]: _call(abi) for abi in found}


def _call(abi: Mapping[str, Any]) -> _Call:
    words = [kind for item in abi["inputs"] for kind in _word_types(item)]
    zeros = 0
    for kind in words:
        zeros = zeros << 256 | _zeros(kind)
    return _Call(abi["name"], 4 + 32 * len(words), zeros)


def _word_types(item: Mapping[str, Any]) -> list[str]:
    if item["type"] == "tuple":
        return [kind for part in item["components"] for kind in _word_types(part)]
    return [item["type"]]


def _zeros(kind: str) -> int:
    """The bits of a word that are zero in every value of an ABI type."""
    name, bits = re.fullmatch(r"(address|bool|uint|bytes)(\d*)", kind).groups()  # type: ignore[union-attr]
    used = {"address": 160, "bool": 1}.get(name) or int(bits) * (8 if name == "bytes" else 1)
    unused = 256 - used
    return (1 << unused) - 1 if name == "bytes" else ((1 << unused) - 1) << used


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    chain_id: int
    vaults: frozenset[bytes]
    max_fee_per_gas_wei: int
    max_gas: int

    def check(self, fields: TransactionFields) -> _Read:
        """Raises SigningRefused, with what is wrong and what is allowed."""
        read = _read(fields)
        if read.chain_id != self.chain_id:
            raise SigningRefused(
                f"the transaction is for chain {read.chain_id}, this signer is for chain {self.chain_id}: "
                "check MARKETFLOW_CHAIN_ID"
            )
        if read.to not in self.vaults:
            raise SigningRefused(f"0x{read.to.hex()} is none of this agent's vaults: its key signs for nothing else")
        if read.value_wei:
            raise SigningRefused(f"the transaction would send {read.value_wei} wei: trades send none")
        _check_calldata(read.data)
        self._check_cost(read)
        return read

    def _check_cost(self, read: _Read) -> None:
        max_fee, tip = read.max_fee_per_gas_wei, read.max_priority_fee_per_gas_wei
        if max_fee > self.max_fee_per_gas_wei:
            raise SigningRefused(
                f"the transaction offers {max_fee} wei for a unit of gas, "
                f"MARKETFLOW_MAX_FEE_WEI allows {self.max_fee_per_gas_wei}"
            )
        if tip > max_fee:
            raise SigningRefused(f"the tip of {tip} wei is above the highest fee of {max_fee} wei: no node takes it")
        if not 0 < read.gas <= self.max_gas:
            raise SigningRefused(f"the transaction may use {read.gas} gas, this signer allows 1 to {self.max_gas}")


def _check_calldata(data: bytes) -> None:
    call = _allowed_calls().get(data[:4])
    if call is None:
        raise SigningRefused(f"the call {'0x' + data[:4].hex()} is neither trade nor poke: nothing else is signed")
    if len(data) != call.size:
        raise SigningRefused(f"calldata of {call.name} has {len(data)} bytes, exactly {call.size} are right")
    if int.from_bytes(data[4:], "big") & call.zeros:
        raise SigningRefused(f"calldata of {call.name} has a value that its type does not allow")


def _check_all(rules: _Rules, wanted: Sequence[TransactionFields]) -> list[_Read] | SigningRefused:
    try:
        return [rules.check(fields) for fields in wanted]
    except SigningRefused as refusal:
        return refusal


class VaultSigner:
    """Signs `trade` and `poke` of these vaults on this chain, with no ether, under these ceilings. For other vaults or
    ceilings make another one. May be used by several threads at once: libsecp256k1 works outside Python's lock.

    Raises Misconfigured when what it should allow makes no sense.
    """

    __slots__ = ("_sign_all", "address", "chain_id", "vaults")

    address: str
    chain_id: int
    vaults: tuple[str, ...]
    _sign_all: Callable[[Sequence[TransactionFields]], list[Signed] | SigningRefused]

    def __init__(
        self, key: PrivateKey, *, chain_id: int, vaults: Iterable[str], max_fee_per_gas_wei: int, max_gas: int
    ) -> None:
        rules = _rules(chain_id, tuple(vaults), max_fee_per_gas_wei, max_gas)
        own = {
            "address": address_of(key),
            "chain_id": rules.chain_id,
            "vaults": tuple(sorted(map(to_checksum_address, rules.vaults))),
            "_sign_all": _signing(key, rules),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def sign(self, fields: TransactionFields) -> Signed:
        """Raises SigningRefused for anything but a trade or a poke within the limits."""
        return self.sign_many((fields,))[0]

    def sign_many(self, wanted: Iterable[TransactionFields]) -> list[Signed]:
        """All of them in order, or none: raises SigningRefused before anything is signed."""
        signed = self._sign_all(tuple(wanted))
        if isinstance(signed, SigningRefused):
            raise signed.with_traceback(None)  # from a frame that the signing function called
        return signed

    def sign_transaction(self, transaction: Mapping[str, Any]) -> SignedTransaction:
        """As eth-account's LocalAccount, of a dictionary with whole numbers. Raises SigningRefused."""
        signed = self.sign(_fields_of(transaction, self.address))
        return SignedTransaction(raw_transaction=HexBytes(signed.raw), hash=HexBytes(signed.hash))

    def __repr__(self) -> str:
        return f"<VaultSigner {self.address} on chain {self.chain_id} for {len(self.vaults)} vaults>"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a signer does not change: make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a signer does not change: make another one")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a signer holds a key: it can't be copied or pickled")


def _signing(key: PrivateKey, rules: _Rules) -> Callable[[Sequence[TransactionFields]], list[Signed] | SigningRefused]:
    """Even this function signs nothing that the rules forbid. It answers with a refusal instead of raising it: the
    traceback of one that passed through here would hold the key."""

    def sign_all(wanted: Sequence[TransactionFields]) -> list[Signed] | SigningRefused:
        checked = _check_all(rules, wanted)
        return checked if isinstance(checked, SigningRefused) else [_sign(key, read) for read in checked]

    return sign_all


def _rules(chain_id: int, vaults: tuple[str, ...], max_fee_per_gas_wei: int, max_gas: int) -> _Rules:
    numbers = {"chain_id": chain_id, "max_fee_per_gas_wei": max_fee_per_gas_wei, "max_gas": max_gas}
    for name, value in numbers.items():
        if type(value) is not int or value <= 0:
            raise Misconfigured(f"a signer's {name} is {value!r}, expected a whole number above 0")
    if not vaults:
        raise Misconfigured("a signer without vaults would sign nothing: name the agent's vault")
    for vault in vaults:
        if type(vault) is not str:
            raise Misconfigured(f"a signer's vault is {_kind(vault)}, expected an address")
    return _Rules(**numbers, vaults=frozenset(map(_address, vaults)))


_KNOWN_FIELDS: Final = frozenset({
    "from", "to", "data", "value", "chainId", "nonce", "gas", "maxFeePerGas", "maxPriorityFeePerGas", "type",
    "accessList",
})  # fmt: skip


def _fields_of(transaction: Mapping[str, Any], own_address: str) -> TransactionFields:
    """Read once, into a dictionary of our own: a mapping may answer differently the second time."""
    found = dict(transaction)
    if unknown := sorted(map(str, found.keys() - _KNOWN_FIELDS)):
        raise SigningRefused(f"a transaction with {unknown[0][:40]} is not signed: EIP-1559 without an access list is")
    if missing := sorted(_KNOWN_FIELDS - found.keys() - {"from", "value", "data", "type", "accessList"}):
        raise SigningRefused(f"the transaction has no {missing[0]}")
    if found.get("type", 2) not in (2, "0x2") or found.get("accessList"):
        raise SigningRefused("the transaction is not of type 2 with an empty access list")
    if str(found.get("from", own_address)).lower() != own_address.lower():
        raise SigningRefused(f"the transaction is from another account than this signer's, {own_address}")
    return TransactionFields(
        chain_id=found["chainId"], nonce=found["nonce"], gas=found["gas"], max_fee_per_gas_wei=found["maxFeePerGas"],
        max_priority_fee_per_gas_wei=found["maxPriorityFeePerGas"], to=found["to"], value_wei=found.get("value", 0),
        data=_bytes(found.get("data", b"")),
    )  # fmt: skip


def _bytes(data: object) -> bytes:
    """Of bytes in any form, or of hex digits after 0x."""
    if isinstance(data, bytes | bytearray | memoryview):
        return b"".join((data,))
    if isinstance(data, str) and re.fullmatch("0x(?:[0-9a-fA-F]{2})*", data):
        return bytes.fromhex(data[2:])
    raise SigningRefused(f"the transaction's data is {_kind(data)} and no bytes, nor hexadecimal digits after 0x")


# Keys


Ask = Callable[[str], str]
_PASSPHRASE_SETTING: Final = "MARKETFLOW_KEYFILE_PASSPHRASE"
MIN_PASSPHRASE: Final = 8
# What eth-account and geth take: most of a second, 256 MiB.
SCRYPT_N: Final = 2**18
_MAX_KEYFILE_BYTES: Final = 64 * 1024
_APE: Final = "ape:"
_INDEX_END: Final = 2**31


def address_of(key: PrivateKey) -> str:
    """The key's account, with checksum."""
    return str(to_checksum_address(_keccak(key.public_key.format(compressed=False)[1:])[-20:]))


def ape_account_path(alias: str, *, data_folder: Path | None = None) -> Path:
    """Where ape keeps an account. `data_folder`: $APE_DATA_FOLDER where it is set, else ~/.ape is meant.

    Raises Misconfigured for what is no alias.
    """
    if not alias or alias.startswith(".") or Path(alias).name != alias or "\0" in alias:
        raise Misconfigured(f"{alias!r} is no alias of an ape account: `ape accounts list` shows them")
    return (data_folder or Path.home() / ".ape") / "accounts" / f"{alias}.json"


def load_keyfile(
    path: Path | str,
    passphrase: SecretStr | None,
    ask: Ask | None = None,
    *,
    ape_folder: Path | None = None,
    redactor: Redactor | None = None,
) -> PrivateKey:
    """The key in an encrypted keyfile (version 3, as of eth-account, geth, ape); `ape:ALIAS` is an ape account.

    Without a passphrase `ask` is called with a prompt: `getpass.getpass`. `redactor` learns passphrase and key.
    Raises Misconfigured, with the file and the setting and none of the content.
    """
    name = str(path)
    found = ape_account_path(name.removeprefix(_APE), data_folder=ape_folder) if name.startswith(_APE) else Path(path)
    document = _parse_keyfile(_read_private(found))
    if document is None:
        raise Misconfigured(f"{found} is no encrypted keyfile of version 3: `ape accounts generate` makes one")
    secret = _asked(found, ask) if passphrase is None else passphrase
    if redactor:
        redactor.add(secret)
    key = _decrypt(document, secret)
    if isinstance(key, str):
        raise Misconfigured(f"{found} {key}")
    if redactor:
        redactor.add(key.secret)
    return key


def create_keyfile(
    path: Path | str, passphrase: SecretStr, *, key: PrivateKey | None = None, scrypt_n: int = SCRYPT_N
) -> str:
    """Writes an encrypted keyfile that only its owner can read, whole or not at all; its address. The key is a new
    one. Raises Misconfigured when the file exists, can't be written, or the passphrase is short."""
    found = Path(path)
    if len(passphrase.get_secret_value()) < MIN_PASSPHRASE:
        raise Misconfigured(f"the passphrase of {found} has less than {MIN_PASSPHRASE} characters: take a longer one")
    new = key or PrivateKey()
    document = Account.encrypt(new.secret, passphrase.get_secret_value(), kdf="scrypt", iterations=scrypt_n)
    _write_new(found, json.dumps(document).encode())
    return address_of(new)


def _write_new(path: Path, content: bytes) -> None:
    """A link to a finished file appears at once, and never in the place of another."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # O_EXCL, mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            Path(temporary).unlink()
    except FileExistsError:
        raise Misconfigured(f"{path} exists and is not overwritten: move it, or name another file") from None
    except OSError as error:
        raise Misconfigured(f"{path} can't be written ({error.strerror}): name a file in a folder of yours") from None


def _read_private(path: Path) -> bytes:
    """Raises Misconfigured unless it is a small file that nobody but its owner can use."""
    try:
        # Of the file that was opened, so that nobody exchanges it in between; and no waiting for a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Misconfigured(f"the keyfile {path} can't be read ({error.strerror}): name one that is there") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_KEYFILE_BYTES:
            raise Misconfigured(f"{path} is no keyfile: name one that `ape accounts generate` or eth-account made")
        if (mode := stat.S_IMODE(status.st_mode)) & ~0o600:
            raise Misconfigured(f"the keyfile {path} has mode {mode:04o}, others can use it: `chmod 600 {path}`")
        return os.read(handle, _MAX_KEYFILE_BYTES)
    finally:
        os.close(handle)


def _parse_keyfile(content: bytes) -> dict[str, Any] | None:
    """None for anything else. No exception gets out: JSON's own holds the whole text."""
    try:
        document = from_json(content)  # its nesting has a limit of its own: Python's may have been raised
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("version") != 3:
        return None
    return document if isinstance(document.get("crypto", document.get("Crypto")), dict) else None


def _asked(path: Path, ask: Ask | None) -> SecretStr:
    if ask is not None:
        with suppress(EOFError):  # no terminal
            return SecretStr(ask(f"Passphrase of {path}: "))
    raise Misconfigured(
        f"the keyfile {path} needs its passphrase and there is nobody to ask: set {_PASSPHRASE_SETTING}"
    )


def _decrypt(document: dict[str, Any], passphrase: SecretStr) -> PrivateKey | str:
    """The key, or what is wrong. No exception gets out: the frames of its traceback hold passphrase and key."""
    try:
        key = PrivateKey(bytes(Account.decrypt(document, passphrase.get_secret_value())))
    except Exception as error:  # what a broken file leads to depends on where it is broken
        if str(error) == "MAC mismatch":
            return f"does not open: the passphrase is another one, correct {_PASSPHRASE_SETTING}"
        return "is a broken keyfile: restore it from your copy"
    claimed = document.get("address")
    if isinstance(claimed, str) and claimed.lower().removeprefix("0x") != address_of(key)[2:].lower():
        return "holds another key than the address it names: restore it from your copy"
    return key


class Keyring:
    """The keys of a fleet: `m/44'/60'/0'/0/INDEX` of one root secret (BIP-32, the 32 bytes are the seed). So a
    thousand keys cost one decryption. Keep the index of an agent: another one is another account."""

    __slots__ = ("_derive",)

    def __init__(self, root: PrivateKey, *, redactor: Redactor | None = None) -> None:
        def derive(index: int) -> PrivateKey:
            return PrivateKey(HDPath(f"m/44'/60'/0'/0/{index}").derive(root.secret))

        self._derive = derive if redactor is None else _registering(derive, redactor)

    def key(self, index: int) -> PrivateKey:
        """The key of that index, from 0. Raises Misconfigured when there can be none."""
        if type(index) is not int or not 0 <= index < _INDEX_END:
            raise Misconfigured(f"a keyring has no key {index!r}: they are counted from 0")
        return self._derive(index)

    def __repr__(self) -> str:
        return "<Keyring>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a keyring holds a secret: it can't be copied or pickled")


def _registering(derive: Callable[[int], PrivateKey], redactor: Redactor) -> Callable[[int], PrivateKey]:
    def derive_and_register(index: int) -> PrivateKey:
        key = derive(index)
        redactor.add(key.secret)
        return key

    return derive_and_register


class Keystore:
    """Keys by what the file of agents says: `FILE`, `ape:ALIAS`, or `FILE#INDEX` for a key of a keyring. Each file is
    decrypted once. Drop it when all keys are loaded."""

    __slots__ = ("_open",)

    def __init__(
        self,
        passphrase: SecretStr | None,
        ask: Ask | None = None,
        *,
        ape_folder: Path | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        @cache
        def open_keyfile(path: str) -> PrivateKey:
            return load_keyfile(path, passphrase, ask, ape_folder=ape_folder, redactor=redactor)

        @cache
        def open_keyring(path: str) -> Keyring:
            return Keyring(open_keyfile(path), redactor=redactor)

        self._open = (open_keyfile, open_keyring)

    def key(self, name: str) -> PrivateKey:
        """Raises Misconfigured, as `load_keyfile` and `Keyring.key`."""
        open_keyfile, open_keyring = self._open
        path, mark, index = name.rpartition("#")
        return open_keyring(path).key(int(index)) if mark and index.isdecimal() else open_keyfile(name)

    def __repr__(self) -> str:
        return "<Keystore>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a keystore holds secrets: it can't be copied or pickled")
