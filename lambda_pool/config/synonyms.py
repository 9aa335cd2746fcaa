"""Other tools' words in a database URL: read as our own where they mean the same, otherwise refused with advice.

Other tools are other drivers (PyMySQL, mysqlclient, asyncpg, node-postgres, JDBC, Go's), SQLAlchemy, Django and Prisma.
"""

from collections.abc import Collection, Mapping

from ..errors import ConfigError
from ..tls import MODES, weaker
from .values import bad, flag

OWN = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "pooled")
"""Our own words in a URL's query, the same for both engines."""

TLS = {
    "ssl_mode": "sslmode",
    "sslMode": "sslmode",
    "ssl_ca": "sslrootcert",
    "ssl_cert": "sslcert",
    "ssl_key": "sslkey",
    "ssl_key_password": "sslpassword",
}
_SAME = {**TLS, "pgbouncer": "pooled"}
OPTIONS = {
    "connect_timeout": "connect_timeout",
    "autocommit": "autocommit",
    "connection_limit": "max_size",
    "pool_timeout": "timeout",
    "keep_below": "keep_below",
    "session_idle": "session_idle",
    "wake_timeout": "wake_timeout",
}
"""The words in a URL that set an option of the pool. They are either words that many tools use there, or options that
depend on the server and on who else uses it."""

_MODES = {
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify_ca": "verify-ca",
    "verify_identity": "verify-full",
}
"""MySQL's words for libpq's modes."""

_ENCRYPT = ("ssl", "tls", "useSSL", "use_ssl", "requireSSL", "ssl_require")
_VERIFY = ("ssl_verify_cert", "ssl_verify_identity", "ssl_check_hostname", "verifyServerCertificate", "sslaccept")
_NEVER = ("ssl_disabled", "trustServerCertificate")
_STRICT = {"strict": "true", "accept_invalid_certs": "false"}

_TLS_BY_HAND = "TLS is decided by sslmode, sslrootcert, sslcert and sslkey in the URL's query, for both engines alike"
_SETTING = {
    "postgresql": "it is a setting of the server: write ALTER ROLE ... SET ..., or, if there is no pooler in between, "
    "options=-c%20NAME%3DVALUE",
    "mysql": "it is a setting of the server: write init_command=SET%20SESSION%20NAME%3DVALUE",
}
_OF_ANOTHER = "it is meant for another driver and means nothing here: take it out"
_SECONDS = "write connect_timeout=..., in seconds"
_NO_STATEMENT_TIME = (
    "it limits statements in another driver: use the option cancel_before_deadline, or a statement_timeout "
    "(max_execution_time on MySQL) on the server"
)
_NO_CACHE = "it is meant for another driver's cache of statements: take it out"

_REFUSED: dict[str, str] = {
    **dict.fromkeys(("sslidentity", "sslfactory", "ssl_cipher", "ssl_capath", "direct_tls"), _TLS_BY_HAND),
    **dict.fromkeys(("connectTimeout", "loginTimeout", "connection_timeout", "timeout_connect"), _SECONDS),
    **dict.fromkeys(("socketTimeout", "socket_timeout", "command_timeout", "query_timeout"), _NO_STATEMENT_TIME),
    **dict.fromkeys(
        ("prepared_statement_cache_size", "statement_cache_size", "statement_cache_capacity", "cachePrepStmts"),
        _NO_CACHE,
    ),
    **dict.fromkeys(("pool_size", "maximumPoolSize", "pool_max_conns"), "write the option max_size"),
    **dict.fromkeys(("pool_recycle", "conn_max_age", "max_connection_lifetime"), "write the option max_lifetime"),
    **dict.fromkeys(
        (
            "useUnicode",
            "allowPublicKeyRetrieval",
            "rewriteBatchedStatements",
            "interpolateParams",
            "parseTime",
            "zeroDateTimeBehavior",
            "conn_health_checks",
            "pool_pre_ping",
            "max_overflow",
            "uselibpqcompat",
            "default_query_exec_mode",
            "use_pure",
            "driver",
        ),
        _OF_ANOTHER,
    ),
}
_REFUSED_BY_ENGINE: dict[str, dict[str, str]] = {
    "postgresql": {
        **dict.fromkeys(
            (
                "search_path",
                "statement_timeout",
                "lock_timeout",
                "idle_in_transaction_session_timeout",
                "timezone",
                "TimeZone",
            ),
            _SETTING["postgresql"],
        ),
        **dict.fromkeys(
            ("schema", "currentSchema"),
            "a schema is found by the search_path: write ALTER ROLE ... SET search_path = ...",
        ),
        **dict.fromkeys(
            ("charset", "characterEncoding", "encoding"),
            "libpq calls it client_encoding, and psycopg needs none: take it out",
        ),
        "prepareThreshold": "psycopg calls it prepare_threshold",
        "ApplicationName": "libpq calls it application_name",
        "unix_socket": "a Unix socket's directory is written as host=/directory",
        "init_command": "write ALTER ROLE ... SET ... for settings",
    },
    "mysql": {
        **dict.fromkeys(
            ("time_zone", "serverTimezone", "connectionTimeZone", "loc", "wait_timeout", "max_execution_time"),
            _SETTING["mysql"],
        ),
        **dict.fromkeys(("schema", "currentSchema"), "a schema of MySQL is a database: write it after the host's /"),
        **dict.fromkeys(
            ("characterEncoding", "client_encoding", "encoding"), "MySQL calls it charset: charset=utf8mb4"
        ),
        **dict.fromkeys(
            ("multiStatements", "allowMultiQueries"), "write client_flag=65536, PyMySQL's CLIENT.MULTI_STATEMENTS"
        ),
        **dict.fromkeys(
            ("channel_binding", "target_session_attrs", "sslnegotiation", "options", "prepare_threshold"),
            "it is a parameter of PostgreSQL's driver: take it out",
        ),
        **dict.fromkeys(("application_name", "ApplicationName"), "PyMySQL calls it program_name"),
        **dict.fromkeys(("allow_local_infile", "allowLoadLocalInfile"), "PyMySQL calls it local_infile"),
    },
}


_OTHER_WORDS = {
    **dict.fromkeys(("dbname", "db", "db_name", "database_name"), "database"),
    **dict.fromkeys(("passwd", "pwd", "pass"), "password"),
    **dict.fromkeys(("username", "uid", "login"), "user"),
    **dict.fromkeys(("hostname", "server", "address", "endpoint", "unix_socket"), "host"),
    **dict.fromkeys(("dsn", "uri", "conninfo", "connection_string", "connection_url", "database_url"), "url"),
    **dict.fromkeys(("secret", "secret_arn", "secret_name"), "secret_id"),
    **dict.fromkeys((*_ENCRYPT, *_VERIFY, *_NEVER), "sslmode"),
    **_SAME,
}
"""What other tools call the words that say where the database is, who logs in and how the connection is encrypted."""

_OF_ANOTHER_POOL = "it is for another pool and means nothing here: take it out"
_AT_THE_START = "write what it does at the start of the handler"
_OF_OTHERS = {
    **dict.fromkeys(("open", "check", "max_waiting", "num_workers", "close_returns"), _OF_ANOTHER_POOL),
    **dict.fromkeys(("reconnect_timeout", "reconnect_failed", "max_queries", "loop", "echo"), _OF_ANOTHER_POOL),
    **dict.fromkeys(("poolclass", "pool_use_lifo", "pool_reset_on_return", "creator"), _OF_ANOTHER_POOL),
    **dict.fromkeys(("plugins", "wrapper_plugins", "wrapper_dialect"), _OF_ANOTHER_POOL),
    **dict.fromkeys(("configure", "setup", "init"), _AT_THE_START),
    **{name: f"write the option {ours}" for name, ours in OPTIONS.items() if name != ours},
    "max_inactive_connection_lifetime": "write the option max_idle",
    "iam_region": "write auth=IamToken(region=...)",
    "secrets_manager_secret_id": "write auth=SecretsManager(...)",
    "sql_mode": "write connect_args={'sql_mode': ...}",
}
"""Keywords of other pools, of AWS's wrapper and of drivers. None of them is a slip of one of our names."""

_ALIKE = 0.85
"""How similar a word must be to a long name to be a slip of it; for a short name, a single wrong letter is a slip."""

_VARIABLES = {
    "secret_id": "write auth=SecretsManager(...)",
    "rds_proxy": "write endpoint=RdsProxy(...)",
    "aurora_cluster": "write endpoint=AuroraCluster(...)",
}
_KEYWORDS = {
    **{name: _VARIABLES.get(ours, f"write {ours}=...") for name, ours in _OTHER_WORDS.items()},
    **{name: "write a URL as the first argument" for name, ours in _OTHER_WORDS.items() if ours == "url"},
    **_VARIABLES,
    **_OF_OTHERS,
    "unix_socket": "write host='/path/of/the/socket'",
    "kwargs": "write connect_args=...",
    "minconn": "write min_size=...",
    **dict.fromkeys(("maxconn", "maxconnections"), "write max_size=..."),
    **dict.fromkeys((*_ENCRYPT, *_VERIFY, *_NEVER), "write sslmode=... and sslrootcert=..., for both engines alike"),
}
"""What drivers and their pools call our own keywords, and what variables are called that no keyword is named after."""


def keyword(name: str) -> str | None:
    """What to write instead of a keyword of a driver or of another pool; None if we have no word for it."""
    return _KEYWORDS.get(name) or _REFUSED.get(name)


def meant(name: str, known: Collection[str]) -> str | None:
    """The one of the `known` names that `name` means, as another tool's word or as a misspelling; None if none.

    All of them are in lower case. Underscores do not count.
    """
    import difflib

    if name in _OF_OTHERS:
        return None
    plain = name.replace("_", "")
    words = {each.replace("_", "").lower(): ours for each, ours in _OTHER_WORDS.items()}
    names = {each.replace("_", ""): each for each in known}
    near = [each for each in names if _one_slip(plain, each)] or difflib.get_close_matches(plain, names, 1, _ALIKE)
    return words.get(plain) or (names[near[0]] if near else None)


def _one_slip(one: str, other: str) -> bool:
    """Whether the only difference is one letter too many, missing or wrong, or two letters in the wrong order."""
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])


def advice(engine: str, name: str) -> str | None:
    """What to write instead of another tool's word; None for a word that nobody uses."""
    name = name.replace("-", "_")
    return _REFUSED_BY_ENGINE[engine].get(name) or _REFUSED.get(name)


def _in_our_words(mode: str) -> str:
    return _MODES.get(mode.lower().replace("-", "_"), mode.lower())


def mode(name: str, value: str) -> str:
    """An sslmode in libpq's words, from libpq's or MySQL's in upper or lower case. Raises ConfigError."""
    found = _in_our_words(value)
    if found not in MODES:
        raise bad(name, value, f"one of {', '.join(MODES)}")
    return found


def translate(engine: str, query: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Split a query into our own words, the pool's options, and the rest for the driver. Raises ConfigError.

    The options keep the names that they have in the query. `encrypted` among our own words means that plain text is
    refused. How much is verified is then decided as usual.
    """
    own: dict[str, str] = {}
    options: dict[str, str] = {}
    rest: dict[str, str] = {}
    least = "disable"
    for name, value in query.items():
        word = name.replace("-", "_")
        ours = "sslmode" if word in _ENCRYPT and _in_our_words(value) in MODES else _SAME.get(word, word)
        if ours in OWN:
            said = mode(name, value) if ours == "sslmode" else value
            if own.setdefault(ours, said) != said:
                raise ConfigError(
                    f"the URL's query sets {ours} to two values, one of them in another tool's words: keep one"
                )
        elif word in OPTIONS:
            options[word] = value
        elif word in _ENCRYPT or word in _VERIFY or word in _NEVER:
            least = max(least, _least(word, name, value), key=MODES.index)
        elif (instead := advice(engine, word)) is not None:
            raise ConfigError(f"the URL's query holds {name!r}: {instead}")
        else:
            rest[name] = value
    _agree(own, least)
    return own, options, rest


def _least(word: str, name: str, value: str) -> str:
    """The weakest sslmode that does what another tool's flag says."""
    try:
        on = flag(name, _STRICT.get(value, value))
    except ConfigError:  # the value is not shown: it may be anything
        raise ConfigError(
            f"the URL's query holds {name!r}, but its value is neither true nor false: {_TLS_BY_HAND}"
        ) from None
    if on is (word in _NEVER):
        raise ConfigError(
            f"the URL's query holds {name!r} with a value that removes encryption or verification: if you want that, "
            "write sslmode=require (encrypted, the server is not verified) or sslmode=disable (plain text)"
        )
    if word == "ssl_disabled":
        return "disable"
    return "require" if word in _ENCRYPT else "verify-ca"


def _agree(own: dict[str, str], least: str) -> None:
    """Put flags and sslmode together."""
    if "sslmode" in own:
        if weaker(own["sslmode"], least):
            raise ConfigError(
                f"the URL's query holds sslmode={own['sslmode']} and another tool's flag that requires more: keep one"
            )
    elif least == "require":
        own["encrypted"] = "true"
    elif least != "disable":
        own["sslmode"] = "verify-full"
