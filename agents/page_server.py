"""The voting page over HTTP, or as a folder for any static host.

    /                        the built page (`agents/voting_page`)
    /marketflow.json         where the protocol is, and what else the page may ask
    /artefacts/0x….json      strategies' files, found by their hash, whatever they are called in the folder
    /explanations/0x….json   why trades were made: a folder of the agent's, or its daemon's own pages

The page checks every hash itself: a server that lies is noticed. What it may load and ask is in its
Content-Security-Policy, sent with each answer.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from eth_utils import keccak
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from agents.deployments import NetworkDeployment
from agents.errors import Misconfigured
from agents.explanation import fetch_document
from agents.web import is_loopback
from offchain_rl.artefact import MAX_ARTEFACT_BYTES

FORMAT: Final = "marketflow/page/1"
_NAME: Final = re.compile(r"(0x[0-9a-f]{64})\.json")
_LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_Next = Callable[[Request], Awaitable[Response]]
EXPLORERS: Final = {
    1: "https://etherscan.io", 11155111: "https://sepolia.etherscan.io", 137: "https://polygonscan.com",
    80002: "https://amoy.polygonscan.com", 42161: "https://arbiscan.io", 421614: "https://sepolia.arbiscan.io",
    8453: "https://basescan.org", 84532: "https://sepolia.basescan.org", 10: "https://optimistic.etherscan.io",
    11155420: "https://sepolia-optimism.etherscan.io",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSources:
    """What the page is told. URLs of nodes are public: whoever opens the page reads them."""

    network: str
    deployment: NetworkDeployment
    rpc: Sequence[str] = ()
    graph: str | None = None
    # "api" when the relayer is served beside the page, a URL when it is elsewhere.
    relayer: str | None = None
    artefacts: Path | None = None
    # A folder, or the URL of a daemon.
    explanations: Path | str | None = None

    def config(self) -> dict[str, Any]:
        """The content of marketflow.json."""
        chain_id = self.deployment.protocol.chain_id
        return {
            "format": FORMAT, "network": self.network, "chain_id": chain_id,
            "chain_name": self.network.replace("-", " ").title(), "rpc": list(self.rpc), "graph": self.graph,
            "relayer": self.relayer, "artefacts": "artefacts/" if self.artefacts else None,
            "explanations": "explanations/" if self.explanations else None, "explorer": EXPLORERS.get(chain_id),
            "deployment": json.loads(self.deployment.to_json()),
        }  # fmt: skip

    def policy(self) -> str:
        """The Content-Security-Policy: our own scripts, and the hosts that are configured, nothing else."""
        elsewhere = [url for url in (*self.rpc, self.graph, self.relayer) if url and "://" in url]
        origins = sorted({f"{urlsplit(url).scheme}://{urlsplit(url).netloc}" for url in elsewhere})
        return "; ".join(
            [
                "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:",
                f"connect-src {' '.join([chr(39) + 'self' + chr(39), *origins])}", "font-src 'self'",
                "base-uri 'none'", "form-action 'none'",
            ]
        )  # fmt: skip


def page_folder() -> Path:
    """Where the built page is. Raises Misconfigured when it was not built."""
    folder = Path(str(files("agents"))) / "voting_page"
    if not (folder / "index.html").is_file():
        raise Misconfigured(f"the voting page is not built ({folder} has no index.html): run `make page`")
    return folder


def add_page(app: FastAPI, sources: PageSources, *, host: str) -> None:
    """Serves the page at / of the app. Only requests that name this machine are answered when only it can be reached:
    a page of another site, whose name was made to lead here, reads nothing."""
    folder, config, policy = page_folder(), sources.config(), sources.policy()

    @app.middleware("http")
    async def guard(request: Request, call_next: _Next) -> Response:
        name = re.sub(r":\d*$", "", request.headers.get("host", "")).lower()
        if is_loopback(host) and name not in _LOCAL_NAMES:
            return _missing(421, "ask for this machine by its own name, such as 127.0.0.1")
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = policy + "; frame-ancestors 'none'"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    @app.get("/marketflow.json", include_in_schema=False)
    def marketflow() -> JSONResponse:
        return JSONResponse(config)

    @app.get("/artefacts/{name}", include_in_schema=False)
    def artefact(name: str) -> Response:
        asked = _NAME.fullmatch(name)
        path = find_artefact(sources.artefacts, asked[1]) if asked and sources.artefacts else None
        return _missing(404, "no such artefact here") if path is None else _document(path.read_bytes())

    @app.get("/explanations/{name}", include_in_schema=False)
    def explanation(name: str) -> Response:
        asked = _NAME.fullmatch(name)
        content = fetch_document(sources.explanations, asked[1]) if asked and sources.explanations else None
        return _missing(404, "no such explanation here") if content is None else _document(content)

    app.mount("/", StaticFiles(directory=folder, html=True), name="page")


def find_artefact(folder: Path, artefact_hash: str) -> Path | None:
    """The file in the folder whose bytes have that hash."""
    for path in sorted(folder.glob("*.json")):
        stat = path.stat()
        if stat.st_size <= MAX_ARTEFACT_BYTES and _hash_of(str(path), stat.st_mtime_ns, stat.st_size) == artefact_hash:
            return path
    return None


@lru_cache(maxsize=4096)
def _hash_of(path: str, _changed_ns: int, _size: int) -> str:
    return "0x" + keccak(Path(path).read_bytes()).hex()


def export_page(sources: PageSources, folder: Path) -> list[Path]:
    """Writes the page, its configuration and its documents into an empty folder; the files.

    Raises Misconfigured when the folder is not empty, or the explanations are a daemon's and not files.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Misconfigured(f"{folder} is not empty: name another folder with --export")
    if sources.explanations is not None and not isinstance(sources.explanations, Path):
        raise Misconfigured("a static page needs explanations as files: give --explanations a folder")
    shutil.copytree(page_folder(), folder, dirs_exist_ok=True)
    (folder / "marketflow.json").write_text(json.dumps(sources.config(), indent=2) + "\n", encoding="utf-8")
    said = f'<head>\n    <meta http-equiv="Content-Security-Policy" content="{sources.policy()}">'
    index = folder / "index.html"
    index.write_text(index.read_text(encoding="utf-8").replace("<head>", said, 1), encoding="utf-8")
    # Hosts that read such a file send these; what a page says of itself can't forbid that it is framed.
    policy = f"Content-Security-Policy: {sources.policy()}; frame-ancestors 'none'"
    (folder / "_headers").write_text(f"/*\n  {policy}\n  X-Content-Type-Options: nosniff\n", encoding="utf-8")
    _copy_documents(sources, folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_documents(sources: PageSources, folder: Path) -> None:
    if sources.artefacts:
        (folder / "artefacts").mkdir()
        for path in sources.artefacts.glob("*.json"):
            content = path.read_bytes()
            if len(content) <= MAX_ARTEFACT_BYTES:
                (folder / "artefacts" / f"0x{keccak(content).hex()}.json").write_bytes(content)
    if isinstance(sources.explanations, Path):
        (folder / "explanations").mkdir()
        for path in sources.explanations.glob("0x*.json"):
            if _NAME.fullmatch(path.name):
                shutil.copyfile(path, folder / "explanations" / path.name)


def _document(content: bytes) -> Response:
    unchanging = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, media_type="application/json", headers=unchanging)


def _missing(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": "not_found", "message": message}}, status_code=status)
