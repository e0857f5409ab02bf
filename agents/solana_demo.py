"""The DAO's vault on Solana, beside the chain on which it votes: the demo's second half.

The DAO votes on the EVM; guardians carry over what it decided; the same policy, in the same cycle, trades there what it
sees there; anybody settles, and rewards are paid in a token of that chain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from eth_account import Account as EthAccount
from eth_utils import keccak
from solders.pubkey import Pubkey

from agents.constitution import OperatorLimits
from agents.cycle import Cycle, Step
from agents.deployment import Deployment, Genesis, Limits
from agents.explanation import DocumentStore
from agents.journal import Journal
from agents.localnet.evm import LocalEvm
from agents.localnet.solana import CHAINLINK, PYTH, LocalSolana
from agents.solana_decisions import combine, payload_of, read_decision, sign
from agents.solana_execution import Courier, FeePayer, SendRules, SolanaExecution, SolanaKeeper
from agents.solana_node import SolanaNode
from agents.solana_program import Event, verify_chain
from agents.solana_rpc import Rpc
from agents.solana_settlement import SolanaSettler
from agents.solana_signer import TradeSigner
from agents.solana_vault import SolanaVaultReader
from offchain_rl.artefact import Artefact
from oracle.chain import BlockRef
from oracle.vault_state import VaultState, reason_names

QUOTE_UNIT: Final = 10**6
# Of the reward token: 9 decimals here, 18 on the EVM.
TOKEN: Final = 10**9
WEI_PER_UNIT: Final = 10**9
LIQUIDITY: Final = 200_000_000 * QUOTE_UNIT
DECISION_TTL_S: Final = 7 * 86_400
GUARDIANS, THRESHOLD = 3, 2


@dataclass(kw_only=True)
class SolanaSide:
    """One strategy's life on Solana. `say` gets a line for each thing worth watching."""

    evm: LocalEvm
    deployment: Deployment
    genesis: Genesis
    artefact: Artefact
    limits: Limits
    capital: int
    reward_rate_wei: int
    reward_cap_wei: int
    # Rounds of the base feed until now, oldest first: unix seconds, and dollars x 1e8.
    history: Sequence[tuple[int, int]]
    out: Path
    say: Callable[[str], None]
    equity: list[int | None] = field(default_factory=list)
    steps: list[tuple[int, Step]] = field(default_factory=list)
    carried: int = 0
    cycle: Cycle | None = None

    def __post_init__(self) -> None:
        self.node = SolanaNode(start_s=self.history[0][0])
        self.chain = LocalSolana(self.node, base_price_e8=self.history[-1][1], liquidity=LIQUIDITY)
        self.ledger = self.chain.ledger
        self.guardians = [EthAccount.from_key(keccak(text=f"guardian {n} of the demo")) for n in range(GUARDIANS)]
        self.outbox = self.evm.deploy("DecisionOutbox", self.deployment.timelock, sender=self.evm.accounts[0])
        for at_s, price_e8 in self.history:
            self.chain.publish(base_e8=price_e8, at_s=at_s)
        self._begin()

    # Beginning

    def _begin(self) -> None:
        """The protocol, the money for rewards and capital, and an agent with a bond. No vault: that is the DAO's."""
        chain, types = self.chain, self.ledger.types
        config = types["Config"](**self._config())
        self.protocol = self.ledger.protocol(config)
        self.controller, self.key = chain.person("controller"), chain.person("signing key")
        self.agent = self.ledger.agent(self.protocol, self.controller.pubkey())
        self.known: dict[str, Pubkey] = self.ledger.known(self.protocol) | {
            "payer": chain.authority.pubkey(), "quote_mint": chain.quote, "reward_mint": chain.token,
            "base_mint": chain.base, "controller": self.controller.pubkey(), "agent": self.agent,
            "base_feed": chain.feeds["base"], "quote_feed": chain.feeds["quote"], "venue": chain.market.id,
        }  # fmt: skip
        self.known |= {name: chain.pool[name] for name in ("pool", "pool_quote", "pool_base")}
        chain.send(self.ledger.instruction("initialise", self.known, config), signers=[chain.authority])
        register = self.ledger.instruction("register_agent", self.known, self.key.pubkey())
        chain.send(register, signers=[self.controller])
        purse = chain.wallet(chain.token, chain.authority.pubkey())
        bond, fund = 100_000 * TOKEN, self.genesis.reward_fund_wei // WEI_PER_UNIT
        chain.give(chain.token, purse, bond + fund)
        known = self.known | {"owner": chain.authority.pubkey(), "funder": chain.authority.pubkey(), "source": purse}
        chain.send(self.ledger.instruction("deposit_bond", known, bond), signers=[chain.authority])
        chain.send(self.ledger.instruction("fund_rewards", known, fund), signers=[chain.authority])
        chain.give(chain.quote, self.known["treasury"], 2 * self.capital)
        self.say(
            f"Solana: a protocol that answers to the DAO's outbox {self.outbox.address}, {THRESHOLD} of {GUARDIANS} "
            "guardians"
        )

    def _config(self) -> dict[str, Any]:
        rewards, rules = self.genesis.rewards, self.genesis.rules
        pool = self.deployment.contract(self.evm, "pool")
        guardians = [list(bytes.fromhex(key.address[2:])) for key in self.guardians]
        return {
            "cluster": Pubkey.from_bytes(bytes(self.node.genesis)),
            "evm_chain_id": self.deployment.chain_id,
            "outbox": list(bytes.fromhex(self.outbox.address[2:])),
            "threshold": THRESHOLD, "guardian_count": GUARDIANS, "reserved": [0, 0],
            "guardians": guardians + [[0] * 20] * (16 - GUARDIANS),
            "quote_mint": self.chain.quote, "reward_mint": self.chain.token, "chainlink": CHAINLINK, "pyth": PYTH,
            "quote_feed": self._feed("quote", 90_000, least_e8=98 * 10**6, most_e8=102 * 10**6),
            "genesis_s": int(self.evm.call(pool.functions.genesis())), "epoch_length_s": rewards.epoch_length_s,
            "window_length_s": rewards.window_length_s, "vesting_s": rewards.vesting_s,
            "max_unsettled": rewards.max_unsettled, "budget_per_epoch": rewards.budget_per_epoch_wei // WEI_PER_UNIT,
            "max_reward_rate": rules.max_reward_rate // WEI_PER_UNIT, "min_bond": rules.min_bond_wei // WEI_PER_UNIT,
            "slippage_decay_s": rules.slippage_decay_s, "gap_allowance_bps": rules.gap_allowance_bps,
            "ceilings": self._limits(self.genesis.ceilings),
        }  # fmt: skip

    def _feed(self, name: str, max_age_s: int, *, least_e8: int, most_e8: int) -> Any:
        return self.ledger.types["Feed"](
            source=self.chain.feeds[name], kind=1, max_age_s=max_age_s, max_confidence_bps=0, decimals=8,
            least_e8=least_e8, most_e8=most_e8,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Of the strategy, beside its twin on the EVM."""
        return f"{self.artefact.name} on Solana"

    def _limits(self, limits: Limits) -> Any:
        return self.ledger.types["Limits"](**asdict(limits))

    # What the DAO is asked, and what it decided

    def decisions(self) -> list[Any]:
        """Calls of the outbox that a proposal may make: open a vault for the artefact, and give it capital."""
        types, cap = self.ledger.types, self.reward_cap_wei // WEI_PER_UNIT
        self.manifest = types["Manifest"](
            artefact_hash=list(bytes.fromhex(self.artefact.artefact_hash[2:])), agent=self.agent,
            base_mint=self.chain.base, feed=self._feed("base", 7200, least_e8=10**8, most_e8=10**14),
            venue=self.chain.market.id, pool=self.known["pool"], limits=self._limits(self.limits),
            reward_rate=self.reward_rate_wei // WEI_PER_UNIT, reward_cap=cap, salt=0,
        )  # fmt: skip
        self.vault = self.ledger.vault(self.protocol, self.manifest)
        # An agent without a vault names the program itself as its last one.
        self.known |= self.ledger.known(self.protocol, vault=self.vault) | {"last_vault": self.ledger.id}
        return [self._decision("open_vault", self.manifest), self._decision("allocate", self.capital)]

    def _decision(self, name: str, *args: Any) -> Any:
        instruction = self.ledger.instruction(name, self.known, *args, self.ledger.decision(0))
        payload = payload_of(bytes(instruction.data), bytes(self.vault))
        return self.outbox.functions.send(bytes(self.ledger.id), bytes(self.protocol), DECISION_TTL_S, payload)

    def carry_over(self) -> None:
        """Guardians sign what the outbox has; whoever likes sends it. In the outbox's order."""
        program, protocol = bytes(self.ledger.id), bytes(self.protocol)
        count = self.evm.call(self.outbox.functions.countOf(program, protocol))
        while (nonce := self.chain.state(self.protocol).nonce) < count:
            decision = read_decision(
                self.evm, self.outbox, program=program, protocol=protocol, nonce=nonce, finality="latest"
            )
            signed = [sign(decision, key) for key in self.guardians[:THRESHOLD]]
            addresses = [key.address for key in self.guardians]
            name, arguments = self.ledger.decode_arguments(decision.payload[:8] + decision.payload[40:] + bytes(12))
            proof = self.ledger.decision(decision.expires_s, combine(signed, decision, addresses, THRESHOLD))
            args = [value for key, value in arguments.items() if key != "decision"]
            instruction = self.ledger.instruction(name, self.known, *args, proof)
            self.chain.send(instruction, signers=[self.chain.authority])
            self.carried += 1
            self.say(f"Solana: decision {nonce}, {name}, carried over with {THRESHOLD} signatures")
        self._go_live()

    def _go_live(self) -> None:
        self.rpc = Rpc(self.chain.client)
        courier = Courier(
            self.rpc, self.ledger, venue=self.chain.market, rules=SendRules(poll_s=0.0), sleep=lambda _: None
        )
        clock = lambda: self.node.time_s  # noqa: E731
        signer = TradeSigner(self.key, ledger=self.ledger, vault=self.vault, max_priority_fee_micro_lamports=10**6)
        self.journal = Journal(self.out / "solana-journal.sqlite")
        self.documents = DocumentStore(self.out / "solana-explanations")
        self.reader = SolanaVaultReader(self.rpc, self.ledger, self.known, payer=self.key.pubkey())
        keeper = SolanaKeeper(courier, known=self.known, payer=FeePayer(self.chain.person("keeper")), clock=clock)
        self.settler = SolanaSettler(self.rpc, self.ledger, self.known, keeper)
        self.execution = SolanaExecution(courier, known=self.known, signer=signer, journal=self.journal, clock=clock)
        self.cycle = Cycle(
            chain_id=f"solana:{self.rpc.genesis()[:32]}", artefact=self.artefact, vaults=self.reader,
            rounds=self.reader,
            execution=self.execution, journal=self.journal, documents=self.documents,
            decimals={str(self.chain.base): 8, str(self.chain.quote): 8},
            operator=OperatorLimits(min_trade_value=1000 * QUOTE_UNIT),
        )  # fmt: skip

    # Bar by bar

    def publish(self, price_e8: int, at_s: int) -> None:
        """A round of both feeds, and a market that follows."""
        self.chain.publish(base_e8=price_e8, at_s=at_s)
        self.chain.arbitrage()

    def bar(self, done: int) -> None:
        """What everybody does after a round: anybody settles, the agent decides."""
        if self.cycle is None:
            self.equity.append(None)
            return
        for settled in self.settler.step(self.node.time_s):
            if settled.pnl:
                tokens = settled.reward / TOKEN if settled.pnl > 0 else settled.taken / TOKEN
                verb = "vest" if settled.pnl > 0 else "taken back"
                self.say(
                    f"Solana, epoch {settled.epoch}: profit {settled.pnl / QUOTE_UNIT:+,.0f}, "
                    f"{tokens:,.0f} tokens {verb}"
                )
        before = self.chain.state(self.vault).guard.reasons
        block = BlockRef(number=self.node.slot, hash="", timestamp_s=self.node.time_s)
        reading = self.reader.fetch(block)
        if reading.reasons != before:
            self.settler.observe()
            names = ", ".join(reason_names(reading.reasons)) or "nothing wrong"
            self.say(f"Solana: the vault is {reading.state.name} now: {names}")
        self.equity.append(reading.unit_price_wad)
        if reading.state is not VaultState.HALTED:
            self.steps += [(done, step) for step in self.cycle.run(block) if step.intent]

    # Afterwards

    def entries(self) -> list[Event]:
        """The ledger's entries, oldest first, as the chain's transactions tell them."""
        found = [Event("TradeRecorded", fields) for _, fields in self.execution.trades()]
        return sorted(found, key=lambda event: event.fields["sequence"])

    def report(self) -> Mapping[str, Any]:
        """The figures: quote and reward tokens in base units."""
        if self.cycle is None:
            return {"vault": None}
        vault, entries = self.chain.state(self.vault), self.entries()
        verify_chain(self.ledger, entries, bytes(vault.head))
        explained = sum(self._is_explained(entry) for entry in entries)
        reward = vault.reward
        books = (self.chain.balance(self.known["vault_quote"]), self.chain.balance(self.known["vault_base"]))
        assert books == (vault.quote_held, vault.base_held)
        value = vault.quote_held + vault.base_held * vault.last_price_e8 // (vault.unit * (10**8 // vault.quote_unit))
        return {
            "program": str(self.ledger.id), "protocol": str(self.protocol), "vault": str(self.vault),
            "decisions_carried_over": self.carried, "trades": len(entries), "explained": explained,
            "head": bytes(vault.head).hex(), "value": value, "profit": value + vault.net_flow,
            "unit_price": vault.guard.last_unit_price, "peak": vault.guard.peak, "reasons": vault.guard.reasons,
            "credited": reward.credited, "rewarded": reward.rewarded, "clawed_back": reward.clawed_back,
            "is_exact": reward.rewarded - reward.clawed_back == vault.manifest.reward_rate * reward.credited,
        }  # fmt: skip

    def _is_explained(self, entry: Event) -> bool:
        """The document is there, and says what the entry says."""
        document = self.documents.get("0x" + entry.fields["explanation_hash"].hex())
        said = (document["observation"]["hash"], document["artefact"]["hash"], int(document["intent"]["amount_in"]))
        fields = entry.fields
        hashes = ("0x" + fields["observation_hash"].hex(), "0x" + fields["artefact_hash"].hex())
        return said == (*hashes, fields["amount_in"])
