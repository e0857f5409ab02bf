"""Real Uniswap v3 on a local chain, and the integer arithmetic of its prices.

Prices of a pool are token1 per token0 in base units, as the square root times 2^96. Formulas are those of the white
paper, https://app.uniswap.org/whitepaper-v3.pdf, section 6.2. No floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from math import isqrt

from eth_utils import keccak
from web3.contract import Contract

from agents.contracts import third_party
from agents.localnet.evm import Account, LocalEvm

Q96 = 2**96
MAX_TICK = 887_272
TICK_SPACING = {100: 1, 500: 10, 3000: 60, 10_000: 200}
FEE_UNIT = 1_000_000
FOREVER_S = 2**48


@dataclass(frozen=True, slots=True)
class UniswapAddresses:
    """What of Uniswap v3 the market uses."""

    factory: str
    router: str
    positions: str
    quoter: str


def pool_init_code_hash() -> str:
    """keccak256 of the pool's creation code, from which pool addresses are computed."""
    return "0x" + keccak(third_party("UniswapV3Pool").bytecode).hex()


def sqrt_price_x96(amount1: int, amount0: int) -> int:
    """The pool price at which `amount0` of token0 are worth `amount1` of token1 (base units), rounded down."""
    return isqrt((amount1 << 192) // amount0)


def price_of(sqrt_x96: int, *, base_is_token0: bool, base_decimals: int, quote_decimals: int) -> Decimal:
    """Whole quote tokens for one whole base token at a pool price, to 40 digits."""
    with localcontext() as context:
        context.prec = 40
        ratio = Decimal(sqrt_x96 * sqrt_x96) / Decimal(1 << 192)
        return (ratio if base_is_token0 else 1 / ratio).scaleb(base_decimals - quote_decimals)


def amount_in_to_reach(sqrt_from: int, sqrt_to: int, liquidity: int, fee: int) -> int:
    """Input, fee included and rounded up, that moves a pool of constant liquidity from one price to the other.

    It is in token0 when the price falls, in token1 when it rises.
    """
    low, high = sorted((sqrt_from, sqrt_to))
    if sqrt_to < sqrt_from:
        net = _divide_up(_divide_up((liquidity << 96) * (high - low), high), low)
    else:
        net = _divide_up(liquidity * (high - low), Q96)
    return _divide_up(net * FEE_UNIT, FEE_UNIT - fee)


def deploy_uniswap(evm: LocalEvm, *, weth: str, deployer: Account) -> UniswapAddresses:
    """Deploy factory, router, position manager and quoter from their npm packages."""

    def deploy(name: str, *args: str) -> str:
        return str(evm.deploy(third_party(name), *args, sender=deployer).address)

    factory = deploy("UniswapV3Factory")
    return UniswapAddresses(
        factory=factory,
        router=deploy("SwapRouter", factory, weth),
        # No descriptor: it only draws the NFT's picture.
        positions=deploy("NonfungiblePositionManager", factory, weth, "0x" + "00" * 20),
        quoter=deploy("QuoterV2", factory, weth),
    )


def create_pool(
    evm: LocalEvm, uniswap: UniswapAddresses, tokens: tuple[str, str], fee: int, sqrt_x96: int, *, sender: Account
) -> str:
    """Create the pool of two tokens at a price and return its address."""
    positions = evm.at(third_party("NonfungiblePositionManager"), uniswap.positions)
    create = positions.functions.createAndInitializePoolIfNecessary(*sort_tokens(*tokens), fee, sqrt_x96)
    evm.send(create, sender)
    factory = evm.at(third_party("UniswapV3Factory"), uniswap.factory)
    return str(evm.call(factory.functions.getPool(*tokens, fee)))


def add_liquidity(
    evm: LocalEvm, uniswap: UniswapAddresses, amounts: dict[str, int], fee: int, *, provider: Account
) -> None:
    """Put up to these amounts (base units by token address) into the pool, over the whole range of prices."""
    token0, token1 = sort_tokens(*amounts)
    spacing = TICK_SPACING[fee]
    edge = MAX_TICK // spacing * spacing
    for token, amount in amounts.items():
        approve(evm, token, uniswap.positions, amount, owner=provider)
    mint = (token0, token1, fee, -edge, edge, amounts[token0], amounts[token1], 0, 0, provider.address, FOREVER_S)
    positions = evm.at(third_party("NonfungiblePositionManager"), uniswap.positions)
    evm.send(positions.functions.mint(mint), provider)


def swap(
    evm: LocalEvm,
    uniswap: UniswapAddresses,
    path: tuple[str, str],
    fee: int,
    amount_in: int,
    *,
    sender: Account,
    min_out: int = 0,
    sqrt_limit_x96: int = 0,
) -> int:
    """Swap `path[0]` for `path[1]` through the router; the amount received.

    With a limit the swap stops at that pool price, and takes only what it needed to get there. The sender's tokens
    must be there; the router's allowance is given when it is short. Raises TransactionReverted.
    """
    if allowance(evm, path[0], uniswap.router, owner=sender) < amount_in:
        approve(evm, path[0], uniswap.router, 2**256 - 1, owner=sender)
    router = evm.at(third_party("SwapRouter"), uniswap.router)
    order = (*path, fee, sender.address, FOREVER_S, amount_in, min_out, sqrt_limit_x96)
    receipt = evm.send(router.functions.exactInputSingle(order), sender)
    topic = keccak(text="Transfer(address,address,uint256)")
    received = (
        int.from_bytes(log["data"], "big")
        for log in receipt["logs"]
        if log["address"] == path[1] and log["topics"][0] == topic and log["topics"][2][12:] == _raw(sender.address)
    )
    return sum(received)


def sort_tokens(a: str, b: str) -> tuple[str, str]:
    """token0 and token1: the lower address first."""
    return (a, b) if int(a, 16) < int(b, 16) else (b, a)


def erc20(evm: LocalEvm, token: str) -> Contract:
    """Any ERC-20 at that address."""
    return evm.at("MockToken", token)


def balance(evm: LocalEvm, token: str, owner: str) -> int:
    return int(evm.call(erc20(evm, token).functions.balanceOf(owner)))


def allowance(evm: LocalEvm, token: str, spender: str, *, owner: Account) -> int:
    return int(evm.call(erc20(evm, token).functions.allowance(owner.address, spender)))


def approve(evm: LocalEvm, token: str, spender: str, amount: int, *, owner: Account) -> None:
    evm.send(erc20(evm, token).functions.approve(spender, amount), owner)


def _divide_up(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _raw(address: str) -> bytes:
    return bytes.fromhex(address[2:])
