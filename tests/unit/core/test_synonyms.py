"""Words that other tools write into a database URL: read where they mean the same, else refused with what to write."""

import pytest

from lambda_pool import ConfigError, Pool
from lambda_pool.config import Config, make, parse_url

BOTH = ["postgresql", "mysql"]


def config(engine: str, query: str, **options: object) -> Config:
    return make(f"{engine}://app:s3cr3t@db.example/orders?{query}", None, options, {})


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("sslmode=REQUIRE", "require"),
        ("sslmode=DISABLED", "disable"),
        ("sslmode=PREFERRED", "prefer"),
        ("sslmode=REQUIRED", "require"),
        ("sslmode=VERIFY_CA", "verify-ca"),
        ("sslmode=VERIFY_IDENTITY", "verify-full"),
        ("sslmode=Verify-Full", "verify-full"),
        ("ssl-mode=REQUIRED", "require"),
        ("ssl_mode=verify_identity", "verify-full"),
        ("sslMode=VERIFY_CA", "verify-ca"),
        ("ssl=require", "require"),
        ("ssl=verify-full", "verify-full"),
        ("tls=preferred", "prefer"),
        ("ssl_verify_cert=true", "verify-full"),
        ("ssl_verify_identity=1", "verify-full"),
        ("ssl_check_hostname=true", "verify-full"),
        ("verifyServerCertificate=true", "verify-full"),
        ("sslaccept=strict", "verify-full"),
        ("trustServerCertificate=false", "verify-full"),
        ("sslmode=verify-ca&ssl_verify_cert=true", "verify-ca"),
        ("sslmode=require&ssl=true", "require"),
        ("sslmode=require&ssl-mode=REQUIRED", "require"),
        ("ssl=true&ssl_verify_cert=true", "verify-full"),
    ],
)
def test_other_words_for_encryption(engine: str, query: str, mode: str) -> None:
    assert config(engine, query).url.sslmode == mode


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(
    "query", ["ssl=true", "tls=1", "useSSL=true", "requireSSL=true", "ssl_require=True", "use_ssl=on"]
)
def test_encrypt_leaves_open_how_much_is_verified(engine: str, query: str) -> None:
    url = config(engine, query).url
    assert (url.sslmode, url.encrypted) == (None, True)


def test_encryption_that_is_not_switched_off_says_nothing() -> None:
    url = config("mysql", "ssl_disabled=false").url
    assert (url.sslmode, url.encrypted) == (None, False)


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(
    "query",
    [
        "ssl=false",
        "tls=0",
        "useSSL=false",
        "ssl_disabled=true",
        "ssl_verify_cert=false",
        "ssl_verify_identity=0",
        "verifyServerCertificate=no",
        "trustServerCertificate=true",
        "sslaccept=accept_invalid_certs",
    ],
)
def test_what_takes_encryption_away_is_said_in_our_words(engine: str, query: str) -> None:
    name = query.partition("=")[0]
    for also in ("", "&sslmode=verify-full", "&sslmode=disable"):
        with pytest.raises(ConfigError, match=f"'{name}'.*sslmode=require.*sslmode=disable"):
            config(engine, query + also)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=prefer&ssl=true", "sslmode=prefer and another tool's flag"),
        ("sslmode=disable&useSSL=true", "sslmode=disable and another tool's flag"),
        ("sslmode=require&ssl_verify_cert=true", "sslmode=require and another tool's flag"),
        ("sslmode=require&ssl-mode=VERIFY_CA", "sets sslmode to two values"),
        ("sslrootcert=/a.pem&ssl_ca=/b.pem", "sets sslrootcert to two values"),
        ("ssl={}", "'ssl', but its value is neither true nor false"),
        ("ssl=s3cr3t", "'ssl', but its value is neither true nor false"),
        ("sslmode=no-verify", "sslmode='no-verify'.*verify-full"),
        ("sslmode=", "sslmode=''"),
        ("ssl_mode=yes", "ssl_mode='yes'"),
        ("sslcert=/c.pem", "sslcert and sslkey belong together.*sslrootcert"),
        ("ssl_key=/k.pem", "sslcert and sslkey belong together"),
        ("sslcert=/c.pem&sslkey=/k.pem&sslmode=prefer", "sslmode=prefer is not valid with sslcert"),
        ("sslcert=&sslkey=/k.pem", "sslcert=''.*path"),
        ("sslidentity=/i.p12&sslpassword=s3cr3t", "'sslidentity'.*sslcert and sslkey"),
        ("ssl_cipher=AES", "sslmode, sslrootcert"),
    ],
)
def test_contradictions_and_half_sentences(query: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        config("mysql", query)
    assert "s3cr3t" not in str(caught.value)


def test_files_by_other_names() -> None:
    query = "ssl_ca=/ca.pem&ssl_cert=/c.pem&ssl_key=/k.pem&ssl_key_password=s3cr3t"
    for each in (query, query.replace("ssl_", "ssl-"), query.replace("ssl_key_password", "sslpassword")):
        url = config("mysql", each).url
        assert (url.sslrootcert, url.sslcert, url.sslkey, url.sslmode) == ("/ca.pem", "/c.pem", "/k.pem", None)
        assert url.sslpassword is not None
        assert url.sslpassword.reveal() == "s3cr3t"
        assert "s3cr3t" not in repr(url)
    assert config("mysql", "ssl_ca=/ca.pem&sslrootcert=/ca.pem").url.sslrootcert == "/ca.pem"


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", BOTH)
def test_options_that_everybody_writes_into_urls(engine: str) -> None:
    query = "connect_timeout=10&autocommit=true&connection_limit=3&pool_timeout=7&pgbouncer=true"
    made = config(engine, query)
    assert (made.connect_timeout, made.autocommit, made.max_size, made.timeout) == (10.0, True, 3, 7.0)
    assert made.url.pooled
    assert made.url.parameters == {}
    assert config(engine, "pgbouncer=false").url.pooled is False


def test_a_keyword_wins_over_a_variable_and_that_over_the_url() -> None:
    url = "postgresql://app@h/d?connect_timeout=10&autocommit=true"
    assert make(url, None, {}, {"connect_timeout": "2"}).connect_timeout == 2.0
    assert make(url, None, {"connect_timeout": 1.0}, {"connect_timeout": "2"}).connect_timeout == 1.0
    assert make(url, None, {"autocommit": False}, {}).autocommit is False


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("connect_timeout=0", "the URL's connect_timeout=0.0.*seconds above 0"),
        ("connect_timeout=soon", "the URL's connect_timeout='soon'"),
        ("autocommit=maybe", "the URL's autocommit='maybe'.*true or false"),
        ("connection_limit=0", "the URL's connection_limit=0"),
        ("pool_timeout=0", "the URL's pool_timeout=0.0"),
        ("pgbouncer=maybe", "pooled='maybe'"),
        (
            "max_size=2",
            r"'max_size', an option of Pool: write Pool\(\.\.\., max_size=\.\.\.\) or set LAMBDA_POOL_MAX_SIZE",
        ),
        ("reset=session", "'reset', an option of Pool"),
    ],
)
def test_wrong_options(query: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config("postgresql", query)


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "query", "said"),
    [
        ("postgresql", "schema=public", "ALTER ROLE ... SET search_path"),
        ("postgresql", "currentSchema=public", "search_path"),
        ("postgresql", "search_path=public", "ALTER ROLE.*options=-c"),
        ("postgresql", "statement_timeout=5000", "ALTER ROLE.*options=-c"),
        ("postgresql", "TimeZone=UTC", "ALTER ROLE"),
        ("postgresql", "charset=UTF-8", "client_encoding.*take it out"),
        ("postgresql", "unix_socket=/run/pg", "host=/directory"),
        ("postgresql", "prepareThreshold=0", "prepare_threshold"),
        ("postgresql", "prepared_statement_cache_size=0", "take it out"),
        ("postgresql", "service=orders", "PGSERVICE"),
        ("postgresql", "cursorclass=x", "does not know"),
        ("postgresql", "read_timeout=5", "does not know"),
        ("postgresql", "init_command=x", "ALTER ROLE"),
        ("mysql", "schema=orders", "after the host's /"),
        ("mysql", "serverTimezone=UTC", "init_command"),
        ("mysql", "parseTime=true", "take it out"),
        ("mysql", "useUnicode=true", "take it out"),
        ("mysql", "characterEncoding=UTF-8", "charset=utf8mb4"),
        ("mysql", "multiStatements=true", "client_flag=65536"),
        ("mysql", "application_name=orders", "program_name"),
        ("mysql", "channel_binding=require", "take it out"),
        ("mysql", "cursorclass=DictCursor", "connect_args"),
        ("mysql", "ssl_capath=/certs", "sslrootcert"),
        ("mysql", "connection_timeout=5", "connect_timeout=..., in seconds"),
        ("mysql", "connectTimeout=5000", "connect_timeout=..., in seconds"),
        ("mysql", "socketTimeout=5000", "cancel_before_deadline"),
        ("mysql", "pool_recycle=300", "max_lifetime"),
        ("mysql", "conn_max_age=300", "max_lifetime"),
        ("mysql", "pool_size=5", "max_size"),
        ("mysql", "charset=UTF-9", "utf8mb4"),
        ("mysql", "read_default_file=/etc/my.cnf", "into the URL"),
        ("mysql", "hostaddr=127.0.0.1", "does not know"),
        ("mysql", "not-a-word=1", "take it out"),
    ],
)
def test_words_of_other_tools_are_refused_at_pool(engine: str, query: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"'?{query.partition('=')[0]}'?.*{said}"):
        Pool(f"{engine}://app@db.example/orders?{query}")


def test_what_is_no_word_at_all() -> None:
    with pytest.raises(ConfigError, match="not the name of a parameter"):
        config("mysql", "a%20b=1")


# --- hosts in the query -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "hostaddr"),
    [
        ("postgresql:///d?host=/run/pg", "/run/pg", ""),
        ("postgresql:///d?host=db.example", "db.example", ""),
        ("postgresql://db.example/d?hostaddr=10.0.0.7", "db.example", "10.0.0.7"),
        ("postgresql:///d?hostaddr=::1", "", "::1"),
        ("mysql:///d?unix_socket=/run/my sock", "/run/my sock", ""),
        ("mysql:///d?host=db.example", "db.example", ""),
    ],
)
def test_a_host_in_the_query(url: str, host: str, hostaddr: str) -> None:
    found = parse_url(url)
    assert (found.host, found.hostaddr, found.parameters) == (host, hostaddr, {})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql:///d?host=a b", "letters, digits"),
        ("postgresql://h/d?hostaddr=db.example", "hostaddr='db.example'.*an IP address"),
        ("postgresql://h/d?hostaddr=10.0.0.1,10.0.0.2", "hostaddr=.*an IP address"),
        ("postgresql:///d?host=/run/pg&hostaddr=10.0.0.1", "Unix socket.*hostaddr"),
        ("mysql:///d?host=h&unix_socket=/run/my.sock", "hosts in two places"),
        ("mysql://h/d?host=other", "hosts in two places"),
    ],
)
def test_wrong_hosts_in_the_query(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_url(url)
