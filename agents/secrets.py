"""What must not leave the process: core dumps forbidden, secrets taken out of everything that is logged.

Secrets that are known are registered with a `Redactor` and removed in every spelling they are likely to be printed in.
Nothing is guessed by looks alone: a transaction hash, an explanation's hash and a private key are all 32 bytes of hex.
What was not registered is removed only where the words before it say what it is, and in the addresses of nodes, whose
paths are access keys.

Not promised: secrets cut into pieces, compressed or encrypted, in screenshots of memory (`/proc/PID/mem`, swap,
hibernation), or printed by code that does not go through logging or the hooks of `guard_tracebacks`.
"""

from __future__ import annotations

import base64
import ctypes
import json
import logging
import re
import resource
import string
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from pydantic import SecretStr

REMOVED = "[removed]"
# Shorter ones are removed as whole words only: else a passphrase "a" would take every a, and be known by its gaps.
_PREFIX = 8
# A shorter number is too likely to be another one.
_MIN_NUMBER_BYTES = 16
# Parts of a node's address that are at least this long are access keys and not names such as "mainnet".
_MIN_URL_PART = 16
# One character stays one character: str.lower makes two of some, and places would shift.
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


# Core dumps


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreDumps:
    """What the system says about core dumps of this process."""

    # Files of no length: children inherit it.
    limit_is_zero: bool
    # Not by a handler such as systemd-coredump either, and no debugger of the same user. None where the system has no
    # such switch. Ends with exec: children are dumpable again.
    is_undumpable: bool | None

    @property
    def are_forbidden(self) -> bool:
        """Whether everything that the system offers was done."""
        return self.limit_is_zero and self.is_undumpable is not False

    def __str__(self) -> str:
        if self.are_forbidden:
            return "core dumps are forbidden"
        return "core dumps are possible: a crash may write keys to disk; set LimitCORE=0, or `ulimit -c 0`"


def forbid_core_dumps() -> CoreDumps:
    """Forbids core dumps of this process, and says whether it worked. Never raises."""
    with suppress(OSError, ValueError):  # what holds is read below
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return CoreDumps(
        limit_is_zero=resource.getrlimit(resource.RLIMIT_CORE)[0] == 0,
        is_undumpable=_set_undumpable() if sys.platform == "linux" else None,
    )


def _set_undumpable() -> bool:
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return False
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return bool(prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)


# Known secrets, in all their spellings


class Redactor:
    """Takes secrets out of texts. Used by several threads; a secret is registered before it is first used.

    A look at a text costs about 0.3 µs for each character, however many secrets are registered.
    """

    __slots__ = ("_index", "_words")

    def __init__(self) -> None:
        # Spellings in lower case by their first characters.
        self._index: dict[str, tuple[str, ...]] = {}
        self._words: dict[str, re.Pattern[str]] = {}

    def __repr__(self) -> str:
        return f"<Redactor of {sum(map(len, self._index.values())) + len(self._words)} spellings>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a Redactor knows secrets: it can't be copied or pickled")

    def add(self, *secrets: str | bytes | SecretStr) -> None:
        """Registers secrets: texts such as passphrases, bytes such as keys. A text of 64 hex digits is a key too."""
        for secret in secrets:
            for spelling in set(_spellings(secret.get_secret_value() if isinstance(secret, SecretStr) else secret)):
                self._add_spelling(spelling)

    def add_url(self, url: str | SecretStr) -> None:
        """Registers what is secret in the address of a node or a webhook: user, password, long parts of the path and
        the query. Addresses are shortened anyway; this is for libraries that print the path alone."""
        parts = urlsplit(url.get_secret_value() if isinstance(url, SecretStr) else url)
        words = [*parts.path.split("/"), *(value for _, value in parse_qsl(parts.query)), parts.username or ""]
        self.add(*(form for word in words if len(word) >= _MIN_URL_PART for form in {word, unquote(word)}))
        if parts.password:
            self.add(*{parts.password, unquote(parts.password)})

    def _add_spelling(self, spelling: str) -> None:
        if len(spelling) < _PREFIX:
            if spelling.strip():
                self._words[spelling] = re.compile(rf"(?<!\w){re.escape(spelling)}(?!\w)")
            return
        low = spelling.translate(_LOWER)
        same = self._index.get(low[:_PREFIX], ())
        if low not in same:
            self._index[low[:_PREFIX]] = (*same, low)

    def redact(self, text: str) -> str:
        """The text without secrets; each became `[removed]`, or an address of a node without its path."""
        for pattern in tuple(self._words.values()):
            text = pattern.sub(REMOVED, text)
        if self._index:
            text = _without(text, _merged(self._find(text.translate(_LOWER))))
        low = text.translate(_LOWER)
        for hints, pattern, replacement in _SHAPES:
            if any(hint in low for hint in hints):
                text = pattern.sub(replacement, text)
        return text

    def _find(self, low: str) -> Iterator[tuple[int, int]]:
        index = self._index
        for start in range(len(low) - _PREFIX + 1):
            for spelling in index.get(low[start : start + _PREFIX], ()):
                if low.startswith(spelling, start):
                    yield start, start + len(spelling)


def _merged(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that overlap or touch as one. They come sorted by their start."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = text[:start] + REMOVED + text[end:]
    return text


def _spellings(secret: str | bytes) -> Iterator[str]:
    if isinstance(secret, str):
        yield from _spellings_of_text(secret)
        digits = secret.removeprefix("0x").removeprefix("0X")
        if re.fullmatch("[0-9a-fA-F]{64}", digits):
            yield from _spellings_of_bytes(bytes.fromhex(digits))
        secret = secret.encode()
    if len(secret) >= _PREFIX:
        yield from _spellings_of_bytes(bytes(secret))


def _spellings_of_text(text: str) -> Iterator[str]:
    """As it is, and as Python, JSON and addresses escape it."""
    yield text
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    yield from (quote(text), quote(text, safe=""), quote_plus(text))
    yield from _escaped("".join(repr(character)[1:-1] for character in text))
    yield from _escaped("".join(ascii(character)[1:-1] for character in text))


def _spellings_of_bytes(data: bytes) -> Iterator[str]:
    """Hex, base64 at each of its three alignments, Python's bytes and lists of numbers, one number."""
    yield data.hex()
    yield from (data.hex(separator) for separator in ":- _")
    yield from _base64(data)
    yield from _escaped("".join(repr(bytes((byte,)))[2:-1] for byte in data))
    if len(data) >= _MIN_NUMBER_BYTES:
        yield from (separator.join(map(str, data)) for separator in (", ", ",", " "))
        number = int.from_bytes(data, "big")
        yield from (str(number), f"{number:x}")


def _escaped(shown: str) -> Iterator[str]:
    """What Python prints, alone and inside another text. Which quotes it escapes depends on what else is there."""
    for once in _quoted(shown):
        yield once
        yield from _quoted(once.replace("\\", "\\\\"))


def _quoted(text: str) -> tuple[str, ...]:
    return text, text.replace("'", r"\'"), text.replace('"', r"\"")


def _base64(data: bytes) -> Iterator[str]:
    """The characters that depend on `data` alone, wherever it lies in what is encoded."""
    for before in range(3):
        padded = bytes(before) + data
        first, last = -(-before * 8 // 6), len(padded) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            core = encode(padded).decode()[first:last]
            if len(core) >= _PREFIX:
                yield core


# Unknown secrets, where words say what they are


def _short_url(match: re.Match[str]) -> str:
    rest = match["rest"] or ""
    return f"{match['scheme']}://{match['host']}{'/…' if len(rest) > 1 else rest}"


_KEY_WORDS = (
    r"(?:(?<![a-z])(?:private[ _-]?key|priv[ _-]?key|secret(?:[ _-]?key)?|signing[ _-]?key|root[ _-]?key|seed|mnemonic)"
    r"|(?<![\w-])(?<!\w )key(?=\W{0,2}[=:]))"
)
# A token alone is a contract here.
_SECRET_WORDS = r"(?:passphrase|password|passwd|mnemonic|api[_-]?key|secret|(?:access|auth|api)[_-]?token)"
_SECRET_HINTS = ("pass", "mnemonic", "api", "secret", "token")
# Each with words of which one is in every text that it changes: searching for those first is ten times faster.
_SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str], Any], ...] = (
    # The path of a node's address is an access key with most providers, and of a webhook's with all.
    (
        ("://",),
        re.compile(
            r"(?P<scheme>\b(?:https?|wss?))://(?:[^\s/'\"<>]*@)?(?P<host>[^\s/?#'\"<>@]+)(?P<rest>[/?#][^\s'\"<>]*)?",
            re.IGNORECASE,
        ),
        _short_url,
    ),
    (("://",), re.compile(r"\b([a-z][a-z0-9+.-]{0,30}://)[^\s/@'\"<>]+@", re.IGNORECASE), rf"\1{REMOVED}@"),
    # As urllib3 says it: "exceeded with url" and the path alone.
    (("url:",), re.compile(r"(\burl: ?)/[^\s'\"<>]+", re.IGNORECASE), r"\1/…"),
    (
        ("authorization",),
        re.compile(r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?)[^\s'\",}]+", re.IGNORECASE),
        rf"\1{REMOVED}",
    ),
    (("bearer",), re.compile(r"(\bbearer\s+)[\w.~+/=-]{16,}", re.IGNORECASE), rf"\1{REMOVED}"),
    (
        ("key", "secret", "seed", "mnemonic"),
        re.compile(
            rf"({_KEY_WORDS}(?:_hex|_bytes)?\W{{0,6}}(?:(?:is|was|b|bytes|HexBytes)\W{{1,3}})?)"
            r"(?:0x)?[0-9a-f]{64}(?![0-9a-f])",
            re.IGNORECASE,
        ),
        rf"\1{REMOVED}",
    ),
    (
        _SECRET_HINTS,
        re.compile(rf"({_SECRET_WORDS}['\"]?\s*[=:]\s*)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", re.IGNORECASE),
        rf"\1{REMOVED}",
    ),
    (_SECRET_HINTS, re.compile(rf"({_SECRET_WORDS}=)[^\s'\",;&]+", re.IGNORECASE), rf"\1{REMOVED}"),
)


# Logs and tracebacks


class RedactingFormatter(logging.Formatter):
    """Another formatter whose final text, tracebacks included, has no secrets: the safe place, one for each handler."""

    def __init__(self, redactor: Redactor, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._redactor, self._inner = redactor, inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """A record that can't be formatted becomes a text too: logging would print its arguments as they are."""
        try:
            text = self._inner.format(record)
        except Exception as error:
            text = f"{_message(record)} ({error!r})"
        return self._redactor.redact(text)


class RedactingFilter(logging.Filter):
    """For handlers whose formatter is not ours: changes the record itself, for all handlers that come after."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record through; message, traceback and what was given as `extra` have no secrets."""
        redact = self._redactor.redact
        record.msg, record.args = redact(_message(record)), ()
        if record.exc_info or record.exc_text:
            record.exc_text = redact(record.exc_text or _trace(record.exc_info))
            record.exc_info = None
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        for name in record.__dict__.keys() - _RECORD_FIELDS:
            record.__dict__[name] = self._clean(record.__dict__[name])
        return True

    def _clean(self, value: Any) -> Any:
        shown = value if isinstance(value, str) else repr(value)
        clean = self._redactor.redact(shown)
        return value if clean == shown else clean


_RECORD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg!r} with {record.args!r}"


def _trace(exc_info: Any) -> str:
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    return "".join(traceback.format_exception(error)).rstrip() if isinstance(error, BaseException) else ""


def guard_tracebacks(redactor: Redactor) -> None:
    """Tracebacks that nobody catches, in any thread and in destructors, reach stderr without secrets."""

    def show(error: BaseException | None, where: str = "") -> None:
        if error is not None and sys.stderr is not None:
            sys.stderr.write(redactor.redact(where + "".join(traceback.format_exception(error))))

    sys.excepthook = lambda _, error, __: show(error)
    threading.excepthook = lambda args: show(args.exc_value, f"In thread {args.thread and args.thread.name}:\n")
    sys.unraisablehook = lambda args: show(args.exc_value, f"{args.err_msg or 'Ignored'}: {args.object!r}\n")
