"""A signer that signs trades and pokes of its own vaults and nothing else, and the keys it is given."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_abi.exceptions import DecodingError
from eth_account import Account
from eth_account.hdaccount import HDPath
from eth_account.typed_transactions import TypedTransaction
from eth_utils import keccak, to_checksum_address
from hexbytes import HexBytes
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from web3 import Web3

from agents.chain import RemoteChain
from agents.contracts import decode_logs, load_artifact
from agents.errors import Misconfigured
from agents.localnet.evm import LocalEvm, start_evm
from agents.secrets import Redactor
from agents.signer import (
    Keyring,
    Keystore,
    SigningRefused,
    TransactionFields,
    VaultSigner,
    address_of,
    ape_account_path,
    create_keyfile,
    encode_unsigned,
    load_keyfile,
    sign_fields,
)
from oracle.abi import CODEC, type_signature
from tests.contracts.world import World, struct, usd

SECRET = bytes.fromhex("00b7d1f5a1c3e5079123456789abcdef00112233445566778899aabbccddeeff")
KEY = PrivateKey(SECRET)
CHAIN_ID = 31337
VAULT = to_checksum_address("0x" + "a1" * 20)
FOREIGN = to_checksum_address("0x" + "b2" * 20)
MAX_FEE_WEI, MAX_GAS = 100 * 10**9, 2_000_000
PASSPHRASE = SecretStr("correct horse 'батарея\" \\ staple")
FAST_SCRYPT = 2
[TRADE_ABI] = [item for item in load_artifact("StrategyVault").abi if item.get("name") == "trade"]
ORDER_TYPE = type_signature(TRADE_ABI["inputs"][0])
POKE = keccak(text="poke()")[:4]


def order_words(**over: Any) -> list[Any]:
    values = {
        "asset": FOREIGN, "buy": True, "nonce": 7, "deadline": 2**64 - 1, "amountIn": 2**256 - 1, "minAmountOut": 0,
        "artefactHash": b"\xff" * 32, "explanationHash": b"\1" * 32, "observationHash": bytes(32),
    }  # fmt: skip
    return list((values | over).values())


def trade_data(**over: Any) -> bytes:
    contract = Web3().eth.contract(abi=[TRADE_ABI])
    return bytes.fromhex(contract.encode_abi("trade", [tuple(order_words(**over))])[2:])


GOOD = TransactionFields(
    chain_id=CHAIN_ID, nonce=3, gas=1_500_000, max_fee_per_gas_wei=3 * 10**9, max_priority_fee_per_gas_wei=10**9,
    to=VAULT, value_wei=0, data=trade_data(),
)  # fmt: skip
AS_DICT = {
    "from": address_of(KEY), "to": VAULT, "data": "0x" + GOOD.data.hex(), "value": 0, "chainId": CHAIN_ID, "nonce": 3,
    "gas": 1_500_000, "maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 10**9,
}  # fmt: skip


def create_signer(**over: Any) -> VaultSigner:
    allowed = {"chain_id": CHAIN_ID, "vaults": [VAULT], "max_fee_per_gas_wei": MAX_FEE_WEI, "max_gas": MAX_GAS}
    return VaultSigner(KEY, **(allowed | over))


def by_eth_account(fields: TransactionFields, secret: bytes = SECRET) -> tuple[bytes, str]:
    signed = Account.sign_transaction(
        {
            "type": 2, "chainId": fields.chain_id, "nonce": fields.nonce, "gas": fields.gas, "to": fields.to,
            "maxFeePerGas": fields.max_fee_per_gas_wei, "maxPriorityFeePerGas": fields.max_priority_fee_per_gas_wei,
            "value": fields.value_wei, "data": fields.data, "accessList": [],
        },
        secret,
    )  # fmt: skip
    return bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex()


# What is refused


def refused(fields: Any, **allowed: Any) -> str:
    with pytest.raises(SigningRefused) as caught:
        create_signer(**allowed).sign(fields)
    return str(caught.value)


def test_signer_refuses_a_call_to_a_foreign_vault() -> None:
    assert "is none of this agent's vaults" in refused(replace(GOOD, to=FOREIGN))


def test_signer_refuses_another_chain() -> None:
    assert "MARKETFLOW_CHAIN_ID" in refused(replace(GOOD, chain_id=1))


def test_signer_refuses_to_send_ether() -> None:
    assert "1 wei" in refused(replace(GOOD, value_wei=1))


def test_signer_refuses_a_fee_above_the_ceiling_and_signs_at_it() -> None:
    assert "MARKETFLOW_MAX_FEE_WEI allows" in refused(replace(GOOD, max_fee_per_gas_wei=MAX_FEE_WEI + 1))
    assert create_signer().sign(replace(GOOD, max_fee_per_gas_wei=MAX_FEE_WEI))


def test_signer_refuses_a_tip_above_the_fee() -> None:
    assert "tip" in refused(replace(GOOD, max_priority_fee_per_gas_wei=GOOD.max_fee_per_gas_wei + 1))


@pytest.mark.parametrize("gas", [0, MAX_GAS + 1])
def test_signer_refuses_gas_outside_its_range(gas: int) -> None:
    assert "gas" in refused(replace(GOOD, gas=gas))
    assert create_signer().sign(replace(GOOD, gas=MAX_GAS))


@pytest.mark.parametrize(
    "call",
    ["approve(address,uint256)", "transfer(address,uint256)", "halt()", "skim(address)",
     "recall(address,uint256,uint256)", "multicall(bytes[])", "execute(address,uint256,bytes)"],
)  # fmt: skip
def test_signer_refuses_every_function_but_two(call: str) -> None:
    data = keccak(text=call)[:4] + GOOD.data[4:]
    assert "neither trade nor poke" in refused(replace(GOOD, data=data))


@pytest.mark.parametrize("data", [b"", GOOD.data[:3], POKE[:3]])
def test_signer_refuses_calldata_without_a_selector(data: bytes) -> None:
    assert "neither trade nor poke" in refused(replace(GOOD, data=data))


@pytest.mark.parametrize(
    "data",
    [GOOD.data + b"\0", GOOD.data + bytes(32), GOOD.data[:-1], GOOD.data[:4], GOOD.data + GOOD.data, POKE + b"\0",
     POKE + bytes(32), POKE + GOOD.data],
)  # fmt: skip
def test_signer_refuses_calldata_of_another_length(data: bytes) -> None:
    assert "exactly" in refused(replace(GOOD, data=data))


@pytest.mark.parametrize(
    ("word", "byte"),
    [(0, 0), (0, 11), (1, 0), (1, 30), (2, 23), (3, 0)],
    ids=["asset, highest", "asset, next", "buy, highest", "buy, next", "nonce, next", "deadline, highest"],
)
def test_signer_refuses_calldata_with_bits_that_its_types_do_not_have(word: int, byte: int) -> None:
    data = bytearray(GOOD.data)
    data[4 + 32 * word + byte] |= 1
    assert "a value that its type does not allow" in refused(replace(GOOD, data=bytes(data)))


def test_signer_refuses_a_boolean_of_two() -> None:
    data = bytearray(GOOD.data)
    data[4 + 32 + 31] = 2
    assert "type does not allow" in refused(replace(GOOD, data=bytes(data)))


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.one_of(st.integers(0, 2), st.integers(0, 2**256 - 1)), min_size=9, max_size=9))
def test_signer_takes_exactly_the_orders_that_the_abi_decodes(words: list[int]) -> None:
    body = b"".join(word.to_bytes(32, "big") for word in words)
    try:
        [order] = CODEC.decode([ORDER_TYPE], body)
        is_order = CODEC.encode([ORDER_TYPE], [order]) == body
    except DecodingError:
        is_order = False
    fields = replace(GOOD, data=GOOD.data[:4] + body)
    if is_order:
        assert create_signer().sign(fields)
    else:
        refused(fields)


@pytest.mark.parametrize("to", [None, "", b"", bytes.fromhex(VAULT[2:]), int(VAULT, 16), [VAULT]])
def test_signer_refuses_to_create_contracts_and_receivers_that_are_no_text(to: Any) -> None:
    assert "receiver" in refused(replace(GOOD, to=to))
    with pytest.raises(SigningRefused, match="receiver"):
        encode_unsigned(replace(GOOD, to=to))


@pytest.mark.parametrize("spelling", [VAULT, VAULT.lower(), "0x" + VAULT[2:].upper()])
def test_signer_knows_its_vault_in_lower_case_upper_case_and_with_checksum(spelling: str) -> None:
    assert create_signer().sign(replace(GOOD, to=spelling)) == create_signer().sign(GOOD)
    assert create_signer(vaults=[spelling]).sign(GOOD)


@pytest.mark.parametrize(
    "spelling",
    [VAULT[2:], "0X" + VAULT[2:], VAULT + "\n", " " + VAULT, VAULT + "00", VAULT[:-1], VAULT.replace("1", "１")],
)
def test_signer_refuses_other_spellings_of_its_vault(spelling: str) -> None:
    assert "no address" in refused(replace(GOOD, to=spelling))


def test_signer_refuses_a_wrong_checksum() -> None:
    swapped = "0x" + VAULT[2:].swapcase()
    assert swapped[2:].lower() != swapped[2:] != swapped[2:].upper()
    assert "checksum" in refused(replace(GOOD, to=swapped))


class Chameleon(str):
    """Compares and hashes as the vault, and is another address."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(VAULT)


class Sly(int):
    """A zero that is not."""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize("value", [True, 1.0, -1, None, "1", Sly(5), 2**256])
@pytest.mark.parametrize(
    "name", ["chain_id", "nonce", "gas", "max_fee_per_gas_wei", "max_priority_fee_per_gas_wei", "value_wei"]
)
def test_signer_refuses_what_is_no_whole_number(name: str, value: Any) -> None:
    fields = replace(GOOD, **{name: value})
    assert name in refused(fields)
    with pytest.raises(SigningRefused, match=name):
        sign_fields(KEY, fields)


def test_signer_refuses_a_nonce_that_no_account_can_have() -> None:
    assert "nonce" in refused(replace(GOOD, nonce=2**64 - 1))
    assert create_signer().sign(replace(GOOD, nonce=2**64 - 2))


class Data(bytes):
    """Shows the signer a trade, and has other content."""

    def __getitem__(self, index: Any) -> Any:
        return GOOD.data[index]


@pytest.mark.parametrize(
    "data", [bytearray(GOOD.data), memoryview(GOOD.data), GOOD.data.hex(), None, Data(b"\1" * 292)]
)
def test_signer_refuses_data_that_could_still_change(data: Any) -> None:
    assert "expected bytes" in refused(replace(GOOD, data=data))


def test_signer_refuses_an_address_that_only_compares_as_its_vault() -> None:
    assert "receiver" in refused(replace(GOOD, to=Chameleon(FOREIGN)))


def test_signer_refuses_a_subclass_of_the_fields_whose_answers_change() -> None:
    class Changing(TransactionFields):
        @property
        def to(self) -> str:  # type: ignore[override]
            self.asked.append(1)
            return VAULT if len(self.asked) == 1 else FOREIGN

        asked: list[int] = []  # noqa: RUF012

    changing = object.__new__(Changing)
    assert "no TransactionFields" in refused(changing)
    assert "no TransactionFields" in refused({"to": VAULT})


def test_fields_that_another_thread_changes_are_signed_as_they_were_checked() -> None:
    fields, signer, stop = replace(GOOD), create_signer(), []
    allowed = signer.sign(GOOD).raw

    def flicker() -> None:
        while not stop:
            object.__setattr__(fields, "to", FOREIGN)
            object.__setattr__(fields, "to", VAULT)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(flicker)
        try:
            for _ in range(300):
                try:
                    assert signer.sign(fields).raw == allowed
                except SigningRefused:
                    continue
        finally:
            stop.append(True)


# The dictionary of eth-account


class TwoFaced(dict[str, Any]):
    """Answers with the vault when it is asked for the first time, with another address from then on."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked = 0

    def __getitem__(self, name: str) -> Any:
        if name == "to":
            self.asked += 1
            return VAULT if self.asked == 1 else FOREIGN
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name == "to" else super().get(name, default)


class TwoFacedMapping(Mapping[str, Any]):
    """The same without being a dictionary inside."""

    def __init__(self) -> None:
        self.inner = TwoFaced(AS_DICT)

    def __getitem__(self, name: str) -> Any:
        return self.inner[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


@pytest.mark.parametrize("create", [lambda: TwoFaced(AS_DICT | {"to": VAULT}), TwoFacedMapping])
def test_what_was_checked_is_signed_when_a_mapping_answers_differently_later(create: Callable[[], Any]) -> None:
    signed = create_signer().sign_transaction(create())
    sent = TypedTransaction.from_bytes(HexBytes(signed.raw_transaction)).as_dict()
    assert to_checksum_address(sent["to"]) == VAULT


@pytest.mark.parametrize(
    ("over", "because"),
    [
        ({"to": FOREIGN}, "none of this agent's vaults"), ({"to": None}, "receiver"), ({"chainId": 1}, "chain 1"),
        ({"value": 1}, "1 wei"), ({"value": True}, "value_wei"), ({"nonce": "0x3"}, "nonce"), ({"gas": 1e6}, "gas"),
        ({"data": "0x095ea7b3"}, "neither"), ({"data": "zz"}, "no bytes"), ({"data": None}, "no bytes"),
        ({"data": "0x123"}, "no bytes"), ({"type": 0}, "type 2"), ({"type": 4}, "type 2"),
        ({"gasPrice": 1}, "gasPrice"), ({"from": FOREIGN}, "another account"),
        ({"accessList": [{"address": VAULT, "storageKeys": []}]}, "access list"),
        ({"authorizationList": []}, "authorizationList"), ({"blobVersionedHashes": []}, "blobVersionedHashes"),
        ({"input": "0x"}, "input"), ({"maxFeePerGas": MAX_FEE_WEI + 1}, "MARKETFLOW_MAX_FEE_WEI"),
    ],
)  # fmt: skip
def test_signer_refuses_dictionaries_as_it_refuses_fields(over: dict[str, Any], because: str) -> None:
    with pytest.raises(SigningRefused, match=because):
        create_signer().sign_transaction(AS_DICT | over)


@pytest.mark.parametrize("name", ["to", "chainId", "nonce", "gas", "maxFeePerGas", "maxPriorityFeePerGas"])
def test_signer_refuses_a_dictionary_with_a_gap(name: str) -> None:
    with pytest.raises(SigningRefused, match=f"has no {name}"):
        create_signer().sign_transaction({key: value for key, value in AS_DICT.items() if key != name})


@pytest.mark.parametrize(
    "over",
    [{}, {"type": 2}, {"type": "0x2", "accessList": []}, {"data": GOOD.data}, {"data": HexBytes(GOOD.data)},
     {"data": bytearray(GOOD.data)}, {"from": address_of(KEY).lower()}],
)  # fmt: skip
def test_a_dictionary_is_signed_as_eth_account_signs_it(over: dict[str, Any]) -> None:
    signed = create_signer().sign_transaction(AS_DICT | over)
    assert (bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex()) == by_eth_account(GOOD)


# What a signer is


def test_refusals_stop_the_daemon_instead_of_being_tried_again() -> None:
    assert issubclass(SigningRefused, Misconfigured)


def test_a_refusal_of_one_signs_none_of_them() -> None:
    with pytest.raises(SigningRefused):
        create_signer().sign_many([GOOD, replace(GOOD, to=FOREIGN)])


def test_many_are_signed_in_order() -> None:
    wanted = [replace(GOOD, nonce=nonce) for nonce in range(5)]
    assert create_signer().sign_many(iter(wanted)) == [sign_fields(KEY, fields) for fields in wanted]


def test_several_threads_sign_the_same_bytes_as_one() -> None:
    wanted = [replace(GOOD, nonce=nonce) for nonce in range(100)]
    signer = create_signer()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(signer.sign, wanted)) == signer.sign_many(wanted)


def test_signer_has_no_way_to_sign_anything_else() -> None:
    methods = {name for name in dir(VaultSigner) if "sign" in name}
    assert methods == {"sign", "sign_many", "sign_transaction", "_sign_all"}
    inner = create_signer()._sign_all((replace(GOOD, to=FOREIGN),))
    assert isinstance(inner, SigningRefused), "the inner function has the same rules"


@pytest.mark.parametrize("name", ["address", "chain_id", "vaults", "_sign_all", "another"])
def test_signer_does_not_change(name: str) -> None:
    signer = create_signer()
    with pytest.raises(AttributeError, match="does not change"):
        setattr(signer, name, (FOREIGN,))
    with pytest.raises(AttributeError, match="does not change"):
        delattr(signer, name)


def test_a_list_of_vaults_that_grows_later_allows_nothing_new() -> None:
    vaults = [VAULT]
    signer = create_signer(vaults=vaults)
    vaults.append(FOREIGN)
    object.__setattr__(signer, "vaults", (VAULT, FOREIGN))
    with pytest.raises(SigningRefused):
        signer.sign(replace(GOOD, to=FOREIGN))


@pytest.mark.parametrize(
    "over",
    [{"vaults": []}, {"vaults": VAULT}, {"vaults": [None]}, {"chain_id": 0}, {"chain_id": True}, {"max_gas": -1},
     {"max_fee_per_gas_wei": 1.5}, {"vaults": ["0x" + VAULT[2:].swapcase()]}],
)  # fmt: skip
def test_signer_refuses_rules_that_make_no_sense(over: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        create_signer(**over)


def spelled(secret: bytes) -> tuple[str, ...]:
    return (secret.hex(), secret.hex().lstrip("0"), repr(secret)[2:-1], str(int.from_bytes(secret, "big")))


def test_the_key_is_in_no_repr_attribute_copy_or_pickle(tmp_path: Path) -> None:
    keyring, keystore = Keyring(KEY), Keystore(PASSPHRASE)
    for holder in (create_signer(), keyring, keystore):
        shown = repr(holder) + str(holder) + repr([getattr(holder, name) for name in type(holder).__slots__])
        assert not any(text in shown for text in (*spelled(SECRET), PASSPHRASE.get_secret_value()))
        with pytest.raises(TypeError, match="__dict__"):
            vars(holder)
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="can't be copied or pickled"):
                duplicate(holder)


def frames_of(error: BaseException | None) -> Iterator[Any]:
    while error is not None:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        yield from frames
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("fields", [replace(GOOD, to=FOREIGN), None, replace(GOOD, data=b"")])
def test_the_key_is_in_no_frame_of_a_refusal(fields: Any) -> None:
    with pytest.raises(SigningRefused) as caught:
        create_signer().sign(fields)
    frames = [frame for frame in frames_of(caught.value) if frame.f_code.co_filename != __file__]
    assert [frame.f_code.co_name for frame in frames] == ["sign", "sign_many"]
    assert not any(isinstance(value, PrivateKey) for frame in frames for value in frame.f_locals.values())
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert not any(text in shown for text in spelled(SECRET))


# Byte for byte

ADDRESSES = st.binary(min_size=20, max_size=20).map(to_checksum_address)
QUANTITIES = st.one_of(st.sampled_from([0, 1, 127, 128, 255, 256, 2**64, 2**256 - 1]), st.integers(0, 2**256 - 1))
NONCES = st.one_of(st.sampled_from([0, 1, 127, 128, 255, 256, 2**64 - 2]), st.integers(0, 2**64 - 2))
DATA = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\0", b"\x7f", b"\x80"]),
    st.sampled_from([54, 55, 56, 57, 255, 256, 65_535, 65_536, 70_000]).map(lambda size: bytes([size % 251]) * size),
)
FIELDS = st.builds(
    TransactionFields, chain_id=st.integers(0, 2**64), nonce=NONCES, gas=NONCES, max_fee_per_gas_wei=QUANTITIES,
    max_priority_fee_per_gas_wei=QUANTITIES, to=ADDRESSES, value_wei=QUANTITIES, data=DATA,
)  # fmt: skip
SECRETS = st.one_of(
    st.integers(1, 2**256 - 2**129), st.sampled_from([1, 255, 2**128])
).map(lambda number: number.to_bytes(32, "big"))  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(fields=FIELDS, secret=SECRETS)
def test_signed_bytes_are_those_of_eth_account(fields: TransactionFields, secret: bytes) -> None:
    signed = sign_fields(PrivateKey(secret), fields)
    assert (signed.raw, signed.hash) == by_eth_account(fields, secret)


@settings(max_examples=50, deadline=None)
@given(fields=FIELDS)
def test_unsigned_bytes_hash_to_what_eth_account_signs(fields: TransactionFields) -> None:
    unsigned = TypedTransaction.from_dict({
        "type": 2, "chainId": fields.chain_id, "nonce": fields.nonce, "gas": fields.gas, "to": fields.to,
        "maxFeePerGas": fields.max_fee_per_gas_wei, "maxPriorityFeePerGas": fields.max_priority_fee_per_gas_wei,
        "value": fields.value_wei, "data": fields.data,
    })  # fmt: skip
    assert keccak(encode_unsigned(fields)) == bytes(unsigned.hash())


@pytest.mark.parametrize("part", ["r", "s"])
def test_signatures_with_leading_zeros_are_those_of_eth_account(part: str) -> None:
    found = 0
    for nonce in range(2_000):
        fields = replace(GOOD, nonce=nonce)
        signed = sign_fields(KEY, fields)
        if int(TypedTransaction.from_bytes(HexBytes(signed.raw)).as_dict()[part]) < 2**248:
            assert (signed.raw, signed.hash) == by_eth_account(fields)
            found += 1
        if found == 2:
            return
    pytest.fail("no signature with a leading zero was found")


def test_signer_signs_trades_and_pokes_as_eth_account_does() -> None:
    signer = create_signer()
    changes: list[dict[str, Any]] = [{}, {"data": POKE}, {"nonce": 0}, {"max_priority_fee_per_gas_wei": 0}]
    for fields in (replace(GOOD, **change) for change in changes):
        assert (signer.sign(fields).raw, signer.sign(fields).hash) == by_eth_account(fields)
    assert signer.address == Account.from_key(SECRET).address


# On a chain


@pytest.fixture(scope="module")
def evm() -> Iterator[LocalEvm]:
    with start_evm() as started:
        yield started


def test_a_vault_is_traded_and_poked_by_a_chain_that_signs_with_the_signer(evm: LocalEvm) -> None:
    world = World(evm)
    strategy = world.deploy_strategy()
    chain = RemoteChain(evm.w3)
    signer = VaultSigner(
        PrivateKey(bytes(world.signer.key)), chain_id=chain.chain_id, vaults=[strategy.vault.address],
        max_fee_per_gas_wei=10**12, max_gas=3_000_000,
    )  # fmt: skip
    trade = strategy.vault.functions.trade(struct(world.order(strategy, usd(1_000), buy=True)))
    events = decode_logs(chain.send(trade, signer))
    assert world.held(strategy) > 0
    assert events
    assert chain.send(strategy.vault.functions.poke(), signer)["status"] == 1
    with pytest.raises(SigningRefused, match="none of this agent's vaults"):
        chain.send(world.quote.functions.approve(world.stranger.address, 1), signer)


# Keyfiles


def write_keyfile(path: Path, document: Any = None, *, mode: int = 0o600, passphrase: SecretStr = PASSPHRASE) -> Path:
    if document is None:
        document = Account.encrypt(SECRET, passphrase.get_secret_value(), kdf="scrypt", iterations=FAST_SCRYPT)
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    return write_keyfile(tmp_path / "agent.json")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700, 0o622])
def test_a_keyfile_that_others_can_use_is_refused(keyfile: Path, mode: int) -> None:
    keyfile.chmod(mode)
    with pytest.raises(Misconfigured, match=rf"mode {mode:04o}, others can use it: `chmod 600 {keyfile}`"):
        load_keyfile(keyfile, PASSPHRASE)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_keyfile_that_only_its_owner_can_use_is_opened(keyfile: Path, mode: int) -> None:
    keyfile.chmod(mode)
    assert load_keyfile(keyfile, PASSPHRASE).secret == SECRET


def test_a_wrong_passphrase_names_file_and_setting_and_no_secret(keyfile: Path) -> None:
    with pytest.raises(Misconfigured, match="MARKETFLOW_KEYFILE_PASSPHRASE") as caught:
        load_keyfile(keyfile, SecretStr("not the passphrase"))
    assert str(keyfile) in str(caught.value)
    assert "not the passphrase" not in str(caught.value)


def test_a_missing_keyfile_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.json can't be read"):
        load_keyfile(tmp_path / "none.json", PASSPHRASE)


@pytest.mark.parametrize(
    "content",
    ["", "a93f secret text", SECRET.hex(), f'"{SECRET.hex()}"', "[1]", "{}", '{"version": 3}',
     '{"version": 4, "crypto": {}}', '{"version": 3, "crypto": "x"}', "[" * 60_000],
)  # fmt: skip
def test_what_is_no_keyfile_is_refused_before_anybody_is_asked(tmp_path: Path, content: str) -> None:
    def ask(_: str) -> str:
        raise AssertionError("asked")

    path = write_keyfile(tmp_path / "key.json", content)
    with pytest.raises(Misconfigured, match="is no encrypted keyfile") as caught:
        load_keyfile(path, None, ask)
    assert not any(text in str(caught.value) for text in ("secret text", SECRET.hex()))
    assert not list(frames_of(caught.value.__context__)), "JSON's own error holds the whole text"


@pytest.mark.parametrize("change", [{"kdf": "none"}, {"ciphertext": "zz"}, {"mac": 5}, {"kdfparams": {}}])
def test_a_broken_keyfile_is_named_as_such(keyfile: Path, change: dict[str, Any]) -> None:
    document = json.loads(keyfile.read_text())
    document["crypto"] |= change
    with pytest.raises(Misconfigured, match=r"agent\.json is a broken keyfile"):
        load_keyfile(write_keyfile(keyfile, document), PASSPHRASE)


def test_a_keyfile_whose_key_was_exchanged_is_refused(keyfile: Path) -> None:
    """The passphrase guards the key, not the initial value it is decrypted with."""
    document = json.loads(keyfile.read_text())
    iv = bytearray.fromhex(document["crypto"]["cipherparams"]["iv"].zfill(32))
    iv[0] ^= 1
    document["crypto"]["cipherparams"]["iv"] = iv.hex()
    with pytest.raises(Misconfigured, match="another key than the address it names"):
        load_keyfile(write_keyfile(keyfile, document), PASSPHRASE)


def test_folders_pipes_and_large_files_are_no_keyfiles(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    large = write_keyfile(tmp_path / "large.json", " " * 65_537)
    for path in (tmp_path, tmp_path / "pipe", large):
        with pytest.raises(Misconfigured, match=r"is no keyfile|can't be read"):
            load_keyfile(path, PASSPHRASE)


def test_without_passphrase_somebody_is_asked(keyfile: Path) -> None:
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return PASSPHRASE.get_secret_value()

    assert load_keyfile(keyfile, None, ask).secret == SECRET
    assert prompts == [f"Passphrase of {keyfile}: "]
    with pytest.raises(Misconfigured, match="set MARKETFLOW_KEYFILE_PASSPHRASE"):
        load_keyfile(keyfile, None)


def test_without_a_terminal_the_setting_is_named(keyfile: Path) -> None:
    def ask(_: str) -> str:
        raise EOFError

    with pytest.raises(Misconfigured, match="set MARKETFLOW_KEYFILE_PASSPHRASE"):
        load_keyfile(keyfile, None, ask)


def test_an_empty_passphrase_is_one(tmp_path: Path) -> None:
    path = write_keyfile(tmp_path / "empty.json", passphrase=SecretStr(""))
    assert load_keyfile(path, SecretStr("")).secret == SECRET


def test_no_frame_of_a_failed_decryption_is_left(keyfile: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        load_keyfile(keyfile, SecretStr("not the passphrase"))
    frames = [frame for frame in frames_of(caught.value) if frame.f_code.co_filename != __file__]
    assert {frame.f_code.co_name for frame in frames} == {"load_keyfile"}
    assert "not the passphrase" not in repr([frame.f_locals for frame in frames])


def test_a_loaded_key_and_its_passphrase_are_known_to_the_redactor(keyfile: Path) -> None:
    redactor = Redactor()
    load_keyfile(keyfile, PASSPHRASE, redactor=redactor)
    assert redactor.redact(f"{SECRET.hex()} {PASSPHRASE.get_secret_value()}") == "[removed] [removed]"


def test_a_new_keyfile_is_private_opens_and_is_known_to_eth_account(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    address = create_keyfile(path, PASSPHRASE, scrypt_n=FAST_SCRYPT)
    assert path.stat().st_mode & 0o777 == 0o600
    assert address_of(load_keyfile(path, PASSPHRASE)) == address
    key = Account.decrypt(json.loads(path.read_text()), PASSPHRASE.get_secret_value())
    assert Account.from_key(key).address == address
    assert [file.name for file in tmp_path.iterdir()] == ["new.json"]


def test_a_keyfile_is_never_overwritten(keyfile: Path) -> None:
    before = keyfile.read_bytes()
    with pytest.raises(Misconfigured, match="exists and is not overwritten"):
        create_keyfile(keyfile, PASSPHRASE, scrypt_n=FAST_SCRYPT)
    assert keyfile.read_bytes() == before
    assert [file.name for file in keyfile.parent.iterdir()] == [keyfile.name]


def test_a_link_that_leads_nowhere_is_not_followed_by_a_new_keyfile(tmp_path: Path) -> None:
    (tmp_path / "new.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(Misconfigured, match="exists"):
        create_keyfile(tmp_path / "new.json", PASSPHRASE, scrypt_n=FAST_SCRYPT)
    assert not (tmp_path / "elsewhere.json").exists()


def test_a_keyfile_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="can't be written"):
        create_keyfile(tmp_path / "none" / "new.json", PASSPHRASE, scrypt_n=FAST_SCRYPT)


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="take a longer one") as caught:
        create_keyfile(tmp_path / "new.json", SecretStr("1234567"), scrypt_n=FAST_SCRYPT)
    assert "1234567" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# ape's accounts


def test_an_ape_account_is_found_by_its_alias(tmp_path: Path) -> None:
    (tmp_path / "accounts").mkdir()
    path = write_keyfile(tmp_path / "accounts" / "bot.json")
    assert ape_account_path("bot", data_folder=tmp_path) == path
    assert load_keyfile("ape:bot", PASSPHRASE, ape_folder=tmp_path).secret == SECRET
    assert ape_account_path("bot") == Path.home() / ".ape" / "accounts" / "bot.json"


@pytest.mark.parametrize("alias", ["", ".", "..", "../bot", "/etc/passwd", "a/b", ".hidden", "a\0b"])
def test_an_alias_that_is_a_path_is_refused(alias: str) -> None:
    with pytest.raises(Misconfigured, match="no alias of an ape account"):
        load_keyfile(f"ape:{alias}", PASSPHRASE)


_GENERATE = """
from pathlib import Path
from ape_accounts import import_account_from_private_key
import_account_from_private_key("bot", "Long enough 1!", "0x{key}")
"""


def test_an_account_that_ape_made_is_opened(tmp_path: Path) -> None:
    """ape itself runs elsewhere: importing it changes eth-abi for the whole process."""
    environment = {"APE_DATA_FOLDER": str(tmp_path), "HOME": str(tmp_path), "PATH": ""}
    program = [sys.executable, "-c", _GENERATE.format(key=SECRET.hex())]
    subprocess.run(program, env=environment, check=True, cwd=tmp_path)
    ape_account_path("bot", data_folder=tmp_path).chmod(0o600)
    assert load_keyfile("ape:bot", SecretStr("Long enough 1!"), ape_folder=tmp_path).secret == SECRET


# A fleet


def test_a_keyring_derives_the_keys_that_wallets_derive() -> None:
    keyring = Keyring(KEY)
    for index in (0, 1, 999):
        assert keyring.key(index).secret == HDPath(f"m/44'/60'/0'/0/{index}").derive(SECRET)
    assert len({keyring.key(index).secret for index in range(20)} | {SECRET}) == 21


@pytest.mark.parametrize("index", [-1, 2**31, True, 1.0, "1", None])
def test_a_keyring_has_no_key_of_a_strange_index(index: Any) -> None:
    with pytest.raises(Misconfigured, match="counted from 0"):
        Keyring(KEY).key(index)


def test_a_keystore_opens_each_file_once(tmp_path: Path, keyfile: Path) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return PASSPHRASE.get_secret_value()

    redactor = Redactor()
    keystore = Keystore(None, ask, redactor=redactor)
    keys = [keystore.key(f"{keyfile}#{index}") for index in range(10)]
    assert keystore.key(str(keyfile)).secret == SECRET
    assert [key.secret for key in keys] == [Keyring(KEY).key(index).secret for index in range(10)]
    assert len(asked) == 1
    assert redactor.redact(keys[7].secret.hex()) == "[removed]"


def test_a_file_whose_name_has_a_mark_is_no_keyring(tmp_path: Path) -> None:
    path = write_keyfile(tmp_path / "agent#one.json")
    assert Keystore(PASSPHRASE).key(str(path)).secret == SECRET
    with pytest.raises(Misconfigured, match="can't be read"):
        Keystore(PASSPHRASE).key(f"{tmp_path}/none.json#1")
