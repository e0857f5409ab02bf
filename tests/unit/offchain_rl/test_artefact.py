"""Equal content is equal bytes, another hash is refused, and nothing malformed gets through."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import example, given
from hypothesis import strategies as st

from offchain_rl.artefact import (
    MAX_ARTEFACT_BYTES,
    ActionSpec,
    Artefact,
    ArtefactInvalid,
    ArtefactMismatch,
    canonical_bytes,
    code_version,
    load,
    parse,
    save,
)
from offchain_rl.observation import ObservationSpec

SPEC = ObservationSpec(lookback=9, vol_window=8, features=("return_z:1", "ma_cross_z:2:9", "weight"))
LAYERS = [
    {"biases": [5, -7], "storage": "int16", "weight_bits": 12, "weights": [[4096, -300, 17], [-9000, 2, 32767]]},
    {"biases": [100], "storage": "int8", "weight_bits": 6, "weights": [[-127, 90]]},
]
MLP = Artefact(name="golden", kind="mlp", observation=SPEC, parameters={"layers": LAYERS}, provenance={"seed": 1})
OTHERS = (
    Artefact(name="hold", kind="hold", observation=SPEC),
    Artefact(name="keep", kind="buy_and_hold", observation=SPEC),
    Artefact(name="half", kind="constant", observation=SPEC, parameters={"weight_bps": 5_000}),
    Artefact(
        name="trend",
        kind="moving_average",
        observation=SPEC,
        parameters={"feature": "ma_cross_z:2:9", "weight_above_bps": 4_000, "weight_below_bps": 0},
    ),
)


def changed(change: Callable[[dict[str, Any]], None], artefact: Artefact = MLP) -> bytes:
    """The bytes of an artefact after `change`, written as canonically as it allows."""
    document = json.loads(artefact.to_bytes())
    change(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def set_path(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


# Refusals


def test_other_artefact_than_approved_is_refused_with_both_hashes(tmp_path: Path) -> None:
    actual = save(MLP, tmp_path / "a.json")
    expected = "0x" + "11" * 32
    with pytest.raises(ArtefactMismatch) as refusal:
        load(tmp_path / "a.json", expected_hash=expected)
    assert (refusal.value.expected, refusal.value.actual) == (expected, actual)


def test_hash_is_compared_before_anything_is_parsed() -> None:
    with pytest.raises(ArtefactMismatch):
        parse(b"not even JSON", expected_hash="0x" + "11" * 32)


@pytest.mark.parametrize("text", ["", "0x12", "11" * 32, "0x" + "zz" * 32, b"short"])
def test_expected_hash_that_is_none_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="an artefact hash is 32 bytes"):
        parse(MLP.to_bytes(), expected_hash=text)


def test_large_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b" " * (MAX_ARTEFACT_BYTES + 1))
    with pytest.raises(ArtefactInvalid, match="larger than 1048576 bytes"):
        load(tmp_path / "a.json")
    with pytest.raises(ArtefactInvalid, match="larger than 1048576 bytes"):
        replace(MLP, report={"text": "x" * MAX_ARTEFACT_BYTES})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "the top level is not an object"),
        (b"{}", "format is not 'marketflow/artefact'"),
        (b"[" * 100_000, "nested"),
        (b"9" * 5_000, "not JSON"),
        (b'{"a":1,"a":1}', "a key is given twice"),
        (b'{"a":1.5}', "1.5 is not an integer"),
        (b'{"a":1e3}', "1e3 is not an integer"),
        (b'{"a":NaN}', "NaN is not an integer"),
        (b'{"a":-Infinity}', "-Infinity is not an integer"),
        (MLP.to_bytes() + b"\n", "not canonical"),
        (b" " + MLP.to_bytes(), "not canonical"),
        (MLP.to_bytes().replace(b'"golden"', b'"g\\u006flden"'), "not canonical"),
        (MLP.to_bytes().replace(b'"seed":1', b'"seed":-0'), "not canonical"),
        (changed(set_path("version", to=2)), "unknown version 2, this code knows 1"),
        (changed(set_path("version", to=True)), "unknown version True"),
        (changed(set_path("extra", to=1)), "the artefact has the unknown extra"),
        (changed(lambda document: document.pop("report")), "the artefact has no report"),
        (changed(set_path("name", to="Upper Case")), "name is 1 to 64"),
        (changed(set_path("name", to=["a"])), "name is 1 to 64"),
        (changed(set_path("kind", to="oracle")), "unknown kind 'oracle'"),
        (changed(set_path("provenance", to=[])), "provenance is an object"),
        (changed(set_path("provenance", "seed", to=None)), "provenance.seed is a NoneType"),
        (changed(set_path("provenance", "seed", to=1 << 53)), "provenance.seed does not fit 53 bits"),
        (changed(set_path("provenance", "é", to=1)), "the key 'é' is not an ASCII text"),
        (changed(set_path("observation", to=3)), "observation is not an object"),
        (changed(set_path("observation", "version", to=9)), "observation: observation spec version 9"),
        (changed(set_path("observation", "features", 0, to="tomorrow:1")), "unknown feature 'tomorrow'"),
        (changed(set_path("observation", "features", to="weight")), "observation.features is not a list"),
        (changed(set_path("observation", "features", 0, to={})), "is not the name of a feature"),
        (changed(set_path("action", "max_weight_bps", to=10_001)), "action.max_weight_bps is an integer from 0 to"),
        (changed(set_path("action", "deadband_bps", to="5")), "action.deadband_bps is an integer"),
        (changed(set_path("action", "speed", to=5)), "action has the unknown speed"),
        (changed(set_path("parameters", "layers", to=[])), "layers is a list of 1 to 8"),
        (changed(set_path("parameters", "layers", 0, to=[])), "layer 0 is not an object"),
        (changed(set_path("parameters", "layers", 0, "storage", to="int4")), "layer 0: storage is int8 or int16"),
        (changed(set_path("parameters", "layers", 0, "storage", to=[])), "layer 0: storage is int8 or int16"),
        (changed(set_path("parameters", "layers", 0, "weights", 1, 2, to=32768)), "is not an integer within 32767"),
        (changed(set_path("parameters", "layers", 1, "weights", 0, 0, to=-128)), "is not an integer within 127"),
        (changed(set_path("parameters", "layers", 0, "weights", 0, to=[1, 2])), "layer 0: each row has 3 weights"),
        (changed(set_path("parameters", "layers", 1, "weights", 0, to=[1])), "layer 1: each row has 2 weights"),
        (changed(set_path("parameters", "layers", 0, "biases", to=[1])), "layer 0: 2 biases"),
        (changed(set_path("parameters", "layers", 0, "biases", 0, to=1 << 48)), "a bias is not an integer within"),
        (changed(set_path("parameters", "layers", 0, "weight_bits", to=25)), "weight_bits is an integer from 0 to 24"),
        (changed(lambda d: d["parameters"]["layers"].pop()), "the last layer has 2 outputs, expected 1"),
        (changed(set_path("parameters", "weight_bps", to=5_001), OTHERS[2]), "expected an integer from 0 to 5000"),
        (changed(set_path("parameters", "feature", to="log_vol:2"), OTHERS[3]), "is not in the observation"),
        (changed(set_path("parameters", "x", to=1), OTHERS[0]), "parameters has the unknown x"),
    ],
)
def test_anything_else_than_a_canonical_artefact_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ArtefactInvalid) as refusal:
        parse(content)
    assert reason in refusal.value.reason


@pytest.mark.parametrize("value", [1.0, None, b"x", {1: 2}, {"a": {"b": 0.5}}, "\ud800", 1 << 60])
def test_what_has_no_canonical_form_is_not_written(value: Any) -> None:
    with pytest.raises(ArtefactInvalid):
        canonical_bytes(value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_file_with_any_value_replaced_is_read_or_refused_but_never_crashes(data: st.DataObject) -> None:
    document = json.loads(data.draw(st.sampled_from((MLP, *OTHERS))).to_bytes())
    target, key = {"top": document}, "top"
    while isinstance(target[key], dict | list) and target[key] and data.draw(st.integers(0, 3)):
        target = target[key]
        key = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
    target[key] = data.draw(JSON_VALUES)
    content = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    try:
        artefact = parse(content)
    except ArtefactInvalid:
        return
    assert artefact.to_bytes() == content


@given(st.binary(max_size=200))
@example(b'{"\\ud800":1}')
def test_any_bytes_are_refused_in_one_way(content: bytes) -> None:
    with pytest.raises(ArtefactInvalid):
        parse(content)


# What it is


def test_artefact_is_the_known_one() -> None:
    assert MLP.artefact_hash == "0x89cbf62c16f37e98d9232c6b6a13170195054284c52dbc60bf582b38e36d9ba8"
    assert MLP.artefact_hash == "0x" + keccak(MLP.to_bytes()).hex()


@pytest.mark.parametrize("artefact", [MLP, *OTHERS], ids=lambda artefact: artefact.kind)
def test_artefact_survives_the_file(artefact: Artefact, tmp_path: Path) -> None:
    artefact_hash = save(artefact, tmp_path / "a.json")
    for expected in (None, artefact_hash, artefact_hash.upper().replace("0X", "0x"), bytes.fromhex(artefact_hash[2:])):
        loaded = load(tmp_path / "a.json", expected)
        assert loaded == artefact
        assert loaded.artefact_hash == artefact_hash


def test_artefact_can_not_be_changed_after_it_was_made() -> None:
    layers = json.loads(json.dumps(LAYERS))
    artefact = replace(MLP, parameters={"layers": layers})
    layers[0]["biases"][0] = 99
    assert artefact == MLP
    with pytest.raises(TypeError):
        artefact.provenance["seed"] = 2  # type: ignore[index]
    with pytest.raises(TypeError):
        artefact.parameters["layers"][0]["weights"][0][0] = 2


def test_text_is_unicode_and_numbers_go_up_to_53_bits() -> None:
    report = {"note": "±ü\n\t\x00😀", "n": (1 << 53) - 1, "yes": True}
    artefact = replace(MLP, report=report)
    assert parse(artefact.to_bytes()).report == report


def test_action_has_limits() -> None:
    with pytest.raises(ArtefactInvalid, match="deadband_bps"):
        ActionSpec(deadband_bps=-1)


def test_code_version_is_a_hash() -> None:
    assert len(code_version()) == 66
    assert code_version() == code_version()
