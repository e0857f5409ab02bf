"""Artifacts are found or refused with the way out; reverts and logs are decoded by name."""

import pytest
from eth_abi.abi import encode
from eth_abi.exceptions import DecodingError
from eth_utils import keccak, to_checksum_address

from agents.contracts import (
    ArtifactMissing,
    EventLog,
    RevertReason,
    artifact_names,
    decode_logs,
    decode_outputs,
    decode_revert,
    load_artifact,
    signature,
    third_party,
)

ALICE, BOB = (to_checksum_address("0x" + digits * 20) for digits in ("aa", "bb"))


def selector(text: str) -> bytes:
    return keccak(text=text)[:4]


def as_topic(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def test_an_unknown_artifact_is_refused_with_the_way_out():
    with pytest.raises(ArtifactMissing, match="make artifacts"):
        load_artifact("NoSuchContract")


def test_an_unknown_third_party_contract_is_refused_with_those_known():
    with pytest.raises(ArtifactMissing, match="UniswapV3Pool"):
        third_party("NoSuchContract")


def test_a_third_party_contract_that_is_not_installed_says_make_install(monkeypatch):
    monkeypatch.setattr("agents.contracts.node_modules_roots", lambda: iter(()))
    third_party.cache_clear()
    with pytest.raises(ArtifactMissing, match="make install"):
        third_party("WETH9")
    third_party.cache_clear()


def test_every_artifact_in_the_package_loads_and_has_code():
    names = artifact_names()
    assert "FeedProxy" in names
    assert "manifest" not in names
    for name in names:
        artifact = load_artifact(name)
        assert artifact.abi
        assert artifact.bytecode
        assert 0 < len(artifact.deployed_bytecode) <= 24_576


def test_third_party_contracts_fit_the_normal_size_limit():
    for name in ("UniswapV3Pool", "UniswapV3Factory", "NonfungiblePositionManager", "SwapRouter", "QuoterV2", "WETH9"):
        assert 0 < len(third_party(name).bytecode) <= 49_152


def test_revert_without_data_has_no_reason():
    assert decode_revert(b"") == RevertReason("NoReason")


@pytest.mark.parametrize("data", [b"\x01", b"\xde\xad\xbe\xef", b"\xde\xad\xbe\xef" + bytes(31)])
def test_revert_data_of_no_known_error_is_kept_as_it_is(data: bytes):
    reason = decode_revert(data)
    assert reason.name == "Unknown"
    assert reason.args["data"] == "0x" + data.hex()


def test_revert_data_cut_short_is_unknown_not_an_exception():
    assert decode_revert(selector("Error(string)") + bytes(10)).name == "Unknown"


def test_revert_with_a_string_is_an_error_with_its_message():
    data = selector("Error(string)") + encode(["string"], ["LOK"])
    assert decode_revert(data) == RevertReason("Error", {"message": "LOK"})


def test_panic_says_what_it_means():
    data = selector("Panic(uint256)") + encode(["uint256"], [0x11])
    assert decode_revert(data) == RevertReason("Panic", {"code": 0x11, "meaning": "arithmetic overflow"})


def test_custom_errors_of_our_contracts_and_of_openzeppelin_have_names_and_arguments():
    ours = selector("FeedAggregatorUnauthorized(address)") + encode(["address"], [ALICE])
    assert decode_revert(ours) == RevertReason("FeedAggregatorUnauthorized", {"caller": ALICE})
    theirs = selector("ERC20InsufficientBalance(address,uint256,uint256)")
    reason = decode_revert(theirs + encode(["address", "uint256", "uint256"], [ALICE, 1, 2]))
    assert str(reason) == f"ERC20InsufficientBalance(sender={ALICE}, balance=1, needed=2)"


def test_every_custom_error_in_every_abi_is_decoded_under_its_name():
    zeros = {"address": "0x" + "00" * 20, "bool": False, "string": "", "bytes": b""}
    for name in artifact_names():
        for abi in load_artifact(name).abi:
            if abi["type"] == "error" and not any(item["type"].startswith("tuple") for item in abi["inputs"]):
                types = [item["type"] for item in abi["inputs"]]
                values = [[] if t.endswith("]") else zeros.get(t, b"" if "bytes" in t else 0) for t in types]
                assert decode_revert(selector(signature(abi)) + encode(types, values)).name == abi["name"]


def test_logs_of_strangers_are_left_out_and_ours_come_in_order_with_named_arguments():
    transfer = keccak(text="Transfer(address,address,uint256)")
    receipt = {
        "logs": [
            {"address": ALICE, "topics": [], "data": b""},
            {"address": ALICE, "topics": [keccak(text="Nobody(uint256)")], "data": bytes(32)},
            {"address": BOB, "topics": [transfer, as_topic(ALICE), as_topic(BOB)], "data": encode(["uint256"], [7])},
        ]
    }
    assert decode_logs(receipt) == [EventLog(BOB, "Transfer", {"from": ALICE, "to": BOB, "value": 7})]


def test_a_log_with_a_known_topic_but_other_indexing_is_left_out():
    swapped = {"address": ALICE, "topics": [keccak(text="Transfer(address,address,uint256)")], "data": bytes(96)}
    assert decode_logs({"logs": [swapped]}) == []


def test_logs_are_decoded_from_plain_json_too():
    topics = [keccak(text="Rebased(uint256)")]
    log = {"address": ALICE.lower(), "topics": ["0x" + t.hex() for t in topics], "data": "0x" + (5).to_bytes(32).hex()}
    assert decode_logs({"logs": [log]}) == [EventLog(ALICE, "Rebased", {"scaleWad": 5})]


def test_outputs_too_short_for_the_abi_are_refused():
    with pytest.raises(DecodingError):
        decode_outputs([{"name": "", "type": "uint256"}], bytes(31))


def test_outputs_are_one_value_or_a_named_tuple_with_structs_inside():
    pair = {
        "name": "pair",
        "type": "tuple[]",
        "components": [{"name": "who", "type": "address"}, {"name": "amount", "type": "uint256"}],
    }
    number = {"name": "", "type": "uint256"}
    assert decode_outputs([], b"") is None
    assert decode_outputs([number], encode(["uint256"], [3])) == 3
    found = decode_outputs([number, pair], encode(["uint256", "(address,uint256)[]"], [3, [(ALICE, 4)]]))
    assert found[0] == 3
    assert found.pair[0].who == ALICE
    assert found.pair[0].amount == 4
