"""Plays RDS: checks an IAM token as PAM's password check, inside a database server's process, or as a program.

Loaded by pam_python with the path of a JSON file; MySQL's plugin runs it with the same. Written from the specification
of Signature Version 4 and without any of the package's code: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
"""

import calendar
import hashlib
import hmac
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

MOST_SECONDS = 900
TOLERANCE = 5
"""Seconds that a signer's clock may be ahead."""


def refusal(token: str, user: str, rules: dict[str, Any], now: float) -> str:
    """Why this token does not let this user in at this time; empty if it lets the user in."""
    authority, _, query = token.partition("/?")
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    given = dict(pairs)
    if len(given) != len(pairs):
        return "a parameter stands there twice"
    signature = given.pop("X-Amz-Signature", "")
    if authority not in rules["authorities"]:
        return f"it is for {authority}"
    if given.get("Action") != "connect" or given.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
        return "wrong action or algorithm"
    if given.get("DBUser") != user:
        return f"it is for user {given.get('DBUser')}"
    key_id, day, region, service, end = given["X-Amz-Credential"].split("/")
    keys = rules["keys"].get(key_id)
    if keys is None:
        return "unknown access key"
    if (region, service, end) != (rules["region"], "rds-db", "aws4_request"):
        return f"wrong scope {region}/{service}/{end}"
    if given.get("X-Amz-Security-Token") != keys["session_token"]:
        return "wrong session token"
    stamp = given["X-Amz-Date"]
    if not stamp.startswith(day) or given["X-Amz-SignedHeaders"] != "host":
        return "date and scope differ, or not just the host is signed"
    signed_at = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    canonical = "&".join(f"{quote(name, safe='-_.~')}={quote(given[name], safe='-_.~')}" for name in sorted(given))
    request = "\n".join(
        ["GET", "/", canonical, f"host:{authority.lower()}", "", "host", hashlib.sha256(b"").hexdigest()]
    )
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            stamp,
            f"{day}/{region}/{service}/{end}",
            hashlib.sha256(request.encode()).hexdigest(),
        ]
    )
    key = ("AWS4" + keys["secret_key"]).encode()
    for part in (day, region, service, end, text):
        key = hmac.new(key, part.encode(), "sha256").digest()
    if not hmac.compare_digest(key.hex(), signature):
        return "the signature does not match"
    if signed_at > now + TOLERANCE:
        return "it is not valid yet"
    if now >= signed_at + min(int(given["X-Amz-Expires"]), MOST_SECONDS):
        return "it has expired"
    return ""


def let_in(path: str, user: str, token: str) -> bool:
    """Judge by the rules in a file. Writes one line about each to the log that the rules name."""
    rules = json.loads(Path(path).read_text())
    try:
        reason = refusal(token, user, rules, time.time() + rules["travel"])
    except (KeyError, ValueError) as error:
        reason = f"it is no token: {error!r}"
    with Path(rules["log"]).open("a") as log:
        log.write(f"{user} ({len(token)} bytes): {reason or 'let in'}\n")
    return not reason


def pam_sm_authenticate(pamh: Any, flags: int, argv: list[str]) -> Any:
    """PAM's password check."""
    user = pamh.get_user(None)
    token = pamh.authtok
    if token is None:
        token = pamh.conversation(pamh.Message(pamh.PAM_PROMPT_ECHO_OFF, "Password: ")).resp
    return pamh.PAM_SUCCESS if let_in(argv[1], user, token or "") else pamh.PAM_AUTH_ERR


def pam_sm_setcred(pamh: Any, flags: int, argv: list[str]) -> Any:
    """PAM demands this, but there is nothing to set."""
    return pamh.PAM_SUCCESS


def pam_sm_acct_mgmt(pamh: Any, flags: int, argv: list[str]) -> Any:
    """Every account is in good standing."""
    return pamh.PAM_SUCCESS


if __name__ == "__main__":  # the user and the token come on a line each
    sys.exit(not let_in(sys.argv[1], *sys.stdin.read().rstrip("\0\n").split("\n")))
