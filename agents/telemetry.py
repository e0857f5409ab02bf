"""What the daemon measures about itself: every metric in one table, and traces for those who want them.

Names in the table are without the prefix; on the wire each begins with `marketflow_`. A name or label that is not in
the table is an error at once, so that no dashboard waits for a series that nobody writes. Labels can't grow without
bound: an address, a host, one of a known set, or a word of which only so many different ones are kept.

Values are floats, because that is what Prometheus has: they are for looking at, nothing is accounted with them.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from eth_utils import is_hex_address, to_checksum_address
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from agents.errors import Misconfigured

log = logging.getLogger("marketflow.telemetry")

PREFIX: Final = "marketflow_"
STEPS: Final = ("read", "decide", "journal", "sign", "send", "follow")
OPEN_STATES: Final = ("intent", "reviewed", "signed", "sent", "mined")
OUTCOMES: Final = ("traded", "refused", "reverted", "replaced", "filled")
CYCLE_OUTCOMES: Final = ("ok", "retried", "stopped", "halted")
# Seconds, from a journal's commit to a chain that is slow.
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# How many different words a label may have before the rest are one; agents are named by the operator.
MAX_WORDS, MAX_AGENTS = 64, 10_000
OTHER: Final = "other"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}")
# The second node of one host has a number.
_HOST = re.compile(r"[A-Za-z0-9._\[\]:-]{1,128}(#[0-9]{1,3})?")
_PROC = Path("/proc/self")


class Word:
    """A label whose values come from elsewhere: what is no word, or one too many, becomes `other`."""

    def __init__(self, most: int = MAX_WORDS) -> None:
        self._most = most
        self._seen: set[str] = set()

    def value(self, said: str) -> str:
        word = said.replace(" ", "_")
        if not _WORD.fullmatch(word) or (word not in self._seen and len(self._seen) >= self._most):
            return OTHER
        self._seen.add(word)
        return word


class Address:
    """A label whose values are addresses, written with their checksum."""

    def value(self, said: str) -> str:
        if not is_hex_address(said):
            raise ValueError(f"a label is {said!r}, expected an address of 20 bytes")
        return to_checksum_address(said)


class Host:
    """A label whose values are hosts. A whole URL is refused unseen: it may hold an access key."""

    def value(self, said: str) -> str:
        if not _HOST.fullmatch(said):
            raise ValueError("a label is no host; host_of(url) makes one of a URL")
        return said


@dataclass(frozen=True, slots=True)
class OneOf:
    """A label whose values are known: their series exist from the start, at 0."""

    known: tuple[str, ...]

    def value(self, said: str) -> str:
        if said not in self.known:
            raise ValueError(f"a label is {said!r}, expected one of {', '.join(self.known)}")
        return said


_LABELS: Final[Mapping[str, Callable[[], Any]]] = {
    "vault": Address, "account": Address, "asset": Address, "host": Host,
    "clause": Word, "method": Word, "outcome": Word, "agent": lambda: Word(MAX_AGENTS),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """A line of the table. `labels`: their names; `known` has the values of those whose values are known."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    group: str
    help: str
    labels: tuple[str, ...] = ()
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """As Prometheus has it."""
        return PREFIX + self.name


_AGENT = ("vault", "agent")
METRICS: Final[tuple[Metric, ...]] = (
    Metric("decisions_total", "counter", "trading", "Decisions that were made, trades or not.", ("vault",)),
    Metric("refusals_total", "counter", "trading", "Trades held back, by the clause that was broken.",
           ("vault", "clause")),
    Metric("trades_total", "counter", "trading", "Signed orders that ended, by how.", ("vault", "outcome"),
           {"outcome": OUTCOMES}),
    Metric("cycles_total", "counter", "trading", "Cycles, by how they ended.", ("outcome",),
           {"outcome": CYCLE_OUTCOMES}),
    Metric("queue_depth", "gauge", "trading", "Decisions in each state of the journal that is not final.", ("state",),
           {"state": OPEN_STATES}),

    Metric("step_seconds", "histogram", "latency", "How long each step of a cycle took.", ("step",), {"step": STEPS}),
    Metric("decision_to_signed_seconds", "histogram", "latency", "From a decision to its signed transaction."),

    Metric("head_number", "gauge", "chain", "Number of the newest block that was seen."),
    Metric("head_lag_seconds", "gauge", "chain", "Age of the newest block that was seen."),
    Metric("oracle_age_seconds", "gauge", "chain", "Age of an asset's round.", ("asset",)),
    Metric("oracle_max_age_seconds", "gauge", "chain", "Age at which an asset's round is refused.", ("asset",)),
    Metric("nonce_gap", "gauge", "chain",
           "The journal's next nonce less the chain's and less what waits; not 0: a hole, or foreign use of the key.",
           ("account",)),
    Metric("reorgs_total", "counter", "chain", "Reorgs that took back a block the journal had used."),
    Metric("fee_bumps_total", "counter", "chain", "Transactions signed again with a higher fee."),
    Metric("replaced_total", "counter", "chain", "Transactions whose nonce was used by one that is not ours."),

    Metric("rpc_requests_total", "counter", "rpc", "Requests to nodes.", ("host", "method", "outcome")),
    Metric("rpc_latency_seconds", "histogram", "rpc", "How long nodes took to answer.", ("host",)),
    Metric("rpc_up", "gauge", "rpc", "Whether a node answers, and is near the head (1) or not (0).", ("host",)),

    Metric("profit_quote", "gauge", "money", "Profit since the start, in whole quote.", _AGENT),
    Metric("drawdown_bps", "gauge", "money", "Fall from the highest unit price, in basis points.", _AGENT),
    Metric("drawdown_limit_bps", "gauge", "money", "Drawdown from which the vault only reduces, in basis points.",
           _AGENT),
    Metric("unit_price", "gauge", "money", "Quote for a unit of the vault; 1 at the start.", _AGENT),

    Metric("heartbeat_timestamp_seconds", "gauge", "daemon", "When the daemon last said that it lives, unix time."),
    Metric("operator_needed", "gauge", "daemon", "Whether a person has to act (1) or not (0)."),
    Metric("circuit_open", "gauge", "daemon", "Whether the breaker is open (1): only what was sent is followed."),
    Metric("paused", "gauge", "daemon", "Whether the operator paused trading (1)."),
    Metric("clock_skew_seconds", "gauge", "daemon", "The machine's clock less the chain's."),
    Metric("journal_bytes", "gauge", "daemon", "Size of the journal's files."),
    Metric("open_files", "gauge", "daemon", "File descriptors that the daemon holds."),
    Metric("resident_bytes", "gauge", "daemon", "Memory that the daemon holds."),
)  # fmt: skip
TABLE: Final[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}
_CLASSES: Final = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Tracer(Protocol):
    """What `Tracing` and OpenTelemetry's tracers can do."""

    def start_as_current_span(self, name: str) -> AbstractContextManager[Any]: ...


class Telemetry:
    """Counts, gauges and times, for any thread. Raises LookupError for a name that is not in the table, ValueError for
    labels that it does not have, or can't have."""

    def __init__(self, registry: CollectorRegistry | None = None, tracer: Tracer | None = None) -> None:
        # The time at which each series began would double their number, and nobody asks for it.
        disable_created_metrics()
        self.registry = registry or CollectorRegistry(auto_describe=False)
        self._tracer = tracer
        self._families = {metric.name: _family(metric, self.registry) for metric in METRICS}
        self._labels = {metric.name: {name: _label(metric, name) for name in metric.labels} for metric in METRICS}
        self._children: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        for metric in METRICS:
            self._begin(metric, {})

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Adds to a counter. `value`: at least 0."""
        self._child(name, "counter", labels).inc(value)

    def gauge(self, name: str, value: float | Decimal, **labels: str) -> None:
        """Sets a gauge."""
        self._child(name, "gauge", labels).set(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds to a histogram."""
        self._child(name, "histogram", labels).observe(seconds)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times a step of the cycle, also when it fails, and is a span when traces are on."""
        child = self._child("step_seconds", "histogram", {"step": name})
        began_s = perf_counter()
        try:
            with self._tracer.start_as_current_span(f"step.{name}") if self._tracer else nullcontext():
                yield
        finally:
            child.observe(perf_counter() - began_s)

    def begin(self, vault: str) -> None:
        """The counters of a vault, at 0: else Prometheus takes the first trade for the value it always had."""
        for metric in METRICS:
            if metric.kind == "counter" and "vault" in metric.labels:
                self._begin(metric, {"vault": vault})

    def forget(self, vault: str) -> None:
        """Removes all series of a vault that is no longer run here."""
        vault = to_checksum_address(vault)
        with self._lock:
            for metric in METRICS:
                if "vault" in metric.labels:
                    self._families[metric.name].remove_by_labels({"vault": vault})
            for key in [key for key in self._children if vault.lower() in (part.lower() for part in key)]:
                del self._children[key]

    def measure_process(self) -> None:
        """Sets `open_files` and `resident_bytes`; does nothing where there is no /proc."""
        try:
            pages = int((_PROC / "statm").read_text().split()[1])
            self.gauge("resident_bytes", pages * os.sysconf("SC_PAGE_SIZE"))
            self.gauge("open_files", sum(1 for _ in (_PROC / "fd").iterdir()))
        except OSError:
            log.debug("this system does not tell how much memory and how many files a process holds")

    def _begin(self, metric: Metric, given: Mapping[str, str]) -> None:
        """Makes the series of which all labels are given or known."""
        missing = [name for name in metric.labels if name not in given]
        if any(name not in metric.known for name in missing):
            return
        for values in _combinations([metric.known[name] for name in missing]):
            self._child(metric.name, metric.kind, {**given, **dict(zip(missing, values, strict=True))})

    def _child(self, name: str, kind: str, labels: Mapping[str, str]) -> Any:
        metric = TABLE.get(name)
        if metric is None or metric.kind != kind:
            raise LookupError(f"{name} is no {kind} of the table in agents/telemetry.py")
        if len(labels) != len(metric.labels) or any(label not in labels for label in metric.labels):
            raise ValueError(f"{name} has the labels {list(metric.labels)}, not {sorted(labels)}")
        key = (name, *(labels[label] for label in metric.labels))
        child = self._children.get(key)
        return self._new_child(metric, key) if child is None else child

    def _new_child(self, metric: Metric, key: tuple[str, ...]) -> Any:
        with self._lock:
            kinds = self._labels[metric.name]
            values = {label: kinds[label].value(said) for label, said in zip(metric.labels, key[1:], strict=True)}
            family = self._families[metric.name]
            child = family.labels(**values) if values else family
            # What became `other` is not kept by what it was: there may be no end of it.
            if OTHER not in values.values():
                self._children[key] = child
            return child


def host_of(url: str) -> str:
    """Host and port of a URL: all of it that a label may have."""
    parts = urlsplit(url)
    host = parts.hostname or "unknown"
    return f"{host}:{parts.port}" if parts.port else host


def _family(metric: Metric, registry: CollectorRegistry) -> Any:
    options = {"buckets": BUCKETS_S} if metric.kind == "histogram" else {}
    return _CLASSES[metric.kind](metric.full_name, metric.help, metric.labels, registry=registry, **options)


def _label(metric: Metric, name: str) -> Any:
    if name in metric.known:
        return OneOf(metric.known[name])
    return _LABELS[name]()


def _combinations(choices: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for values in choices:
        found = [(*before, value) for before in found for value in values]
    return found


class Tracing:
    """Spans on their way to a collector. They say what was done and how long it took: of an error only its type."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("marketflow")

    @contextmanager
    def start_as_current_span(self, name: str) -> Iterator[Any]:
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                raise

    def close(self) -> None:
        """Sends what is left, then ends."""
        self._provider.shutdown()


def make_tracer(endpoint: str, *, timeout_s: float = 5.0) -> Tracing:
    """Spans sent by a thread of its own to a collector's OTLP address over HTTP, such as http://127.0.0.1:4318.

    Raises Misconfigured where OpenTelemetry is not installed. A collector that does not answer loses spans, no trade.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Misconfigured(
            "MARKETFLOW_OTLP_ENDPOINT is set, but OpenTelemetry is not installed:"
            " pip install 'marketflow[telemetry]', or unset it"
        ) from error
    address = endpoint if endpoint.rstrip("/").endswith("/v1/traces") else endpoint.rstrip("/") + "/v1/traces"
    provider = TracerProvider(resource=Resource.create({"service.name": "marketflow-agent"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address, timeout=timeout_s)))
    return Tracing(provider)
