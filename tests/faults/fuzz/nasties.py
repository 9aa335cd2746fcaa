"""Hand-written hostile answers of both protocols, by name.

https://www.postgresql.org/docs/current/protocol-message-formats.html
https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html
"""

import struct
from collections.abc import Iterator

from tests.faults.fuzz.hostile import Answer, Script

_MEGA = 1 << 20
_LENGTHS = {"0": 0, "1": 1, "negative": -1, "most": 2**31 - 1, "16 MB": 16 * _MEGA}
_ODD_TEXTS = {
    "empty": b"",
    "no UTF-8": b"\xff\xfe\x80 caf\xe9",
    "formats": b"%s %d {0} {x!r} %(a)s",
    "terminal": b"\x1b[2J\x1b]0;title\x07\r\nINFO all is well",
    "long": b"x" * 29_000,
}
STRANGERS = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "zeros": bytes(_MEGA),
    "ones": b"\xff" * _MEGA,
    "a line": b"hello\n",
}

# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def pg(kind: str, body: bytes = b"", length: int | None = None) -> bytes:
    """One message."""
    return kind.encode() + struct.pack("!i", len(body) + 4 if length is None else length) + body


def pg_error(text: bytes, state: bytes = b"XX000", severity: bytes = b"ERROR", kind: str = "E") -> bytes:
    """An error or, with `kind` N, a notice."""
    return pg(kind, b"S%s\0V%s\0C%s\0M%s\0\0" % (severity, severity, state, text))


PG_READY = pg("Z", b"I")
PG_WELCOME = (
    pg("R", struct.pack("!i", 0))
    + pg("S", b"client_encoding\0UTF8\0")
    + pg("S", b"server_version\x0015.0\0")
    + pg("K", struct.pack("!ii", 7, 7))
    + PG_READY
)
_PG_KINDS = "RSKZETDCINGHWdcnstAV12v\0\xff"


def _sasl(code: int, body: bytes) -> bytes:
    return pg("R", struct.pack("!i", code) + body)


def _with_nonce(server_first: bytes) -> Answer:
    """A SASL challenge that begins with the client's own nonce, as it must."""

    def answer(said: bytes) -> bytes:
        nonce = said.rpartition(b"r=")[2]
        return _sasl(11, server_first.replace(b"NONCE", nonce))

    return answer


def _pg_openings() -> Iterator[tuple[str, tuple[Answer, ...]]]:
    for name, data in STRANGERS.items():
        yield f"{name} instead", (data,)
    for name, length in _LENGTHS.items():
        for kind in "RESKNZ":
            yield f"{kind} of length {name}", (pg(kind, b"abcdefgh", length),)
    for code in (*range(1, 14), 99, -1, 2**31 - 1):
        yield f"authentication {code}", (pg("R", struct.pack("!i", code)), b"")
        yield f"authentication {code} with garbage", (pg("R", struct.pack("!i", code) + b"\xff\0\xfe"), b"\xff")
        yield f"authentication {code}, then in", (pg("R", struct.pack("!i", code) + b"salt"), PG_WELCOME)
    for name, mechanisms in {
        "none": b"\0",
        "unknown": b"SCRAM-SHA-1\0PLAIN\0\0",
        "needs TLS": b"SCRAM-SHA-256-PLUS\0\0",
        "not ended": b"SCRAM-SHA-256",
        "no UTF-8": b"\xff\xfe\0\0",
        "many": b"A\0" * 900 + b"\0",
        "OAuth": b"OAUTHBEARER\0\0",
    }.items():
        yield f"SASL mechanisms: {name}", (_sasl(10, mechanisms), b"")
    offer = _sasl(10, b"SCRAM-SHA-256\0\0")
    for name, challenge in {
        "empty": _sasl(11, b""),
        "garbage": _sasl(11, b"\xff\0=,=,"),
        "foreign nonce": _sasl(11, b"r=abc,s=QUFB,i=4096"),
        "no salt": _with_nonce(b"r=NONCEx,i=4096"),
        "salt no base64": _with_nonce(b"r=NONCEx,s=!!!!,i=4096"),
        "no iterations": _with_nonce(b"r=NONCEx,s=QUFB,i=0"),
        "negative iterations": _with_nonce(b"r=NONCEx,s=QUFB,i=-1"),
        "iterations no number": _with_nonce(b"r=NONCEx,s=QUFB,i=4096x"),
        "extension": _with_nonce(b"m=x,r=NONCEx,s=QUFB,i=4096"),
        "long nonce": _with_nonce(b"r=NONCE" + b"x" * 1500 + b",s=QUFB,i=1"),
        "final first": _sasl(12, b"v=QUFB"),
        "another offer": offer,
    }.items():
        yield f"SCRAM challenge: {name}", (offer, challenge, b"")
    good = _with_nonce(b"r=NONCEx,s=QUFB,i=2")
    for name, last in {
        "empty": _sasl(12, b""),
        "error": _sasl(12, b"e=other-error"),
        "wrong": _sasl(12, b"v=QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="),
        "no base64": _sasl(12, b"v=\xff\xff"),
        "challenge again": _sasl(11, b"r=x,s=QUFB,i=1"),
        "not proven": PG_WELCOME,
    }.items():
        yield f"SCRAM final: {name}", (offer, good, last)
    for name, text in _ODD_TEXTS.items():
        yield f"error, text {name}", (pg_error(text),)
        yield f"error without fields, text {name}", (pg("E", text + b"\0"),)
    for state in (b"28P01", b"53300", b"57P03", b"", b"\xff\xfe\xfd", b"08006"):
        yield f"error {state!r}", (pg_error(b"no", state, b"FATAL"),)
    yield "old error", (b"Eno, says the server\n\0",)
    yield "negotiation", (pg("v", struct.pack("!ii", 0, 2**31 - 1)),)
    yield "older protocol", (pg("v", struct.pack("!ii", 1, 0)),)
    yield "ready at once", (PG_READY,)
    yield "in twice", (PG_WELCOME + PG_WELCOME,)
    yield "encoding unknown", (PG_WELCOME.replace(b"UTF8", b"KLINGON"),)
    yield "encoding no text", (PG_WELCOME.replace(b"UTF8", b"\xff\xfe\xfd\xfc"),)
    yield "version no number", (PG_WELCOME.replace(b"15.0", b"X.Y."),)
    yield "parameter without end", (pg("R", struct.pack("!i", 0)) + pg("S", b"client_encoding") + PG_READY,)
    yield "key of odd length", (pg("R", struct.pack("!i", 0)) + pg("K", b"abc") + PG_READY,)
    yield "unknown state", (pg("R", struct.pack("!i", 0)) + pg("Z", b"?"),)
    yield "rows", (pg("R", struct.pack("!i", 0)) + pg("D", b"\0\1\0\0\0\1x") + PG_READY,)


def _pg_replies() -> Iterator[tuple[str, bytes]]:
    for name, data in STRANGERS.items():
        yield name, data
    for kind in _PG_KINDS:
        for name, length in _LENGTHS.items():
            yield f"{kind!r} of length {name}", kind.encode("latin-1") + struct.pack("!i", length) + b"abcdefgh"
        yield f"{kind!r} empty", kind.encode("latin-1") + struct.pack("!i", 4) + PG_READY
    for name, text in _ODD_TEXTS.items():
        yield f"error, text {name}", pg_error(text) + PG_READY
        yield f"notice, text {name}", pg_error(text, kind="N")
    for state in (b"40001", b"08006", b"08007", b"40003", b"25006", b"", b"\xff\xfe", b"57P01"):
        yield f"error {state!r}", pg_error(b"no", state) + PG_READY
        yield f"fatal {state!r}", pg_error(b"no", state, b"FATAL")
    yield "ready alone", PG_READY
    yield "done, not ready", pg("C", b"COMMIT\0")
    yield "done, in a transaction", pg("C", b"COMMIT\0") + pg("Z", b"T")
    yield "done, in a failed transaction", pg("C", b"COMMIT\0") + pg("Z", b"E")
    yield "done, state unknown", pg("C", b"COMMIT\0") + pg("Z", b"\xff")
    yield "rolled back", pg("C", b"ROLLBACK\0") + PG_READY
    yield "another command", pg("C", b"SELECT 1\0") + PG_READY
    yield "tag without end", pg("C", b"COMMIT") + PG_READY
    yield "tag no UTF-8", pg("C", b"\xff\xfe\0") + PG_READY
    yield "twice", (pg("C", b"COMMIT\0") + PG_READY) * 2
    yield "two results", pg("C", b"COMMIT\0") * 2 + PG_READY
    yield "empty query", pg("I") + PG_READY
    yield "copy in", pg("G", b"\0\0\0")
    yield "copy out", pg("H", b"\0\0\0")
    yield "copy both", pg("W", b"\0\0\0")
    yield "rows undescribed", pg("D", b"\0\1\0\0\0\1x") + PG_READY
    row = pg("T", b"\0\1a\0" + struct.pack("!ihihih", 0, 0, 23, 4, -1, 0))
    yield "a row", row + pg("D", b"\0\1\0\0\0\1x") + pg("C", b"SELECT 1\0") + PG_READY
    yield "a row too short", row + pg("D", b"\0\1\0\0\xff\xffx") + PG_READY
    yield "columns without end", pg("T", b"\x7f\xffa\0") + PG_READY
    yield "encoding changes", pg("S", b"client_encoding\0KLINGON\0") + pg("C", b"COMMIT\0") + PG_READY
    yield "notification", pg("A", struct.pack("!i", 1) + b"\xff\0\xfe\0") + pg("C", b"COMMIT\0") + PG_READY
    yield "notification without end", pg("A", b"\0\0") + PG_READY
    yield "a new login", PG_WELCOME


# --- MySQL ------------------------------------------------------------------------------------------------------------

_SECURE, _PLUGINS, _LENENC = 1 << 15, 1 << 19, 1 << 21
_CAPABILITIES = 0x81FFF7FF & ~(1 << 11)
"""Everything but TLS."""
MY_OK = b"\0\0\0\2\0\0\0"


def my(number: int, body: bytes, length: int | None = None) -> bytes:
    """One packet."""
    return (len(body) if length is None else length).to_bytes(3, "little") + bytes([number % 256]) + body


def my_error(number: int, text: bytes, state: bytes = b"#HY000") -> bytes:
    """An error packet's body."""
    return b"\xff" + struct.pack("<H", number) + state + text


def my_greeting(
    version: bytes = b"8.0.40",
    plugin: bytes = b"mysql_native_password\0",
    *,
    protocol: int = 10,
    capabilities: int = _CAPABILITIES,
    salt_length: int = 21,
) -> bytes:
    """A greeting's body."""
    return (
        bytes([protocol])
        + version
        + b"\0"
        + struct.pack("<I", 7)
        + b"saltsalt\0"
        + struct.pack("<HBHHB", capabilities & 0xFFFF, 45, 2, capabilities >> 16, salt_length)
        + bytes(10)
        + b"saltsaltsalt\0"
        + plugin
    )


def _switch(plugin: bytes, data: bytes = b"saltsaltsaltsaltsalt\0") -> bytes:
    return my(2, b"\xfe" + plugin + b"\0" + data)


def _my_openings() -> Iterator[tuple[str, tuple[Answer, ...]]]:
    greeting = my(0, my_greeting())
    for name, data in STRANGERS.items():
        yield f"{name} instead", (data,)
    for name, length in {"0": 0, "1": 1, "most": 0xFFFFFF}.items():
        yield f"greeting of length {name}", (my(0, b"\x0a8.0\0", length),)
    yield "greeting out of order", (my(7, my_greeting()),)
    for protocol in (0, 9, 255):
        yield f"protocol {protocol}", (my(0, my_greeting(protocol=protocol)), my(2, MY_OK))
    for version in (b"", b".", b"x", b"\xff\xfe", b"8", b"99999999999999999999.0", b"\xd9\xa8.0", b"5." * 5000):
        yield f"version {version[:20]!r}", (my(0, my_greeting(version)), my(2, MY_OK))
    for plugin in (
        b"",
        b"\0",
        b"\xff\xfe\0",
        "mysql_nativ\u00e9\0".encode(),
        b"unknown\0",
        b"mysql_clear_password\0",
        b"sha256_password\0",
        b"caching_sha2_password\0",
        b"dialog\0",
        b"x" * 70_000,
    ):
        yield f"plugin {plugin[:20]!r}", (my(0, my_greeting(plugin=plugin)), my(2, MY_OK))
    for length in (0, 1, 255):
        yield f"salt length {length}", (my(0, my_greeting(salt_length=length)), my(2, MY_OK))
    for name, bits in {"none": 0, "all but TLS": _CAPABILITIES, "TLS too": 0xFFFFFFFF}.items():
        yield f"capabilities: {name}", (my(0, my_greeting(capabilities=bits)), my(2, MY_OK))
    for name, body in _my_error_bodies():
        yield f"greeting is error: {name}", (my(0, body),)
        yield f"login is error: {name}", (greeting, my(2, body))
    for plugin in (
        b"mysql_clear_password",
        b"mysql_native_password",
        b"mysql_old_password",
        b"client_ed25519",
        b"sha256_password",
        b"caching_sha2_password",
        b"unknown",
        b"",
        b"\xff\xfe",
    ):
        for name, data in {
            "": b"saltsaltsaltsaltsalt\0",
            " without salt": b"",
            " and a long salt": b"x" * 5000,
        }.items():
            yield f"switch to {plugin!r}{name}", (greeting, _switch(plugin, data), my(4, MY_OK))
    yield "switch to dialog", (greeting, _switch(b"dialog", b"\2Password: "), my(4, MY_OK))
    yield "switch to dialog, another question", (greeting, _switch(b"dialog", b"\2Name: "), my(4, MY_OK))
    yield "switch without a name", (greeting, my(2, b"\xfe"), my(4, MY_OK))
    yield "switch not ended", (greeting, my(2, b"\xfemysql_native_password"), my(4, MY_OK))
    twice = _switch(b"mysql_native_password")
    yield "switch twice", (greeting, twice, my(4, twice[4:]), my(6, MY_OK))
    for name, data in {"": b"", "fast": b"\3", "full": b"\4", "odd": b"\xff", "long": b"k" * 5000}.items():
        full = my(0, my_greeting(plugin=b"caching_sha2_password\0"))
        yield f"extra data {name}", (full, my(2, b"\1" + data), my(4, b"\1" + data), my(5, MY_OK))
        yield f"key {name}", (full, my(2, b"\1\4"), my(4, b"\1" + b"-----BEGIN PUBLIC KEY-----" + data), my(6, MY_OK))
        sha = my(0, my_greeting(plugin=b"sha256_password\0"))
        yield f"sha256 key {name}", (sha, my(2, b"\1" + data), my(4, MY_OK))
    for name, body in _my_bodies():
        yield f"login: {name}", (greeting, my(2, body))
        yield f"set names: {name}", (greeting, my(2, MY_OK), my(1, body))
        yield f"set autocommit: {name}", (greeting, my(2, MY_OK), my(1, MY_OK), my(1, body))


def _my_error_bodies() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b"\xff"
    yield "half a number", b"\xff\x15"
    yield "number alone", b"\xff\x15\x04"
    yield "state no UTF-8", my_error(1045, b"no", b"#\xff\xff\xff\xff\xff")
    yield "state cut", b"\xff\x15\x04#HY"
    for name, text in _ODD_TEXTS.items():
        yield f"text {name}", my_error(1105, text)
    for number in (0, 1, 1040, 1045, 1053, 1213, 1290, 1927, 2006, 2013, 2055, 4031, 9501, 32768, 65535):
        yield f"{number}", my_error(number, b"no")


def _my_bodies() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "OK cut", MY_OK[:3]
    yield "OK, numbers cut", b"\0\xfe\xff\xff\xff\xff\xff"
    yield "OK, number null", b"\0\xfb\xfb\xfb\xfb\xfb\xfb\xfb"
    yield "OK, reserved number", b"\0\xff\xff\2\0\0\0\0"
    yield "OK, more results", b"\0\0\0\x0a\0\0\0"
    yield "OK, in a transaction", b"\0\0\0\1\0\0\0"
    yield "end", b"\xfe\0\0\2\0"
    yield "end, long", b"\xfe" + b"\0" * 20
    yield "local file", b"\xfb/etc/passwd"
    yield "local file unnamed", b"\xfb"
    yield "columns", b"\1"
    yield "columns, many", b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"
    yield "columns, cut", b"\xfc"
    yield "text", b"hello"


def _my_replies() -> Iterator[tuple[str, bytes]]:
    for name, data in STRANGERS.items():
        yield name, data
    for name, body in (*_my_bodies(), *_my_error_bodies()):
        yield name, my(1, body)
    for number in (0, 2, 255):
        yield f"OK numbered {number}", my(number, MY_OK)
        yield f"error numbered {number}", my(number, my_error(1053, b"Server shutdown in progress"))
    for name, length in {"0": 0, "1": 1, "one more": len(MY_OK) + 1, "most": 0xFFFFFF}.items():
        yield f"OK of length {name}", my(1, MY_OK, length)
    yield "twice", my(1, MY_OK) * 2
    yield "and the next", my(1, MY_OK) + my(2, MY_OK)
    column = b"\3def\0\0\0\1a\1a\x0c\x2d\0\4\0\0\0\xfd\0\0\0\0\0"
    yield "a result", my(1, b"\1") + my(2, column) + my(3, b"\xfe\0\0\2\0") + my(4, b"\1x") + my(5, b"\xfe\0\0\2\0")
    yield "a column cut", my(1, b"\1") + my(2, column[:9])


OPENINGS: dict[str, dict[str, tuple[Answer, ...]]] = {
    "postgresql": dict(_pg_openings()),
    "mysql": dict(_my_openings()),
}
"""Answers during login, from the first on, without TLS."""
REPLIES: dict[str, dict[str, bytes]] = {"postgresql": dict(_pg_replies()), "mysql": dict(_my_replies())}
"""Answers to a command."""
TLS_ANSWERS: dict[str, dict[str, tuple[Answer, ...]]] = {
    "postgresql": {
        "no": (b"N",),
        "no, then in": (b"N", PG_WELCOME),
        "yes, then garbage": (b"S", b"\xff" * 500),
        "yes, then plain": (b"S" + PG_WELCOME,),
        "yes, then an alert": (b"S", STRANGERS["a TLS alert"]),
        "yes to GSS": (b"G", b""),
        "error": (pg_error(b"no TLS here", severity=b"FATAL"),),
        "old error": (b"Eno TLS here\n\0",),
        "in at once": (PG_WELCOME,),
        "clear text, please": (pg("R", struct.pack("!i", 3)), b""),
        "no, clear text": (b"N", pg("R", struct.pack("!i", 3)), b""),
        "HTTP": (STRANGERS["HTTP"],),
    },
    "mysql": {
        "no": (my(0, my_greeting()), my(2, MY_OK)),
        "no, clear text": (my(0, my_greeting()), _switch(b"mysql_clear_password"), my(4, MY_OK)),
        "no, clear text at once": (my(0, my_greeting(plugin=b"mysql_clear_password\0")), my(2, MY_OK)),
        "no, dialog": (my(0, my_greeting()), _switch(b"dialog", b"\2Password: "), my(4, MY_OK)),
        "no, old": (my(0, my_greeting(capabilities=0)), my(2, MY_OK)),
        "yes, then garbage": (my(0, my_greeting(capabilities=0xFFFFFFFF)), b"\xff" * 500),
        "yes, then plain": (
            my(0, my_greeting(capabilities=0xFFFFFFFF)),
            _switch(b"mysql_clear_password"),
            my(4, MY_OK),
        ),
        "yes, plain ahead": (my(0, my_greeting(capabilities=0xFFFFFFFF)) + _switch(b"mysql_clear_password"), b""),
        "yes, then an alert": (my(0, my_greeting(capabilities=0xFFFFFFFF)), STRANGERS["a TLS alert"]),
    },
}
"""Answers to a client that insists on TLS."""


def scripts(answers: tuple[Answer, ...], *, mysql: bool) -> tuple[Script, ...]:
    """These answers, and then the end of the connection, or silence."""
    return (
        Script(answers, speaks_first=mysql, then="close"),
        Script(answers, speaks_first=mysql, then="wait"),
    )
