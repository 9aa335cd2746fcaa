"""Every error the package raises of its own, `from` the driver's or the SDK's error where there is one."""


class LambdaPoolError(Exception):
    """Root of all errors raised by lambda_pool."""


class ConfigError(LambdaPoolError, ValueError):
    """A URL, an option or an environment variable is wrong. Names it, the value (never a secret) and the fix."""

    def __init__(self, text: str) -> None:
        """A URL may stand where another value should: what its password may be is not shown."""
        if "://" in text and "@" in text:
            import re  # which the warm path and most cold starts do without

            text = re.sub(r"://\S*?:.*@", "://***@", text, flags=re.DOTALL)
        super().__init__(text)


class CredentialsError(LambdaPoolError):
    """No credentials could be had, or the database rejected those it was given."""


class EndpointError(LambdaPoolError):
    """The database's address could not be found: no such proxy or cluster, not available, or of the wrong engine."""


class ConnectError(LambdaPoolError):
    """The database could not be reached, or refused the connection, for another reason than the credentials."""


class PoolTimeout(LambdaPoolError, TimeoutError):  # noqa: N818 - the public contract fixes the name
    """Every connection stayed in use for as long as the caller was ready to wait."""


class DeadlineExceeded(LambdaPoolError, TimeoutError):  # noqa: N818 - the public contract fixes the name
    """The invocation has too little time left for what was asked."""


class CommitUncertain(LambdaPoolError):  # noqa: N818 - the public contract fixes the name
    """COMMIT was sent and its answer was lost: the transaction may or may not be saved. Never replayed."""


class NotCommitted(LambdaPoolError):  # noqa: N818 - as the other names of outcomes
    """A block or a handler ended well, and its work is not saved: its transaction had failed or was undone, or its
    connection was lost or closed, and the error was swallowed. See the option `unsaved`.
    """
