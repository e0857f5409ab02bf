"""The files an operator installs say only what the daemon does: metrics, settings, exit codes, commands."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import promql_parser as promql
import pytest
import yaml

from agents import daemon
from agents.operator_cli import agent as operator_commands
from agents.settings import PREFIX as SETTINGS_PREFIX
from agents.settings import Settings
from agents.telemetry import METRICS, Metric, Telemetry
from agents.web import Views, serve
from tests.conftest import find_program
from tools import dashboard

OPERATIONS = Path(__file__).resolve().parents[3] / "agents" / "operations"
RULES = yaml.safe_load((OPERATIONS / "alerts.yml").read_text())["groups"][0]["rules"]
RULE_TESTS = yaml.safe_load((OPERATIONS / "alerts.test.yml").read_text())["tests"]
ALERTS = [rule["alert"] for rule in RULES]
BY_NAME = {metric.full_name: metric for metric in METRICS}
# What Prometheus itself adds: a series that says whether it could read, and where it read from.
TARGET_LABELS = {"job", "instance"}
VAULT = "0x" + "ab" * 20


# PromQL against the table of metrics


class NotDeclared(Exception):
    """A query that names what the daemon never shows."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a query names: metrics, and the labels of each."""

    metrics: frozenset[str]
    labels: frozenset[str]


def metric_of(series: str) -> tuple[Metric, set[str]]:
    """The declared metric of a series, and its labels. A histogram is only seen as its buckets, sum and count."""
    if series == "up":
        return Metric("up", "gauge", "", ""), set(TARGET_LABELS)
    base = re.sub(r"_(bucket|sum|count)$", "", series)
    found = BY_NAME.get(base)
    if found is None or (found.kind == "histogram") == (base == series):
        raise NotDeclared(f"no metric gives the series {series}")
    le = {"le"} if series.endswith("_bucket") else set()
    return found, {*found.labels, *TARGET_LABELS, *le}


def check_matcher(metric: Metric, allowed: set[str], matcher: Any) -> None:
    if matcher.name not in allowed:
        raise NotDeclared(f"{metric.full_name} has no label {matcher.name}")
    known = metric.known.get(matcher.name)
    said = matcher.value.split("|") if matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe) else [matcher.value]
    if known and not matcher.value.startswith("$") and not set(said) <= set(known):
        raise NotDeclared(f"{metric.full_name} has never {matcher.name}={matcher.value}")


def check(query: str) -> Named:
    """What a query names. Raises NotDeclared when the daemon does not show it, ValueError when it is no PromQL."""
    metrics: set[str] = set()
    labels: set[str] = set()
    grouped: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.MatrixSelector):
            visit(node.vector_selector)
        elif isinstance(node, promql.VectorSelector):
            metric, allowed = metric_of(node.name)
            for matcher in node.matchers.matchers:
                check_matcher(metric, allowed, matcher)
            metrics.add(metric.full_name)
            labels.update(allowed)
        elif isinstance(node, promql.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier and node.modifier.matching:
            grouped.update(node.modifier.matching.labels)

    promql.walk(promql.parse(query.replace("$__rate_interval", "5m")), visit)
    if not grouped <= labels:
        raise NotDeclared(f"no metric of the query has the labels {sorted(grouped - labels)}")
    return Named(frozenset(metrics), frozenset(grouped or labels))


@pytest.mark.parametrize(
    "query",
    [
        "marketflow_profits",
        "sum(rate(marketflow_made_up_total[5m]))",
        "marketflow_step_seconds",
        "marketflow_paused_bucket",
        'marketflow_paused{vault="x"}',
        'marketflow_queue_depth{state="final"}',
        'marketflow_queue_depth{state=~"sent|lost"}',
        'rate(marketflow_cycles_total{outcome!="bad"}[5m])',
        "sum by (colour) (marketflow_paused)",
        "marketflow_paused / on (colour) marketflow_circuit_open",
        'up{vault="x"}',
    ],
)
def test_a_query_that_names_what_the_daemon_never_shows_is_found(query: str) -> None:
    with pytest.raises(NotDeclared):
        check(query)


def test_a_query_that_is_none_is_found() -> None:
    with pytest.raises(ValueError, match=r"."):
        check("sum by (vault (marketflow_paused)")


# The dashboard


def panels() -> Iterator[dict[str, Any]]:
    content = json.loads((OPERATIONS / "dashboard.json").read_text())
    yield from (panel for panel in content["panels"] if panel["type"] != "row")


def test_the_dashboard_is_what_its_generator_makes() -> None:
    assert (OPERATIONS / "dashboard.json").read_text() == dashboard.make()


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_panel_asks_only_for_what_the_daemon_shows(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        named = check(target["expr"])
        assert set(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))) <= named.labels


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in check(target["expr"]).metrics}
    assert shown == set(BY_NAME)


def test_the_choices_of_the_dashboard_are_labels_of_metrics() -> None:
    content = json.loads((OPERATIONS / "dashboard.json").read_text())
    queries = [choice["query"] for choice in content["templating"]["list"] if choice["type"] == "query"]
    assert len(queries) == 2
    for query in queries:
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        assert label in check(metric).labels


def test_every_panel_has_a_number_of_its_own() -> None:
    content = json.loads((OPERATIONS / "dashboard.json").read_text())
    numbers = [panel["id"] for panel in content["panels"]]
    assert len(set(numbers)) == len(numbers)


# The alerts


@pytest.mark.parametrize("rule", RULES, ids=ALERTS)
def test_every_alert_asks_only_for_what_the_daemon_shows(rule: dict[str, Any]) -> None:
    named = check(rule["expr"])
    told = " ".join(rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", told)) <= named.labels


@pytest.mark.parametrize("rule", RULES, ids=ALERTS)
def test_every_alert_says_what_happened_how_bad_it_is_and_what_helps(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description", "action"}
    named = re.findall(r"marketflow agent ([a-z-]+)", rule["annotations"]["action"])
    assert named
    assert set(named) <= set(operator_commands.commands)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_to_fire_and_to_keep_quiet(alert: str) -> None:
    asked = [case for test in RULE_TESTS for case in test["alert_rule_test"] if case["alertname"] == alert]
    assert any(case.get("exp_alerts") for case in asked)
    assert any(not case.get("exp_alerts") for case in asked)


def test_prometheus_is_told_the_daemons_port_and_the_job_that_the_alerts_know() -> None:
    config = yaml.safe_load((OPERATIONS / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{Settings.model_fields['http_port'].default}"]
    assert f'job="{job["job_name"]}"' in RULES[ALERTS.index("HeartbeatMissing")]["expr"]


# Prometheus's own tool, on the same files and on a page of a running server


@pytest.fixture
def promtool() -> str:
    return str(find_program("promtool"))


def run_promtool(
    promtool: str, *arguments: str, folder: Path = OPERATIONS, page: bytes | None = None
) -> tuple[int, str]:
    """Its exit code and all it says."""
    done = subprocess.run([promtool, *arguments], cwd=folder, input=page, capture_output=True, timeout=60, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.program("promtool")
def test_promtool_finds_nothing_wrong_with_rules_and_configuration(promtool: str) -> None:
    assert run_promtool(promtool, "check", "config", "prometheus.yml")[0] == 0


@pytest.mark.program("promtool")
def test_promtool_sees_every_alert_fire_when_it_should(promtool: str) -> None:
    code, said = run_promtool(promtool, "test", "rules", "alerts.test.yml")
    assert code == 0, said


@pytest.mark.program("promtool")
@pytest.mark.parametrize("change", ["never", "at once", "always"])
def test_promtool_notices_every_alert_that_was_changed(promtool: str, tmp_path: Path, change: str) -> None:
    content = yaml.safe_load((OPERATIONS / "alerts.yml").read_text())
    changed = [rule for rule in content["groups"][0]["rules"] if change != "at once" or rule.pop("for", None)]
    for rule in changed:
        rule["expr"] = {"never": "vector(1) == 2", "always": "vector(1) == 1"}.get(change, rule["expr"])
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(content))
    shutil.copy(OPERATIONS / "alerts.test.yml", tmp_path)
    code, said = run_promtool(promtool, "test", "rules", "alerts.test.yml", folder=tmp_path)
    assert code != 0
    assert set(re.findall(r"alertname: (\w+)", said)) == {rule["alert"] for rule in changed}


def fill(telemetry: Telemetry) -> None:
    """A value for every metric of the table."""
    values = {"vault": VAULT, "account": VAULT, "asset": VAULT, "host": "127.0.0.1:8545"}
    for metric in METRICS:
        labels = {name: metric.known.get(name, (values.get(name, "word"),))[0] for name in metric.labels}
        write = {"counter": telemetry.count, "gauge": telemetry.gauge, "histogram": telemetry.observe}[metric.kind]
        write(metric.name, 1, **labels)


def page_of(telemetry: Telemetry) -> bytes:
    """What a running server shows as its metrics."""

    async def ask() -> bytes:
        async with (
            serve(views_of(telemetry)) as served,
            aiohttp.ClientSession() as session,
            session.get(served.url + "/metrics") as answer,
        ):
            return await answer.read()

    return asyncio.run(ask())


def views_of(telemetry: Telemetry, heartbeat_age_s: float = 0.0) -> Views:
    return Views(
        registry=telemetry.registry,
        heartbeat_age_s=lambda: heartbeat_age_s,
        not_ready_because=str,
        status=dict,
        explanation=lambda _: None,
    )


@pytest.mark.program("promtool")
def test_promtool_finds_nothing_wrong_with_the_page_of_a_running_server(promtool: str) -> None:
    telemetry = Telemetry()
    fill(telemetry)
    page = page_of(telemetry)
    assert all(f"\n# TYPE {name} " in "\n" + page.decode() for name in BY_NAME)
    assert run_promtool(promtool, "check", "metrics", page=page) == (0, "")


@pytest.mark.program("promtool")
def test_promtool_would_find_something_wrong_with_a_page(promtool: str) -> None:
    code, said = run_promtool(promtool, "check", "metrics", page=b"# TYPE trades counter\ntrades 1\n")
    assert code != 0
    assert "_total" in said


# systemd


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """The [Service] section: a setting may be there several times."""
    found: dict[str, list[str]] = {}
    text = (OPERATIONS / "marketflow-agent.service").read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("Type", "notify"),
        ("Restart", "on-failure"),
        ("LimitCORE", "0"),
        ("MemorySwapMax", "0"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("ProtectProc", "invisible"),
        ("PrivateTmp", "yes"),
        ("CapabilityBoundingSet", ""),
        ("UMask", "0077"),
        ("StateDirectoryMode", "0700"),
    ],
)
def test_the_unit_confines_the_daemon(unit: dict[str, list[str]], setting: str, value: str) -> None:
    assert unit[setting] == [value]


def test_the_unit_is_no_root_service_and_is_started_once_for_a_wrong_setting(unit: dict[str, list[str]]) -> None:
    assert unit["User"] == ["marketflow"]
    assert unit["RestartPreventExitStatus"] == [str(daemon.EXIT_STOPPED)]
    assert str(daemon.EXIT_HUNG) not in unit["RestartPreventExitStatus"]


def test_the_unit_starts_and_the_container_runs_a_command_that_exists(unit: dict[str, list[str]]) -> None:
    [started] = unit["ExecStart"]
    entry, command = (json.loads(rest) for name, rest in instructions() if name in ("ENTRYPOINT", "CMD"))
    for words in (started.split(), [*entry, *command]):
        assert words[0].endswith("/bin/marketflow")
        assert words[1] == operator_commands.name
        assert words[2] in operator_commands.commands


def test_the_unit_waits_longer_than_the_daemon_takes_to_stop(unit: dict[str, list[str]]) -> None:
    assert int(unit["TimeoutStopSec"][0]) > Settings.model_fields["grace_s"].default


def test_the_passphrase_is_a_credential_and_in_no_environment(unit: dict[str, list[str]]) -> None:
    [credential] = unit["LoadCredential"]
    name = credential.partition(":")[0]
    assert name.upper() == f"{SETTINGS_PREFIX}KEYFILE_PASSPHRASE"
    assert not any("PASS" in value.upper() for value in unit["Environment"])


def test_every_setting_that_a_file_names_exists() -> None:
    known = {f"{SETTINGS_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for path in OPERATIONS.iterdir():
        named = set(re.findall(rf"\b{SETTINGS_PREFIX}[A-Z_]*[A-Z]\b", path.read_text().replace("\n", " ")))
        assert named <= known, path.name


@pytest.mark.program("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    verify = str(shutil.which("systemd-analyze"))
    here = tmp_path / "marketflow-agent.service"
    # On the machine that tests it the daemon is not installed there.
    text = (OPERATIONS / here.name).read_text()
    here.write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = subprocess.run([verify, "verify", str(here)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# The container


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of each line that is no comment; continued lines are one."""
    text = (OPERATIONS / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_container_runs_as_nobody_important() -> None:
    last = [rest for name, rest in instructions() if name == "USER"][-1]
    assert int(last) > 1_000


def test_the_image_holds_no_secret() -> None:
    for name, rest in instructions():
        assert name != "ARG"
        assert not re.search(r"PASSPHRASE|SECRET|RPC_URL|PRIVATE", rest.replace("/run/secrets", "")), rest


def test_the_image_holds_the_packages_that_are_imported_and_no_tests() -> None:
    copied = {part for name, rest in instructions() if name == "COPY" for part in rest.split()[:-1]}
    assert {"agents", "oracle", "offchain_rl"} <= copied
    assert "." not in copied
    assert "tests" not in copied


@pytest.mark.parametrize(("heartbeat_age_s", "is_healthy"), [(0.0, True), (10_000.0, False)])
def test_the_health_check_of_the_container_tells_a_daemon_that_hangs(heartbeat_age_s: float, is_healthy: bool) -> None:
    """The command itself, as the image runs it, at the port of a server of ours."""
    [check_] = [rest for name, rest in instructions() if name == "HEALTHCHECK"]
    _, flag, code = json.loads(check_.partition("CMD ")[2])
    port = f":{Settings.model_fields['http_port'].default}/"
    assert (flag, code.count(port)) == ("-c", 1)

    async def ask() -> int | None:
        async with serve(views_of(Telemetry(), heartbeat_age_s)) as served:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code.replace(port, f":{served.port}/"), stderr=asyncio.subprocess.DEVNULL
            )
            return await process.wait()

    assert (asyncio.run(ask()) == 0) is is_healthy
