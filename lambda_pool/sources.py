"""A pool's login, address and observers: those that the caller gives, checked, and those that the environment names."""

from collections.abc import Iterable, Sequence

from . import config as configuration
from .auth.base import Auth
from .aws.hosts import is_dsql, recognise
from .endpoints.base import Endpoint, EndpointSource, FixedEndpoint
from .errors import ConfigError
from .events import Observer
from .tls import choose

_AUTH = ("credentials", "needs_tls", "rejected", "forget")
_ENDPOINT = ("resolve", "has_reader", "failed", "forget")
"""What an object of the user's own must have."""


def check(auth: Auth | None, endpoint: EndpointSource | None) -> None:
    """Raise ConfigError for an object that is not a source of logins, or of addresses."""
    for option, value, members, example in (
        ("auth", auth, _AUTH, "IamToken() or SecretsManager('name')"),
        ("endpoint", endpoint, _ENDPOINT, "RdsProxy('name') or AuroraCluster('id')"),
    ):
        lacks = [] if value is None else [name for name in members if not hasattr(value, name)]
        if isinstance(value, type) or members[0] in lacks:
            # Not shown: it may be a password.
            given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
            raise ConfigError(f"{option} is not valid: it must be an object such as {example}, not {given}")
        if lacks:
            raise ConfigError(f"{option} is not valid: {type(value).__name__} has no {', '.join(lacks)}")


def check_login(config: configuration.Config, auth: Auth, endpoint: EndpointSource) -> None:
    """Raise ConfigError if no connect could ever log in like this."""
    url = config.url
    if url.sslrootcert is not None:  # some host in another place stands for all
        choose("elsewhere.example", url.sslmode, url.sslrootcert, proxy=False, required=False)
    if auth.needs_tls:
        from .auth.iam import IamToken

        if isinstance(auth, IamToken):
            known = endpoint.endpoints if isinstance(endpoint, FixedEndpoint) else (None,)
            for each in known:
                auth.check(None if each is None else each.host, url.user)


def is_proxy(endpoint: EndpointSource) -> bool:
    """Whether it leads to an RDS Proxy, wherever that is."""
    from .endpoints.rds import RdsProxy

    return isinstance(endpoint, RdsProxy)


def listed(observers: Sequence[Observer]) -> tuple[Observer, ...]:
    """The observers as a tuple: a generator would be empty the second time. Raises ConfigError."""
    found = tuple(observers) if isinstance(observers, Iterable) else None
    if found is None or any(isinstance(each, type) or not hasattr(each, "on_event") for each in found):
        raise ConfigError("observers is not valid: it must be a list of objects with a method on_event(event)")
    return found


def auth_of(environment: configuration.Environment) -> Auth | None:
    """The login that the environment asks for; None for the user and password of the URL."""
    kind = environment.login
    if kind == "iam":
        from .auth.iam import IamToken

        return IamToken()
    if kind == "secret":
        from .auth.secrets import SecretsManager

        return SecretsManager(environment.secret_id or "")
    return None


def endpoint_of(environment: configuration.Environment) -> EndpointSource | None:
    """The endpoint that the environment names; None for the hosts of the URL."""
    if environment.rds_proxy:
        from .endpoints.rds import RdsProxy

        return RdsProxy(environment.rds_proxy)
    if environment.aurora_cluster:
        from .endpoints.rds import AuroraCluster

        return AuroraCluster(environment.aurora_cluster)
    return None


def endpoint_at(config: configuration.Config) -> tuple[EndpointSource, bool]:
    """The URL's own hosts, and whether one of them is an RDS Proxy, or supports as little as one."""
    url = config.url
    endpoints = [_fixed(*address, url.engine) for address in url.addresses]
    spread = {**url.parameters, **config.connect_args}.get("load_balance_hosts") == "random"
    frugal = any(each.proxy or is_dsql(each.host) for each in endpoints)
    if spread:
        from .backoff import uniform

        return FixedEndpoint(*endpoints, share=uniform), frugal
    return FixedEndpoint(*endpoints), frugal


def _fixed(host: str, port: int | None, engine: str) -> Endpoint:
    rds = recognise(host)
    return Endpoint(rds.name if rds else host, port, proxy=rds is not None and rds.proxy, engine=engine)


def observers_of(config: configuration.Config) -> Sequence[Observer]:
    """The observers when the user names none: by default CloudWatch metrics inside Lambda, and none elsewhere."""
    auto = "emf" if configuration.in_lambda() else "off"
    kind = auto if config.metrics == "auto" else config.metrics
    if kind == "emf":
        from .metrics.emf import EmfMetrics

        return (EmfMetrics(interval=config.metrics_interval),)
    if kind == "cloudwatch":
        from .metrics.cloudwatch import PutMetrics

        return (PutMetrics(interval=config.metrics_interval),)
    return ()
