"""A vault on Solana, read as a decision needs it: the same reading as of a vault on an EVM chain.

What the vault would say of itself now is asked of the program: `observe` is simulated, and the state that it would
leave is read, with both feeds at the same slot. So nothing of the guard is written a second time here.

Amounts are base units, values base units of quote. Unit prices (9 decimals) and prices (8) are given with the 18
decimals that the rest of MarketFlow knows; addresses are base58.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from agents.errors import Misconfigured
from agents.solana_program import PRICE_ONE, UNIT_PRICE_ONE, Ledger
from agents.solana_rpc import NodeFault, Rpc
from oracle.chain import BlockRef
from oracle.chainlink import Round
from oracle.solana_feeds import Feed, FeedKind, SolanaPrice, chainlink_rounds, read_price
from oracle.vault_state import EffectiveLimits, PositionReading, Reason, VaultReading, VaultState, reference_wad

WAD: Final = 10**18
DAY_S: Final = 86_400
_OF_UNIT_PRICE: Final = WAD // UNIT_PRICE_ONE
_OF_PRICE: Final = WAD // PRICE_ONE


class SolanaVaultReader:
    """Reads one vault, and its feeds' rounds: `VaultSource` and `RoundSource` of a cycle.

    Args:
        known: The accounts of the instruction `observe`, by the IDL's names.
        payer: Any account that exists; nothing is signed or paid.
    """

    def __init__(self, rpc: Rpc, ledger: Ledger, known: Mapping[str, Pubkey], *, payer: Pubkey) -> None:
        self._rpc, self._ledger, self._known, self._payer = rpc, ledger, dict(known), payer

    def fetch(self, block: BlockRef) -> VaultReading:
        """The vault as it would be if it were observed now; `block` is what the reading is said to be of.

        Raises NodeFault when the node can't say, Misconfigured when there is no such vault.
        """
        before = self._decoded(self._rpc.account(self._known["vault"]), "vault")
        config = self._decoded(self._rpc.account(self._known["protocol"]), "protocol").config
        vault, base_account, quote_account = self._observed()
        now_s = block.timestamp_s
        quote = self._price("quote", config.quote_feed, config, quote_account, now_s, vault.last_quote_s)
        base = self._price("base", vault.manifest.feed, config, base_account, now_s, vault.last_base_s)
        price_e8 = base.price_e8 * PRICE_ONE // quote.price_e8 if base.price_e8 and quote.price_e8 else 0
        value = vault.quote_held + vault.base_held * price_e8 // (vault.unit * (PRICE_ONE // vault.quote_unit))
        guard, mint, day = vault.guard, str(vault.manifest.base_mint), now_s // DAY_S
        reference = reference_wad(
            day, guard.day, guard.last_unit_price, guard.before_today, guard.before_yesterday
        )
        return VaultReading(
            block=block,
            address=str(self._known["vault"]),
            strategy_id="0x" + bytes(vault.id).hex(),
            artefact_hash="0x" + bytes(vault.manifest.artefact_hash).hex(),
            agent_id=str(vault.manifest.agent),
            state=_state(guard.reasons),
            reasons=guard.reasons,
            recorded_reasons=before.guard.reasons,
            value=value,
            quote_held=vault.quote_held,
            quote_unit=vault.quote_unit,
            quote_round=quote.round_of(str(config.quote_mint)),
            unit_price_wad=guard.last_unit_price * _OF_UNIT_PRICE,
            peak_wad=guard.peak * _OF_UNIT_PRICE,
            reference_wad=reference * _OF_UNIT_PRICE,
            profit=value + vault.net_flow,
            nonce=vault.nonce,
            trades_today=guard.trades_today if guard.day == day else 0,
            turnover_today=guard.turnover_today if guard.day == day else 0,
            slippage_level=guard.slippage.level,
            slippage_at_s=guard.slippage.written_s,
            slippage_decay_s=config.slippage_decay_s,
            limits=_stricter(vault.manifest.limits, config.ceilings),
            positions=(
                PositionReading(
                    token=mint, unit=vault.unit, amount=vault.base_held, price_wad=price_e8 * _OF_PRICE,
                    round=base.round_of(mint),
                ),
            ),
        )  # fmt: skip

    def fetch_since(self, last: Round, since_s: int) -> tuple[Round, ...]:
        """The base feed's rounds up to `last`, oldest first, from the last one before `since_s` on.

        As far as the account's ring goes back: Chainlink keeps some hundred to thousand rounds there. A Pyth account
        has one. Raises NodeFault when the node can't say.
        """
        data = self._rpc.account(self._known["base_feed"])
        found: list[Round] = []
        try:
            for number, at_s, answer in chainlink_rounds(data or b""):
                if number <= last.round_id:
                    found.append(Round(token=last.token, round_id=number, answer=answer, updated_at_s=at_s))
                    if at_s < since_s:
                        break
        except ValueError:  # Pyth's, which knows of no other
            found = [last]
        return tuple(reversed(found))

    def _observed(self) -> tuple[Any, dict[str, Any] | None, dict[str, Any] | None]:
        """The vault after `observe`, and both feeds' accounts, all at one slot."""
        instruction = self._ledger.instruction("observe", self._known)
        message = Message.new_with_blockhash([instruction], self._payer, Hash.default())
        unsigned = VersionedTransaction.populate(message, [Signature.default()])
        keys = [str(self._known[name]) for name in ("vault", "base_feed", "quote_feed")]
        told = self._rpc.ask(
            "simulateTransaction", base64.b64encode(bytes(unsigned)).decode(),
            {
                "encoding": "base64", "sigVerify": False, "replaceRecentBlockhash": True, "commitment": "finalized",
                "accounts": {"encoding": "base64", "addresses": keys},
            },
        )["value"]  # fmt: skip
        if told["err"] is not None or not told.get("accounts"):
            raise NodeFault(f"the vault could not be observed: {told['err']}; {(told.get('logs') or [''])[-1]}")
        vault, base, quote = told["accounts"]
        return self._decoded(_data(vault), "vault"), base, quote

    def _price(
        self, name: str, feed: Any, config: Any, account: dict[str, Any] | None, now_s: int, used_s: int
    ) -> SolanaPrice:
        kind = FeedKind(feed.kind)
        described = Feed(
            kind=kind, source=str(feed.source),
            max_age_s=feed.max_age_s, max_confidence_bps=feed.max_confidence_bps, decimals=feed.decimals,
            least_e8=feed.least_e8, most_e8=feed.most_e8,
        )  # fmt: skip
        return read_price(
            described, str(self._known[f"{name}_feed"]), account and account["owner"], _data(account), now_s=now_s,
            used_s=used_s, chainlink=str(config.chainlink), pyth=str(config.pyth),
        )  # fmt: skip

    def _decoded(self, data: bytes | None, what: str) -> Any:
        try:
            if data is not None and self._ledger.kind_of(data).lower() == what:
                return self._ledger.decode(data)
        except KeyError:
            pass
        raise Misconfigured(f"{self._known[what]} is no {what} of program {self._ledger.id}: correct the address")


def _data(account: dict[str, Any] | None) -> bytes:
    return base64.b64decode(account["data"][0]) if account else b""


def _state(reasons: int) -> VaultState:
    if reasons & Reason.HALTED:
        return VaultState.HALTED
    return VaultState.REDUCING if reasons else VaultState.ACTIVE


def _stricter(own: Any, ceilings: Any) -> EffectiveLimits:
    names = EffectiveLimits.__dataclass_fields__
    return EffectiveLimits(**{name: min(getattr(own, name), getattr(ceilings, name)) for name in names})
