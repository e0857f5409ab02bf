"""A crash between signing and the end of an order: the same transaction is sent again, and there is one trade."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from eth_account import Account as EthAccount

from agents.chain import RemoteChain
from agents.execution import Ended
from agents.journal import Journal
from agents.vault_execution import VaultExecution
from oracle.vault_state import VaultReading
from tests.contracts.world import HOUR_S, World, usd
from tests.e2e.conftest import Agent, Hire, constant


class Crash(BaseException):
    """The process dies; nothing that handles errors may catch it."""


class CrashingChain:
    """A chain as it is, that takes the process with it when a signed transaction is to be sent, or has been."""

    def __init__(self, chain: Any, *, after_sending: bool) -> None:
        self._chain, self._after_sending = chain, after_sending
        self.raw = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def send_raw(self, raw: bytes) -> Any:
        self.raw = raw
        if self._after_sending:
            try:
                self._chain.send_raw(raw)
            finally:
                raise Crash
        raise Crash


class CountingChain:
    """A chain as it is, that remembers what was sent."""

    def __init__(self, chain: Any) -> None:
        self._chain, self.sent = chain, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def sign(self, *_: Any) -> Any:
        raise AssertionError("a recovery signs nothing")

    def send_raw(self, raw: bytes) -> Any:
        self.sent.append(raw)
        return self._chain.send_raw(raw)


@pytest.fixture(params=["local", "remote"])
def chain(request: pytest.FixtureRequest, world: World) -> Any:
    """The two kinds of chain that an agent can run on; both are the same node here."""
    return world.evm if request.param == "local" else RemoteChain(world.w3)


@pytest.fixture
def signer(chain: Any, world: World) -> Any:
    return EthAccount.from_key(world.signer.key) if isinstance(chain, RemoteChain) else world.signer


@pytest.fixture
def rising(agent: Agent) -> Agent:
    """It would buy."""
    agent.bars(2010, 2030)
    return agent


def crash(agent: Agent, chain: Any, signer: Any, *, after_sending: bool, block: Any = None) -> bytes:
    """Runs a cycle that dies; what was signed. The journal is opened again, as after a restart."""
    dying = CrashingChain(chain, after_sending=after_sending)
    execution = VaultExecution(dying, agent.strategy.vault, signer, agent.journal)
    with pytest.raises(Crash):
        agent.cycle(execution=execution).run(block or agent.block())
    agent.journal.close()
    agent.journal = Journal(agent.folder / "journal.sqlite")
    return dying.raw


def recover(agent: Agent, chain: Any, signer: Any) -> tuple[list[Any], list[bytes]]:
    counting = CountingChain(chain)
    outcomes = VaultExecution(counting, agent.strategy.vault, signer, agent.journal).recover()
    return outcomes, counting.sent


@pytest.mark.parametrize("after_sending", [False, True], ids=["before it was sent", "after it was sent"])
def test_after_a_crash_the_same_transaction_is_sent_again_and_there_is_one_trade(
    rising: Agent, chain: Any, signer: Any, after_sending: bool
) -> None:
    raw = crash(rising, chain, signer, after_sending=after_sending)
    assert len(rising.entries()) == after_sending
    [left] = rising.journal.unfinished()
    assert left.last.raw == raw
    [outcome], sent = recover(rising, chain, signer)
    assert sent == ([] if after_sending else [raw])
    [entry] = rising.entries()
    assert (outcome.ended, outcome.entry) == (Ended.TRADED, entry)
    [row] = rising.journal.rows()
    assert (row["state"], row["outcome"], row["trade_id"]) == ("mined", "traded", entry.id)
    assert [attempt.raw for attempt in rising.journal.attempts(row["id"])] == [raw]
    assert row["transaction_hash"] == entry.transaction_hash
    assert rising.audit(entry) == []


@pytest.mark.parametrize("after_sending", [False, True])
def test_a_second_recovery_has_nothing_to_do(rising: Agent, chain: Any, signer: Any, after_sending: bool) -> None:
    crash(rising, chain, signer, after_sending=after_sending)
    recover(rising, chain, signer)
    assert recover(rising, chain, signer) == ([], [])
    assert len(rising.entries()) == 1


def test_after_a_recovery_the_agent_goes_on(rising: Agent, chain: Any, signer: Any) -> None:
    crash(rising, chain, signer, after_sending=False)
    recover(rising, chain, signer)
    rising.bars(2000, 1960, 1950)
    rising.run()
    assert [entry.fields["sequence"] for entry in rising.entries()] == [0, 1]
    assert [row["outcome"] for row in rising.journal.rows()] == ["traded", "traded"]


def test_a_crash_in_the_recovery_itself_is_recovered_from(rising: Agent, chain: Any, signer: Any) -> None:
    raw = crash(rising, chain, signer, after_sending=False)
    dying = VaultExecution(CrashingChain(chain, after_sending=True), rising.strategy.vault, signer, rising.journal)
    with pytest.raises(Crash):
        dying.recover()
    [outcome], sent = recover(rising, chain, signer)
    assert (outcome.ended, sent) == (Ended.TRADED, [])
    assert [entry.transaction_hash for entry in rising.entries()] == [outcome.entry.transaction_hash]
    assert rising.journal.attempts(rising.journal.rows()[0]["id"])[0].raw == raw


@pytest.mark.parametrize("after_sending", [False, True])
def test_what_the_vault_refused_is_told_so_after_a_crash(
    rising: Agent, chain: Any, signer: Any, after_sending: bool
) -> None:
    world, vault, block = rising.world, rising.strategy.vault, rising.block()
    world.send(world.constitution.functions.stopVault(vault.address, HOUR_S), world.guardian)
    crash(rising, chain, signer, after_sending=after_sending, block=block)
    [outcome], _ = recover(rising, chain, signer)
    assert (outcome.ended, outcome.error, outcome.detail) == (Ended.REFUSED, "TradeRefused", "GUARDIAN")
    assert rising.journal.rows()[0]["outcome"] == "refused"


@pytest.mark.parametrize("after_sending", [False, True])
def test_what_reverted_is_told_so_after_a_crash(
    rising: Agent, world: World, after_sending: bool
) -> None:
    """On a chain that does not ask the node before it signs: a node would have known."""
    block = rising.block()
    world.buy(rising.strategy, usd(1000))  # by hand: the vault's nonce has moved on
    crash(rising, world.evm, world.signer, after_sending=after_sending, block=block)
    [outcome], _ = recover(rising, world.evm, world.signer)
    assert (outcome.ended, outcome.error) == (Ended.REVERTED, "VaultWrongNonce")
    assert outcome.detail == "VaultWrongNonce(expected=1, given=0)"
    [row] = rising.journal.rows()
    assert (row["state"], row["outcome"], row["detail"]) == ("mined", "reverted", outcome.detail)
    assert len(rising.entries()) == 1


def test_what_the_node_knows_would_revert_is_never_signed(rising: Agent) -> None:
    world, block = rising.world, rising.block()
    world.buy(rising.strategy, usd(1000))
    remote, signer = RemoteChain(world.w3), EthAccount.from_key(world.signer.key)
    execution = VaultExecution(remote, rising.strategy.vault, signer, rising.journal)
    [step] = rising.cycle(execution=execution).run(block)
    assert step.outcome is not None
    assert (step.outcome.ended, step.outcome.error) == (Ended.REVERTED, "VaultWrongNonce")
    [row] = rising.journal.rows()
    assert (row["state"], rising.journal.attempts(row["id"])) == ("refused", [])
    assert recover(rising, remote, signer) == ([], [])


def test_only_the_vaults_own_transactions_are_sent_again(hire: Hire, world: World) -> None:
    """Two agents of one operator with one journal."""
    first, second = hire(constant(1000)), hire(constant(1000), agent_id=_another_agent(world))
    second.journal.close()
    second.journal = first.journal
    for agent in (first, second):
        agent.bars(*[2000] * 5)
    raw = crash(first, world.evm, world.signer, after_sending=False)
    second.journal = first.journal
    assert recover(second, world.evm, world.other_signer) == ([], [])
    [outcome], sent = recover(first, world.evm, world.signer)
    assert (outcome.ended, sent) == (Ended.TRADED, [raw])


def _another_agent(world: World) -> int:
    return world.register_agent(world.other_controller, world.other_signer)


@pytest.mark.parametrize("fails", ["vaults", "sign"])
def test_a_crash_before_anything_is_signed_leaves_nothing_to_recover(rising: Agent, fails: str) -> None:
    world = rising.world

    class DyingSigner(CrashingChain):
        def sign(self, *_: Any) -> Any:
            raise Crash

    class DyingReader:
        def fetch(self, *_: Any) -> VaultReading:
            raise Crash

    dying = DyingSigner(world.evm, after_sending=False)
    over: dict[str, Callable[[], dict[str, Any]]] = {
        "vaults": lambda: {"vaults": DyingReader()},
        "sign": lambda: {"execution": rising.execution(dying)},
    }
    with pytest.raises(Crash):
        rising.run(**over[fails]())
    assert recover(rising, world.evm, world.signer) == ([], [])
    assert rising.entries() == []
    [step] = rising.run()
    assert step.outcome is not None
    assert step.outcome.ended is Ended.TRADED, "the next cycle decides anew"
