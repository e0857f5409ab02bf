"""Many vaults as they are at one block: what `VaultReader` reads of each, in a few requests for all.

What all vaults share is read once: prices, ceilings, rules. What is a vault's own comes in chunks, each a Multicall3
call that is encoded once, sent again for every block, and read at fixed offsets. Nothing is kept from one block to the
next but what no transaction can change, and a vault's list of assets, which every answer brings with it: where it is
another one than was asked about, the vault is asked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, NamedTuple

from eth_abi.exceptions import DecodingError
from eth_utils import keccak, to_checksum_address

from oracle.abi import CODEC
from oracle.chain import BlockRef, ChainReader
from oracle.chainlink import Round
from oracle.errors import NothingThere, ReadingFailed
from oracle.multicall import MULTICALL3, fetch_many
from oracle.vault_state import DAY_S, EffectiveLimits, PositionReading, VaultReading, VaultState, reference_wad

# Vaults in one request, and requests at a time: on two cores larger chunks and more threads were no faster. A vault
# takes some 200,000 gas to read, and nodes let one call use 30 to 50 million.
CHUNK, THREADS = 64, 2
_WORD = 32
_CLOCK_ABI = [
    {
        "type": "function", "name": "getCurrentBlockTimestamp", "stateMutability": "view", "inputs": [],
        "outputs": [{"name": "timestamp", "type": "uint256"}],
    }
]  # fmt: skip


def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


_CLOCK = _selector("getCurrentBlockTimestamp()")
_AGGREGATE3 = _selector("aggregate3((address,bool,bytes)[])")
_POSITION_OF = _selector("positionOf(address)")
_IDENTITY_NAMES = ("strategyId", "agentId", "assets")
_IDENTITY = tuple(_selector(f"{name}()") for name in _IDENTITY_NAMES)
# Where the offsets of its results begin.
_FIRST = 2 * _WORD
# What a result of aggregate3 begins with when its call went well: true, and where its bytes begin.
_SUCCESS = (1).to_bytes(_WORD, "big") + (64).to_bytes(_WORD, "big")

# Bits of each word that the fixed calls return, as Types.sol and IStrategyVault.sol have them.
_LIMITS = (16, 16, 16, 16, 16, 16, 32, 16, 16, 16)
_STATUS = (8, 16, 1, 256, 256, 256, 256)
_GUARD = (128, 128, 128, 128, 104, 40, 40, 16, 16, 16, 16, 1, 128, 64, 128, 64)
_BOOK = (128, 128, 256, 64)
_FIXED_CALLS = {"limits": _LIMITS, "status": _STATUS, "guard": _GUARD, "book": _BOOK, "artefactHash": (256,)}
_FIXED = tuple(_selector(f"{name}()") for name in _FIXED_CALLS)
_FIXED_LENGTHS = tuple(_WORD * len(bits) for bits in _FIXED_CALLS.values())
# Bits that are zero in every answer, over all fixed words; a call that has others is no vault.
_PADDING = int.from_bytes(
    b"".join((2**256 - 2**bits).to_bytes(_WORD, "big") for struct in _FIXED_CALLS.values() for bits in struct), "big"
)
_STATUS_AT, _GUARD_AT, _BOOK_AT, _ARTEFACT_AT = list(accumulate(_FIXED_LENGTHS))[:-1]
_ASSETS = len(_FIXED)
_STATES = tuple(VaultState)
_LIMIT_NAMES = [field.name for field in fields(EffectiveLimits)]


class _Unanswered(ReadingFailed):
    """Nobody answered, or for another block: asking about fewer vaults would not help."""


@dataclass(slots=True)
class _Member:
    """A vault of the fleet. `assets`: tokens and their units, as `listed`, the answer of `assets()`, has them."""

    address: str
    strategy_id: str = ""
    agent_id: int = 0
    listed: bytes = b""
    assets: tuple[tuple[str, int], ...] = ()


class _Ask(NamedTuple):
    """Calls to one vault, by name and call data, and how many bytes each has to return; 0 for any number."""

    address: str
    names: tuple[str, ...]
    calls: tuple[bytes, ...]
    lengths: tuple[int, ...]


class _Chunk(NamedTuple):
    """What is asked of several vaults, and the request that says so."""

    asks: tuple[_Ask, ...]
    request: dict[str, str]


# What each call of an ask returned; or why it is not known.
_Answer = list[bytes] | ReadingFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Market:
    """What all vaults share at a block. `prices`: price x 1e18 and round, by token."""

    ceilings: tuple[int, ...]
    slippage_decay_s: int
    quote_round: Round
    prices: dict[str, tuple[int, Round]]


class FleetReader:
    """Reads many vaults of one protocol. `vaults`: bound web3 contracts, or addresses; `constitution`, `oracle`: such
    contracts.

    Nothing is read before the first `fetch`, which also asks again for every vault that has never answered. Not for two
    threads at once; `close` ends those that it keeps. Raises ValueError for a vault that is named twice.
    """

    def __init__(
        self, chain: ChainReader, vaults: Sequence[Any], *, constitution: Any, oracle: Any, quote: str, quote_unit: int,
        chunk: int = CHUNK, threads: int = THREADS,
    ) -> None:  # fmt: skip
        self._chain, self._constitution, self._oracle = chain, constitution, oracle
        self._quote, self._quote_unit, self._size = quote, quote_unit, chunk
        addresses = [to_checksum_address(getattr(vault, "address", vault)) for vault in vaults]
        self._members = {address: _Member(address) for address in addresses}
        if len(self._members) < len(addresses):
            raise ValueError("a vault is named twice")
        self._clock = chain.w3.eth.contract(address=MULTICALL3, abi=_CLOCK_ABI).functions
        self._chunks: list[_Chunk] = []
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fleet-reader")

    def close(self) -> None:
        """Ends the threads; there is no `fetch` afterwards."""
        self._threads.shutdown()

    def fetch(self, block: BlockRef) -> list[VaultReading | ReadingFailed]:
        """Each vault at the block, in the order given, or why it can't be read.

        Raises ReadingFailed when what all vaults share can't be read: the node does not answer, or has no Multicall3.
        """
        found: dict[str, VaultReading | ReadingFailed] = {}
        for part in self.fetch_parts(block):
            found |= part
        return [found[address] for address in self._members]

    def fetch_parts(self, block: BlockRef) -> Iterator[dict[str, VaultReading | ReadingFailed]]:
        """The same by address, in parts, each as soon as the node has answered: what is known can be decided about
        while it works on the rest."""
        if failed := self._meet(block):
            yield failed
        if not self._chunks:
            self._chunks = self._split(_reading_of(member) for member in self._members.values() if member.listed)
        tokens, changed = self._tokens(), list[_Member]()
        shared = self._threads.submit(self._fetch_market, tokens, block)
        asked = [self._threads.submit(self._ask_chunk, chunk, block) for chunk in self._chunks]
        try:
            parser = _Parser(block, shared.result(), self._quote_unit)
            for done in as_completed(asked):
                answers = done.result()
                changed += self._learn_changes(answers, block)
                yield self._parsed(parser, answers)
        finally:
            for waiting in asked:
                waiting.cancel()
        if changed:
            yield self._fetch_changed(changed, block)

    def _fetch_changed(self, changed: Sequence[_Member], block: BlockRef) -> dict[str, VaultReading | ReadingFailed]:
        self._chunks = []
        answers = self._ask(self._split(_reading_of(member) for member in changed), block)
        parser = _Parser(block, self._fetch_market(self._tokens(), block), self._quote_unit)
        return self._parsed(parser, answers)

    def _parsed(self, parser: _Parser, answers: dict[str, _Answer]) -> dict[str, VaultReading | ReadingFailed]:
        return {address: parser.parse(self._members[address], answer) for address, answer in answers.items()}

    def _meet(self, block: BlockRef) -> dict[str, ReadingFailed]:
        """Learns who the vaults are that have not said so yet; why not, of those that don't."""
        strangers = [member for member in self._members.values() if not member.listed]
        if not strangers:
            return {}
        fetch_many(self._chain, [self._clock.getCurrentBlockTimestamp()], block=block.number)  # or nobody is there
        answers = self._ask(self._split(map(_identity_of, strangers)), block)
        self._chunks = []
        failed = {member.address: _learned_identity(member, answers[member.address], block) for member in strangers}
        return {address: error for address, error in failed.items() if error}

    def _learn_changes(self, answers: dict[str, _Answer], block: BlockRef) -> list[_Member]:
        """Takes the vaults out of the answers that list other assets at this block than they were asked about."""
        changed = []
        for address, answer in list(answers.items()):
            member = self._members[address]
            if isinstance(answer, ReadingFailed) or answer[_ASSETS] == member.listed:
                continue
            if failure := _learned_assets(member, answer[_ASSETS], block):
                answers[address] = failure
            else:
                changed.append(member)
                del answers[address]
        return changed

    def _tokens(self) -> list[str]:
        """Every asset of any vault, in the order in which they are first listed."""
        return list(dict.fromkeys(token for member in self._members.values() for token, _ in member.assets))

    def _fetch_market(self, tokens: Sequence[str], block: BlockRef) -> _Market:
        constitution = self._constitution.functions
        now_s, ceilings, rules, readings = fetch_many(
            self._chain,
            [
                self._clock.getCurrentBlockTimestamp(), constitution.ceilings(), constitution.rules(),
                self._oracle.functions.readMany(tokens),
            ],
            block=block.number,
        )  # fmt: skip
        _require_time(now_s, block)
        return _Market(
            ceilings=tuple(ceilings),
            slippage_decay_s=rules.slippageDecayS,
            quote_round=_round(self._quote, readings[0]),
            prices={
                token: (reading.priceWad, _round(token, reading))
                for token, reading in zip(tokens, readings[1], strict=True)
            },
        )

    # Asking

    def _split(self, asks: Iterable[_Ask]) -> list[_Chunk]:
        waiting = list(asks)
        return [_chunk(waiting[start : start + self._size]) for start in range(0, len(waiting), self._size)]

    def _ask(self, chunks: Sequence[_Chunk], block: BlockRef) -> dict[str, _Answer]:
        """What each vault answers, by address."""
        found: dict[str, _Answer] = {}
        for answers in self._threads.map(lambda chunk: self._ask_chunk(chunk, block), chunks):
            found |= answers
        return found

    def _ask_chunk(self, chunk: _Chunk, block: BlockRef) -> dict[str, _Answer]:
        """Vaults that say nothing useful are asked again in smaller company: another one's token may have burnt the
        gas of all, or the node may not want to do so much at once."""
        try:
            found = self._send(chunk, block)
        except _Unanswered as error:
            return {ask.address: error for ask in chunk.asks}
        except ReadingFailed as error:
            found = {ask.address: ReadingFailed(f"vault {ask.address} can't be read: {error}") for ask in chunk.asks}
        silent = [ask for ask in chunk.asks if isinstance(found[ask.address], ReadingFailed)]
        if silent and len(chunk.asks) > 1:
            middle = (len(silent) + 1) // 2
            for part in filter(None, (silent[:middle], silent[middle:])):
                found |= self._ask_chunk(_chunk(part), block)
        return found

    def _send(self, chunk: _Chunk, block: BlockRef) -> dict[str, _Answer]:
        try:
            answer = bytes(self._chain.call(chunk.request, block=block.number))
        except OSError as error:
            raise _Unanswered(f"the node gave no answer at block {block.number}: {error}") from error
        except Exception as error:  # each kind of chain has its own
            raise ReadingFailed(f"{MULTICALL3} gave no answer at block {block.number}: {error}") from error
        returned = _split_results(answer, 1 + sum(len(ask.calls) for ask in chunk.asks))
        _require_time(int.from_bytes(returned[0], "big"), block)
        found, start = {}, 1
        for ask in chunk.asks:
            end = start + len(ask.calls)
            found[ask.address] = _checked(ask, returned[start:end], block)
            start = end
        return found


def _learned_identity(member: _Member, answer: _Answer, block: BlockRef) -> ReadingFailed | None:
    """Nothing, or why it is not known who that is."""
    if isinstance(answer, ReadingFailed):
        return answer
    strategy_id, agent_id, listed = answer
    member.strategy_id, member.agent_id = "0x" + strategy_id.hex(), int.from_bytes(agent_id, "big")
    return _learned_assets(member, listed, block)


def _learned_assets(member: _Member, listed: bytes, block: BlockRef) -> ReadingFailed | None:
    """Nothing, or why that is no list of assets."""
    try:
        [rows] = CODEC.decode(["(address,uint64,uint8)[]"], listed)
    except DecodingError:
        return _not_its_abi(member.address, "assets", block)
    member.assets = tuple((to_checksum_address(token), 10**decimals) for token, _, decimals in rows)
    member.listed = listed
    return None


def _identity_of(member: _Member) -> _Ask:
    return _Ask(member.address, _IDENTITY_NAMES, _IDENTITY, (_WORD, _WORD, 0))


def _reading_of(member: _Member) -> _Ask:
    positions = [_POSITION_OF + bytes(12) + bytes.fromhex(token[2:]) for token, _ in member.assets]
    return _Ask(
        member.address,
        (*_FIXED_CALLS, "assets", *("positionOf" for _ in positions)),
        (*_FIXED, _IDENTITY[2], *positions),
        (*_FIXED_LENGTHS, 0, *(2 * _WORD for _ in positions)),
    )


def _chunk(asks: Sequence[_Ask]) -> _Chunk:
    calls = [(MULTICALL3, True, _CLOCK), *((ask.address, True, call) for ask in asks for call in ask.calls)]
    data = _AGGREGATE3 + CODEC.encode(["(address,bool,bytes)[]"], [calls])
    return _Chunk(tuple(asks), {"to": MULTICALL3, "data": "0x" + data.hex()})


def _split_results(answer: bytes, count: int) -> list[bytes]:
    """What each call of aggregate3 returned, empty for a revert. Raises ReadingFailed unless there are `count`.

    As eth-abi decodes `(bool,bytes)[]`, thirty times as fast.
    """
    if not answer:
        raise _Unanswered(f"there is no Multicall3 at {MULTICALL3}: is the node of the right chain?")
    if int.from_bytes(answer[_WORD:_FIRST], "big") != count:
        raise ReadingFailed(f"{MULTICALL3} answered {len(answer)} bytes, which are not the results of {count} calls")
    results = []
    for at in range(_FIRST, _FIRST + count * _WORD, _WORD):
        start = _FIRST + int.from_bytes(answer[at : at + _WORD], "big") + len(_SUCCESS)
        end = start + _WORD + int.from_bytes(answer[start : start + _WORD], "big")
        if end > len(answer):
            raise ReadingFailed(f"{MULTICALL3} answered {len(answer)} bytes, the results of {count} calls are longer")
        went_well = answer[start - len(_SUCCESS) : start] == _SUCCESS
        results.append(answer[start + _WORD : end] if went_well else b"")
    return results


def _checked(ask: _Ask, returned: list[bytes], block: BlockRef) -> _Answer:
    """The answers, or what is wrong with the first one that is."""
    for name, data, length in zip(ask.names, returned, ask.lengths, strict=True):
        if not data:
            return NothingThere(f"{name} of {ask.address} gave no answer at block {block.number}")
        if length and len(data) != length:
            return _not_its_abi(ask.address, name, block)
    return returned


def _not_its_abi(address: str, name: str, block: BlockRef) -> ReadingFailed:
    return ReadingFailed(f"{name} of {address} answered what its ABI does not say at block {block.number}")


def _require_time(now_s: int, block: BlockRef) -> None:
    """A node that is behind, or on another branch, must not answer for a block that it does not have."""
    if now_s != block.timestamp_s:
        message = f"asked about block {block.number} of {block.timestamp_s}, the node answered for one of {now_s}"
        raise _Unanswered(message)


def _round(token: str, reading: Any) -> Round:
    return Round(token=token, round_id=reading.roundId, answer=reading.answer, updated_at_s=reading.updatedAt)


# Parsing


class _Parser:
    """Readings at one block. What vaults have in common becomes one object."""

    def __init__(self, block: BlockRef, market: _Market, quote_unit: int) -> None:
        self._block, self._market, self._quote_unit = block, market, quote_unit
        self._today = block.timestamp_s // DAY_S
        self._limits: dict[bytes, EffectiveLimits] = {}

    def parse(self, member: _Member, answer: _Answer) -> VaultReading | ReadingFailed:
        if isinstance(answer, ReadingFailed):
            return answer
        fixed, positions = b"".join(answer[:_ASSETS]), answer[_ASSETS + 1 :]
        if int.from_bytes(fixed, "big") & _PADDING or fixed[_STATUS_AT + _WORD - 1] >= len(_STATES):
            return _not_its_abi(member.address, "limits, status, guard or book", self._block)
        if any(any(returned[: _WORD // 2]) for returned in positions):
            return _not_its_abi(member.address, "positionOf", self._block)
        return self._reading(member, fixed, positions)

    def _reading(self, member: _Member, fixed: bytes, positions: Sequence[bytes]) -> VaultReading:
        state, reasons, _, value, unit_price_wad, profit, _ = _words(fixed, _STATUS_AT, 7)
        (
            peak_wad, last_wad, before_today, before_yesterday, turnover, nonce, _, day, _, trades, recorded, _,
            slippage_level, slippage_at_s,
        ) = _words(fixed, _GUARD_AT, 14)  # fmt: skip
        is_today = day == self._today
        return VaultReading(
            block=self._block,
            address=member.address,
            strategy_id=member.strategy_id,
            artefact_hash="0x" + fixed[_ARTEFACT_AT:].hex(),
            agent_id=member.agent_id,
            state=_STATES[state],
            reasons=reasons,
            recorded_reasons=recorded,
            value=value,
            quote_held=_words(fixed, _BOOK_AT, 2)[1],
            quote_unit=self._quote_unit,
            quote_round=self._market.quote_round,
            unit_price_wad=unit_price_wad,
            peak_wad=peak_wad,
            reference_wad=reference_wad(self._today, day, last_wad, before_today, before_yesterday),
            profit=profit - (profit >> 255 << 256),
            nonce=nonce,
            trades_today=trades if is_today else 0,
            turnover_today=turnover if is_today else 0,
            slippage_level=slippage_level,
            slippage_at_s=slippage_at_s,
            slippage_decay_s=self._market.slippage_decay_s,
            limits=self._effective(fixed[:_STATUS_AT]),
            positions=tuple(map(self._position, member.assets, positions)),
        )

    def _position(self, asset: tuple[str, int], returned: bytes) -> PositionReading:
        token, unit = asset
        price_wad, latest = self._market.prices[token]
        amount = int.from_bytes(returned[:_WORD], "big")
        return PositionReading(token=token, unit=unit, amount=amount, price_wad=price_wad, round=latest)

    def _effective(self, own: bytes) -> EffectiveLimits:
        """As `Constitution.regime` has it: field by field the stricter."""
        if own not in self._limits:
            stricter = map(min, _words(own, 0, len(_LIMITS)), self._market.ceilings)
            self._limits[own] = EffectiveLimits(**dict(zip(_LIMIT_NAMES, stricter, strict=True)))
        return self._limits[own]


def _words(data: bytes, start: int, count: int) -> list[int]:
    return [int.from_bytes(data[at : at + _WORD], "big") for at in range(start, start + count * _WORD, _WORD)]
