"""Questions to The Graph: answered for a block that the chain has, by an indexer that keeps up, or refused.

A question is checked against the schema before it is sent, and so is the answer when it comes. The same request asks
which block the indexer is at, and that block is compared with the chain's own. Values come back as `int` for BigInt,
`Decimal` for BigDecimal, and lower-case hex for Bytes.

    with GraphClient([url], sdl, chain=chain, chain_id=1, max_lag_blocks=20, max_age_s=600) as graph:
        graph.query("query ($id: ID!) { vault(id: $id) { netAssetValue } }", {"id": vault}).data["vault"]
        graph.fetch_all("trades", "sequence amountIn", where={"vault": vault}).data["trades"]
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import requests
from gql import GraphQLRequest
from gql.transport.exceptions import TransportError, TransportProtocolError
from gql.transport.requests import RequestsHTTPTransport
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    OperationType,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    build_schema,
    execute_sync,
    get_named_type,
    get_operation_ast,
    get_variable_values,
    is_specified_scalar_type,
    parse,
    validate,
    visit,
)
from pydantic import SecretStr
from pydantic_core import from_json
from pydantic_settings import BaseSettings, SettingsConfigDict
from urllib3.util import Retry
from web3.exceptions import BlockNotFound

from oracle.chain import BlockRef, ChainReader, fetch_block
from oracle.errors import (
    GraphBehind,
    GraphError,
    GraphForked,
    GraphIndexingFailed,
    GraphRefused,
    GraphTooLong,
    GraphUnavailable,
    ReadingFailed,
    WrongChain,
)

# What graph-node gives in one page at most.
PAGE_ROWS = 1000
FIRST_PAUSE_S = 0.5
# An answer that has grown so long when its time is up is long, and not late.
LONG_ANSWER_BYTES = 2**20
# Whoever asks for a longer rest is not waited for.
LONGEST_PAUSE_S = 30
MAX_ANSWER_BYTES = 64 * 2**20
_TEMPORARY_STATUS = {408, 425, 429}

# What graph-node 0.45 and the gateway (edgeandnode/gateway, src/errors.rs) say, with status 200, and what follows from
# it. The first that fits counts; what is not listed may pass.
_MEANINGS: tuple[tuple[str, type[GraphError], str], ...] = (
    (r"has only indexed up to|missing block|too far behind", GraphBehind, "wait, or name another endpoint"),
    (r"bad indexers", GraphUnavailable, "try again later"),
    (r"indexing_error", GraphIndexingFailed, "the subgraph has to be corrected and deployed again"),
    (r"auth error", GraphRefused, "check MARKETFLOW_GRAPH_KEY"),
    (r"subgraph not found|no indexers found|deployment `.*` does not exist", GraphRefused, "check the address"),
    (r"only has data starting at", GraphRefused, "ask for a later block, or an endpoint that prunes nothing"),
    (r"too expensive|argument must be between", GraphRefused, "ask for less at once"),
    (r"bad query|has no field|Failed to decode", GraphRefused, "its subgraph may be of another version"),
)
# The most hopeful first: with several endpoints, what may still pass decides.
_HOPE = (GraphUnavailable, GraphBehind, GraphForked, GraphTooLong, GraphIndexingFailed, GraphRefused)
_FINAL = (GraphIndexingFailed, GraphRefused)

# What is added to every question. `_meta` of a block given by its number has no hash; so that is not pinned, and shows
# that the indexer is on our chain, while the fields beside it are.
[_ADDED] = parse(
    """
    query ($block: Block_height) {
      _indexer: _meta { block { number hash timestamp } hasIndexingErrors deployment }
      field(block: $block)
    }
    """,
    no_location=True,
).definitions
_INDEXER_FIELD, _PINNED_FIELD = _ADDED.selection_set.selections


class GraphSettings(BaseSettings):
    """The gateway's key, from MARKETFLOW_GRAPH_KEY. It is sent to `key_host` and the hosts below it, nowhere else."""

    model_config = SettingsConfigDict(env_prefix="MARKETFLOW_GRAPH_")

    key: SecretStr | None = None
    key_host: str = "gateway.thegraph.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphAnswer:
    """What an endpoint answered for one block, in Python's types. `deployment` is the subgraph's own id."""

    data: dict[str, Any]
    block: BlockRef
    endpoint: str
    deployment: str


class GraphClient:
    """Asks one subgraph at one or more endpoints, in order; the one that answered last is asked first the next time.

    Each attempt takes `timeout_s` at most, and there are `attempts` at every endpoint, with pauses that double, or as
    long as Retry-After asks. Without a `chain` nothing is compared with it: hash, lag and reorgs go unnoticed. For one
    thread.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        schema_sdl: str,
        *,
        chain: ChainReader | None = None,
        chain_id: int | None = None,
        max_lag_blocks: int,
        max_age_s: int,
        # How far an endpoint's head may go back from one answer to the next.
        max_reorg_blocks: int = 64,
        timeout_s: float = 10,
        attempts: int = 4,
        settings: GraphSettings | None = None,
        now_s: Callable[[], int] = lambda: int(time.time()),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not endpoints:
            raise GraphRefused("no Graph endpoint is configured: name one")
        self._chain, self._chain_id, self._is_chain_checked = chain, chain_id, False
        self._max_lag_blocks, self._max_age_s, self._max_reorg_blocks = max_lag_blocks, max_age_s, max_reorg_blocks
        self._attempts, self._now_s, self._clock, self._sleep = attempts, now_s, clock, sleep
        self._schema = _schema_of(schema_sdl)
        self._documents: dict[str, DocumentNode] = {}
        settings = settings or GraphSettings()
        self._endpoints = [_Endpoint(url, settings, timeout_s, clock) for url in endpoints]
        self._preferred = self._endpoints[0]

    def close(self) -> None:
        """Close the connections. Calling it again does nothing."""
        for endpoint in self._endpoints:
            endpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def query(
        self, document: str, variables: Mapping[str, Any] | None = None, *, block: BlockRef | int | str | None = None
    ) -> GraphAnswer:
        """The answer at that block (a reference, a number or a hash), else at the indexer's newest.

        The document has one query and says nothing about blocks. Raises a GraphError, WrongChain, ReadingFailed.
        """
        self._check_chain_id()
        pinned = self._fetch_own(block) if isinstance(block, int | str) else block
        answer = self._ask(document, variables or {}, {"number": pinned.number} if pinned else None)
        if pinned is None:
            return answer
        if answer.block.number < pinned.number:
            raise GraphBehind(f"{answer.endpoint} is only at {answer.block.number}, not at {pinned.number}: wait")
        # The indexer's newest block is of our chain, so it answered for `pinned` if that still is.
        if self._chain and self._fetch_own(pinned.number).hash != pinned.hash:
            raise GraphForked(f"block {pinned.number} is {pinned.hash} no longer, the chain was reorganised: ask anew")
        return replace(answer, block=pinned)

    def fetch_all(
        self,
        field: str,
        selection: str,
        *,
        where: Mapping[str, Any] | None = None,
        block: BlockRef | int | str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> GraphAnswer:
        """Every row of a plural field, ordered by id, all at one block; `on_progress` gets the number so far.

        Rows can be long, because anybody can put text on chain: where a page is longer than we take, it gets fewer.
        Raises what `query` raises: GraphForked when the chain was reorganised meanwhile, and nothing is given of what
        was read until then.
        """
        filter_type, last = self._filter_of(field)
        page_rows = PAGE_ROWS
        rows: list[dict[str, Any]] = []
        first: GraphAnswer | None = None
        while True:
            after = {"id_gt": last}
            ordered = f"first: {page_rows}, orderBy: id, orderDirection: asc, where: $where"
            document = f"query ($where: {filter_type}) {{ {field}({ordered}) {{ id {selection} }} }}"
            try:
                page = self.query(document, {"where": {"and": [where, after]} if where else after}, block=block)
            except GraphTooLong:
                if page_rows == 1:
                    raise
                page_rows = max(1, page_rows // 8)
                continue
            first, block = first or page, page.block
            if page.deployment != first.deployment:
                raise GraphRefused(f"{page.endpoint} has another deployment than {first.endpoint}: name those of one")
            for row in page.data[field]:
                if row["id"] <= last:
                    raise GraphRefused(f"{page.endpoint} does not give {field} in the order of their ids: don't use it")
                last = row["id"]
            rows += page.data[field]
            if on_progress:
                on_progress(len(rows))
            if len(page.data[field]) < page_rows:
                return replace(page, data={field: rows})

    def wait_for_block(self, number: int, timeout_s: float) -> BlockRef:
        """Where the indexer is as soon as it has indexed that block. Raises why not, when it takes longer."""
        self._check_chain_id()
        until_s = self._clock() + timeout_s
        while True:
            try:
                # `number_gte` makes the gateway choose an indexer that is as far.
                answer = self._ask("{ _meta { deployment } }", {}, {"number_gte": number}, attempts=1)
                if answer.block.number >= number:
                    return answer.block
                raise GraphBehind(f"{answer.endpoint} is only at {answer.block.number}, not at {number}: wait longer")
            except (GraphUnavailable, GraphBehind, GraphForked):
                if self._clock() >= until_s:
                    raise
            self._sleep(FIRST_PAUSE_S)

    def _ask(
        self, text: str, variables: Mapping[str, Any], block: Mapping[str, Any] | None, *, attempts: int | None = None
    ) -> GraphAnswer:
        """Goes round the endpoints until one answers and is on our chain; the answer's block is its newest."""
        document = self._prepared(text)
        sent = self._checked(document, variables, block)
        endpoints = sorted(self._endpoints, key=lambda endpoint: endpoint is not self._preferred)
        failures: dict[_Endpoint, GraphError] = {}
        for attempt in range(attempts or self._attempts):
            rest_s = min(endpoint.rests_until_s for endpoint in endpoints) - self._clock()
            pause_s = max(rest_s, min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S) if attempt else 0)
            if 0 < pause_s <= LONGEST_PAUSE_S:
                self._sleep(pause_s)
            for endpoint in endpoints:
                if (rest_s := endpoint.rests_until_s - self._clock()) > 0:
                    busy = GraphUnavailable(f"{endpoint.name} wants to be left alone for {rest_s:.0f} s: wait so long")
                    failures.setdefault(endpoint, busy)
                    continue
                try:
                    answer = self._judged(endpoint, document, sent, endpoint.post(document, sent))
                except GraphError as error:
                    failures[endpoint] = error
                    continue
                self._preferred = endpoint
                return answer
            endpoints = [endpoint for endpoint in endpoints if not isinstance(failures[endpoint], _FINAL)]
            if not endpoints:
                break
        worst = min((type(error) for error in failures.values()), key=_HOPE.index)
        raise worst("; ".join(str(error) for error in failures.values()))

    def _judged(self, endpoint: _Endpoint, document: DocumentNode, sent: dict[str, Any], answer: Any) -> GraphAnswer:
        # The answer is executed against the schema as if it were ours: what is missing or of another type is an error.
        read = execute_sync(self._schema, document, answer, variable_values=sent, field_resolver=_field_of)
        if read.errors:
            wrong = read.errors[0]
            message = f"{'.'.join(map(str, wrong.path or ()))}: {endpoint.clean(wrong.message)}"
            raise GraphRefused(f"{endpoint.name} answered what our schema does not say, {message}: check its version")
        assert read.data is not None
        indexer = read.data.pop("_indexer")
        if indexer is None or None in indexer["block"].values():
            # As graph-node does until it has indexed its first block.
            raise GraphBehind(f"{endpoint.name} does not say which block it is at: wait, or name another endpoint")
        if indexer["hasIndexingErrors"]:
            raise GraphIndexingFailed(f"{endpoint.name}: a handler failed: the subgraph has to be corrected")
        at = indexer["block"]
        block = BlockRef(number=at["number"], hash=at["hash"], timestamp_s=at["timestamp"])
        self._check_block(endpoint, block)
        return GraphAnswer(data=read.data, block=block, endpoint=endpoint.name, deployment=indexer["deployment"])

    def _check_block(self, endpoint: _Endpoint, block: BlockRef) -> None:
        """Raises unless the indexer's newest block is recent, and the chain's."""
        if block.number < endpoint.highest - self._max_reorg_blocks:
            raise GraphBehind(f"{endpoint.name} went back from block {endpoint.highest} to {block.number}: ask another")
        if self._chain:
            self._compare(endpoint, block)
        if (age_s := self._now_s() - block.timestamp_s) > self._max_age_s:
            message = f"{endpoint.name}: its block {block.number} is {age_s} s old, {self._max_age_s} s are allowed"
            raise GraphBehind(f"{message}: wait, or name another endpoint")
        endpoint.highest = max(endpoint.highest, block.number)

    def _compare(self, endpoint: _Endpoint, block: BlockRef) -> None:
        at = f"{endpoint.name} is at block {block.number}"
        head = self._fetch_own("latest")
        if (lag := head.number - block.number) > self._max_lag_blocks:
            message = f"{lag} behind the chain, {self._max_lag_blocks} are allowed"
            raise GraphBehind(f"{at}, {message}: wait, or name another endpoint")
        if lag < 0:
            raise GraphForked(f"{at}, the chain has {head.number} only: wait, and check the node and what it indexes")
        own = self._fetch_own(block.number) if lag else head
        if own.hash != block.hash:
            message = f"which is {block.hash} there and {own.hash} on the chain"
            raise GraphForked(f"{at}, {message}: wait for some blocks; if it stays so, it indexes another chain")

    def _fetch_own(self, number: int | str) -> BlockRef:
        """The chain's own block. Raises GraphForked when it has none of that number or hash, ReadingFailed."""
        if self._chain is None:
            raise GraphRefused("without a chain there is no looking up a block by number or hash: give a BlockRef")
        try:
            return fetch_block(self._chain, number)
        except BlockNotFound:
            raise GraphForked(f"the chain has no block {number}: wait for it, or check the node") from None
        except Exception as error:  # each kind of chain has its own
            raise ReadingFailed(f"the node gave no block {number}: {error}") from error

    def _check_chain_id(self) -> None:
        if self._chain is None or self._chain_id is None or self._is_chain_checked:
            return
        try:
            found = self._chain.w3.eth.chain_id
        except Exception as error:  # each kind of chain has its own
            raise ReadingFailed(f"the node does not say which chain it is of: {error}") from error
        if found != self._chain_id:
            raise WrongChain(f"the node is of chain {found}, configured is {self._chain_id}: check its address")
        self._is_chain_checked = True

    def _prepared(self, text: str) -> DocumentNode:
        """The document with what we add to it; checked. Kept, because programs ask the same again and again."""
        if text not in self._documents:
            try:
                document = parse(text)
            except GraphQLSyntaxError as error:
                raise GraphRefused(f"not GraphQL: {error.message}") from None
            operation = get_operation_ast(document)
            if operation is None or operation.operation != OperationType.QUERY:
                raise GraphRefused("a document has one query, and nothing else")
            types = TypeInfo(self._schema)
            prepared = visit(document, TypeInfoVisitor(types, _Additions(types)))
            if errors := validate(self._schema, prepared):
                raise GraphRefused(f"not a question to this schema: {'; '.join(error.message for error in errors)}")
            self._documents[text] = prepared
        return self._documents[text]

    def _checked(
        self, document: DocumentNode, variables: Mapping[str, Any], block: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The variables as they are sent: Graph's large numbers and bytes as strings."""
        operation = get_operation_ast(document)
        assert operation is not None
        declared = operation.variable_definitions or ()
        if unknown := variables.keys() - ({node.variable.name.value for node in declared} - {"block"}):
            raise GraphRefused(f"the question has no variable {', '.join(sorted(unknown))}")
        checked = get_variable_values(self._schema, declared, {**variables, "block": block})
        if isinstance(checked, list):
            raise GraphRefused(f"not variables of this question: {'; '.join(error.message for error in checked)}")
        return checked.coerced

    def _filter_of(self, field: str) -> tuple[str, str]:
        """The type of a plural field's `where`, and what is below all its ids."""
        assert self._schema.query_type is not None
        found = self._schema.query_type.fields.get(field)
        if found is None or "where" not in found.args:
            raise GraphRefused(f"the schema has no rows called {field}")
        filter_type = get_named_type(found.args["where"].type)
        id_type = get_named_type(filter_type.fields["id_gt"].type)
        return filter_type.name, "0x" if id_type.name == "Bytes" else ""


class _Endpoint:
    """One address: what it may be sent, what it has said."""

    def __init__(self, url: str, settings: GraphSettings, timeout_s: float, clock: Callable[[], float]) -> None:
        parts, key = urlsplit(url), settings.key.get_secret_value() if settings.key else ""
        host = parts.hostname or ""
        is_key_in_path = re.search("/api/[^/]+/(subgraphs|deployments)/", parts.path) or (key and key in url)
        if parts.username or parts.query or is_key_in_path:
            raise GraphRefused(
                f"the address of the Graph endpoint at {host} holds a key: write .../api/subgraphs/id/<ID>, "
                "and put the key into MARKETFLOW_GRAPH_KEY"
            )
        if parts.scheme not in ("http", "https") or not host:
            raise GraphRefused("a Graph endpoint is an address that begins with https:// or http://")
        self._key = key if f".{host}".endswith(f".{settings.key_host}") else ""
        if not re.fullmatch("[A-Za-z0-9._~+/=-]*", self._key):
            raise GraphRefused("MARKETFLOW_GRAPH_KEY is not a key: it has characters that no key has")
        if self._key and parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
            raise GraphRefused(f"the key would travel to {host} in the clear: write https://")
        self.name = f"{parts.netloc}{parts.path}"
        self.highest = 0
        self.rests_until_s = float("-inf")
        self._timeout_s, self._clock = timeout_s, clock
        self._transport = RequestsHTTPTransport(
            url,
            auth=_Bearer(self._key),
            timeout=timeout_s,
            json_deserialize=_parse_object,
            stream=True,
            hooks={"response": self._take},
        )
        self._transport.connect()

    def close(self) -> None:
        self._transport.close()

    def post(self, document: DocumentNode, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The `data` that it answered. Raises a GraphError."""
        try:
            result = self._transport.execute(GraphQLRequest(document, variable_values=variables))
        # Nothing of the original errors is shown: they quote what the server said, and that may be our key.
        except TransportProtocolError as error:
            raise GraphUnavailable(f"{self.name} did not answer in GraphQL: {self.clean(str(error))}") from None
        except TransportError as error:
            cause = error.__cause__
            if isinstance(cause, GraphError):
                raise cause from None
            if isinstance(cause, requests.Timeout):
                raise GraphUnavailable(f"{self.name} gave no answer in {self._timeout_s} s: try again later") from None
            raise GraphUnavailable(f"{self.name} gave no answer: {self.clean(str(error))}") from None
        if result.errors:
            self._refuse(result.errors)
        return result.data

    def clean(self, text: str) -> str:
        """On one line, short, and without the key."""
        without_key = re.sub(re.escape(self._key), "[key]", text, flags=re.IGNORECASE) if self._key else text
        line = " ".join(without_key.split())
        return line if len(line) <= 300 else f"{line[:300]}..."

    def _refuse(self, errors: Any) -> NoReturn:
        listed = errors if isinstance(errors, list) else [errors]
        said = [error.get("message") if isinstance(error, dict) else error for error in listed]
        message = self.clean("; ".join(str(each) for each in said))
        for pattern, kind, advice in _MEANINGS:
            if re.search(pattern, message):
                raise kind(f"{self.name}: {message}: {advice}")
        raise GraphUnavailable(f"{self.name}: {message}: try again later")

    def _take(self, response: requests.Response, **_: Any) -> None:
        """Reads the answer, in time and within bounds, before anything else sees it."""
        until_s = time.monotonic() + self._timeout_s - response.elapsed.total_seconds()
        body = bytearray()
        while chunk := response.raw.read1(2**16, decode_content=True):
            body += chunk
            is_late = time.monotonic() > until_s
            if len(body) > MAX_ANSWER_BYTES or is_late:
                response.close()
                size = f"{len(body)} bytes of an answer in {self._timeout_s} s"
                if len(body) > LONG_ANSWER_BYTES:
                    raise GraphTooLong(f"{self.name} gave {size}, and no end: ask for less at once")
                raise GraphUnavailable(f"{self.name} gave {size}, and no end: try again later")
        if self._key:  # an echo of it ends here, before the log
            body = re.sub(re.escape(self._key.encode()), b"[key]", body, flags=re.IGNORECASE)
        response.raw, response.encoding = io.BytesIO(body), "utf-8"
        if response.status_code != 200:
            self._refuse_status(response)

    def _refuse_status(self, response: requests.Response) -> NoReturn:
        status = response.status_code
        message = f"{self.name}: status {status}: {self.clean(response.text)}"
        if status in _TEMPORARY_STATUS or status >= 500:
            if after := response.headers.get("Retry-After"):
                self.rests_until_s = self._clock() + Retry().parse_retry_after(after)
            raise GraphUnavailable(f"{message}: try again later")
        advice = "check MARKETFLOW_GRAPH_KEY" if status in (401, 402, 403) else "check the address"
        raise GraphRefused(f"{message}: {advice}")


class _Bearer(requests.auth.AuthBase):
    """Sends the key as a header. Without one it keeps requests from looking for a password in ~/.netrc."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class _Additions(Visitor):
    """Pins the fields of the query to the variable `block`, and asks where the indexer is."""

    def __init__(self, types: TypeInfo) -> None:
        super().__init__()
        self._types, self._is_pinned = types, False

    def leave_field(self, node: FieldNode, *_: Any) -> FieldNode | None:
        field = self._types.get_field_def()
        if field is None or "block" not in field.args:
            return None
        self._is_pinned = True
        return replace(node, arguments=(*(node.arguments or ()), *_PINNED_FIELD.arguments))

    def leave_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> OperationDefinitionNode:
        selections = (*node.selection_set.selections, _INDEXER_FIELD)
        block = _ADDED.variable_definitions if self._is_pinned else ()
        return replace(
            node,
            selection_set=replace(node.selection_set, selections=selections),
            variable_definitions=(*(node.variable_definitions or ()), *block),
        )


@cache
def _schema_of(sdl: str) -> GraphQLSchema:
    """With Graph's scalars turned round: what a server calls output is what we read."""
    schema = build_schema(sdl)
    for name, (read, write) in _SCALARS.items():
        if scalar := schema.type_map.get(name):
            scalar.coerce_output_value, scalar.coerce_input_value, scalar.parse_value = read, write, write
    return schema


def _field_of(source: Any, info: GraphQLResolveInfo, **_: Any) -> Any:
    """A field of the answer, as strictly as GraphQL reads variables: "5" is no Int."""
    if not isinstance(source, dict) or info.path.key not in source:
        raise GraphQLError("it is missing")
    value, named = source[info.path.key], get_named_type(info.return_type)
    if value is not None and is_specified_scalar_type(named):
        for each in value if isinstance(value, list) else [value]:
            named.coerce_input_value(each)
    return value


def _parse_object(text: str) -> dict[str, Any]:
    found = from_json(text)  # not `json`: where py-evm has raised the recursion limit, deep nesting ends the process
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


# Graph's own scalars: how an answer is read, and how a variable is written.


def _matched(value: Any, pattern: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise GraphQLError(f"{value!r:.100} is not of this type")
    return value


def _read_int(value: Any) -> int:
    return int(_matched(value, "-?[0-9]+"))


def _read_decimal(value: Any) -> Decimal:
    return Decimal(_matched(value, r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"))


def _read_bytes(value: Any) -> str:
    return _matched(value, "0x([0-9a-fA-F]{2})*").lower()


def _write_int(value: Any) -> str:
    return str(_read_int(str(value) if type(value) is int else value))


def _write_decimal(value: Any) -> str:
    return f"{_read_decimal(str(value) if type(value) in (int, Decimal) else value):f}"


def _write_bytes(value: Any) -> str:
    return _read_bytes(f"0x{value.hex()}" if isinstance(value, bytes) else value)


_SCALARS = {
    "BigInt": (_read_int, _write_int),
    "Int8": (_read_int, _write_int),
    "Timestamp": (_read_int, _write_int),
    "BigDecimal": (_read_decimal, _write_decimal),
    "Bytes": (_read_bytes, _write_bytes),
}
