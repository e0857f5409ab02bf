"""ape run page: the voting page, for this machine or as files for a static host; with a relayer if asked for.

    ape run page --network http://127.0.0.1:8545
    ape run page --artefacts strategies/ --explanations http://127.0.0.1:9100 --network …
    ape run page --relay --account relayer --network …       pays for signed ballots
    ape run page --rpc https://… --export site/ --network …  files for a static host
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from agents.commands._chain import Connection, account_option, on_chain, say, show
from agents.errors import Misconfigured


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens: this machine only.")
@click.option("--port", default=8600, show_default=True, help="0 takes any that is free.")
@click.option("--rpc", multiple=True, help="A node's URL that the page may use, and everybody reads; may be repeated.")
@click.option("--graph", help="The subgraph's URL: the page is quicker with it.")
@click.option("--artefacts", type=click.Path(path_type=Path), help="Folder of strategies' files.")
@click.option("--explanations", default="", help="Folder of an agent's explanations, or its daemon's URL.")
@click.option("--relay", is_flag=True, help="Serve a relayer, too: --account pays for signed ballots.")
@click.option("--relayer", "relayer_url", default="", help="URL of a relayer that runs elsewhere.")
@account_option("With --relay: alias of the ape account that pays.")
@click.option("--store", type=click.Path(path_type=Path), help="With --relay: its file. Default: <network>.relayer.db.")
@click.option("--export", "folder_out", type=click.Path(path_type=Path), help="Write the page there instead.")
@click.option("--dry-run", is_flag=True, help="Say what the page would be told, and serve nothing.")
@on_chain
def cli(
    here: Connection,
    host: str,
    port: int,
    rpc: tuple[str, ...],
    graph: str | None,
    artefacts: Path | None,
    explanations: str,
    relay: bool,
    relayer_url: str,
    account: str,
    store: Path | None,
    folder_out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Serve the voting page until it is interrupted."""
    # Here, because fastapi takes a second to import, and every command is imported to find one.
    from agents.page_server import PageSources, export_page

    if relay and (relayer_url or folder_out):
        raise Misconfigured("--relay serves a relayer here: leave out --relayer and --export")
    if not 0 <= port < 65_536:
        raise Misconfigured(f"--port {port} is none: give one below 65536, or 0 for any that is free")
    for option, url in [("--rpc", each) for each in rpc] + [("--graph", graph), ("--relayer", relayer_url)]:
        if url and urlsplit(url).scheme not in ("http", "https"):
            raise Misconfigured(f"{option} {url} is no URL: it begins with https:// or http://")
    if artefacts and not artefacts.is_dir():
        raise Misconfigured(f"--artefacts {artefacts} is no folder: name the one with the strategies' files")
    sources = PageSources(
        network=here.name, deployment=here.deployed(), rpc=rpc or _local_node(here), graph=graph,
        relayer="api" if relay else relayer_url or None, artefacts=artefacts, explanations=_source(explanations),
    )  # fmt: skip
    if not sources.rpc:
        say("no --rpc: the page reads through the visitor's wallet, and shows nothing to one who has none")
    if dry_run:
        show({"dry_run": True, **sources.config()}, as_json=as_json)
    elif folder_out:
        written = export_page(sources, folder_out)
        show({"folder": str(folder_out), "files": len(written)}, as_json=as_json)
    else:
        _serve(here, sources, host, port, relay, account, store, as_json=as_json)


def _local_node(here: Connection) -> tuple[str, ...]:
    """The URL of a public network's node may have a key in it: only a local one is shown to everybody."""
    return (here.url,) if here.is_local and here.url.startswith("http") else ()


def _source(explanations: str) -> Path | str | None:
    if not explanations or explanations.startswith(("http://", "https://")):
        return explanations or None
    if not Path(explanations).is_dir():
        raise Misconfigured(f"--explanations {explanations} is neither a folder nor a daemon's URL")
    return Path(explanations)


def _serve(
    here: Connection, sources: Any, host: str, port: int, relay: bool, account: str, store: Path | None, *,
    as_json: bool,
) -> None:  # fmt: skip
    from fastapi import FastAPI

    from agents.commands.relayer import make_relayer, run_app
    from agents.page_server import add_page
    from agents.relayer import Worker
    from agents.relayer_app import create_relayer_app

    app, listener = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), listen(host, port)
    url = f"http://{host}:{listener.getsockname()[1]}"
    answer = {"url": url, "network": sources.network, "dao": sources.deployment.protocol.dao}
    worker = None
    if relay:
        relayer = make_relayer(here, account, store)
        worker = Worker(relayer)
        app.mount("/api", create_relayer_app(relayer))
        answer |= {"relayer": relayer.status()["relayer"]}
    add_page(app, sources, host=host)
    show(answer, as_json=as_json)
    run_app(app, listener, worker)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound before anything is promised. Raises Misconfigured when the address is taken."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise Misconfigured(f"{host}:{port} can't be listened on ({error.strerror}): give another --port") from error
