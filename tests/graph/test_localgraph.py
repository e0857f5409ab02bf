"""A graph-node of one's own: what it refuses, what it reports, and that nothing of it outlives who started it."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agents import subgraph
from agents.deployments import NetworkDeployment
from agents.errors import Misconfigured
from agents.localnet import graphnode, postgres
from agents.localnet.graphnode import LocalGraph, LocalGraphFailed, _ask, find_gnd
from agents.subgraph import PROTOCOL, BuildFailed, Subgraph, build, write_built_manifest
from tests.contracts.world import World
from tests.graph.conftest import Graph

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = """specVersion: 1.3.0
schema: {file: ./schema.graphql}
indexerHints: {prune: never}
dataSources:
  - kind: ethereum/contract
    name: MarketFlowToken
    network: {{network}}
    source: {abi: MarketFlowToken, address: "{{MarketFlowToken.address}}", startBlock: {{MarketFlowToken.startBlock}}}
    mapping:
      kind: ethereum/events
      apiVersion: 0.0.9
      language: wasm/assemblyscript
      file: ./src/token.ts
      entities: [Sum]
      abis: [{name: MarketFlowToken, file: ./abis/MarketFlowToken.json}]
      eventHandlers:
        - {event: "Transfer(indexed address,indexed address,uint256)", handler: handleTransfer}
"""
SCHEMA = "type Sum @entity(immutable: false) { id: ID! wei: BigInt! }\n"
UNLUCKY = 13
MAPPING = f"""import {{ Transfer }} from "../generated/MarketFlowToken/MarketFlowToken"
import {{ Sum }} from "../generated/schema"

export function handleTransfer(event: Transfer): void {{
  assert(event.params.value.toString() != "{UNLUCKY}", "an unlucky number")
  let sum = Sum.load("all")
  if (sum == null) sum = new Sum("all")
  sum.wei = event.params.value
  sum.save()
}}
"""


def write_sources(folder: Path, mapping: str = MAPPING) -> Subgraph:
    """A subgraph with one handler, which fails on an unlucky number."""
    (folder / "src").mkdir(parents=True)
    (folder / "subgraph.template.yaml").write_text(TEMPLATE)
    (folder / "schema.graphql").write_text(SCHEMA)
    (folder / "src" / "token.ts").write_text(mapping)
    return Subgraph(folder=folder, test_addresses={"MarketFlowToken": f"0x{1:040x}"})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Subgraph:
    return write_sources(tmp_path_factory.mktemp("small") / "subgraph")


@pytest.fixture(scope="module")
def small_manifest(small: Subgraph, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the world's token, from now on."""
    return write_built_manifest(
        tmp_path_factory.mktemp("manifest") / "small.yaml", addresses={"MarketFlowToken": world.d.token},
        start_block=world.w3.eth.block_number, subgraph=small,
    )  # fmt: skip


def transfer(world: World, amount_wei: int) -> None:
    world.send(world.token.functions.transfer(world.stranger.address, amount_wei), world.voter_a)


# What is missing


def test_without_graph_node_the_sentence_says_what_installs_it_and_what_else_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(graphnode, "_GND", tmp_path / "absent")
    with pytest.raises(Misconfigured, match=r"run `make graph`.*any Graph endpoint.*events can be read directly"):
        find_gnd.__wrapped__()


def test_another_program_in_the_place_of_graph_node_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gnd").write_bytes(b"\x7fELF of somebody else's")
    monkeypatch.setattr(graphnode, "_GND", tmp_path / "gnd")
    with pytest.raises(Misconfigured, match=r"gnd is not the expected program \(SHA-256"):
        find_gnd.__wrapped__()


def test_without_postgresql_the_sentence_says_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, small_manifest: Path
) -> None:
    monkeypatch.setattr(postgres, "_PACKAGE", "marketflow_no_such_package")
    with pytest.raises(Misconfigured, match="PostgreSQL is not installed: run `make graph`"):
        LocalGraph("http://127.0.0.1:1", [small_manifest])


def test_a_port_that_is_taken_is_named(small_manifest: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LocalGraphFailed, match=f"port {port} is taken"):
            LocalGraph("http://127.0.0.1:1", [small_manifest], port=port)


# What is wrong with a manifest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: ": : [", "is no manifest of a subgraph"),
        (lambda text: text.replace("dataSources", "sources"), "is no manifest of a subgraph .*dataSources"),
        (lambda text: text.replace("network: mainnet", "network: matic"), "is for matic, .* calls its chain mainnet"),
        (lambda text: text.replace(".wasm", ".gone"), "names .*MarketFlowToken.gone, which is not there"),
        (lambda text: text.replace("kind: ethereum/contract", "kind: what"), "graph-node has ended .*small.yaml"),
    ],
    ids=["not YAML", "no sources", "another network", "no module", "another kind"],
)
def test_a_wrong_manifest_is_named_with_what_is_wrong(
    change: Callable[[str], str], says: str, small_manifest: Path, world: World, tmp_path: Path
) -> None:
    manifest = tmp_path / "small.yaml"
    manifest.write_text(change(small_manifest.read_text()))
    with pytest.raises((Misconfigured, LocalGraphFailed), match=says):
        LocalGraph(str(world.evm.url), [manifest])


def test_a_manifest_that_was_not_built_is_refused() -> None:
    build()
    with pytest.raises(Misconfigured, match=r"index.ts, which is not compiled"):
        LocalGraph("http://127.0.0.1:1", [PROTOCOL.folder / "subgraph.yaml"])


# Building


def test_mappings_that_do_not_compile_end_in_what_the_compiler_says(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"src/token.ts"):
        build(write_sources(tmp_path / "broken", "export function ("))


def test_the_same_sources_give_the_same_module_in_any_folder(small: Subgraph, tmp_path: Path) -> None:
    first, again = build(small), build(write_sources(tmp_path / "elsewhere"))
    modules = [next(folder.rglob("*.wasm")).read_bytes() for folder in (first, again)]
    assert modules[0] == modules[1]
    assert modules[0].startswith(b"\0asm")


def test_only_what_has_changed_is_built_again(small: Subgraph, monkeypatch: pytest.MonkeyPatch) -> None:
    build(small)
    ran: list[str] = []
    monkeypatch.setattr(subgraph, "_run_gnd", lambda _program, command, _folder: ran.append(command[0]))
    build(small)
    assert ran == []
    schema = small.folder / "schema.graphql"
    schema.write_text(f"# changed\n{SCHEMA}")
    build(small)
    assert ran == ["codegen", "build"]


# Indexing


def test_what_was_there_before_and_what_comes_is_indexed(graph: Graph, world: World) -> None:
    ask = "{ agents { id } governances { id } }"
    before = graph.query(ask)
    assert before["governances"] == [{"id": world.d.dao.lower()}]
    agent_id = world.register_agent()
    assert {"id": str(agent_id)} in graph.query(ask)["agents"]
    status = graph.node.status()
    assert status.health == "healthy"
    assert status.latest_block == world.w3.eth.block_number


def test_the_address_of_the_node_is_not_in_the_list_of_processes(graph: Graph) -> None:
    """It may hold a key."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended since
            lines.append(path.read_bytes())
    assert any(b"gnd" in line for line in lines)
    assert not [line for line in lines if b"gnd" in line and str(graph.evm.url).encode() in line]


def test_a_question_that_is_none_is_answered_with_what_is_wrong(graph: Graph) -> None:
    with pytest.raises(LocalGraphFailed, match="no field `nonsense`"):
        graph.query("{ nonsense { id } }")


def test_a_block_that_does_not_come_is_not_waited_for_for_ever(graph: Graph) -> None:
    with pytest.raises(LocalGraphFailed, match=r"block 1000000 was not indexed in 0.2 s"):
        graph.node.wait_for_block(1_000_000, timeout_s=0.2)


def test_two_graph_nodes_stand_side_by_side_and_a_handler_that_fails_is_reported(
    graph: Graph, world: World, small_manifest: Path
) -> None:
    with LocalGraph(str(world.evm.url), [small_manifest]) as other:
        assert other.endpoint() != graph.endpoint
        transfer(world, 7)
        other.wait_for_block(world.w3.eth.block_number)
        assert other.query("{ sums { wei } }") == {"sums": [{"wei": "7"}]}
        transfer(world, UNLUCKY)
        with pytest.raises(LocalGraphFailed, match=r"a handler of small.yaml failed: .*an unlucky number"):
            other.wait_for_block(world.w3.eth.block_number)
        assert other.status().health == "failed"
        with pytest.raises(LocalGraphFailed, match="indexing_error"):
            other.query("{ sums { wei } }")
    assert graph.wait().health == "healthy"


# What is left behind


def processes_of(*texts: str) -> list[int]:
    """Ids of the processes that have one of these in their arguments or in the folder they run in."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            known = f"{(process / 'cmdline').read_text()} {(process / 'cwd').readlink()}"
            if any(text in known for text in texts):
                found.append(int(process.name))
    return sorted(set(found) - {os.getpid()})


def assert_nothing_is_left(folder: Path, manifest: Path, *, within_s: float = 10) -> None:
    until_s = time.monotonic() + within_s
    while (processes_of(folder.name, manifest.name) or folder.exists()) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert processes_of(folder.name, manifest.name) == []
    assert not folder.exists()


@pytest.fixture
def own_manifest(small_manifest: Path, tmp_path: Path) -> Path:
    """Of a name that no other test's processes have."""
    own = tmp_path / f"{tmp_path.parent.name}-{tmp_path.name}.yaml"
    own.write_text(small_manifest.read_text())
    return own


def test_postgresql_runs_as_nobody_for_root_and_as_oneself_for_others(own_manifest: Path, world: World) -> None:
    with LocalGraph(str(world.evm.url), [own_manifest]) as started:
        owners = {Path(f"/proc/{pid}").stat().st_uid for pid in processes_of(started.folder.name)}
    assert owners == {pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()}


def test_closing_leaves_no_process_and_no_file(own_manifest: Path, world: World) -> None:
    started = LocalGraph(str(world.evm.url), [own_manifest])
    assert len(processes_of(started.folder.name, own_manifest.name)) > 2
    assert started.folder.exists()
    started.close()
    started.close()
    assert_nothing_is_left(started.folder, own_manifest, within_s=0)


PROGRAM = """
import sys; from pathlib import Path; from agents.localnet.graphnode import LocalGraph
started = LocalGraph(sys.argv[1], [Path(sys.argv[2])])
print(started.folder, flush=True)
sys.stdin.read()
"""


def test_a_parent_that_is_killed_leaves_no_process_and_no_file(own_manifest: Path, world: World) -> None:
    command = [sys.executable, "-c", PROGRAM, str(world.evm.url), str(own_manifest)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip())
        assert folder.exists()
        parent.kill()
    assert_nothing_is_left(folder, own_manifest)


def test_a_graph_node_that_died_is_noticed(own_manifest: Path, world: World) -> None:
    with LocalGraph(str(world.evm.url), [own_manifest]) as started:
        [gnd] = [pid for pid in processes_of(own_manifest.name) if Path(f"/proc/{pid}/comm").read_text() == "gnd\n"]
        os.kill(gnd, signal.SIGKILL)
        with pytest.raises((LocalGraphFailed, OSError)):
            started.wait_for_block(1_000_000)
    assert_nothing_is_left(started.folder, own_manifest)


# The command


def test_localgraph_indexes_a_deployment_until_it_is_interrupted(world: World, tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    NetworkDeployment(protocol=world.d, market=world.book).save(file)
    options = ["--network", str(world.evm.url), "--deployment", str(file), "--port", "0", "--json"]
    program = "from agents.commands.localgraph import cli; cli()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        said = json.loads("".join(iter(started.stdout.readline, "}\n")) + "}")
        found = _ask(said["query"], "{ governances { id } }")
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=20) in (0, 128 + signal.SIGINT)
    assert found == {"governances": [{"id": world.d.dao.lower()}]}
    with pytest.raises(OSError, match="refused"):
        _ask(said["query"], "{ governances { id } }")
