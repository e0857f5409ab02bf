"""The relayer over HTTP.

    POST /ballots            a signed ballot: 202 when it is queued, 200 when it was known, else a code and a sentence
    GET  /ballots/{id}       what became of it
    GET  /status             whether ballots are taken, and by whom
    GET  /openapi.json       this, for machines

Every answer is JSON; every refusal is `{"error": {"code", "message"}}`. A caller may ask so often in a minute.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.params import Path as InPath
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from requests import RequestException
from starlette.exceptions import HTTPException
from web3.exceptions import Web3Exception

from agents.ballots import FORMAT, MAX_REASON_BYTES, MAX_SIGNATURE_BYTES
from agents.relayer import Refused, Relayer
from agents.relayer_store import StoredBallot

MAX_BODY_BYTES: Final = 16_384
# What a refusal answers with, where it is not 400.
_STATUS: Final = {
    "already_voted": 409, "replayed": 409, "expired": 409, "not_open": 409, "powerless": 403, "forged": 403,
    "unknown_proposal": 404, "not_accepting": 503,
}  # fmt: skip
_ADDRESS: Final = r"^0x[0-9a-fA-F]{40}$"
_HASH: Final = r"^0x[0-9a-f]{64}$"
_Next = Callable[[Request], Awaitable[Response]]


class BallotDocument(BaseModel):
    """A signed ballot, as the voting page and `marketflow sign` write it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["marketflow/ballot/1"]
    chain_id: int = Field(ge=1, lt=1 << 53)
    dao: str = Field(pattern=_ADDRESS)
    proposal_id: str = Field(pattern=r"^(0|[1-9][0-9]{0,77})$", description="A number of up to 256 bits, as text.")
    support: Literal["against", "for", "abstain"]
    voter: str = Field(pattern=_ADDRESS)
    nonce: int = Field(ge=0, lt=1 << 53)
    signature: str = Field(pattern=r"^0x([0-9a-fA-F]{2})*$", max_length=2 + 2 * MAX_SIGNATURE_BYTES)
    reason: str = Field(default="", max_length=MAX_REASON_BYTES)


class BallotState(BaseModel):
    id: str
    status: Literal["queued", "sent", "mined", "failed"]
    transaction: str | None
    block: int | None
    reason: str | None
    proposal_id: str
    voter: str
    support: str


class Status(BaseModel):
    chain_id: int
    dao: str
    relayer: str
    accepting: bool
    why_not: str | None
    queued: int
    sent: int
    batch_size: int


class Problem(BaseModel):
    code: str
    message: str


class Refusal(BaseModel):
    error: Problem


class RateLimit:
    """So many requests of one caller in a minute; the callers that are remembered are bounded, too."""

    def __init__(
        self, per_minute: int, *, now_s: Callable[[], float] = time.monotonic, most_callers: int = 10_000
    ) -> None:
        self._per_minute, self._now_s, self._most = per_minute, now_s, most_callers
        self._asked: dict[str, deque[float]] = {}

    def seconds_until_next(self, caller: str) -> float:
        """0 when the caller may ask now, which counts."""
        now = self._now_s()
        asked = self._asked.pop(caller, None) or deque()
        while asked and now - asked[0] >= 60:
            asked.popleft()
        self._asked[caller] = asked  # at the end: who asked longest ago is forgotten first
        if len(self._asked) > self._most:
            del self._asked[next(iter(self._asked))]
        if len(asked) >= self._per_minute:
            return 60 - (now - asked[0])
        asked.append(now)
        return 0.0


def create_relayer_app(
    relayer: Relayer, *, per_minute: int = 30, origins: Sequence[str] = (),
    now_s: Callable[[], float] = time.monotonic,
) -> FastAPI:  # fmt: skip
    """The API. `origins`: other sites whose pages may ask, `*` for all; `per_minute`: ballots of one caller."""

    app = FastAPI(
        title="MarketFlow relayer", version="1", docs_url=None, redoc_url=None,
        description="Takes signed ballots and pays for their transactions. It can't change a vote, only send it.",
    )  # fmt: skip
    limit = RateLimit(per_minute, now_s=now_s)
    _add_errors(app)
    app.middleware("http")(_bounded)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["Content-Type"]
        )
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": Refusal} for code in (400, 403, 404, 409, 413, 422, 429, 503)
    }

    @app.get("/status", responses={503: {"model": Refusal}})
    def status() -> Status:
        """Whether ballots are taken now and, if not, why."""
        return Status(**relayer.status())

    @app.post("/ballots", status_code=202, responses={200: {"model": BallotState}, **refusals})
    def submit(ballot: BallotDocument, request: Request, response: Response) -> BallotState:
        """Queue a ballot. The same ballot again answers with what became of it."""
        caller = request.client.host if request.client else "?"
        if wait_s := limit.seconds_until_next(caller):
            raise HTTPException(429, "too many ballots in a minute: wait", {"Retry-After": str(int(wait_s) + 1)})
        stored, is_new = relayer.submit(ballot.model_dump(exclude_defaults=True) | {"format": FORMAT})
        response.status_code = 202 if is_new else 200
        return _state(stored)

    @app.get("/ballots/{ballot_id}", responses={404: {"model": Refusal}, 422: {"model": Refusal}})
    def ballot(ballot_id: Annotated[str, InPath(pattern=_HASH)]) -> BallotState:
        """What became of a ballot."""
        if (stored := relayer.ballot(ballot_id)) is None:
            raise HTTPException(404, f"no ballot {ballot_id} was taken here")
        return _state(stored)

    return app


def _state(stored: StoredBallot) -> BallotState:
    return BallotState(**stored.to_dict())


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return _refusal(_STATUS.get(error.code, 400), error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return _refusal(422, "malformed", f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        codes = {400: "malformed", 404: "not_found", 405: "wrong_method", 413: "too_large", 429: "rate_limited"}
        answer = _refusal(error.status_code, codes.get(error.status_code, "refused"), str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    async def silent_node(_: Request, __: Exception) -> JSONResponse:
        return _refusal(503, "node_unreachable", "the relayer's node does not answer: try later, or vote directly")

    app.add_exception_handler(RequestException, silent_node)
    app.add_exception_handler(Web3Exception, silent_node)


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)


async def _bounded(request: Request, call_next: _Next) -> Response:
    """Bodies that are too large, or that do not say how large they are, are not read."""
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return _refusal(411, "length_required", "say how long the body is: Content-Length is missing")
        if int(length) > MAX_BODY_BYTES:
            return _refusal(413, "too_large", f"a ballot has at most {MAX_BODY_BYTES} bytes")
    response = await call_next(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
