"""How to fix what a step found."""

from __future__ import annotations

import errno
import ipaddress
import socket
import time

from lambda_pool.auth.signature import VALID_FOR
from lambda_pool.aws.hosts import Kind, recognise
from lambda_pool.cli.doctor.aws import Answer, Signed, policy_arn
from lambda_pool.cli.terminal import duration
from lambda_pool.engines.base import ConnectRequest, Failure
from lambda_pool.hints import ASLEEP, of_refusal
from lambda_pool.tls import advice as tls_advice

_PLUGIN = "AWSAuthenticationPlugin AS 'RDS'"
_TOLERANCE = 240
"""Seconds between two clocks; with more, signatures are in danger, because AWS allows five minutes."""


def of_name(error: OSError | UnicodeError, host: str) -> list[str]:
    """A name that has no address."""
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) == socket.EAI_AGAIN:
        return [
            "No name server answered. In a VPC, switch DNS support on (enableDnsSupport); if it has name servers of "
            "its own, let the function reach them on port 53."
        ]
    if recognise(host):
        return [
            f"Check the spelling of {host}, and that the database, cluster or proxy still exists and was not renamed: "
            "the host name changes with it."
        ]
    return [
        f"Check the spelling of {host}. A name in a private hosted zone is known only in the VPCs that the zone is "
        "associated with: associate it with the function's VPC, and switch DNS host names on there "
        "(enableDnsHostnames)."
    ]


def of_address(error: OSError, address: str, port: int, *, in_lambda: bool) -> list[str]:
    """An address that cannot be connected to."""
    if error.errno == errno.ECONNREFUSED:
        return [
            f"A machine answers at {address}, but nothing listens on its port {port}: check the port in the URL, and "
            "that the database is running."
        ]
    if error.errno == errno.ENOENT:
        return [f"There is no Unix socket {address}: check the path, and that the database is running."]
    if not isinstance(error, TimeoutError):
        way = "There is no route to it: check the subnets and their route tables."
        if ":" not in address:
            return [way]
        return [
            f"{way} {address} is an IPv6 address: a dual-stack endpoint has one beside its IPv4 address. Give the "
            "function's VPC configuration Ipv6AllowedForDualStack=true, and give its subnets IPv6."
        ]
    here = "the function's" if in_lambda else "this machine's"
    advice = [
        f"Nothing comes back, so something on the way drops the packets. Allow inbound TCP {port} in the security "
        f"group of the database (or proxy) from {here} security group or address. Then look at outbound rules and "
        "network ACLs."
    ]
    if ipaddress.ip_address(address).is_private:
        advice.append(
            "The address is a private one: attach the function to the database's VPC, or to one that is peered with it."
            if in_lambda
            else "The address is a private one, which can be reached only from its VPC: run this inside the function "
            "(lambda_pool.cli.doctor.diagnose), or through a VPN or a tunnel."
        )
    return advice


def of_sleep(wake_timeout: float) -> str:
    """A database that was reached, but is not ready."""
    again = f"{ASLEEP}. Run the doctor again in half a minute"
    return again + ("." if wake_timeout else ", and set wake_timeout=40, so that functions wait for it.")


def of_login(text: str, kind: Failure, engine: str, request: ConnectRequest) -> list[str]:
    """A login that failed with an error of this text, except for IAM tokens that were refused."""
    if kind is Failure.UNTRUSTED:
        return [tls_advice(text, request.host, request.tls)]
    refusal = of_refusal(text, engine, request)
    known = [f"{refusal}."] if refusal else []
    if kind is Failure.TOO_MANY:
        return [
            *known,
            "The server, or the pooler, has no free connection: lower the function's reserved concurrency or max_size, "
            "put an RDS Proxy in between, or raise max_connections.",
        ]
    if known:
        return known
    if kind is Failure.REJECTED:
        advice = [
            f"The server does not accept user {request.credentials.user} with this password. In a URL, characters such "
            "as @ : / % are escaped (@ is %40). A secret must belong to this database, and its last rotation must have "
            "succeeded."
        ]
        if engine == "mysql" and not request.tls.required:
            advice.append(
                "Or it requires encryption (REQUIRE SSL, require_secure_transport): write sslmode=verify-full."
            )
        return advice
    if kind in {Failure.UNREACHABLE, Failure.RESUMING, Failure.LOST, Failure.SHUTDOWN}:
        return [
            "TCP works, but the login does not finish: the server is starting, stopping or overloaded, or a "
            "proxy waits for a connection to it. Look at its log and its load, and try again."
        ]
    return []


def of_token(
    error: Exception, engine: str, request: ConnectRequest, region: str, signed: Signed | None, answer: Answer
) -> list[str]:
    """An IAM token that was refused: the likeliest cause comes first."""
    user, host = request.credentials.user, request.host
    advice = _of_clock(signed, answer)
    if answer.problem:
        advice.append(answer.problem)
    known = recognise(host)
    if answer.end_to_end:
        grant = f"GRANT rds_iam TO {user}" if engine == "postgresql" else f"{user} IDENTIFIED WITH {_PLUGIN}"
        advice.append(
            f"The proxy's default authentication scheme is IAM_AUTH, so it logs in to the database by IAM, too: {user} "
            f"must be an IAM user there ({grant}), the database must allow IAM logins, and the proxy's own role needs "
            "rds-db:connect on the database's resource."
        )
    elif known and known.kind is Kind.PROXY:
        advice.append(
            f"Allow IAM authentication for {user} in the proxy's authentication settings, and keep its password in "
            "the proxy's secret. Do not make it an IAM user in the database, unless the proxy's default authentication "
            "scheme is IAM_AUTH: the database would then refuse the password."
        )
    elif engine == "mysql":
        advice.append(f"Check that {user} is an IAM user: CREATE USER {user} IDENTIFIED WITH {_PLUGIN}")
    elif "PAM authentication failed" not in str(error):
        advice.append(f"The server asked for a password, so {user} is not an IAM user there: GRANT rds_iam TO {user}")
    arn = policy_arn(host, region, user, answer)
    how = "" if answer.resource else " (RESOURCE-ID is the database's DbiResourceId or DbClusterResourceId, or prx-...)"
    advice.append(f"Allow rds-db:connect on {arn} to {answer.who}{how}.")
    if known is None:
        advice.append(
            f"{host} is not a host name of RDS, and a token is valid only for the name that it was signed for: write "
            "the name that AWS gave the endpoint."
        )
    elif signed and known.region not in {"", signed.region}:
        advice.append(f"The token is for {signed.region}, and the endpoint is in {known.region}: leave region= out.")
    return advice


def _of_clock(signed: Signed | None, answer: Answer) -> list[str]:
    if signed is None:
        return []
    if answer.ahead is None:
        stamp = time.strftime("%H:%M:%S", time.gmtime(signed.at))
        return [f"The token was signed at {stamp} UTC, by this machine's clock: compare that with one you trust."]
    age = time.time() + answer.ahead - signed.at
    if age > VALID_FOR:
        return [
            f"By AWS's clock the token was signed {duration(age)} ago and is valid for {duration(VALID_FOR)}, so it "
            "has expired: set this machine's clock."
        ]
    if age < -_TOLERANCE:
        return [f"By AWS's clock the token was signed {duration(-age)} in the future: set this machine's clock."]
    if age > _TOLERANCE:
        return [f"By AWS's clock the token was signed {duration(age)} ago: this machine's clock may be behind."]
    return []
