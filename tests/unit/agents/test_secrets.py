"""Nothing secret in logs, tracebacks, the journal or core dumps; and everything public stays readable."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from coincurve import PrivateKey
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from agents.secrets import (
    REMOVED,
    CoreDumps,
    RedactingFilter,
    RedactingFormatter,
    Redactor,
    forbid_core_dumps,
    guard_tracebacks,
)

KEY = bytes.fromhex("00b7d1f5a1c3e5079123456789abcdef00112233445566778899aabb27220aff")
PASSPHRASE = "Correct horse 'батарея\" \\ staple"
PUBLIC_HASH = "0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060"
ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


def create_redactor(*secrets: str | bytes | SecretStr) -> Redactor:
    redactor = Redactor()
    redactor.add(*(secrets or (KEY, PASSPHRASE)))
    return redactor


# Known secrets

SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "hex": lambda key: key.hex(),
    "0x": lambda key: "0x" + key.hex(),
    "upper case": lambda key: key.hex().upper(),
    "0X upper case": lambda key: "0X" + key.hex().upper(),
    "mixed case": lambda key: "".join(c.upper() if i % 3 else c for i, c in enumerate(key.hex())),
    "hex of the number": lambda key: hex(int.from_bytes(key, "big")),
    "number": lambda key: str(int.from_bytes(key, "big")),
    "base64": lambda key: base64.b64encode(key).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(key).decode(),
    "base64 without padding": lambda key: base64.b64encode(key).decode().rstrip("="),
    "base64 after one byte": lambda key: base64.b64encode(b"x" + key).decode(),
    "base64 after two bytes": lambda key: base64.b64encode(b"xy" + key + b"z").decode(),
    "bytes": repr,
    "bytearray": lambda key: repr(bytearray(key)),
    "bytes in bytes": lambda key: repr(b"it's \"" + key + b"!"),
    "bytes in a text's repr": lambda key: repr([repr(key)]),
    "bytes in a text's repr in JSON": lambda key: json.dumps({"error": repr(key)}),
    "bytes with both quotes in a text's repr": lambda key: repr([repr(key + b"'\"")]),
    "list": lambda key: str(list(key)),
    "compact list": lambda key: json.dumps(list(key), separators=(",", ":")),
    "colons": lambda key: key.hex(":"),
    "spaces": lambda key: key.hex(" ").upper(),
    "inside other hex": lambda key: "f869" + key.hex() + "8080",
    "twice": lambda key: key.hex() * 2,
    "an error": lambda key: repr(KeyError(key)),
    "DER": lambda key: base64.b64encode(PrivateKey(key).to_der()).decode(),
}


def pieces(secret: bytes) -> list[str]:
    """Half a key is too much."""
    number, encoded = str(int.from_bytes(secret, "big")), base64.b64encode(secret).decode()
    return [secret.hex()[4:40], number[4:40], encoded[4:24], repr(secret)[8:40], str(list(secret))[8:60]]


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_registered_key_is_removed_in_every_spelling(spell: Callable[[bytes], str]) -> None:
    redacted = create_redactor().redact(f"before {spell(KEY)} after")
    assert redacted.startswith("before ")
    assert redacted.endswith(" after")
    assert REMOVED in redacted
    assert not any(piece.lower() in redacted.lower() for piece in pieces(KEY))


@settings(max_examples=300, deadline=None)
@given(
    key=st.binary(min_size=32, max_size=32).filter(lambda key: len(set(key)) > 8),
    name=st.sampled_from(sorted(SPELLINGS.keys() - {"DER"})),
)
def test_any_key_is_removed_in_every_spelling(key: bytes, name: str) -> None:
    redacted = create_redactor(key).redact(SPELLINGS[name](key)).lower()
    assert REMOVED in redacted
    assert not any(piece.lower() in redacted for piece in pieces(key))


@pytest.mark.parametrize(
    "spell",
    [str, repr, ascii, json.dumps, lambda text: json.dumps(text, ensure_ascii=False), quote, str.upper, str.lower,
     lambda text: repr(text.encode()), lambda text: text.encode().hex(), lambda text: repr({"x": [text]}),
     lambda text: base64.b64encode(f"user:{text}".encode()).decode(), lambda text: f"https://{quote(text, '')}@host/"],
)  # fmt: skip
def test_a_registered_passphrase_is_removed_however_it_is_escaped(spell: Callable[[str], str]) -> None:
    passphrase = "Correct horse 'battery\" \\ staple" if spell in (str.upper, str.lower) else PASSPHRASE
    redacted = create_redactor(SecretStr(passphrase)).redact(f"before {spell(passphrase)} after").lower()
    assert "horse" not in redacted
    assert "staple" not in redacted
    assert base64.b64encode(b"orse 'b").decode().lower()[:6] not in redacted


def test_a_key_that_is_registered_as_text_is_removed_as_bytes_too() -> None:
    for text in (KEY.hex(), "0x" + KEY.hex(), "0X" + KEY.hex().upper()):
        assert create_redactor(text).redact(f"{KEY!r} {int.from_bytes(KEY, 'big')}") == f"b'{REMOVED}' {REMOVED}"


def test_a_short_secret_is_removed_as_a_word_and_leaves_others_alone() -> None:
    redactor = create_redactor("abc")
    assert redactor.redact("abc: abcdef, xabc (abc)") == f"{REMOVED}: abcdef, xabc ({REMOVED})"


def test_an_empty_secret_removes_nothing() -> None:
    assert create_redactor("", b"", " ").redact("all of this") == "all of this"


def test_letters_that_change_their_length_in_lower_case_move_nothing() -> None:
    text = "İİİİ " + KEY.hex() + " İ"
    assert create_redactor().redact(text) == f"İİİİ {REMOVED} İ"


def test_among_a_thousand_keys_each_is_removed() -> None:
    keys = [(10**70 + 7 ** (index % 80) + index).to_bytes(32, "big") for index in range(1_000)]
    redactor = create_redactor(*keys)
    for key in keys[::97]:
        assert redactor.redact(f"{key.hex()} {PUBLIC_HASH}") == f"{REMOVED} {PUBLIC_HASH}"


def test_a_redactor_shows_no_secret_and_is_not_copied() -> None:
    redactor = create_redactor()
    assert not any(piece in repr(redactor) for piece in pieces(KEY))
    with pytest.raises(TypeError, match="can't be copied or pickled"):
        pickle.dumps(redactor)


# What everybody may see

PUBLIC = [
    f"transaction {PUBLIC_HASH} was mined", f"explanation {PUBLIC_HASH}", f"trade {PUBLIC_HASH} of vault {ADDRESS}",
    f"'explanation_hash': '{PUBLIC_HASH}'", f"hash={PUBLIC_HASH}", f"artefact {PUBLIC_HASH[2:]}", f"token={ADDRESS}",
    f"journal key: {PUBLIC_HASH}", f"idempotency_key={PUBLIC_HASH}", f"public key {PUBLIC_HASH[2:]}{PUBLIC_HASH[2:]}",
    f"{{'token': '{ADDRESS}', 'block_hash': '{PUBLIC_HASH}'}}", f"raw 0x02f8{PUBLIC_HASH[2:] * 4}",
    "the passphrase is another one: correct MARKETFLOW_KEYFILE_PASSPHRASE", "nonce 7, 1000000000000000000 wei",
    "no passphrase: set MARKETFLOW_KEYFILE_PASSPHRASE", "seed 7", "ws_url=**********",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_what_is_public_stays(text: str) -> None:
    assert create_redactor().redact(text) == text


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=20, max_size=40))
def test_hashes_and_addresses_stay_whatever_they_are(data: bytes) -> None:
    text = f"transaction 0x{data.hex()} {data.hex().upper()} {int.from_bytes(data, 'big')}"
    assert create_redactor().redact(text) == text


# Unknown secrets, by the words before them


@pytest.mark.parametrize(
    "text",
    ["private key {}", "PRIVATE_KEY={}", "MARKETFLOW_PRIVATE_KEY={}", "private_key: '{}'", "privkey={}", "key={}",
     "key: {}", "{{'key': '{}'}}", "secret={}", "secret key is {}", "signing key: 0x{}", "root_key={}", "seed: {}",
     "PrivateKey(0x{})", "private_key=HexBytes('0x{}')", "private_key_hex={}"],
)  # fmt: skip
def test_an_unknown_key_after_a_word_that_says_so_is_removed(text: str) -> None:
    redacted = Redactor().redact(text.format(PUBLIC_HASH[2:]))
    assert PUBLIC_HASH[10:40] not in redacted
    assert REMOVED in redacted


@pytest.mark.parametrize(
    "text",
    ["passphrase=hunter2", "password='hunter2 x'", '"passphrase": "hunter2"', "MARKETFLOW_KEYFILE_PASSPHRASE=hunter2",
     "api_key=hunter2", "Authorization: Bearer hunter2", "'authorization': 'Basic hunter2'", "mnemonic='hunter2 ho ho'",
     "Bearer hunter2hunter2hunter2", 'password="a\\"hunter2"', "access_token=hunter2&x=1"],
)  # fmt: skip
def test_an_unknown_passphrase_after_its_name_is_removed(text: str) -> None:
    assert "hunter2" not in Redactor().redact(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://eth.node.example/v2/abcDEF123", "https://eth.node.example/…"),
        ("wss://eth.node.example:8546/ws/v3/abc?x=1", "wss://eth.node.example:8546/…"),
        ("https://user:pa@ss@eth.node.example/", "https://eth.node.example/"),
        ("HTTPS://name:pw@host", "HTTPS://host"),
        ("at http://127.0.0.1:8545 and 'http://127.0.0.1:8545/'", "at http://127.0.0.1:8545 and 'http://127.0.0.1:8545/'"),
        ("https://host?apikey=abc.", "https://host/…"),
        ("https://host#abc", "https://host/…"),
        ("postgres://me:pw@db:5432/x", f"postgres://{REMOVED}@db:5432/x"),
        ("Max retries exceeded with url: /v3/abcdef (Caused by", "Max retries exceeded with url: /… (Caused by"),
        ('{"url": "https://host/v3/abc", "n": 1}', '{"url": "https://host/…", "n": 1}'),
        ("https://host/…", "https://host/…"),
    ],
)
def test_an_address_of_a_node_keeps_its_host_only(text: str, expected: str) -> None:
    assert Redactor().redact(text) == expected


def test_parts_of_a_registered_address_are_removed_alone_too() -> None:
    redactor = Redactor()
    redactor.add_url("https://me:p%40ss-word@host/eth/mainnet/0123456789abcdefXYZ?token=zyxwvutsrqponmlkji")
    text = redactor.redact("GET /eth/mainnet/0123456789abcdefXYZ token zyxwvutsrqponmlkji p@ss-word p%40ss-word")
    assert text == f"GET /eth/mainnet/{REMOVED} token {REMOVED} {REMOVED} {REMOVED}"


def test_an_error_of_a_real_client_does_not_show_the_access_key() -> None:
    import requests

    key = "0123456789abcdef0123456789abcdef"
    redactor = Redactor()
    with pytest.raises(requests.ConnectionError) as caught:
        requests.post(f"http://127.0.0.1:9/v3/{key}", timeout=5)
    assert key in str(caught.value)
    assert key not in redactor.redact("".join(traceback.format_exception(caught.value)))


# Logs


def create_logger(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(params=["formatter", "filter"])
def log(request: pytest.FixtureRequest, stream: io.StringIO) -> logging.Logger:
    """Each of the two is enough."""
    handler, redactor = logging.StreamHandler(stream), create_redactor()
    if request.param == "formatter":
        handler.setFormatter(RedactingFormatter(redactor, logging.Formatter("%(levelname)s %(message)s")))
    else:
        handler.addFilter(RedactingFilter(redactor))
    return create_logger(handler)


def fail_with(key: bytes) -> None:
    try:
        raise ValueError(f"0x{key.hex()} is no good")
    except ValueError as error:
        raise KeyError(key, PASSPHRASE) from error


def shows_nothing(text: str) -> bool:
    return not any(piece in text for piece in (*pieces(KEY), "staple", "батарея"))


def test_messages_arguments_and_tracebacks_are_logged_without_secrets(
    log: logging.Logger, stream: io.StringIO
) -> None:
    log.warning("opened %s with %r", KEY.hex(), PASSPHRASE)
    log.warning("%(key)s of %(vault)s", {"key": KEY, "vault": ADDRESS})
    try:
        fail_with(KEY)
    except KeyError:
        log.exception("failed in %s", PUBLIC_HASH, stack_info=True)
    assert shows_nothing(stream.getvalue())
    assert "Traceback" in stream.getvalue()
    assert PUBLIC_HASH in stream.getvalue()
    assert ADDRESS in stream.getvalue()


def test_a_message_that_does_not_fit_its_arguments_is_logged_without_secrets(
    log: logging.Logger, stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    log.warning("%d %d", KEY.hex())
    assert shows_nothing(stream.getvalue())
    assert REMOVED in stream.getvalue()
    assert capsys.readouterr().err == "", "logging prints arguments of records that it can't format"


def test_the_filter_cleans_records_for_formatters_that_read_everything() -> None:
    seen: list[logging.LogRecord] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = Collect()
    handler.addFilter(RedactingFilter(create_redactor()))
    try:
        fail_with(KEY)
    except KeyError:
        create_logger(handler).exception("x", extra={"key_bytes": KEY, "phrase": PASSPHRASE, "block": 7})
    [record] = seen
    assert shows_nothing(repr(record.__dict__))
    assert record.exc_info is None
    assert vars(record)["block"] == 7


def test_the_filter_cleans_the_stack_of_a_record() -> None:
    record = logging.makeLogRecord({"msg": "x", "stack_info": f"Stack:\n  sign({KEY.hex()!r})"})
    assert RedactingFilter(create_redactor()).filter(record)
    assert record.stack_info == f"Stack:\n  sign('{REMOVED}')"


# Tracebacks


@pytest.fixture
def hooks() -> Iterator[None]:
    before = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = before


@pytest.mark.usefixtures("hooks")
def test_an_exception_that_ends_a_thread_is_shown_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    guard_tracebacks(create_redactor())
    thread = threading.Thread(target=fail_with, args=(KEY,), name="signing")
    thread.start()
    thread.join()
    shown = capsys.readouterr().err
    assert shows_nothing(shown)
    assert "In thread signing" in shown
    assert "fail_with" in shown


@pytest.mark.usefixtures("hooks")
def test_an_exception_in_a_destructor_is_shown_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    guard_tracebacks(create_redactor())

    class Failing:
        def __del__(self) -> None:
            fail_with(KEY)

    Failing()
    shown = capsys.readouterr().err
    assert shows_nothing(shown)
    assert "fail_with" in shown


# A real process that has a key

_AGENT = """
import logging, sys, threading
from pathlib import Path
from pydantic import SecretStr
from agents.journal import Journal
from agents.secrets import RedactingFormatter, Redactor, guard_tracebacks
from agents.signer import TransactionFields, VaultSigner, load_keyfile

folder, is_guarded, passphrase = Path(sys.argv[1]), sys.argv[2] == "guarded", SecretStr(sys.stdin.readline()[:-1])
redactor = Redactor()
for handler in (logging.FileHandler(folder / "agent.log"), logging.StreamHandler()):
    if is_guarded:
        handler.setFormatter(RedactingFormatter(redactor))
    logging.getLogger().addHandler(handler)
if is_guarded:
    guard_tracebacks(redactor)

key = load_keyfile(folder / "key.json", passphrase, redactor=redactor)
vault = "0x" + "a1" * 20
signer = VaultSigner(key, chain_id=1, vaults=[vault], max_fee_per_gas_wei=10**9, max_gas=10**6)
fields = TransactionFields(
    chain_id=1, nonce=0, gas=10**6, max_fee_per_gas_wei=1, max_priority_fee_per_gas_wei=0, to=vault, value_wei=0,
    data=bytes.fromhex("18178358"),
)
signed = signer.sign(fields)
journal = Journal(folder / "journal.sqlite")
row = journal.open_intent(vault=vault, sequence=1, block=1, decided_at_s=1, explanation_hash="0x" + "22" * 32)
journal.reviewed(row)
journal.sign(row, account=signer.address, account_nonce=0, raw=signed.raw, transaction_hash=signed.hash)
logging.warning("signed %s with %r", signed.hash, signer)
try:
    load_keyfile(folder / "key.json", SecretStr(passphrase.get_secret_value() + "x"), redactor=redactor)
except Exception:
    logging.exception("the wrong passphrase")

def fail(secret):
    in_a_variable, phrase = secret.hex(), passphrase.get_secret_value()
    raise RuntimeError(f"{in_a_variable} {secret!r} {int.from_bytes(secret, 'big')} {phrase} {signed.hash}")

try:
    fail(key.secret)
except RuntimeError:
    logging.exception("caught, key %s", key.secret)
thread = threading.Thread(target=fail, args=(key.secret,))
thread.start()
thread.join()
fail(key.secret)
"""


def run_agent(folder: Path, mode: str) -> tuple[str, bytes]:
    """What it printed, and all that it wrote beside its keyfile."""
    document = Account.encrypt(KEY, PASSPHRASE, kdf="scrypt", iterations=2)
    (folder / "key.json").write_text(json.dumps(document))
    (folder / "key.json").chmod(0o600)
    ended = subprocess.run(
        [sys.executable, "-c", _AGENT, str(folder), mode], input=PASSPHRASE + "\n", capture_output=True, text=True,
        timeout=60, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    files = [path for path in folder.iterdir() if path.name != "key.json"]
    assert {"agent.log", "journal.sqlite"} <= {path.name for path in files}
    return ended.stdout + ended.stderr, b"".join(path.read_bytes() for path in files)


def test_an_agent_that_fails_with_its_key_in_hand_shows_it_nowhere(tmp_path: Path) -> None:
    printed, written = run_agent(tmp_path, "guarded")
    assert printed.count("RuntimeError") == 3, "logged, in a thread, and at the end"
    assert "signed 0x" in printed
    for text in (printed, written.decode(errors="replace")):
        assert shows_nothing(text)
    assert KEY not in written
    assert PASSPHRASE.encode() not in written


def test_without_the_guard_the_same_agent_would_show_it(tmp_path: Path) -> None:
    printed, written = run_agent(tmp_path, "bare")
    assert KEY.hex() in printed
    assert KEY.hex().encode() in written


# Core dumps

_CRASH = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
from agents.secrets import forbid_core_dumps
if sys.argv[1] == "guarded":
    print(forbid_core_dumps(), flush=True)
os.chdir(sys.argv[2])
import ctypes
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE), flush=True)
os.abort()
"""


def crash(folder: Path, mode: str) -> tuple[int, str]:
    """Wait status and output of a process that aborts."""
    with (folder / "out.txt").open("wb") as out:
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1)]
        program = [sys.executable, "-c", _CRASH, mode, str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        pid = os.posix_spawn(sys.executable, program, environment, file_actions=actions)
        _, status = os.waitpid(pid, 0)
    printed = (folder / "out.txt").read_text()
    (folder / "out.txt").unlink()
    return status, printed


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
def test_a_process_that_aborts_leaves_no_core(tmp_path: Path) -> None:
    status, printed = crash(tmp_path, "guarded")
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)
    assert printed.splitlines() == ["core dumps are forbidden", "0 0 0"]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
def test_without_the_guard_the_same_process_could_leave_one(tmp_path: Path) -> None:
    """Whether the system then writes one is the system's business."""
    status, printed = crash(tmp_path, "bare")
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert printed.split()[0] != "0"
    for core in tmp_path.iterdir():  # tens of megabytes
        core.unlink()


def test_what_did_not_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    monkeypatch.setattr("agents.secrets._set_undumpable", lambda: False)
    answer = forbid_core_dumps()
    assert not answer.are_forbidden
    assert "LimitCORE=0" in str(answer)


@pytest.mark.parametrize(
    ("limit_is_zero", "is_undumpable", "expected"),
    [(True, True, True), (True, None, True), (True, False, False), (False, True, False), (False, None, False)],
)
def test_core_dumps_are_forbidden_when_everything_the_system_offers_was_done(
    limit_is_zero: bool, is_undumpable: bool | None, expected: bool
) -> None:
    assert CoreDumps(limit_is_zero=limit_is_zero, is_undumpable=is_undumpable).are_forbidden is expected
