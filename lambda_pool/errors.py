"""Every error of the package's own. It is raised `from` the driver's or the SDK's error if there is one."""


def without_password(text: str) -> str:
    """Hide what may be a password: somebody may have given a URL in place of another value."""
    if "://" in text and "@" in text:
        import re  # here, because the warm path and most cold starts do without it

        text = re.sub(r"://\S*?:.*@", "://***@", text, flags=re.DOTALL)
    return text


class LambdaPoolError(Exception):
    """Root of all errors raised by lambda_pool."""


class ConfigError(LambdaPoolError, ValueError):
    """A URL, an option or an environment variable is wrong. The message names it, its value (never a secret) and the
    fix.
    """

    def __init__(self, text: str) -> None:
        text = without_password(text)
        if not text.isascii():
            # The Lambda runtime encodes an error of Init as Latin-1, and its caller reads UTF-8: only ASCII arrives.
            text = text.encode("ascii", "backslashreplace").decode()
        super().__init__(text)


class CredentialsError(LambdaPoolError):
    """No credentials could be fetched, or the database rejected them."""


class EndpointError(LambdaPoolError):
    """The database's address could not be found: no such proxy or cluster, not available, or of the wrong engine."""


class ConnectError(LambdaPoolError):
    """The database could not be reached, or it refused the connection for a reason other than the credentials."""


class PoolTimeout(LambdaPoolError, TimeoutError):  # noqa: N818 - the public contract fixes the name
    """All connections stayed in use for as long as the caller could wait."""


class DeadlineExceeded(LambdaPoolError, TimeoutError):  # noqa: N818 - the public contract fixes the name
    """The invocation has too little time left for this."""


class CommitUncertain(LambdaPoolError):  # noqa: N818 - the public contract fixes the name
    """COMMIT was sent and its answer was lost: the transaction may or may not be saved. Never replayed."""


class NotCommitted(LambdaPoolError):  # noqa: N818 - as the other names of outcomes
    """A block or a handler ended normally, but its work is not saved: its transaction had failed or was undone, or its
    connection was lost or closed, and the code swallowed the error. See the option `unsaved`.
    """
