"""What attacks on governance share: an attacker whose every transaction is paid for, and where votes are traded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from web3.contract import Contract

from agents.contracts import EventLog, decode_logs, third_party
from agents.localnet import uniswap
from agents.localnet.evm import Account, TransactionReverted
from tests.contracts.world import DAY_S, GOVERNANCE, PROPOSAL_STATES, World, proposal_states, tokens, usd

AGAINST, FOR, ABSTAIN = 0, 1, 2
# 4 % of what circulates: 10,000,000 less what treasury and pool hold.
QUORUM = tokens(120_200)
THRESHOLD = GOVERNANCE.proposal_threshold_wei
# Genesis: what the treasury holds in quote, and what of it may leave in 30 days.
TREASURY_QUOTE, OUTFLOW_CAP = usd(20_000_000), usd(10_000_000)
POOL_FEE = 500


@dataclass(slots=True)
class Attacker:
    """Somebody who pays for what they try; `gas` is what all of it used, refused transactions included."""

    world: World
    account: Account
    gas: int = 0

    @property
    def address(self) -> str:
        return self.account.address

    @property
    def quote(self) -> int:
        """What they have taken, base units."""
        return int(self.world.view(self.world.quote.functions.balanceOf(self.address)))

    def does(self, call: Any) -> list[EventLog]:
        receipt = self.world.evm.send(call, self.account)
        self.gas += receipt["gasUsed"]
        return decode_logs(receipt)

    def fails(self, call: Any, error: str, *, gas: int | None = None, **arguments: Any) -> None:
        """The transaction is mined and reverts with exactly this error."""
        with self.world.reverts(error, **arguments):
            try:
                self.world.evm.send(call, self.account, gas=gas)
            except TransactionReverted as failure:
                self.gas += failure.receipt["gasUsed"]
                raise

    def proposes(self, calls: Sequence[Any], description: str = "for the good of all") -> int:
        arguments = proposal(calls, description)
        events = self.does(self.world.dao.functions.propose(*arguments))
        return int(next(e for e in events if e.name == "ProposalCreated").args["proposalId"])

    def votes(self, proposal_id: int, support: int = FOR, *, at_s: int | None = None) -> int:
        """Casts everything they have; the weight it counted with."""
        if at_s is not None:
            self.world.evm.next_block_at(at_s)
        [cast, *_] = self.does(self.world.dao.functions.voteStrategy(proposal_id, support))
        return int(cast.args["weight"])


def attacker(
    world: World, tokens_wei: int, account: Account | None = None, *, source: Account | None = None
) -> Attacker:
    """Somebody with that many votes of their own, bought from a holder who does not vote."""
    who = Attacker(world, account or world.stranger)
    world.send(world.token.functions.transfer(who.address, tokens_wei), source or world.other_controller)
    world.send(world.token.functions.delegate(who.address), who.account)
    return who


def proposal(calls: Sequence[Any], description: str) -> tuple[list[str], list[int], list[str], str]:
    """The arguments of `propose`."""
    return [c.address for c in calls], [0] * len(calls), [c._encode_transaction_data() for c in calls], description


def data_of(call: Any) -> bytes:
    return bytes.fromhex(call._encode_transaction_data().removeprefix("0x"))


def step(call: Any) -> tuple[str, bytes]:
    """A call as multicalls and loans take it."""
    return call.address, data_of(call)


def drain(world: World, to: str, amount: int = OUTFLOW_CAP) -> Any:
    """Quote from the treasury: by default as much as may leave at once."""
    return world.treasury.functions.pay(world.book.quote, to, amount)


def not_deployable(proposal_id: int, state: str) -> dict[str, Any]:
    return {"proposalId": proposal_id, "state": PROPOSAL_STATES.index(state)}


def in_state(proposal_id: int, state: str, *expected: str) -> dict[str, Any]:
    return {
        "proposalId": proposal_id,
        "current": PROPOSAL_STATES.index(state),
        "expectedStates": proposal_states(*expected),
    }


def snapshot_s(world: World, proposal_id: int) -> int:
    return int(world.view(world.dao.functions.proposalSnapshot(proposal_id)))


def deadline_s(world: World, proposal_id: int) -> int:
    return int(world.view(world.dao.functions.proposalDeadline(proposal_id)))


def treasury_quote(world: World) -> int:
    return int(world.view(world.quote.functions.balanceOf(world.d.treasury)))


def list_token(world: World) -> Contract:
    """A Uniswap v3 pool of the DAO's token at one dollar, with 500,000 of each in it."""
    provider, amount = world.other_controller, 500_000
    world.market.give_quote(provider, usd(amount))
    amounts = {world.d.token: tokens(amount), world.book.quote: usd(amount)}
    token0, token1 = uniswap.sort_tokens(*amounts)
    price = uniswap.sqrt_price_x96(amounts[token1], amounts[token0])
    pool = uniswap.create_pool(world.evm, world.book.uniswap, (token0, token1), POOL_FEE, price, sender=provider)
    uniswap.add_liquidity(world.evm, world.book.uniswap, amounts, POOL_FEE, provider=provider)
    return world.evm.at(third_party("UniswapV3Pool"), pool)


def buy_token(world: World, buyer: Account, quote_amount: int) -> int:
    """Tokens received for that much quote, which the buyer must have."""
    path = (world.book.quote, world.d.token)
    return uniswap.swap(world.evm, world.book.uniswap, path, POOL_FEE, quote_amount, sender=buyer)


def sell_token(world: World, seller: Account, amount_wei: int) -> int:
    path = (world.d.token, world.book.quote)
    return uniswap.swap(world.evm, world.book.uniswap, path, POOL_FEE, amount_wei, sender=seller)


def amount(wei: int) -> str:
    """Whole tokens, for the report."""
    return f"{wei / 10**18:,.0f} tokens"


def dollars(base_units: int) -> str:
    return f"${base_units / 10**6:,.0f}"


def days(seconds: int) -> str:
    return f"{seconds / DAY_S:.1f} days"
