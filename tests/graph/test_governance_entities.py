"""The governance half of the subgraph, field by field, against what the contracts answer: on a chain on which all of it
happens, and again after a reorg has replaced the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pytest
from eth_account import Account as EthAccount
from graphql import ListTypeNode, NamedTypeNode, NonNullTypeNode, ObjectTypeDefinitionNode, TypeNode, parse
from web3 import Web3

from agents.contracts import decode_logs
from agents.deployment import ZERO_ADDRESS
from agents.localnet.evm import Account, start_evm
from agents.localnet.graphnode import SUBGRAPH, LocalGraph
from agents.subgraph import write_local_manifest
from tests.contracts.story import ABSTAIN, AGAINST, FOR, tell
from tests.contracts.world import CEILINGS, DAY_S, HOUR_S, RULES, World, tokens, usd
from tests.graph.conftest import Graph

Row = dict[str, Any]
NOTHING = bytes(32)
STAGES = "NONE SUBMITTED APPROVED LIVE SUPERSEDED RETIRING RETIRED".split()
SUPPORT = "AGAINST FOR ABSTAIN".split()
# What only these events say, and not the proposal's own fields.
STATE_AFTER = {
    "ProposalCreated": "PENDING",
    "ObjectionPeriodOpened": "OBJECTION",
    "ProposalQueued": "QUEUED",
    "ProposalExecuted": "EXECUTED",
    "ProposalCanceled": "CANCELED",
}
VOTES = ("VoteCast", "VoteCastWithParams")
STAKES = {
    "BondPosted": "BOND_POSTED",
    "BondWithdrawn": "BOND_WITHDRAWN",
    "BondSeized": "BOND_SEIZED",
    "DepositPosted": "DEPOSIT_POSTED",
    "DepositWithdrawn": "DEPOSIT_WITHDRAWN",
    "DepositAwarded": "DEPOSIT_AWARDED",
}
FLOWS = {"CapitalAllocated": "ALLOCATED", "CapitalRecalled": "RECALLED", "Paid": "PAID"}
LIMITS = (
    "maxPositionBps maxTradeSlippageBps maxCumulativeSlippageBps maxReduceSlippageBps maxReduceCumulativeSlippageBps "
    "maxTradesPerDay maxDailyTurnoverBps maxDailyLossBps maxDrawdownBps hardDrawdownBps"
).split()
RULES_FIELDS = {
    "minBond": "minBond",
    "slippageDecay": "slippageDecayS",
    "auctionDuration": "auctionDurationS",
    "auctionMaxDiscountBps": "auctionMaxDiscountBps",
    "auctionLotBps": "auctionLotBps",
    "gapAllowanceBps": "gapAllowanceBps",
    "maxRewardRate": "maxRewardRate",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event as the node has it."""

    name: str
    args: dict[str, Any]
    id: bytes
    block: int
    timestamp: int
    transaction: bytes

    @property
    def at(self) -> Row:
        return {"timestamp": self.timestamp, "block": self.block, "transaction": self.transaction}


class Truth:
    """What the contracts of a world answer now, and what their events said, one method for each entity."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._timestamps: dict[int, int] = {}

    def ask(self, contract: str, function: str, *arguments: Any, block: int | str = "latest") -> Any:
        bound = getattr(getattr(self.world, contract).functions, function)(*arguments)
        return self.world.evm.call(bound, block=block)

    def events(self, contract: str, *names: str) -> list[Happened]:
        return [event for event in self._history[contract] if not names or event.name in names]

    def last(self, contract: str, key: str, *names: str) -> dict[Any, Happened]:
        """The last of these events for each value of one of their arguments."""
        return {event.args[key]: event for event in self.events(contract, *names)}

    @cached_property
    def _history(self) -> dict[str, list[Happened]]:
        contracts = "token dao timelock strategies agents constitution treasury oracle".split()
        return {name: list(self._read(getattr(self.world.d, name))) for name in contracts}

    def _read(self, address: str) -> Iterator[Happened]:
        eth = self.world.w3.eth
        for log in eth.get_logs({"address": Web3.to_checksum_address(address), "fromBlock": 0}):
            if log["blockNumber"] not in self._timestamps:
                self._timestamps[log["blockNumber"]] = eth.get_block(log["blockNumber"])["timestamp"]
            [event] = decode_logs({"logs": [log]})
            transaction = bytes(log["transactionHash"])
            yield Happened(
                name=event.name, args=event.args, id=transaction + log["logIndex"].to_bytes(4, "little"),
                block=log["blockNumber"], timestamp=self._timestamps[log["blockNumber"]], transaction=transaction,
            )  # fmt: skip

    # Entities

    def governance(self) -> Iterator[Row]:
        dao = lambda name: self.ask("dao", name)  # noqa: E731
        yield {
            "id": self.world.d.dao, "token": dao("token"), "timelock": dao("timelock"),
            "votingDelay": dao("votingDelay"), "votingPeriod": dao("votingPeriod"),
            "proposalThreshold": dao("proposalThreshold"), "quorumFloor": dao("quorumFloor"),
            "quorumBps": dao("quorumBps"), "grace": dao("graceS"), "timelockDelay": self.ask("timelock", "getMinDelay"),
            "totalSupply": self.ask("token", "totalSupply"),
        }  # fmt: skip

    def proposal(self) -> Iterator[Row]:
        created = self.last("dao", "proposalId", "ProposalCreated")
        times = {
            field: {id_: event.timestamp for id_, event in self.last("dao", "proposalId", name).items()}
            for field, name in (
                ("queuedAt", "ProposalQueued"), ("executedAt", "ProposalExecuted"), ("canceledAt", "ProposalCanceled"),
            )
        }  # fmt: skip
        ballots = Counter(event.args["proposalId"] for event in self.events("dao", *VOTES))
        for index in range(self.ask("dao", "proposalCount")):
            id_, targets, values, calldatas, description_hash = self.ask("dao", "proposalDetailsAt", index)
            event = created[id_]
            assert Web3.keccak(text=event.args["description"]) == description_hash
            against, for_, abstain = self.ask("dao", "proposalVotes", id_)
            yield {
                "id": str(id_), "governance": self.world.d.dao, "proposer": self.ask("dao", "proposalProposer", id_),
                "targets": targets, "values": values, "calldatas": calldatas,
                "description": event.args["description"], "state": self._state_of(id_, ballots[id_]),
                "manifest": self.ask("dao", "manifestOf", id_) if self._is_strategy(id_) else None,
                "voteStart": self.ask("dao", "proposalSnapshot", id_), "voteEnd": event.args["voteEnd"],
                "objectionEndsAt": self.ask("dao", "objectionDeadline", id_) or None,
                "eta": self.ask("dao", "proposalEta", id_) or None,
                "forVotes": for_, "againstVotes": against, "abstainVotes": abstain, "voteCount": ballots[id_],
                "createdAt": event.timestamp, "createdAtBlock": event.block, "transaction": event.transaction,
                **{field: by_id.get(id_) for field, by_id in times.items()},
            }  # fmt: skip

    def _is_strategy(self, id_: int) -> bool:
        return bytes(self.ask("dao", "manifestOf", id_)) != NOTHING

    def _state_of(self, id_: int, ballots: int) -> str:
        """What is left of the contract's state without what only the time says."""
        state = self.world.state(id_).upper()
        if state in ("EXECUTED", "CANCELED"):
            return state
        if self.ask("dao", "proposalEta", id_):
            return "QUEUED"
        if self.ask("dao", "objectionDeadline", id_):
            return "OBJECTION"
        return "ACTIVE" if ballots else "PENDING"

    def proposal_change(self) -> Iterator[Row]:
        voted_on = set()
        for event in self.events("dao"):
            id_ = event.args.get("proposalId")
            state = STATE_AFTER.get(event.name)
            if event.name in VOTES and id_ not in voted_on:
                voted_on.add(id_)
                state = "ACTIVE"
            if state:
                yield {"id": event.id, "proposal": str(id_), "state": state, **event.at}

    def vote(self) -> Iterator[Row]:
        for event in self.events("dao", *VOTES):
            voter, id_ = event.args["voter"], event.args["proposalId"]
            assert self.ask("dao", "hasVoted", id_, voter)
            sent = self.world.w3.eth.get_transaction(event.transaction)
            is_direct = sent["to"] == self.world.d.dao
            call = self.world.dao.decode_function_input(sent["input"])[1] if is_direct else {}
            yield {
                "id": event.id, "proposal": str(id_), "delegate": voter, "voter": voter,
                "support": SUPPORT[event.args["support"]], "weight": event.args["weight"],
                "reason": event.args["reason"], "params": event.args.get("params"),
                "submitter": sent["from"], "signature": call.get("signature"), **event.at,
            }  # fmt: skip

    def delegate(self) -> Iterator[Row]:
        ballots = Counter(event.args["voter"] for event in self.events("dao", *VOTES))
        chosen = Counter(self.ask("token", "delegates", holder) for holder in self._holders())
        changes = self.events("token", "DelegateChanged")
        ever = {event.args[key] for event in changes for key in ("fromDelegate", "toDelegate")} | set(ballots)
        for address in ever - {ZERO_ADDRESS}:
            yield {
                "id": address, "votes": self.ask("token", "getVotes", address), "delegatorCount": chosen[address],
                "voteCount": ballots[address],
            }  # fmt: skip

    def token_holder(self) -> Iterator[Row]:
        for address in self._holders():
            delegate = self.ask("token", "delegates", address)
            yield {
                "id": address, "balance": self.ask("token", "balanceOf", address),
                "delegate": None if delegate == ZERO_ADDRESS else delegate,
            }  # fmt: skip

    def _holders(self) -> set[str]:
        """Whoever had tokens, or chose a delegate."""
        transfers, changes = self.events("token", "Transfer"), self.events("token", "DelegateChanged")
        moved = {event.args[key] for event in transfers for key in ("from", "to")}
        return (moved | {event.args["delegator"] for event in changes}) - {ZERO_ADDRESS}

    def delegate_change(self) -> Iterator[Row]:
        for event in self.events("token", "DelegateChanged"):
            yield {"id": event.id, **event.args, **event.at}

    def delegate_votes_change(self) -> Iterator[Row]:
        for event in self.events("token", "DelegateVotesChanged"):
            yield {
                "id": event.id, "delegate": event.args["delegate"], "previousVotes": event.args["previousVotes"],
                "votes": event.args["newVotes"], **event.at,
            }  # fmt: skip

    def constitution(self) -> Iterator[Row]:
        yield {
            "id": self.world.d.constitution, "ceilings": self.events("constitution", "CeilingsSet")[-1].id,
            "rules": self.events("constitution", "RulesSet")[-1].id, "guardian": self.ask("constitution", "guardian"),
            "guardianExpiresAt": self.ask("constitution", "guardianExpiresAt"),
            "claimsStoppedUntil": self.ask("constitution", "claimsStoppedUntil") or None,
        }  # fmt: skip

    def constitution_change(self) -> Iterator[Row]:
        nothing = dict.fromkeys(("ceilings", "rules", "guardian", "guardianExpiresAt"))
        for event in self.events("constitution"):
            told: Row = {
                "CeilingsSet": {"kind": "CEILINGS", "ceilings": event.id},
                "RulesSet": {"kind": "RULES", "rules": event.id},
                "GuardianAppointed": {
                    "kind": "GUARDIAN", "guardian": event.args.get("guardian"),
                    "guardianExpiresAt": event.args.get("expiresAt"),
                },
            }.get(event.name, {})  # fmt: skip
            if told:
                yield {"id": event.id, **nothing, **told, **event.at}

    def limits(self) -> Iterator[Row]:
        """Those of the constitution and of manifests; a vault's own come with it."""
        for event in self.events("constitution", "CeilingsSet"):
            ceilings = self.ask("constitution", "ceilings", block=event.block)
            yield {"id": event.id, **{name: getattr(ceilings, name) for name in LIMITS}}
        for hash_ in self.last("strategies", "manifestHash", "ManifestSubmitted"):
            set_ = self.ask("strategies", "manifestOf", hash_).limits
            yield {"id": hash_, **{name: getattr(set_, name) for name in LIMITS}}

    def rules(self) -> Iterator[Row]:
        for event in self.events("constitution", "RulesSet"):
            rules = self.ask("constitution", "rules", block=event.block)
            yield {"id": event.id, **{field: getattr(rules, name) for field, name in RULES_FIELDS.items()}}

    def vault_stop(self) -> Iterator[Row]:
        vaults = {event.args["vault"] for event in self.events("strategies", "StrategyDeployed")}
        for vault in self.last("constitution", "vault", "VaultStopped"):
            until = self.ask("constitution", "vaultStoppedUntil", vault)
            yield {"id": vault, "vault": vault if vault in vaults else None, "until": until}

    def manifest(self) -> Iterator[Row]:
        became = {event.args["strategyId"]: event.args["strategyId"] for event in self._deployed}
        became |= {event.args["version"]: event.args["strategyId"] for event in self._updated}
        for event in self.events("strategies", "ManifestSubmitted"):
            hash_ = event.args["manifestHash"]
            m = self.ask("strategies", "manifestOf", hash_)
            yield {
                "id": hash_, "artefactHash": m.artefactHash, "agent": str(m.agentId),
                "updates": None if bytes(m.updates) == NOTHING else m.updates, "strategy": became.get(hash_),
                "stage": STAGES[self.ask("strategies", "stageOf", hash_)], "limits": hash_,
                "assets": [asset.token for asset in m.assets], "routes": [asset.route for asset in m.assets],
                "venue": m.venue, "venueCodeHash": m.venueCodeHash, "vaultImplementation": m.vaultImplementation,
                "vaultCodeHash": m.vaultCodeHash, "rewardRate": m.rewardRate, "rewardCap": m.rewardCap,
                "capital": m.capital, "salt": m.salt, "submitter": event.args["submitter"],
                "submittedAt": event.timestamp, "submittedAtBlock": event.block, "transaction": event.transaction,
            }  # fmt: skip

    @cached_property
    def _deployed(self) -> list[Happened]:
        return self.events("strategies", "StrategyDeployed")

    @cached_property
    def _updated(self) -> list[Happened]:
        return self.events("strategies", "StrategyUpdated")

    def strategy(self) -> Iterator[Row]:
        last = self.last(
            "strategies", "strategyId", "StrategyDeployed", "StrategyUpdated", "StrategyRetiring", "StrategyRetired"
        )
        updates = Counter(event.args["strategyId"] for event in self._updated)
        for event in self._deployed:
            id_ = event.args["strategyId"]
            strategy = self.ask("strategies", "strategyOf", id_)
            yield {
                "id": id_, "agent": str(strategy.agentId), "vault": strategy.vault, "version": strategy.version,
                "stage": STAGES[strategy.stage], "versionCount": 1 + updates[id_], "deployedAt": event.timestamp,
                "updatedAt": last[id_].timestamp,
            }  # fmt: skip

    def agent(self) -> Iterator[Row]:
        """What the registry knows of it; the rest is the pool's."""
        registered = self.last("agents", "agentId", "Registered")
        for id_ in range(1, self.ask("agents", "agentCount") + 1):
            agent = self.ask("agents", "agentOf", id_)
            yield {
                "id": str(id_), "controller": self.ask("agents", "controllerOf", id_), "signingKey": agent.signingKey,
                "uri": self.ask("agents", "tokenURI", id_), "bond": agent.bond, "deposit": agent.deposit,
                "registeredAt": agent.registeredAt, "transaction": registered[id_].transaction,
            }  # fmt: skip

    def stake_change(self) -> Iterator[Row]:
        for event in self.events("agents", *STAKES):
            account = event.args.get("from") or event.args.get("to")
            yield {
                "id": event.id, "agent": str(event.args["agentId"]), "kind": STAKES[event.name], "account": account,
                "amount": event.args["amount"], **event.at,
            }  # fmt: skip

    def treasury_flow(self) -> Iterator[Row]:
        for event in self.events("treasury", *FLOWS):
            args = event.args
            yield {
                "id": event.id, "kind": FLOWS[event.name], "strategyId": args.get("strategyId"),
                "token": args.get("token") or self.ask("treasury", "quote"), "to": args.get("to") or args.get("vault"),
                "amount": args["amount"], **event.at,
            }  # fmt: skip

    def outflow_cap(self) -> Iterator[Row]:
        for token, event in self.last("treasury", "token", "OutflowCapSet").items():
            cap, _ = self.ask("treasury", "outflowOf", token, block=event.block)
            waits = event.args["effectiveAt"] > event.timestamp
            yield {
                "id": token, "cap": cap, "nextCap": event.args["cap"] if waits else None,
                "nextCapAt": event.args["effectiveAt"] if waits else None,
            }  # fmt: skip

    def price_feed(self) -> Iterator[Row]:
        listed = set(self.last("oracle", "token", "FeedSet"))
        for token, event in self.last("oracle", "token").items():
            feed = self.ask("oracle", "feedOf", token)
            is_listed = feed.aggregator != ZERO_ADDRESS
            if not is_listed:
                feed = self.ask("oracle", "feedOf", token, block=event.block - 1)
            if token in listed:
                yield {
                    "id": token, "aggregator": feed.aggregator, "maxAge": feed.maxAgeS, "decimals": feed.feedDecimals,
                    "minAnswer": feed.minAnswer, "maxAnswer": feed.maxAnswer, "phaseId": feed.phaseId,
                    "isListed": is_listed, "updatedAt": event.timestamp,
                }  # fmt: skip

    def protocol(self) -> Iterator[Row]:
        yield {
            "id": "marketflow", "proposalCount": self.ask("dao", "proposalCount"),
            "voteCount": len(self.events("dao", *VOTES)), "agentCount": self.ask("agents", "agentCount"),
            "strategyCount": len(self._deployed),
        }  # fmt: skip

    def protocol_day_snapshot(self) -> Iterator[Row]:
        """Of the days on which somebody voted."""
        for day, ballots in Counter(event.timestamp // DAY_S for event in self.events("dao", *VOTES)).items():
            yield {"id": str(day), "periodStart": day * DAY_S, "voteCount": ballots}


ENTITIES: dict[str, Callable[[Truth], Iterator[Row]]] = {
    "Governance": Truth.governance,
    "Proposal": Truth.proposal,
    "ProposalChange": Truth.proposal_change,
    "Vote": Truth.vote,
    "Delegate": Truth.delegate,
    "TokenHolder": Truth.token_holder,
    "DelegateChange": Truth.delegate_change,
    "DelegateVotesChange": Truth.delegate_votes_change,
    "Constitution": Truth.constitution,
    "ConstitutionChange": Truth.constitution_change,
    "Limits": Truth.limits,
    "Rules": Truth.rules,
    "VaultStop": Truth.vault_stop,
    "Manifest": Truth.manifest,
    "Strategy": Truth.strategy,
    "Agent": Truth.agent,
    "StakeChange": Truth.stake_change,
    "TreasuryFlow": Truth.treasury_flow,
    "OutflowCap": Truth.outflow_cap,
    "PriceFeed": Truth.price_feed,
    "Protocol": Truth.protocol,
    "ProtocolDaySnapshot": Truth.protocol_day_snapshot,
}
# Whose other fields, or whose other rows, are of vaults and rewards, which have their own test.
SHARED = {"Agent", "Limits", "Protocol", "ProtocolDaySnapshot"}


class Governed:
    """A world in which more happens than in the story."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.strategy_id = tell(world)[0].id

    def vote_in_all_ways(self) -> None:
        """By a wallet's own call and by its owner's signature, and with a signature that another contract brings."""
        world, dao = self.world, self.world.dao.functions
        caller, signer = (world.evm.deploy("SmartWallet", world.voter_a.address, sender=world.voter_a) for _ in "ab")
        world.send(world.token.functions.delegate(caller.address), world.voter_a)
        world.send(world.token.functions.delegate(signer.address), world.voter_b)
        world.travel(1)
        proposal = world.propose([world.oracle.functions.removeFeed(world.token_of("BTC"))], "vote in all ways")
        world.to_voting(proposal)
        vote = dao.castVote(proposal, FOR)
        world.send(caller.functions.execute(world.d.dao, vote._encode_transaction_data()), world.voter_a)
        ballot = world.sign_ballot(world.voter_a, proposal, FOR, signatory=signer.address)
        world.send(dao.castVoteBySig(proposal, FOR, signer.address, ballot), world.relayer)
        extended = sign_extended(world, world.proposer, proposal, AGAINST, "I object", b"\xca\xfe")
        arguments = (proposal, AGAINST, world.proposer.address, "I object", b"\xca\xfe", extended)
        world.send(dao.castVoteWithReasonAndParamsBySig(*arguments), world.relayer)
        brought = dao.castVoteBySig(
            proposal, ABSTAIN, world.small_holder.address, world.sign_ballot(world.small_holder, proposal, ABSTAIN)
        )
        messenger = world.evm.deploy("AttackerScript", sender=world.stranger)
        world.send(messenger.functions.run([(world.d.dao, brought._encode_transaction_data())]), world.stranger)
        world.send(dao.voteStrategy(proposal, FOR), world.stranger)  # without any votes

    def delegate_and_pay(self) -> None:
        """Votes given away, given to oneself again, taken back; everything that someone has, and nothing, paid."""
        world, token = self.world, self.world.token.functions
        voter, holder, friend = world.voter_a, world.small_holder, world.bidder
        world.send(token.transfer(friend.address, tokens(5)), voter)
        world.send(token.delegate(friend.address), holder)
        world.send(token.delegate(friend.address), holder)
        world.send(token.transfer(friend.address, world.view(token.balanceOf(holder.address))), holder)
        world.send(token.delegate(world.d.token), friend)
        world.send(token.delegate(ZERO_ADDRESS), holder)
        world.send(token.delegate(voter.address), voter)
        world.send(token.transfer(voter.address, 0), voter)

    def decide_otherwise(self) -> None:
        """What there would have been instead of `delegate_and_pay`, in one block more than that."""
        world, token, agents = self.world, self.world.token.functions, self.world.agents.functions
        rules = world.constitution.functions.setRules(RULES.as_tuple())
        world.propose([rules], "on the other fork")
        world.as_timelock(rules)
        world.as_timelock(agents.slashBond(1, tokens(7)))
        world.as_timelock(world.treasury.functions.pay(world.d.token, world.bidder.address, tokens(1)))
        world.submit(world.manifest(1, assets=("ETH", "BTC"), updates=self.strategy_id, capital=0))
        world.send(token.delegate(world.observer.address), world.voter_a)
        world.send(token.transfer(world.small_holder.address, tokens(2)), world.voter_b)
        world.send(agents.setAgentURI(1, "ipfs://other"), world.controller)
        world.send(agents.register("ipfs://another", world.other_signer.address), world.observer)

    def change_the_rules(self) -> None:
        """By one vote, as far as only a vote can; and a delay longer than the longest that is in force."""
        world, dao, constitution = self.world, self.world.dao.functions, self.world.constitution.functions
        for voter in (world.voter_a, world.voter_b):
            world.send(world.token.functions.delegate(voter.address), voter)
        world.travel(1)
        looser = replace(CEILINGS, max_daily_turnover_bps=2**32 - 1)
        proposal = world.propose(
            [
                dao.setVotingDelay(2 * HOUR_S), dao.setVotingPeriod(2 * DAY_S), dao.setProposalThreshold(tokens(9)),
                constitution.setCeilings(looser.as_tuple()),
                constitution.setRules(replace(RULES, slippage_decay_s=2**32 - 1).as_tuple()),
                constitution.appointGuardian(world.guardian.address, world.now_s() + 300 * DAY_S),
                world.treasury.functions.setOutflowCap(world.book.quote, usd(20_000_000)),
                world.treasury.functions.pay(world.d.token, world.stranger.address, tokens(3)),
                world.timelock.functions.updateDelay(31 * DAY_S),
            ],
            "everything changes",
        )  # fmt: skip
        world.pass_proposal(proposal)

    def stop_and_slash(self) -> None:
        """The guardian stops a vault that is not there yet, and claims; a bond is slashed; feeds and a cap change."""
        world, constitution = self.world, self.world.constitution.functions
        world.send(constitution.stopVault(world.bidder.address, DAY_S), world.guardian)
        world.send(constitution.stopClaims(DAY_S), world.guardian)
        world.send(constitution.liftClaimsStop(), world.guardian)
        world.as_timelock(constitution.liftVaultStop(world.stranger.address))
        world.as_timelock(world.agents.functions.slashBond(1, tokens(10)))
        world.market.begin_phase("ETH")
        world.set_price("ETH", 2100)
        world.send(world.oracle.functions.syncPhase(world.token_of("ETH")), world.stranger)
        world.as_timelock(world.oracle.functions.removeFeed(world.token_of("BTC")))
        world.as_timelock(world.oracle.functions.removeFeed(world.bidder.address))
        world.as_timelock(world.treasury.functions.setOutflowCap(world.d.token, tokens(5)))


def sign_extended(world: World, voter: Account, proposal_id: int, support: int, reason: str, params: bytes) -> bytes:
    """OpenZeppelin's ExtendedBallot."""
    domain = {
        "name": "MARKETFLOW_DAO", "version": "1",
        "chainId": world.w3.eth.chain_id, "verifyingContract": world.dao.address,
    }  # fmt: skip
    fields = (
        ("proposalId", "uint256"), ("support", "uint8"), ("voter", "address"), ("nonce", "uint256"),
        ("reason", "string"), ("params", "bytes"),
    )  # fmt: skip
    message = {
        "proposalId": proposal_id, "support": support, "voter": voter.address,
        "nonce": world.view(world.dao.functions.nonces(voter.address)), "reason": reason, "params": params,
    }  # fmt: skip
    types = {"ExtendedBallot": [{"name": name, "type": type_} for name, type_ in fields]}
    return bytes(EthAccount.sign_typed_data(voter.key, domain, types, message).signature)


# Comparing


def stored_fields() -> dict[str, dict[str, bool]]:
    """For each entity of the schema its own fields, and whether each refers to another entity."""
    document = parse((SUBGRAPH / "schema.graphql").read_text(encoding="utf-8"))
    entities = {node.name.value: node for node in document.definitions if isinstance(node, ObjectTypeDefinitionNode)}
    return {
        name: {
            field.name.value: innermost(field.type) in entities
            for field in node.fields or ()
            if not any(directive.name.value == "derivedFrom" for directive in field.directives or ())
        }
        for name, node in entities.items()
    }


def innermost(node: TypeNode) -> str:
    while isinstance(node, NonNullTypeNode | ListTypeNode):
        node = node.type
    assert isinstance(node, NamedTypeNode)
    return node.name.value


def ask_for_all(graph: Graph, entity: str, fields: dict[str, bool]) -> dict[str, Row]:
    """All rows by id."""
    listed = {"Limits": "limits_collection", "Rules": "rules_collection", "Strategy": "strategies"}
    name = listed.get(entity, f"{entity[0].lower()}{entity[1:]}s")
    selection = " ".join(f"{field} {{ id }}" if refers else field for field, refers in fields.items())
    rows = graph.query(f"{{ {name}(first: 1000) {{ {selection} }} }}")[name]
    assert len(rows) < 1000, "more than one page"
    return {row["id"]: row for row in rows}


def plain(value: Any) -> Any:
    """As JSON has it: numbers as text, hashes and addresses in lower case, another entity as its id."""
    if isinstance(value, dict):
        return plain(value["id"])
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.lower() if isinstance(value, str) and value.startswith("0x") else value


def assert_equal(graph: Graph, truth: Truth) -> None:
    """Every row, and every field of it."""
    for entity, tell_rows in ENTITIES.items():
        fields = stored_fields()[entity]
        expected = {plain(row["id"]): plain_row(row) for row in tell_rows(truth)}
        assert expected, f"no {entity} at all: nothing is compared"
        found = {id_: plain_row(row) for id_, row in ask_for_all(graph, entity, fields).items()}
        if entity in SHARED:
            known = next(iter(expected.values()))
            found = {id_: {key: row[key] for key in known} for id_, row in found.items() if id_ in expected}
        else:
            assert all(set(row) == set(fields) for row in expected.values()), f"{entity}: fields that nobody compares"
        assert found == expected, entity


def plain_row(row: Row) -> Row:
    return {field: plain(value) for field, value in row.items()}


@pytest.fixture(scope="module")
def governed() -> Iterator[Governed]:
    with start_evm("anvil") as evm:
        yield Governed(World(evm))


@pytest.fixture(scope="module")
def graph(governed: Governed) -> Iterator[Graph]:
    evm = governed.world.evm
    with LocalGraph(str(evm.url), [write_local_manifest(governed.world.d)]) as node:
        yield Graph(node, evm)


def test_every_field_is_what_the_contracts_answer_before_and_after_a_reorg(governed: Governed, graph: Graph) -> None:
    """graph-node follows ten blocks back, so forks are shorter."""
    world, evm = governed.world, governed.world.evm
    governed.vote_in_all_ways()
    graph.wait()
    fork, forked_at = evm.snapshot(), world.w3.eth.block_number
    governed.delegate_and_pay()
    assert_equal(graph, Truth(world))
    replaced, height = ids_of(graph, "DelegateChange"), world.w3.eth.block_number

    evm.revert(fork)
    governed.decide_otherwise()
    assert world.w3.eth.block_number == height + 1 <= forked_at + 10
    assert_equal(graph, Truth(world))
    assert replaced - ids_of(graph, "DelegateChange"), "nothing was replaced"

    governed.change_the_rules()
    governed.stop_and_slash()
    assert_equal(graph, Truth(world))


def ids_of(graph: Graph, entity: str) -> set[str]:
    return set(ask_for_all(graph, entity, {"id": False}))
