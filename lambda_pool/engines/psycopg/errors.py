"""What psycopg's errors mean for the connection and for a second try."""

from ..base import AUTO_PAUSED, SILENT, Failure

# SQLSTATE to meaning: https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_STATE = {
    "57P01": Failure.SHUTDOWN,
    "57P02": Failure.LOST,
    "57P05": Failure.LOST,
    "25006": Failure.READ_ONLY,
    "25P03": Failure.LOST,
    "25P04": Failure.LOST,
    "53300": Failure.TOO_MANY,
    "28000": Failure.REJECTED,
    "28P01": Failure.REJECTED,
    "40001": Failure.CONFLICT,
    "40P01": Failure.CONFLICT,
    # Aurora DSQL: another transaction changed the rows; or the catalogue changed.
    "OC000": Failure.CONFLICT,
    "OC001": Failure.CONFLICT,
    "26000": Failure.STALE,
}

# States that may have other meanings. The schema has changed if the error comes from this function of the server (its
# message may be translated), or has these words.
_STALE = {"0A000": ("RevalidateCachedQuery", "cached plan must not change"), "XX000": ("", "cache lookup failed for ")}

# Errors while connecting carry no SQLSTATE; only the text tells. First match wins. Certificates come before login,
# because libpq reports both kinds with "connection to server … failed".
_BY_TEXT = (
    (SILENT, Failure.RESUMING),
    (AUTO_PAUSED, Failure.RESUMING),
    # Psycopg's own words for what libpq finds once it is connected.
    ("consuming input failed", Failure.LOST),
    ("flushing failed", Failure.LOST),
    ("certificate", Failure.UNTRUSTED),
    # What OpenSSL says since version 3 if the peer is gone without closing TLS.
    ("SSL error: unexpected eof", Failure.LOST),
    ("SSL SYSCALL error", Failure.LOST),
    ("SSL connection has been closed unexpectedly", Failure.LOST),
    ("SSL error", Failure.UNTRUSTED),
    ("does not support SSL", Failure.UNTRUSTED),
    ("root.crt", Failure.UNTRUSTED),
    ("too many clients", Failure.TOO_MANY),
    ("too many connections", Failure.TOO_MANY),
    ("remaining connection slots", Failure.TOO_MANY),
    ("no more connections allowed", Failure.TOO_MANY),
    ("query_wait_timeout", Failure.TOO_MANY),
    ("server_login_retry", Failure.UNREACHABLE),
    ("pgbouncer cannot connect to server", Failure.UNREACHABLE),
    ("imed-out waiting to acquire", Failure.TOO_MANY),
    ("the database system is starting up", Failure.RESUMING),
    ("the database system is not yet accepting connections", Failure.RESUMING),
    ("the database system is", Failure.UNREACHABLE),
    ("authentication failed", Failure.REJECTED),
    ("no password supplied", Failure.REJECTED),
    ("no pg_hba.conf entry", Failure.REJECTED),
    ("credentials for the role", Failure.REJECTED),
    # While connecting, a later attempt may overcome these too.
    ("could not receive data from server", Failure.LOST),
    ("could not send data to server", Failure.LOST),
    ("Connection refused", Failure.UNREACHABLE),
    ("timeout expired", Failure.UNREACHABLE),
    ("Temporary failure in name resolution", Failure.UNREACHABLE),
    ("No such file or directory", Failure.UNREACHABLE),
    ("terminating connection due to administrator command", Failure.SHUTDOWN),
    ("idle-in-transaction timeout", Failure.LOST),
    ("due to transaction timeout", Failure.LOST),
    ("idle-session timeout", Failure.LOST),
    ("server closed the connection unexpectedly", Failure.LOST),
    ("Connection reset by peer", Failure.LOST),
    ("Broken pipe", Failure.LOST),
    ("connection is closed", Failure.LOST),
    ("connection is lost", Failure.LOST),
    ("connection pointer is NULL", Failure.LOST),
    # Raised by psycopg's wait during a half-done reset: the kernel reports a hang-up but no data.
    ("connection socket closed", Failure.LOST),
    ("connection not open", Failure.LOST),
    ("no connection to the server", Failure.LOST),
    ("lost synchronization with server", Failure.LOST),
    # With target_session_attrs in the URL: the server that is asked for is elsewhere, or not there yet.
    ("session is read-only", Failure.UNREACHABLE),
    ("session is not read-only", Failure.UNREACHABLE),
    ("server is in hot standby mode", Failure.UNREACHABLE),
    ("server is not in hot standby mode", Failure.UNREACHABLE),
    ("Network is unreachable", Failure.UNREACHABLE),
    ("No route to host", Failure.UNREACHABLE),
    ("Connection timed out", Failure.UNREACHABLE),
)


def classify(error: BaseException) -> Failure:
    """By SQLSTATE where there is one, else by type and text. What neither psycopg nor libpq raised is FOREIGN."""
    from psycopg import Error

    from .libpq import NoAnswerError

    if not isinstance(error, Error):
        return Failure.FOREIGN
    state, text = error.sqlstate, str(error)
    if isinstance(error, NoAnswerError):
        return Failure.RESUMING if SILENT in text else Failure.UNREACHABLE
    # The text tells whether the server is starting or stopping, and what PgBouncer means: all its errors are 08P01.
    if state and state not in {"57P03", "08P01"}:
        function, words = _STALE.get(state, ("", "\0"))
        if words in text or (function and error.diag.source_function == function):
            return Failure.STALE
        return Failure.LOST if state.startswith("08") else _BY_STATE.get(state, Failure.OTHER)
    for part, failure in _BY_TEXT:
        if part in text:
            return failure
    if state == "08P01":
        return Failure.LOST
    return Failure.UNREACHABLE if state else Failure.OTHER
