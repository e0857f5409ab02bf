"""What each instruction costs, in compute units, beside a snapshot that is changed on purpose only.

    MARKETFLOW_UPDATE_SNAPSHOT=1 python -m pytest tests/solana/test_compute_units.py

The search for an address (its bump) costs 1,500 units a step, so addresses, and with them keys, are always the same.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.solana.world import EPOCH_S, QUOTE, TOKEN, Sent, World

SNAPSHOT = Path(__file__).with_name("compute_units.json")
# What the compute-budget instruction in front of each costs.
BUDGET_UNITS = 150


def story(w: World) -> dict[str, int]:
    """Every instruction once, in one life of a protocol; what each took."""
    units: dict[str, int] = {}

    def took(name: str, sent: Sent) -> None:
        assert sent.error == "", (name, sent.error, sent.logs)
        units[name] = sent.units - BUDGET_UNITS

    took("initialise", w.initialise())
    took("registerAgent", w.register(bond=0))
    took("setSigningKey", w.call("set_signing_key", w.signer.pubkey(), signers=[w.controller]))
    took("depositBond", w.bond(40_000 * TOKEN))
    took("fundRewards", w.fund_rewards(10**5 * TOKEN))
    took("openVault, 2 signatures", w.open_vault())
    took("allocate, 2 signatures", w.allocate(10_000 * QUOTE))
    assert w.make_market(10**6 * QUOTE).error == ""
    took("trade (buy)", w.trade(4_000 * QUOTE, is_buy=True))
    took("trade (sell)", w.trade(TOKEN // 2, is_buy=False))
    took("observe", w.call("observe"))
    took("updateVault, 2 signatures", w.decide("update_vault", [7] * 32, w.manifest().limits, 10**4 * TOKEN))
    took("setCeilings, 2 signatures", w.decide("set_ceilings", w.config.ceilings, subject="protocol"))
    took("setBudget, 2 signatures", w.decide("set_budget", 10**6 * TOKEN, subject="protocol"))
    changed = [w.config.guardians, 3, 2]
    took("setGuardians, 2 signatures", w.decide("set_guardians", *changed, subject="protocol"))
    w.wait(EPOCH_S)
    w.publish(2_200 * 10**8)
    took("observe, in a window", w.call("observe"))
    w.wait(600)
    took("closeWindow", w.call("close_window"))
    took("rewardAgent", w.call("reward_agent", w.state("vault").reward.pending_move))
    w.set_clock(w.now_s + 600)
    w.publish()
    took("claim", w.call("claim", destination=w.wallet("reward", w.controller.pubkey())))
    took("halt, 2 signatures", w.decide("halt"))
    took("resume, 2 signatures", w.decide("resume"))
    took("stopClaims, 2 signatures", w.decide("stop_claims", w.now_s + 60, subject="protocol"))
    wallet = w.wallet("quote", w.payer.pubkey())
    w.mint_to(w.known["treasury"], w.quote_mint, 10)
    known = {"source": w.known["treasury"], "destination": wallet}
    took("pay, 2 signatures", w.decide("pay", 10, subject="destination", known=known))
    known = {"destination": w.wallet("reward", w.payer.pubkey())}
    took("withdrawRewards, 2 signatures", w.decide("withdraw_rewards", 10, subject="destination", known=known))
    took("retire, 2 signatures", w.decide("retire"))
    took("allowClaims, 2 signatures", w.decide("allow_claims", subject="protocol"))
    took("recall, 2 signatures", w.recall("quote"))
    set_frozen(w, True)
    took("writeOff, 2 signatures", w.decide("write_off"))
    set_frozen(w, False)
    assert w.recall("base").error == ""
    w.wait(EPOCH_S - 1200)
    took("observe, empty", w.call("observe"))
    w.wait(600)
    assert w.call("close_window").error == ""
    if w.state("vault").reward.is_pending:
        assert w.call("reward_agent", w.state("vault").reward.pending_move).error == ""
    took("finishRetirement", w.call("finish_retirement"))
    most = w.state("agent").bond
    to = w.wallet("reward", w.controller.pubkey())
    took("withdrawBond", w.call("withdraw_bond", most, signers=[w.controller], destination=to))
    return units


def set_frozen(w: World, is_frozen: bool) -> None:
    """As the mint's authority could."""
    stored = w.svm.get_account(w.known["vault_base"])
    data = bytearray(stored.data)
    data[108] = 2 if is_frozen else 1
    w.put(w.known["vault_base"], bytes(data), stored.owner)


def test_no_instruction_costs_other_than_the_snapshot_says() -> None:
    measured = story(World())
    if os.environ.get("MARKETFLOW_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(measured, indent=2) + "\n")
    assert measured == json.loads(SNAPSHOT.read_text())


def test_nothing_needs_more_than_a_transaction_gets_unasked() -> None:
    """200,000 units an instruction; each further signature of a guardian is another 26,000."""
    assert max(json.loads(SNAPSHOT.read_text()).values()) < 200_000
