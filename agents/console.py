"""What `ape console` has in scope: the protocol of the network it is connected to, as `deployments/` says where it is.

    ape console --network http://127.0.0.1:8545
    In [1]: dao.state(proposals[0].id)
    In [2]: vote(proposals[0], "for", sender="alice")                 says what it would do
    In [3]: vote(proposals[0], "for", sender="alice", dry_run=False)  does it

ape loads `ape_console_extras.py` of the project that it is started in; that file of another project needs one line,
`from agents.console import ape_init_extras`. It does so when the first name is looked up. With `agents.console` among
`console: plugins:` of `ape-config.yaml` it does when the console starts, so that names can be completed. Nothing here
connects, reads a file or imports a heavy module before a name is used (`agents.console_session` does all of that), and
nothing raises when the console starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "NAMES", "Later", "account", "ape_init_extras", "delegate", "deploy_approved", "explain", "help_marketflow",
    "load_ipython_extension", "propose", "reward", "status", "travel", "use", "vote",
]  # fmt: skip

# What is looked up in the connected network whenever it is used, and what it is.
NAMES = {
    "dao": "MARKETFLOW_DAO: dao.state(id), dao.quorum(time)",
    "token": "MarketFlowToken: token.balanceOf(address), token.delegate(address, sender=…)",
    "timelock": "Timelock",
    "treasury": "Treasury",
    "constitution": "Constitution: constitution.ceilings()",
    "oracle": "PriceOracle: oracle.read(token)",
    "pool": "RewardPool: pool.vestedOf(vault)",
    "factory": "VaultFactory",
    "venue": "UniswapV3Venue",
    "agents": "all agents, agents[1]; AgentRegistry's calls, too",
    "strategies": "all strategies, strategies[0]; StrategyRegistry's calls, too",
    "vaults": "all vaults, vaults[0] or vaults[\"0x…\"], measured now; a vault's own calls are vaults[0].status()",
    "proposals": "all proposals, proposals[0] or proposals[id], with what they would do",
    "ledger": "all trades, ledger[0] or ledger[\"0x…\"]; TradeLedger's calls, too",
    "trades": "the same trades",
    "limits": "the constitution's ceilings",
    "deployment": "addresses, as the file of this network has them",
    "me": "who signs when sender= is left out; use(\"alice\") sets it",
}


class Later:
    """Something that is looked up in the connected network at each use. Without a deployment it says so in a line."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def _found(self) -> Any:
        return _session().get(self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # consoles ask every object for dozens of these
            raise AttributeError(name)
        return getattr(self._found(), name)

    def __dir__(self) -> list[str]:
        return _quietly(lambda: dir(self._found()), [])

    def __repr__(self) -> str:
        return _in_words(lambda: repr(self._found()))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        from agents.console_errors import Refused

        try:
            self._found()._repr_pretty_(printer, cycle)
        except Refused as error:
            printer.text(f"error: {error}")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._found()(*arguments, **options)

    def __getitem__(self, key: Any) -> Any:
        return self._found()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def __bool__(self) -> bool:
        return True  # ape asks whether a name is there

    def __eq__(self, other: object) -> bool:
        return self is other or _quietly(lambda: self._found() == other, False)

    __hash__ = object.__hash__

    def _ipython_key_completions_(self) -> list[Any]:
        return _quietly(lambda: self._found()._ipython_key_completions_(), [])


def _session() -> Any:
    from agents.console_session import session

    return session()


def _quietly(ask: Any, otherwise: Any) -> Any:
    """What is asked, or nothing: completion must not raise."""
    try:
        return ask()
    except Exception:  # whatever it is, using the name will say it
        return otherwise


def _in_words(ask: Any) -> str:
    """What is asked, or why it can't be had."""
    from agents.console_errors import Refused

    try:
        return str(ask())
    except Refused as error:
        return f"error: {error}"


# What people do. Each is the command of that name, with its checks and its answer.


def propose(
    file: str | Path | None = None,
    *,
    update: str = "",
    recall: str = "",
    items: Sequence[str] = (),
    retire: str = "",
    artefact: str | Path = "",
    artefact_hash: str = "",
    agent: int | str = "",
    assets: Sequence[str] = (),
    limits: Mapping[str, int] | None = None,
    capital: str = "",
    reward_rate: str = "",
    reward_cap: str = "",
    description: str = "",
    sender: Any = None,
    dry_run: bool | None = None,
) -> Any:
    """`ape run propose`: a strategy file, or update=, recall= (with items=["MUSD=100"]) or retire= of a running one.

    Amounts are whole tokens, as text. Says what it would do; sends with `dry_run=False`, or once a terminal's user has
    said yes.
    """
    options = {
        "update": update, "recall": recall, "retire": retire, "artefact": artefact, "artefact-hash": artefact_hash,
        "agent": agent, "capital": capital, "reward-rate": reward_rate, "reward-cap": reward_cap,
        "description": description,
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in options.items() if str(value)]
    arguments += [f"--item={item}" for item in items] + [f"--asset={asset}" for asset in assets]
    arguments += [f"--limit={name}={number}" for name, number in (limits or {}).items()]
    arguments += ["--", str(file)] if file else []
    return _session().run("propose", arguments, sender=sender, dry_run=dry_run)


def vote(proposal: Any, support: str, *, reason: str = "", sender: Any = None, dry_run: bool | None = None) -> Any:
    """`ape run vote`: "for", "against" or "abstain". Says what it would do; sends with `dry_run=False`, or on a yes."""
    return _session().vote(proposal, support, reason=reason, sender=sender, dry_run=dry_run)


def delegate(to: Any = "", *, sender: Any = None, dry_run: bool | None = None) -> Any:
    """`ape run delegate`: to oneself unless somebody is named. Sends with `dry_run=False`, or on a yes."""
    arguments = [f"--to={getattr(to, 'address', to)}"] if to else []
    return _session().run("delegate", arguments, sender=sender, dry_run=dry_run)


def deploy_approved(proposal: Any, *, sender: Any = None, dry_run: bool | None = None) -> Any:
    """`ape run deploy_approved`: a proposal's next step. Sends with `dry_run=False`, or on a yes."""
    identity = str(getattr(proposal, "id", proposal))
    return _session().run("deploy_approved", ["--", identity], sender=sender, dry_run=dry_run)


def reward(agent: Any, *, claim: bool = False, sender: Any = None, dry_run: bool | None = None) -> Any:
    """`ape run reward`: what is due for an agent's vault. Sends with `dry_run=False`, or on a yes."""
    arguments = [*(["--claim"] if claim else []), "--", str(getattr(agent, "id", agent))]
    return _session().run("reward", arguments, sender=sender, dry_run=dry_run)


def travel(duration: str, **prices_usd: Any) -> Any:
    """`ape run travel`, on a local chain: travel("61m"), travel("0", ETH=2100)."""
    arguments = [f"--price={symbol}={price}" for symbol, price in prices_usd.items()]
    return _session().run_free("travel", [*arguments, "--", duration])


def status() -> None:
    """`ape run status`: tables of everything, at the latest block."""
    _session().print_status()


def explain(what: Any, explanations: str | Path = "") -> Any:
    """Why a trade was made, and whether that is what the ledger names: of a trade, its id, or all of a vault.

    `explanations`: the folder where the agent kept them or its daemon's URL; else what MARKETFLOW_EXPLANATIONS says.
    A trade whose document can't be had is unexplained. Whether the decision follows from it, `ape run audit` tells.
    """
    return _session().explain(what, explanations)


def account(alias: str) -> Any:
    """An account of ape's by alias, or TEST::n on a local chain. Locked until it has to sign."""
    return _session().account(alias)


def use(sender: Any) -> Any:
    """From now on, who signs when `sender=` is left out: an alias, or an account of ape's."""
    return _session().use(sender)


def help_marketflow() -> None:
    """What of the protocol is in scope."""
    width = max(map(len, NAMES))
    for name, what in NAMES.items():
        print(f"{name:<{width}}  {what}")
    for function in _FUNCTIONS:
        summary = (function.__doc__ or "").splitlines()[0]
        print(f"{function.__name__ + '()':<{width}}  {summary}")
    print("\nCalls that send say what they would do; they send with dry_run=False, or when you answer yes.")


_FUNCTIONS = (propose, vote, delegate, deploy_approved, reward, explain, status, travel, account, use, help_marketflow)


def ape_init_extras() -> dict[str, Any]:
    """ape's hook: names for the console. In a terminal or with piped input also a line about the network."""
    names: dict[str, Any] = {name: Later(name) for name in NAMES}
    names |= {function.__name__: function for function in _FUNCTIONS}
    shell = _shell()
    space = getattr(shell, "user_ns", None)
    if space is not None:
        # ape asks for a name when it is used; completion only knows those that are there.
        space.update({name: value for name, value in names.items() if not dict.__contains__(space, name)})
    if type(shell).__name__ == "TerminalInteractiveShell":
        _greet()
    return names


def load_ipython_extension(shell: Any) -> None:
    """IPython's hook: loads the names now."""
    if shell.user_ns.get("dao") is None:  # ape's own dictionary loads the project's file to answer
        shell.user_ns.update(ape_init_extras())


def _shell() -> Any:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()  # type: ignore[no-untyped-call]


def _greet() -> None:
    """One line on standard error: where the protocol is, or what to do so that it is somewhere."""
    import sys

    from agents.console_connection import greeting

    print(_in_words(greeting), file=sys.stderr)
