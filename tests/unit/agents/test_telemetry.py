"""What the daemon measures: nothing that nobody declared, nothing without end, nothing secret."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from eth_utils import to_checksum_address
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agents.telemetry import (
    BUCKETS_S,
    CYCLE_OUTCOMES,
    MAX_WORDS,
    METRICS,
    OTHER,
    OUTCOMES,
    PREFIX,
    STEPS,
    Telemetry,
    host_of,
    make_tracer,
)

VAULT, OTHER_VAULT = "0x" + "ab" * 20, "0x" + "cd" * 20
UNITS = ("_total", "_seconds", "_bytes", "_bps", "_quote")
# What is counted in itself, or is a yes or no.
WITHOUT_UNIT = {"head_number", "nonce_gap", "queue_depth", "unit_price", "circuit_open", "paused", "operator_needed",
                "rpc_up", "open_files"}  # fmt: skip


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every series of the page as Prometheus would read it."""
    page = generate_latest(telemetry.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return samples(telemetry).get((PREFIX + name, tuple(sorted(labels.items()))))


def names_of(telemetry: Telemetry, label: str) -> set[str]:
    return {dict(labels)[label] for _, labels in samples(telemetry) if label in dict(labels)}


def test_a_metric_that_nobody_declared_is_refused(telemetry: Telemetry) -> None:
    with pytest.raises(LookupError, match="profits_total is no counter of the table"):
        telemetry.count("profits_total")


def test_a_metric_of_another_kind_is_refused(telemetry: Telemetry) -> None:
    with pytest.raises(LookupError, match="paused is no counter"):
        telemetry.count("paused")
    with pytest.raises(LookupError, match="step_seconds is no gauge"):
        telemetry.gauge("step_seconds", 1, step="read")


@pytest.mark.parametrize("labels", [{}, {"vault": VAULT, "colour": "red"}, {"account": VAULT}])
def test_labels_that_nobody_declared_are_refused(telemetry: Telemetry, labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"decisions_total has the labels \['vault'\]"):
        telemetry.count("decisions_total", **labels)


def test_labels_may_come_in_any_order(telemetry: Telemetry) -> None:
    telemetry.count("refusals_total", vault=VAULT, clause="price")
    telemetry.count("refusals_total", clause="price", vault=VAULT)
    assert value(telemetry, "refusals_total", vault=to_checksum_address(VAULT), clause="price") == 2


@pytest.mark.parametrize("said", ["0x12", "DROP TABLE", "", VAULT + "\n", VAULT[2:-2]])
def test_a_vault_that_is_no_address_is_refused(telemetry: Telemetry, said: str) -> None:
    with pytest.raises(ValueError, match="expected an address"):
        telemetry.count("decisions_total", vault=said)


def test_an_unknown_step_or_state_is_refused(telemetry: Telemetry) -> None:
    with pytest.raises(ValueError, match="expected one of read, decide"), telemetry.step("dance"):
        pytest.fail("the step began")
    with pytest.raises(ValueError, match="expected one of intent"):
        telemetry.gauge("queue_depth", 1, state="final")


def test_an_address_of_a_node_with_its_key_never_becomes_a_label(telemetry: Telemetry) -> None:
    with pytest.raises(ValueError, match="no host") as refused:
        telemetry.gauge("rpc_up", 1, host="https://node.example/v2/topsecret")
    assert "topsecret" not in str(refused.value)
    assert "topsecret" not in repr(samples(telemetry))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:topsecret@node.example/v2/topsecret?key=topsecret", "node.example"),
        ("http://127.0.0.1:8545", "127.0.0.1:8545"),
        ("wss://[::1]:8546/ws", "::1:8546"),
        ("nonsense", "unknown"),
    ],
)
def test_host_of_a_url_is_a_label_without_its_secrets(telemetry: Telemetry, url: str, host: str) -> None:
    assert host_of(url) == host
    telemetry.gauge("rpc_up", 1, host=host_of(url))
    assert value(telemetry, "rpc_up", host=host) == 1


def test_two_nodes_of_one_host_are_told_apart(telemetry: Telemetry) -> None:
    telemetry.gauge("rpc_up", 1, host="node.example")
    telemetry.gauge("rpc_up", 0, host="node.example#2")
    assert [value(telemetry, "rpc_up", host=f"node.example{number}") for number in ("", "#2")] == [1, 0]


def test_words_without_end_become_one(telemetry: Telemetry) -> None:
    before = len(telemetry._children)
    for number in range(10 * MAX_WORDS):
        telemetry.count("refusals_total", vault=VAULT, clause=f"made_up_{number}")
    assert len(names_of(telemetry, "clause")) == MAX_WORDS + 1
    assert len(telemetry._children) - before == MAX_WORDS
    assert value(telemetry, "refusals_total", vault=to_checksum_address(VAULT), clause=OTHER) == 9 * MAX_WORDS


@pytest.mark.parametrize("said", ['a"} 1\nmarketflow_paused 1', "", "x" * 49, "цена", "-1"])
def test_a_word_that_is_none_becomes_other(telemetry: Telemetry, said: str) -> None:
    telemetry.count("refusals_total", vault=VAULT, clause=said)
    assert names_of(telemetry, "clause") == {OTHER}


def test_a_clause_of_two_words_is_one_label(telemetry: Telemetry) -> None:
    telemetry.count("refusals_total", vault=VAULT, clause="cumulative slippage")
    assert names_of(telemetry, "clause") == {"cumulative_slippage"}


def test_one_vault_is_one_series_however_it_is_written(telemetry: Telemetry) -> None:
    for said in (VAULT, to_checksum_address(VAULT), "0x" + VAULT[2:].upper()):
        telemetry.count("decisions_total", vault=said)
    assert value(telemetry, "decisions_total", vault=to_checksum_address(VAULT)) == 3


def test_forgetting_a_vault_removes_all_its_series_and_no_other(telemetry: Telemetry) -> None:
    for vault in (VAULT, OTHER_VAULT):
        telemetry.begin(vault)
        telemetry.count("refusals_total", vault=vault, clause="price")
        telemetry.gauge("drawdown_bps", 7, vault=vault, agent="eth-trend")
    telemetry.forget(VAULT)
    assert names_of(telemetry, "vault") == {to_checksum_address(OTHER_VAULT)}
    telemetry.count("decisions_total", vault=VAULT)
    assert value(telemetry, "decisions_total", vault=to_checksum_address(VAULT)) == 1


def test_what_is_known_beforehand_begins_at_zero(telemetry: Telemetry) -> None:
    assert {value(telemetry, "cycles_total", outcome=outcome) for outcome in CYCLE_OUTCOMES} == {0}
    assert {value(telemetry, "step_seconds_count", step=step) for step in STEPS} == {0}
    assert value(telemetry, "reorgs_total") == 0
    telemetry.begin(VAULT)
    vault = to_checksum_address(VAULT)
    assert {value(telemetry, "trades_total", vault=vault, outcome=outcome) for outcome in OUTCOMES} == {0}


def test_outcomes_are_those_of_the_journal() -> None:
    from agents.execution import Ended

    assert set(OUTCOMES) == {str(ended.value) for ended in Ended}


def test_a_step_is_timed_also_when_it_fails(telemetry: Telemetry) -> None:
    with pytest.raises(RuntimeError, match="no node"), telemetry.step("read"):
        raise RuntimeError("no node")
    assert value(telemetry, "step_seconds_count", step="read") == 1


def test_times_fall_into_buckets_of_a_millisecond_to_half_a_minute(telemetry: Telemetry) -> None:
    assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.001, 30.0)
    telemetry.observe("decision_to_signed_seconds", 0.2)
    assert value(telemetry, "decision_to_signed_seconds_bucket", le="0.1") == 0
    assert value(telemetry, "decision_to_signed_seconds_bucket", le="0.25") == 1


def test_a_gauge_takes_a_decimal(telemetry: Telemetry) -> None:
    telemetry.gauge("profit_quote", Decimal("-12.5"), vault=VAULT, agent="7")
    assert value(telemetry, "profit_quote", vault=to_checksum_address(VAULT), agent="7") == -12.5


def test_every_name_has_help_and_a_unit() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.help.endswith("."), metric.name
        assert metric.name.endswith(UNITS) or metric.name in WITHOUT_UNIT, metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name


def test_no_series_tells_when_it_began(telemetry: Telemetry) -> None:
    telemetry.begin(VAULT)
    assert not [name for name, _ in samples(telemetry) if name.endswith("_created")]


def test_two_daemons_in_one_process_count_apart() -> None:
    one, other = Telemetry(), Telemetry(CollectorRegistry())
    one.count("reorgs_total")
    assert (value(one, "reorgs_total"), value(other, "reorgs_total")) == (1, 0)


def test_no_count_is_lost_between_threads(telemetry: Telemetry) -> None:
    def work() -> None:
        for _ in range(500):
            telemetry.count("decisions_total", vault=VAULT)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(telemetry, "decisions_total", vault=to_checksum_address(VAULT)) == 2_000


def test_the_process_is_measured(telemetry: Telemetry) -> None:
    telemetry.measure_process()
    assert value(telemetry, "resident_bytes") > 1_000_000
    assert value(telemetry, "open_files") >= 3
    assert not math.isnan(value(telemetry, "journal_bytes"))


# Traces


def test_metrics_need_no_opentelemetry() -> None:
    """In a process where it can't be imported, and which never tried to until traces were asked for."""
    script = """
import sys
from agents.errors import Misconfigured
from agents.telemetry import Telemetry, make_tracer
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
sys.modules["opentelemetry"] = None
with Telemetry().step("read"):
    pass
try:
    make_tracer("http://127.0.0.1:4318")
except Misconfigured as refused:
    print(refused)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "MARKETFLOW_OTLP_ENDPOINT" in done.stdout
    assert "marketflow[telemetry]" in done.stdout


class _Collector(BaseHTTPRequestHandler):
    got: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    got: list[tuple[str, bytes]] = []
    handler = type("Handler", (_Collector,), {"got": got})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def test_steps_are_spans_that_reach_a_collector_without_what_errors_say(
    collector: tuple[str, list[tuple[str, bytes]]],
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra `telemetry` is not installed")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    endpoint, got = collector
    tracer = make_tracer(endpoint)
    telemetry = Telemetry(tracer=tracer)
    with telemetry.step("decide"), telemetry.step("sign"):
        pass
    with pytest.raises(ValueError, match="topsecret"), telemetry.step("send"):
        raise ValueError("topsecret")
    tracer.close()
    [(path, body)] = got
    assert path == "/v1/traces"
    spans = ExportTraceServiceRequest.FromString(_unpacked(body)).resource_spans[0].scope_spans[0].spans
    by_name = {span.name: span for span in spans}
    assert by_name.keys() == {"step.decide", "step.sign", "step.send"}
    assert by_name["step.sign"].parent_span_id == by_name["step.decide"].span_id
    assert {a.key: a.value.string_value for a in by_name["step.send"].attributes} == {"error.type": "ValueError"}
    assert b"topsecret" not in _unpacked(body)


def _unpacked(body: bytes) -> bytes:
    import gzip

    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
