"""Everything around a daemon: its log, its HTTP pages, its alerts, its heads; and the end of all of them."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from time import monotonic, sleep, time
from typing import Any

from agents.alerts import Systemd, Webhook
from agents.assembly import Assembly, assemble
from agents.daemon import Daemon, DaemonRules
from agents.errors import AgentError, Retryable
from agents.fleet import Tick
from agents.heads import HeadStream
from agents.journal import Journal, nothing
from agents.metering import meter_accounts, meter_start, meter_tick, status_of
from agents.secrets import RedactingFormatter, Redactor, forbid_core_dumps, guard_tracebacks
from agents.settings import Settings, load_agents, notify_socket
from agents.signer import Ask
from agents.telemetry import Telemetry, make_tracer
from agents.web import Views, WebRules, serve

log = logging.getLogger("marketflow.service")
_ACCOUNTS_S = 60.0
_BEAT_S = 10.0
# Until it has caught up, so that a supervisor learns of it soon.
_FIRST_BEAT_S = 0.5
# Between two tries to begin while no node answers.
_BEGIN_AGAIN_S = 5.0


class _JsonLines(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "at_s": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name,
            "text": record.getMessage(),
        }  # fmt: skip
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


def start_logging(redactor: Redactor, *, as_json: bool, level: int = logging.INFO) -> None:
    """Lines on standard error, without what the redactor knows."""
    inner = _JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(redactor, inner))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    guard_tracebacks(redactor)


def run(
    settings: Settings, *, ask: Ask | None = None, as_json: bool = False, at: Callable[[str], None] = nothing
) -> int:
    """Runs a fleet until it is told to stop. The exit code. Raises Misconfigured before anything was begun. `at`: as in
    Journal."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # else a reload that comes before the daemon listens would kill
    dumps, redactor = forbid_core_dumps(), redactor_of(settings)
    start_logging(redactor, as_json=as_json)
    if not dumps.are_forbidden:
        log.warning("this system does not let core dumps be forbidden: a crash may write keys to disk")
    for name, value in settings.public().items():
        log.info("%s=%s", name, value)
    telemetry = Telemetry(tracer=make_tracer(settings.otlp_endpoint) if settings.otlp_endpoint else None)
    with closing(_begin(settings, ask, redactor, telemetry, at)) as assembly:
        return asyncio.run(_run(settings, assembly, telemetry))


def redactor_of(settings: Settings) -> Redactor:
    """Knows every secret of the settings."""
    redactor = Redactor()
    for url in (*settings.rpc_urls, *settings.placement_servers, settings.ws_url, settings.webhook_url):
        if url is not None:
            redactor.add(url)
            redactor.add_url(url)
    for secret in (settings.keyfile_passphrase, settings.webhook_secret):
        if secret is not None:
            redactor.add(secret)
    return redactor


def _begin(
    settings: Settings, ask: Ask | None, redactor: Redactor, telemetry: Telemetry, at: Callable[[str], None]
) -> Assembly:
    """Waits for a node: a supervisor that starts a process again and again soon gives it up. Where somebody was asked
    for a passphrase, he is told instead of being asked again. Outside the event loop, so that Ctrl-C ends a prompt."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _end_before_begun)
    while True:
        try:
            return assemble(
                settings, ask=ask, redactor=redactor, meter=telemetry, at=at,
                on_request=lambda *request: _meter_request(telemetry, *request),
            )  # fmt: skip
        except Retryable as error:
            if ask is not None:
                raise
            log.warning("can't begin yet: %s", error)
            sleep(_BEGIN_AGAIN_S)


def _end_before_begun(*_: object) -> None:
    """Nothing was sent yet. Without it the first process of a container would not hear the signal at all."""
    sys.exit(0)


async def _run(settings: Settings, assembly: Assembly, telemetry: Telemetry) -> int:
    async with AsyncExitStack() as stack:
        webhook = _webhook(settings, stack)
        ws_urls = [settings.ws_url.get_secret_value()] if settings.ws_url else []
        heads = await stack.enter_async_context(
            HeadStream(
                assembly.chain.w3.provider, ws_urls=ws_urls, poll_s=settings.poll_s, timeout_s=settings.rpc_timeout_s
            )
        )
        daemon = make_daemon(assembly, telemetry, heads, webhook)
        if settings.http_port is not None:
            # A connection of its own: pages must not wait for a cycle that holds the journal.
            pages = stack.enter_context(Journal(settings.journal))
            served = await stack.enter_async_context(_serve(settings, assembly, daemon, pages))
            log.info("health, metrics and explanations are at %s", served.url)
        systemd = Systemd(notify_socket())
        beat = asyncio.ensure_future(_beat(daemon, telemetry, assembly, systemd))
        stack.callback(beat.cancel)
        meter_start(telemetry, assembly.fleet.agents, assembly.max_age_s)
        accounts = asyncio.ensure_future(_watch_accounts(telemetry, assembly))
        stack.callback(accounts.cancel)
        if settings.placement_servers:
            await stack.enter_async_context(_placed(settings, assembly, daemon))
        code = await daemon.run()
        systemd.stopping()
        return code


@asynccontextmanager
async def _placed(settings: Settings, assembly: Assembly, daemon: Daemon) -> AsyncIterator[None]:
    # Only who runs on several machines needs the extra `placement`.
    from agents.placement import PlacementRules
    from agents.placement_nats import NatsLeaseStore
    from agents.shard import placed

    ttl_s = settings.lease_s
    rules = PlacementRules(ttl_s=ttl_s, margin_s=ttl_s / 5, beat_s=ttl_s / 5, settle_s=ttl_s / 3)
    servers = [url.get_secret_value() for url in settings.placement_servers]
    async with (
        await _connected(lambda: NatsLeaseStore.connect(servers), daemon) as store,
        placed(assembly, daemon, store, name=settings.node_name, rules=rules),
    ):
        yield


async def _connected(connect: Callable[[], Awaitable[Any]], daemon: Daemon) -> Any:
    """Waits for a server, as `_begin` does for a node; meanwhile the pages say why nothing is traded."""
    while True:
        try:
            return await connect()
        except Retryable as error:
            log.warning("can't begin yet: %s", error)
            daemon.health.because = str(error)
            await asyncio.sleep(_BEGIN_AGAIN_S)


def make_daemon(assembly: Assembly, telemetry: Telemetry, heads: Any, notifier: Any = None) -> Daemon:
    """The daemon of an assembly."""
    settings = assembly.settings

    def after_tick(tick: Tick) -> None:
        meter_tick(telemetry, tick, assembly.fleet.agents, assembly.journal, now_s=time())

    return Daemon(
        assembly.fleet, journal=assembly.journal, heads=lambda: heads, telemetry=telemetry, notifier=notifier,
        rules=DaemonRules(
            breaker_after=settings.breaker_after, breaker_s=settings.breaker_s, watchdog_s=settings.watchdog_s,
            grace_s=settings.grace_s, max_clock_skew_s=settings.max_clock_skew_s,
        ),
        reload=lambda: load_agents(settings.agents).limits, after_tick=after_tick,
    )  # fmt: skip


def _webhook(settings: Settings, stack: AsyncExitStack) -> Webhook | None:
    if settings.webhook_url is None:
        return None
    secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
    webhook = Webhook(settings.webhook_url.get_secret_value(), chain_id=settings.chain_id, secret=secret)
    stack.callback(webhook.close)
    return webhook


def _serve(settings: Settings, assembly: Assembly, daemon: Daemon, pages: Journal) -> Any:
    views = Views(
        registry=daemon.telemetry.registry,
        heartbeat_age_s=lambda: monotonic() - daemon.beat_at if daemon.beat_at else None,
        not_ready_because=lambda: "" if daemon.health.is_ready else daemon.health.because or daemon.health.state,
        status=lambda: asyncio.to_thread(status_of, daemon.health, assembly.fleet.agents, pages),
        explanation=pages.document,
    )
    rules = WebRules(max_heartbeat_age_s=settings.watchdog_s)
    assert settings.http_port is not None
    return serve(views, host=settings.http_host, port=settings.http_port, rules=rules)


async def _watch_accounts(telemetry: Telemetry, assembly: Assembly) -> None:
    """A nonce that nobody uses, or that somebody else does, is told before it is in the way. Beside the cycles."""
    accounts = sorted(signer.address for signer in {id(s): s for s in assembly.signers.values()}.values())
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_ACCOUNTS_S)
        try:
            states = await loop.run_in_executor(None, assembly.node.accounts, accounts)
            meter_accounts(telemetry, states, assembly.journal)
        except AgentError as error:
            log.info("nonces could not be compared: %s", error)


async def _beat(daemon: Daemon, telemetry: Telemetry, assembly: Assembly, systemd: Systemd) -> None:
    """Says that the process lives, also while no heads come."""
    is_started = False
    while True:
        daemon.beat_at = monotonic()
        try:
            daemon.notice_silence()
            _measure_nodes(daemon, telemetry, assembly)
        except Exception:  # a measure is no reason to seem dead
            log.exception("the heartbeat could not be measured")
        # A daemon that is paused or halted has started, and stays: it is no failure to be killed for.
        if not is_started and daemon.health.state not in ("starting", "reconciling"):
            is_started = True
            systemd.ready()
        systemd.alive()
        systemd.status(f"{daemon.health.state} {daemon.health.because}")
        await asyncio.sleep(_BEAT_S if is_started else _FIRST_BEAT_S)


def _measure_nodes(daemon: Daemon, telemetry: Telemetry, assembly: Assembly) -> None:
    """Here and not after a cycle: where no node answers there is none."""
    telemetry.gauge("heartbeat_timestamp_seconds", time())
    if head := daemon.health.head:
        telemetry.gauge("head_lag_seconds", max(0, int(time()) - head.timestamp_s))
    for host, health in assembly.chain.w3.provider.heads().items():  # type: ignore[attr-defined]  # an EndpointPool
        telemetry.gauge("rpc_up", int(health.circuit == "closed"), host=host)


def _meter_request(telemetry: Telemetry, host: str, method: str, took_s: float, outcome: str) -> None:
    telemetry.count("rpc_requests_total", host=host, method=method, outcome=outcome)
    telemetry.observe("rpc_latency_seconds", took_s, host=host)
