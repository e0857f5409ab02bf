"""Any Ethereum node as the rest of the code wants a chain: calls decoded, reverts named, transactions signed here.

`RemoteChain` and `agents.localnet.evm.LocalEvm` answer to the same names, so what runs on one runs on the other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from eth_account.messages import encode_typed_data
from eth_utils import to_bytes, to_checksum_address
from web3 import Web3
from web3.contract import Contract
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3RPCError

from agents.contracts import Artifact, decode_revert, load_artifact
from agents.errors import Misconfigured, Retryable
from agents.localnet.evm import CallReverted, Receipt, TransactionReverted
from oracle.abi import decode_outputs

# How much more gas than estimated a transaction may use: state moves between estimate and block.
GAS_MARGIN_PERCENT = 25
# And in units: an estimate in the last block's second finds the vote checkpoints that the next second has to write.
GAS_MARGIN = 100_000
# Between two questions for a receipt: a local node has it at once, a public one counts the questions.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 1.0


class RemoteChain:
    """A node reached through web3. `sender` arguments are signers: anything with `.address` and `sign_transaction`
    (eth-account's LocalAccount), or `ApeSigner` around an ape account."""

    def __init__(self, w3: Web3, *, chain_id: int | None = None, receipt_timeout_s: float = 180) -> None:
        self.w3, self._timeout_s = w3, receipt_timeout_s
        actual = w3.eth.chain_id
        if chain_id is not None and actual != chain_id:
            raise Misconfigured(f"the node is on chain {actual}, expected is chain {chain_id}: check --network")
        self.chain_id = actual
        self._contracts: dict[tuple[str, str], Contract] = {}

    def now_s(self) -> int:
        """Timestamp of the latest block."""
        return int(self.w3.eth.get_block("latest")["timestamp"])

    def at(self, artifact: Artifact | str, address: str) -> Contract:
        """The contract of that artifact (by name: one of ours) at an address."""
        found = load_artifact(artifact) if isinstance(artifact, str) else artifact
        key = (found.name, to_checksum_address(address))
        if key not in self._contracts:
            self._contracts[key] = self.w3.eth.contract(address=key[1], abi=found.abi)
        return self._contracts[key]

    def call(self, what: Any, sender: Any = None, *, block: int | str = "latest") -> Any:
        """What a bound contract function returns, structs as named tuples; for a dict with `to` and `data` bytes.

        Raises CallReverted with the decoded reason.
        """
        request: dict[str, Any] = dict(what) if isinstance(what, Mapping) else {"to": what.address, "data": _data(what)}
        if sender is not None:
            request["from"] = getattr(sender, "address", sender)
        try:
            data = bytes(self.w3.eth.call(request, block))
        except ContractLogicError as error:
            raise CallReverted(decode_revert(_revert_data(error))) from None
        return data if isinstance(what, Mapping) else decode_outputs(what.abi["outputs"], data)

    def sign(self, what: Any, sender: Any, *, value: int = 0) -> tuple[bytes, str, int]:
        """A transaction ready to be sent: raw bytes, its hash, and the account's nonce it uses.

        Raises TransactionReverted's reason as CallReverted when it would revert, Misconfigured when there is no ether.
        """
        transaction: dict[str, Any] = {
            "from": sender.address,
            "value": value,
            "chainId": self.chain_id,
            "nonce": self.w3.eth.get_transaction_count(sender.address, "pending"),
            **_target(what),
        }
        try:
            estimate = self.w3.eth.estimate_gas(transaction)
        except ContractLogicError as error:
            raise CallReverted(decode_revert(_revert_data(error))) from None
        except Web3RPCError as error:
            if "insufficient funds" in str(error).lower():
                raise Misconfigured(f"account {sender.address} has no ether for gas: send it some") from error
            raise
        tip, max_fee = self.fees()
        gas = estimate * (100 + GAS_MARGIN_PERCENT) // 100 + GAS_MARGIN
        self.require_ether(sender.address, gas * max_fee + value)
        transaction |= {"gas": gas, "maxPriorityFeePerGas": tip, "maxFeePerGas": max_fee}
        signed = sender.sign_transaction(transaction)
        return bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex(), transaction["nonce"]

    def fees(self) -> tuple[int, int]:
        """Tip and highest fee, wei for a unit of gas, of a transaction that is to be mined soon."""
        base_fee = self.w3.eth.get_block("latest").get("baseFeePerGas", 0)
        tip = self.w3.eth.max_priority_fee
        return tip, 2 * base_fee + tip

    def require_ether(self, address: str, needed_wei: int) -> None:
        """Raises Misconfigured unless the account can pay that much: nodes want the highest fee to be there."""
        if (balance_wei := self.w3.eth.get_balance(to_checksum_address(address))) < needed_wei:
            has, needed = (Decimal(wei).scaleb(-18).normalize() for wei in (balance_wei, needed_wei))
            raise Misconfigured(
                f"account {address} has {has:f} ether on chain {self.chain_id}, up to {needed:f} are needed: "
                "send it some"
            )

    def send_raw(self, raw: bytes) -> Receipt:
        """Sends what was signed and waits for it; sending again what is known or mined already is no error.

        Raises TransactionReverted, or Retryable when no block takes it in time.
        """
        transaction_hash = Web3.keccak(raw)
        try:
            self.w3.eth.send_raw_transaction(raw)
        except Web3RPCError as error:
            if not self._is_known(transaction_hash):
                raise Retryable(f"the node refused transaction {Web3.to_hex(transaction_hash)}: {error}") from error
        deadline, pause_s = time.monotonic() + self._timeout_s, FIRST_PAUSE_S
        while (receipt := self._receipt(transaction_hash)) is None:
            if time.monotonic() > deadline:
                raise Retryable(f"no block took transaction {Web3.to_hex(transaction_hash)} in {self._timeout_s:.0f} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if receipt["status"] == 1:
            return receipt
        sent = self.w3.eth.get_transaction(transaction_hash)
        replay = {"from": sent["from"], "to": sent.get("to"), "data": sent["input"], "value": sent["value"]}
        try:
            self.w3.eth.call(replay, receipt["blockNumber"] - 1)
            reason = decode_revert(b"")
        except ContractLogicError as error:
            reason = decode_revert(_revert_data(error))
        raise TransactionReverted(reason, receipt, gas_limit=sent["gas"])

    def send(self, what: Any, sender: Any, *, value: int = 0) -> Receipt:
        """Signs, sends and waits. Raises TransactionReverted, CallReverted (before it is sent), Misconfigured."""
        raw, _, _ = self.sign(what, sender, value=value)
        return self.send_raw(raw)

    def deploy(self, artifact: Artifact | str, *args: Any, sender: Any) -> Contract:
        """Deploys a contract (by name: one of ours) with constructor arguments."""
        found = load_artifact(artifact) if isinstance(artifact, str) else artifact
        factory = self.w3.eth.contract(abi=found.abi, bytecode=found.bytecode)
        return self.at(found, self.send(factory.constructor(*args), sender)["contractAddress"])

    def _receipt(self, transaction_hash: bytes) -> Receipt | None:
        try:
            return self.w3.eth.get_transaction_receipt(transaction_hash)
        except TransactionNotFound:
            return None

    def _is_known(self, transaction_hash: bytes) -> bool:
        try:
            self.w3.eth.get_transaction(transaction_hash)
        except TransactionNotFound:
            return False
        return True


class ApeSigner:
    """An ape account as a signer. Unlocking is ape's business: a prompt, or APE_ACCOUNTS_<alias>_PASSPHRASE."""

    def __init__(self, account: Any, provider: Any) -> None:
        self.address, self._account, self._provider = to_checksum_address(str(account.address)), account, provider

    def sign_transaction(self, transaction: Mapping[str, Any]) -> Any:
        """A signed transaction with `raw_transaction` and `hash`."""
        ecosystem = self._provider.network.ecosystem
        fields = {**transaction, "gasLimit": transaction["gas"], "type": 2}
        prepared = ecosystem.create_transaction(**fields)
        signed = self._account.sign_transaction(prepared)
        if signed is None or signed.signature is None:
            raise Misconfigured(f"account {self.address} did not sign: unlock it, or set its passphrase variable")
        raw = bytes(signed.serialize_transaction())
        return SimpleNamespace(raw_transaction=raw, hash=Web3.keccak(raw))

    def sign_typed_data(
        self, domain_data: Mapping[str, Any], message_types: Mapping[str, Any], message_data: Mapping[str, Any]
    ) -> Any:
        """An EIP-712 signature, as `signature` of what is returned: as eth-account's LocalAccount answers."""
        signable = encode_typed_data(dict(domain_data), dict(message_types), dict(message_data))
        signed = self._account.sign_message(signable)
        if signed is None:
            raise Misconfigured(f"account {self.address} did not sign: unlock it, or set its passphrase variable")
        return SimpleNamespace(signature=bytes(signed.encode_rsv()))


def _data(what: Any) -> str:
    return str(what._encode_transaction_data())


def _target(what: Any) -> dict[str, Any]:
    if isinstance(what, Mapping):
        return dict(what)
    if getattr(what, "address", None):
        return {"to": what.address, "data": _data(what)}
    return {"data": what.data_in_transaction}


def _revert_data(error: ContractLogicError) -> bytes:
    data = error.data if isinstance(error.data, str) else None
    return to_bytes(hexstr=data) if data and data.startswith("0x") else b""
