"""What to do about a login that the server, pooler or driver refused, for the pool's own errors and for the doctor.

Loaded only when there is something to explain.
"""

from .auth.base import Credentials
from .config.parts import ENGINE_AT
from .endpoints.base import Endpoint
from .engines.base import ConnectRequest
from .invocation import Deadline
from .tls import advice_on_own_certificate

# Numbers that MySQL answers a login with: https://dev.mysql.com/doc/mysql-errors/8.4/en/; from 4000 on MariaDB's.
_SETTINGS = ("1064", "1115", "1193", "1227", "1229", "1231", "1238", "1253", "1273")
FULL = (
    "The server is full: `lambda-pool doctor` looks at it from here, and `lambda-pool plan` says how many connections "
    "fit"
)
ASLEEP = "It may be asleep, as Aurora is at 0 ACU: it takes about 15 seconds to resume, and 30 or more after a day"
_LOGIN = 0.2  # seconds that a login may take where the server is awake
_BY_THE_HOUR = ("max_questions", "max_updates", "max_connections_per_hour")
_ONLY_IAM = (
    "The RDS API says that only IAM logins are accepted there, but this was a password: use auth=IamToken() "
    "(LAMBDA_POOL_AUTH=iam), or allow passwords for this user in the proxy's authentication settings"
)
_NO_IAM = (
    "The RDS API says that IAM logins are not enabled there: enable IAM database authentication on the instance or "
    "cluster, or IAM authentication for this user on the proxy; or log in with SecretsManager(...), not IamToken()"
)
_WRONG_PASSWORD = ("no password supplied", "password authentication failed", "(1045,")


def contradiction(credentials: Credentials, endpoint: Endpoint) -> str:
    """What to do if the RDS API says that this kind of login is not accepted there; otherwise empty."""
    if endpoint.iam is None or endpoint.iam is credentials.iam:
        return ""
    return _ONLY_IAM if endpoint.iam else _NO_IAM


def asleep(deadline: Deadline) -> str:
    """What to do about a database that was reached but not ready before `deadline`; empty if that came too soon."""
    if deadline.at - deadline.start < _LOGIN:
        return ""
    if not deadline.wake:
        return f"{ASLEEP}. Set wake_timeout (LAMBDA_POOL_WAKE_TIMEOUT) to 40, and the function's timeout above it"
    if deadline.by_invocation:
        return f"{ASLEEP}. wake_timeout={deadline.wake:g} waits for it: raise the function's timeout above that"
    return f"It did not wake within wake_timeout={deadline.wake:g} s: look at its events, or raise wake_timeout"


def silent(engine: str, port: int, deadline: Deadline) -> str:
    """What to do about a server that was reached, but did not answer a login before `deadline`."""
    usual = ENGINE_AT.get(port, engine)
    if usual == engine:
        return asleep(deadline)
    # MySQL's server speaks first, PostgreSQL's waits to be spoken to.
    return f"Port {port} is usually for {usual}://, but the URL begins with {engine}://: change one of them"


def of_refusal(text: str, engine: str, request: ConnectRequest) -> str:
    """What to do, judged by the text of the driver's error; empty if the text says it itself."""
    found = _of_mysql(text, request) if engine == "mysql" else _of_postgres(text, request)
    return found or advice_on_own_certificate(text.lower()).removesuffix(".") or _of_login(text, request)


def _of_postgres(text: str, request: ConnectRequest) -> str:
    user, database = request.credentials.user, request.database
    if "startup parameter" in text or "command-line options" in text:
        return (
            "There is a pooler that refuses start-up options: add pooled=true to the URL, and take 'options' out "
            "of the URL, of connect_args and of PGOPTIONS"
        )
    if 'parameter "' in text:
        return "The server refuses a setting in 'options' (of the URL, connect_args or PGOPTIONS): correct it"
    if request.arguments.get("sslnegotiation") == "direct" and ("SSL" in text or "closed the connection" in text):
        return (
            "Only PostgreSQL 17 and later speak TLS from the first byte, and few poolers do: take "
            "sslnegotiation=direct out of the URL"
        )
    if "invalid response to SSL negotiation" in text or "expected authentication request" in text:
        return (
            "The server that answers there is not PostgreSQL: correct the host and port, or write mysql:// for MySQL "
            "and MariaDB"
        )
    if "no pg_hba.conf entry" in text:
        encrypted = "no encryption" not in text
        return "The server has no rule that lets this user into this database from here: " + (
            "add one to pg_hba.conf" if encrypted else "encrypt, with sslmode=verify-full"
        )
    if ("database" in text and "does not exist" in text) or "no such database" in text:
        return _missing(database)
    if "permission denied for database" in text:
        return f"GRANT CONNECT ON DATABASE {database} TO {user}"
    return f"ALTER ROLE {user} LOGIN" if "not permitted to log in" in text else ""


def _of_mysql(text: str, request: ConnectRequest) -> str:
    user, database = request.credentials.user, request.database
    number = text.partition("(")[2].partition(",")[0]
    if number in _SETTINGS:
        return (
            "The server refuses the init_command, sql_mode, charset or collation in the URL's query or in "
            "connect_args: correct it"
        )
    if number == "1226":
        if any(limit in text for limit in _BY_THE_HOUR):
            return f"The account's hourly limit is used up: ALTER USER {user}@'%' WITH ... 0 lifts it"
        return f"The account's own limit is reached: ALTER USER {user}@'%' WITH MAX_USER_CONNECTIONS 0 lifts it"
    by_number = {
        "3159": "The server wants encryption: take sslmode out of the URL, or make it verify-full",
        "1049": _missing(database),
        "1044": f"GRANT ALL ON {database}.* TO {user}@'%'",
        "1130": f"No account lets {user} log in from here: CREATE USER {user}@'%' ...",
        "1129": "The server blocks this host after too many errors: run FLUSH HOSTS on it",
        "1820": f"The password of {user} has expired: ALTER USER {user}@'%' IDENTIFIED BY '...'",
        "1862": f"The password of {user} has expired: ALTER USER {user}@'%' IDENTIFIED BY '...'",
        "3118": f"The account of {user} is locked: ALTER USER {user}@'%' ACCOUNT UNLOCK",
        "4151": f"The account of {user} is locked: ALTER USER {user}@'%' ACCOUNT UNLOCK",
    }
    return by_number.get(number, "")


def _missing(database: str) -> str:
    now = f"now it is {database}" if database else "now there is none, so the server takes the user's name"
    return f"After the host in the URL, write the name of a database that exists ({now}), or create it"


def _of_login(text: str, request: ConnectRequest) -> str:
    user, password = request.credentials.user, request.credentials.password
    if request.credentials.iam:
        return ""
    if password is not None and "X-Amz-Signature=" in password.reveal():
        return (
            "The password is an IAM token, which lives 15 minutes: use auth=IamToken() (LAMBDA_POOL_AUTH=iam), which "
            "signs one for each login"
        )
    if "PAM authentication failed" in text:
        return (
            f"The server asked PAM, as RDS does for users with the role rds_iam: no password is accepted for {user}, "
            f"and a token written into a URL lives 15 minutes. Use auth=IamToken() (LAMBDA_POOL_AUTH=iam), or REVOKE "
            f"rds_iam FROM {user}"
        )
    if password is None and ("no password supplied" in text or "using password: NO" in text):
        return (
            "No password was given: write it into the URL, name a secret (LAMBDA_POOL_SECRET_ID), or use IAM "
            "(LAMBDA_POOL_AUTH=iam)"
        )
    if password is not None and any(wrong in text for wrong in _WRONG_PASSWORD):
        return _odd(password.reveal())
    return ""


def _odd(password: str) -> str:
    """What looks wrong with a password that is refused, without revealing anything of it."""
    if not password:
        return "The password that was given is empty: look where it comes from, for example a variable that is not set"
    if password != password.strip():
        return (
            "The password that was given begins or ends with white space, such as the line break that echo writes: if "
            "that is not a part of it, store the password without it"
        )
    return ""
