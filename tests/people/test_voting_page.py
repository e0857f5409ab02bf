"""A token holder in a real browser: what is shown is what the chain says, what is voted is what the chain counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import expect
from web3 import Web3

from tests.contracts.world import tokens
from tests.people.conftest import PENNILESS, ROOT, VOTERS, Town, Visit

Visits = Callable[..., Visit]
SIGN, DIRECT = "Sign for the relayer (free)", "Vote directly (you pay gas)"


def choose(visit: Visit, support: str, reason: str = "") -> None:
    visit.by(f"vote-{support}").check()
    if reason:
        visit.by("ballot-reason").fill(reason)


def press(visit: Visit, name: str) -> None:
    visit.page.get_by_role("button", name=name, exact=True).click()


def wait_for_step(visit: Visit, step: str) -> None:
    expect(visit.by("ballot-status")).to_have_attribute("data-step", step, timeout=30_000)


# What can't be done, and that it is said


def test_without_a_wallet_everything_is_shown_and_voting_says_what_is_missing(visit: Visits) -> None:
    seen = visit().proposal("update")
    seen.page.get_by_role("button", name="Connect wallet").first.click()
    expect(seen.by("no-wallet")).to_be_visible()
    expect(seen.by("action-row").first).to_be_visible()
    seen.picture("no-wallet")


def test_on_another_network_the_page_says_so_and_switches(visit: Visits) -> None:
    seen = visit(VOTERS[0], chain_id=1).proposal("update").connect()
    expect(seen.by("wrong-network")).to_be_visible()
    expect(seen.page.get_by_role("button", name=SIGN)).to_be_disabled()
    seen.picture("wrong-network")
    seen.page.get_by_role("button", name=re.compile("Switch to")).first.click()
    expect(seen.by("wrong-network")).to_have_count(0)
    expect(seen.page.get_by_role("button", name=SIGN)).to_be_enabled()


def test_what_is_rejected_in_the_wallet_leaves_nothing_behind(visit: Visits, town: Town) -> None:
    seen = visit(VOTERS[0]).proposal("update").connect()
    assert seen.wallet is not None
    seen.wallet.is_rejecting = True
    choose(seen, "for")
    press(seen, SIGN)
    wait_for_step(seen, "failed")
    expect(seen.by("ballot-status")).to_have_attribute("data-code", re.compile("reject"))
    seen.picture("rejected")
    assert (seen.wallet.signed, seen.wallet.sent, town.vote_of("update", VOTERS[0].address)) == ([], [], None)


@pytest.mark.parametrize("key", [PENNILESS, VOTERS[-1]], ids=["no tokens", "tokens that were not delegated"])
def test_without_votes_at_the_snapshot_there_is_no_ballot_but_the_way_to_votes(visit: Visits, key: Any) -> None:
    seen = visit(key).proposal("update").connect()
    expect(seen.by("no-power")).to_be_visible()
    expect(seen.page.get_by_role("button", name=SIGN)).to_have_count(0)
    seen.by("no-power").get_by_role("link").click()
    expect(seen.page).to_have_url(re.compile("#/delegate"))


def test_a_vote_that_has_not_begun_can_t_be_voted_on(visit: Visits) -> None:
    seen = visit(VOTERS[0]).proposal("later").connect()
    expect(seen.by("proposal-state").first).to_have_attribute("data-state", "pending")
    expect(seen.page.get_by_role("button", name=DIRECT)).to_have_count(0)


def test_calls_that_nobody_can_read_and_ether_are_warned_of_loudly(visit: Visits) -> None:
    seen = visit().proposal("hostile")
    rows = seen.by("action-row")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_have_attribute("data-kind", "unknown")
    for index in range(2):
        expect(rows.nth(index)).to_have_attribute("data-warn", "true")
    expect(rows.nth(1)).to_contain_text("Sends 1 of the chain's own coin")
    seen.picture("hostile")


def test_hostile_words_stay_words(visit: Visits) -> None:
    for route in ("#/", "proposal"):
        seen = visit()
        seen.proposal("hostile") if route == "proposal" else seen.open(route)
        expect(seen.page.get_by_text("<script>").first).to_be_visible()
        assert seen.page.locator("img[src=x]").count() == 0
        assert seen.page.title() != "pwned"


def test_a_file_that_does_not_hash_to_what_is_voted_on_is_called_different(visit: Visits, town: Town) -> None:
    seen = visit().proposal("update")
    expect(seen.by("artefact-status").first).to_have_attribute("data-status", "matches")
    changed = (town.folder / "artefacts" / "better.json").read_bytes().replace(b"3000", b"9000")
    seen.page.locator("input[type=file]").first.set_input_files(
        {"name": "better.json", "mimeType": "application/json", "buffer": changed}
    )
    expect(seen.page.locator("[data-testid=artefact-status][data-status=differs]")).to_be_visible()


def test_a_node_that_does_not_answer_is_said_and_asked_again(visit: Visits, town: Town) -> None:
    seen = visit()
    seen.page.route(f"{town.world.evm.url}/**", lambda route: route.abort())
    seen.open()
    expect(seen.by("node-error")).to_be_visible(timeout=30_000)
    seen.picture("node-unreachable")
    seen.page.unroute(f"{town.world.evm.url}/**")
    seen.by("node-error").get_by_role("button").first.click()
    expect(seen.by("proposal-row").first).to_be_visible(timeout=30_000)
    seen.problems[:] = [problem for problem in seen.problems if "net::ERR_FAILED" not in problem]


# What is shown


def test_the_list_has_every_proposal_with_its_state_from_the_chain(visit: Visits, town: Town) -> None:
    seen = visit().open()
    expect(seen.by("proposal-row")).to_have_count(len(town.proposals))
    states = {row.get_attribute("data-state") for row in seen.page.get_by_test_id("proposal-state").all()}
    assert states == {"active", "pending"}
    expect(seen.by("source").first).to_be_visible()
    seen.picture("proposals")


def test_limits_are_shown_beside_the_ceiling_and_what_runs_now(visit: Visits, town: Town) -> None:
    seen = visit().proposal("update")
    row = seen.page.locator("[data-testid=limit-row][data-limit=maxPositionBps]")
    ceiling = town.world.view(town.world.constitution.functions.ceilings()).maxPositionBps
    running = town.world.view(town.agent.strategy.vault.functions.limits()).maxPositionBps
    expect(row).to_be_visible()
    shown = [cell.inner_text() for cell in row.locator("td").all()][:3]
    expected = [f"{share_bps / 100:g}%" for share_bps in (5000, ceiling, running)]
    assert [text.split()[0] for text in shown] == expected
    assert len(set(expected)) == 3
    expect(seen.by("manifest-mismatch")).to_have_count(0)
    seen.picture("proposal")


def test_a_vault_s_trades_are_explained_or_called_unexplained(visit: Visits, town: Town) -> None:
    seen = visit().open(f"#/vault/{town.agent.strategy.vault.address}")
    trades = seen.by("trade-row")
    expect(trades).to_have_count(len(town.agent.entries()))
    for button in seen.page.get_by_role("button", name=re.compile("^(Show|Why)")).all():
        button.click()
    statuses = seen.by("explanation-status")
    expect(statuses.first).to_be_visible()
    expect(seen.page.locator("[data-status=loading]")).to_have_count(0)
    found = [status.get_attribute("data-status") for status in statuses.all()]
    assert sorted(set(found)) == ["absent", "differs", "matches"]
    assert (found.count("absent"), found.count("differs")) == (1, 1)
    seen.picture("vault")


# Voting


def test_a_relayed_vote_is_counted_on_the_chain_with_its_reason(visit: Visits, town: Town) -> None:
    seen = visit(VOTERS[1]).proposal("update").connect()
    assert seen.wallet is not None
    choose(seen, "against", "too small <b>limits</b>")
    press(seen, SIGN)
    wait_for_step(seen, "counted")
    seen.picture("counted")
    [document] = seen.wallet.signed
    assert (document["primaryType"], document["message"]["reason"]) == ("ExtendedBallot", "too small <b>limits</b>")
    counted = town.vote_of("update", VOTERS[1].address)
    assert counted is not None
    assert (counted["support"], counted["reason"], seen.wallet.sent) == (0, "too small <b>limits</b>", [])
    seen.page.reload()
    expect(seen.by("already-voted")).to_be_visible()


def test_a_direct_vote_is_one_transaction_however_often_the_button_is_pressed(visit: Visits, town: Town) -> None:
    seen = visit(VOTERS[2]).proposal("direct").connect()
    assert seen.wallet is not None
    choose(seen, "for")
    town.world.evm._rpc("evm_setAutomine", False)
    try:
        seen.page.get_by_role("button", name=DIRECT).dblclick()
        wait_for_step(seen, "sent")
        expect(seen.by("ballot-transaction")).to_be_visible()
    finally:
        town.world.evm._rpc("evm_setAutomine", True)
        town.world.evm.mine()
    wait_for_step(seen, "counted")
    assert len(seen.wallet.sent) == 1
    counted = town.vote_of("direct", VOTERS[2].address)
    assert counted is not None
    assert (counted["support"], counted["weight"]) == (1, 1_000 * 10**18)


def test_a_ballot_that_waits_is_still_known_after_the_page_was_closed(visit: Visits, town: Town) -> None:
    town.world.evm._rpc("evm_setAutomine", False)
    try:
        seen = visit(VOTERS[3]).proposal("reload").connect()
        choose(seen, "abstain")
        press(seen, SIGN)
        expect(seen.by("ballot-status")).to_have_attribute("data-step", re.compile("queued|sent"), timeout=30_000)
        seen.page.reload()
        expect(seen.by("ballot-status")).to_have_attribute("data-step", re.compile("queued|sent"), timeout=30_000)
    finally:
        town.world.evm._rpc("evm_setAutomine", True)
        town.world.evm.mine()
    wait_for_step(seen, "counted")
    counted = town.vote_of("reload", VOTERS[3].address)
    assert counted is not None
    assert counted["support"] == 2


def test_delegating_to_oneself_gives_votes_that_later_proposals_count(visit: Visits, town: Town) -> None:
    key = VOTERS[-1]
    seen = visit(key).open("#/delegate").connect()
    press(seen, "Delegate to myself")
    expect(seen.by("delegate-status")).to_have_attribute("data-step", re.compile("mined|counted|done"), timeout=30_000)
    assert town.world.view(town.world.token.functions.delegates(key.address)) == key.address
    assert town.world.view(town.world.token.functions.getVotes(key.address)) == 1_000 * 10**18
    seen.picture("delegated")


def test_without_the_relayer_the_page_says_so_and_a_direct_vote_still_works(visit: Visits, town: Town) -> None:
    alone = visit(VOTERS[4])
    alone.town = replace(town, url=town.serve())
    alone.proposal("update").connect()
    expect(alone.page.get_by_role("button", name=SIGN)).to_be_disabled()
    choose(alone, "for")
    press(alone, DIRECT)
    wait_for_step(alone, "counted")
    assert town.vote_of("update", VOTERS[4].address) is not None


def test_a_safe_votes_when_enough_of_its_owners_have_signed(visit: Visits, town: Town) -> None:
    document = ""
    for owner, count in ((VOTERS[8], 1), (VOTERS[9], 2)):
        seen = visit(owner).proposal("safe").connect()
        seen.page.get_by_text("Vote for a Safe").last.click()
        seen.page.locator("input[type=text], input:not([type])").first.fill(town.safe)
        press(seen, "Look up the Safe")
        expect(seen.by("safe-power")).to_contain_text("2,000")
        if document:
            seen.by("safe-json").fill(document)
            press(seen, "Read the JSON")
        else:
            seen.page.locator(".safe input[type=radio]").nth(0).check()
        press(seen, "Sign as an owner")
        expect(seen.by("safe-signatures")).to_contain_text(str(count))
        document = seen.by("safe-json").input_value()
    assert town.vote_of("safe", town.safe) is None
    press(seen, "Submit the ballot")
    expect(seen.by("safe-status")).to_have_attribute("data-step", "counted", timeout=30_000)
    seen.picture("safe")
    counted = town.vote_of("safe", town.safe)
    assert counted is not None
    assert counted["weight"] == 2_000 * 10**18


# For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("route", ["#/", "proposal", "vault", "#/delegate"])
def test_an_audit_finds_nothing_that_keeps_people_out(visit: Visits, town: Town, route: str, scheme: str) -> None:
    seen = visit(VOTERS[6], color_scheme=scheme)
    if route == "proposal":
        seen.proposal("update").connect()
        seen.by("artefact-status").first.wait_for()
    else:
        seen.open(f"#/vault/{town.agent.strategy.vault.address}" if route == "vault" else route)
    seen.page.locator("main h1").first.wait_for()
    seen.page.wait_for_load_state("networkidle")
    seen.page.evaluate((ROOT / "agents/page/node_modules/axe-core/axe.min.js").read_text())
    found = seen.page.evaluate("axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa'] })")["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_a_vote_needs_no_mouse(visit: Visits, town: Town) -> None:
    seen = visit(VOTERS[5]).proposal("keyboard").connect()
    seen.by("vote-for").wait_for()
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate("document.activeElement?.type") == "radio":
            break
    seen.page.keyboard.press("Space")
    seen.page.keyboard.press("ArrowDown")
    chosen = seen.page.evaluate("document.querySelector('input[type=radio]:checked')?.dataset.testid")
    assert chosen in ("vote-for", "vote-against", "vote-abstain")
    for _ in range(20):
        seen.page.keyboard.press("Tab")
        if SIGN in (seen.page.evaluate("document.activeElement?.textContent") or ""):
            break
    seen.page.keyboard.press("Enter")
    wait_for_step(seen, "counted")
    counted = town.vote_of("keyboard", VOTERS[5].address)
    assert counted is not None
    assert counted["support"] == ["vote-against", "vote-for", "vote-abstain"].index(chosen)


@pytest.mark.parametrize("route", ["#/", "proposal", "vault", "#/agents", "#/delegate"])
@pytest.mark.parametrize("locale", ["en-GB", "ru-RU"])
def test_a_phone_shows_it_without_scrolling_sideways(visit: Visits, town: Town, route: str, locale: str) -> None:
    seen = visit(VOTERS[6], viewport={"width": 360, "height": 740}, locale=locale)
    if route == "proposal":
        seen.proposal("hostile")
    else:
        seen.open(f"#/vault/{town.agent.strategy.vault.address}" if route == "vault" else route)
    seen.page.locator("main h1").first.wait_for()
    seen.page.wait_for_load_state("networkidle")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    seen.picture(f"phone-{locale[:2]}-{route.strip('#/') or 'proposals'}")


def test_in_russian_a_vote_is_cast_with_words_in_russian(visit: Visits, town: Town) -> None:
    seen = visit(VOTERS[7], locale="ru-RU").proposal("russian")
    assert seen.page.locator("html").get_attribute("lang") == "ru"
    seen.page.get_by_role("button", name=re.compile("Подключить")).first.click()
    seen.by("wallet-account").wait_for()
    choose(seen, "for", "за")
    body = seen.page.locator("body").inner_text()
    for english in ("Connect", "Your vote", "Reason", "Against", "Abstain", "Sign for", "Vote directly", "undefined"):
        assert english not in body
    seen.page.locator("[data-testid=ballot] button.primary").last.click()
    wait_for_step(seen, "counted")
    seen.picture("russian")
    counted = town.vote_of("russian", VOTERS[7].address)
    assert counted is not None
    assert counted["reason"] == "за"


def test_the_dark_page_is_as_readable(visit: Visits) -> None:
    seen = visit(color_scheme="dark").open()
    expect(seen.by("proposal-row").first).to_be_visible()
    seen.picture("dark")


# The server


def test_the_server_tells_the_browser_what_the_page_may_do(town: Town) -> None:
    answer = requests.get(town.url, timeout=10)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_a_static_page_brings_its_own_policy(town: Town, tmp_path: Path) -> None:
    run = [sys.executable, "-c", "from agents.cli import run; run()", "page", "--export", str(tmp_path / "site")]
    where = ["--network", str(town.world.evm.url), "--deployments", str(town.folder / "deployments")]
    subprocess.run([*run, *where], cwd=ROOT, check=True, capture_output=True)
    assert "Content-Security-Policy" in (tmp_path / "site" / "index.html").read_text()
    assert "frame-ancestors 'none'" in (tmp_path / "site" / "_headers").read_text()
    assert json.loads((tmp_path / "site" / "marketflow.json").read_text())["relayer"] is None


def test_only_requests_that_name_this_machine_are_answered(town: Town) -> None:
    assert requests.get(town.url, headers={"Host": "evil.example.org"}, timeout=10).status_code == 421


def test_documents_are_found_by_their_hash_and_nothing_else(town: Town) -> None:
    content = (town.folder / "artefacts" / "better.json").read_bytes()
    name = "0x" + Web3.keccak(content).hex().removeprefix("0x")
    assert requests.get(f"{town.url}/artefacts/{name}.json", timeout=10).content == content
    for other in ("better.json", "0x" + "00" * 32 + ".json", "..%2f..%2flocal.json", f"{name}"):
        assert requests.get(f"{town.url}/artefacts/{other}", timeout=10).status_code == 404


def test_the_page_is_told_where_things_are_and_no_secret(town: Town) -> None:
    config = requests.get(f"{town.url}/marketflow.json", timeout=10).json()
    assert (config["chain_id"], config["relayer"], config["deployment"]["protocol"]["dao"]) == (
        31337, "api", town.world.d.dao,
    )  # fmt: skip
    assert "private" not in json.dumps(config)


# Time passes: these are last, because the others' votes end


def test_votes_that_were_delegated_count_in_proposals_that_come_after(visit: Visits, town: Town) -> None:
    key, world = VOTERS[-1], town.world
    world.evm.impersonate(key.address)
    world.send(world.token.functions.delegate(key.address), key.address)
    world.travel(60)
    town.proposals["after"] = world.propose([world.pool.functions.setBudget(tokens(23_000))], "After it")
    world.to_voting(town.proposals["after"])
    seen = visit(key).proposal("after").connect()
    expect(seen.by("voter-power")).to_contain_text("1,000")
    choose(seen, "for")
    press(seen, SIGN)
    wait_for_step(seen, "counted")


def test_after_a_late_flip_only_against_can_be_voted(visit: Visits, town: Town) -> None:
    world = town.world
    town.proposals["flip"] = flip = world.propose([world.pool.functions.setBudget(tokens(24_000))], "A late flip")
    world.to_voting(flip)
    world.travel_to(int(world.view(town.dao.proposalDeadline(flip))) - 3600)
    world.vote(flip)
    seen = visit(VOTERS[0]).proposal("flip").connect()
    expect(seen.by("proposal-state").first).to_have_attribute("data-state", "active")
    world.travel_to(int(world.view(town.dao.proposalDeadline(flip))) - 3600)
    seen.page.reload()
    expect(seen.by("proposal-state").first).to_have_attribute("data-state", "objection")
    expect(seen.by("vote-for")).to_be_disabled()
    expect(seen.by("vote-against")).to_be_enabled()
    seen.picture("objection")


def test_when_a_vote_is_over_its_result_is_shown_and_no_ballot(visit: Visits, town: Town) -> None:
    seen = visit(VOTERS[0]).proposal("direct").connect()
    expect(seen.by("proposal-state").first).to_have_attribute("data-state", "defeated")
    expect(seen.page.get_by_role("button", name=DIRECT)).to_have_count(0)
