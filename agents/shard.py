"""A daemon as one of several: it trades with the keys that it holds, and gives them up when they belong elsewhere.

All machines run the same file of agents; see docs/machines.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agents.assembly import Assembly
from agents.daemon import EXIT_NO_HEADS, Daemon
from agents.errors import Halted, Retryable
from agents.placement import GuardedSigner, LeaseLost, LeaseStore, Placement, PlacementRules

log = logging.getLogger("marketflow.shard")
_LOOK_S = 0.2


@asynccontextmanager
async def placed(
    assembly: Assembly, daemon: Daemon, store: LeaseStore, *, name: str, rules: PlacementRules | None = None
) -> AsyncIterator[Placement]:
    """Within it the daemon uses a key only while this machine has its lease: signers and outbox ask before each use.

    A key that comes is traded with after everything has been reconciled once more: others have used it meanwhile. When
    placement ends by itself, no key is held any more and the daemon ends, to be started again.
    """
    accounts = sorted({signer.address for signer in assembly.signers.values()})
    async with Placement(store, name=name, keys=accounts, rules=rules) as placement:
        guard = placement.guard

        def may_use(account: str) -> bool:
            try:
                guard.check(account)
            except LeaseLost:
                return False
            return True

        outbox = assembly.outbox
        outbox.signers = {account: GuardedSigner(signer, guard) for account, signer in outbox.signers.items()}
        outbox.may_use = may_use
        _let_go(assembly, daemon)  # until the store has said which keys are ours
        tasks = [
            asyncio.ensure_future(_follow(placement, daemon)), asyncio.ensure_future(_rest(placement, assembly))
        ]  # fmt: skip

        def ended(task: asyncio.Future[None]) -> None:
            _let_go(assembly, daemon)
            error = None if task.cancelled() else task.exception()
            why = (str(error) or repr(error)) if error else "without a reason"
            daemon.fail(EXIT_NO_HEADS, f"placement ended: {why}")

        for task in tasks:
            task.add_done_callback(ended)
        try:
            yield placement
        finally:
            for task in tasks:
                task.remove_done_callback(ended)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _let_go(assembly: Assembly, daemon: Daemon) -> None:
    """Of the daemon first: a cycle takes over what it holds."""
    daemon.hold(frozenset())
    assembly.fleet.held = frozenset()


async def _follow(placement: Placement, daemon: Daemon) -> None:
    async for accounts in placement.watch():
        log.info("%s keys are this machine's", len(accounts))
        daemon.hold(accounts)


async def _rest(placement: Placement, assembly: Assembly) -> None:
    """Lets go of what belongs elsewhere, as soon as nothing is under way with it."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            placement.at_rest(await loop.run_in_executor(None, assembly.fleet.at_rest))
        except (Retryable, Halted) as error:  # of the journal, which is busy or on a full disk: look again
            log.debug("what is under way is not known: %s", error)
