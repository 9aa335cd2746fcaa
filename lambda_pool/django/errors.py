"""The pool's errors as Django's own, so that `except OperationalError` and atomic() know them."""

from types import TracebackType
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.utils import DatabaseErrorWrapper, OperationalError

from .. import errors


class SettingsError(errors.ConfigError, ImproperlyConfigured):  # type: ignore[misc]
    """A setting in DATABASES is wrong. Names the alias, the setting and the fix."""


class CommitUncertain(errors.CommitUncertain, OperationalError):  # type: ignore[misc] # noqa: N818 - as the other
    """COMMIT was sent, its answer was lost: the work may or may not be saved. Both the pool's error and Django's."""


class ErrorWrapper(DatabaseErrorWrapper):  # type: ignore[misc]
    """Django's own, for the pool's errors too; the connection notes what a driver's error means for it."""

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: Any, traceback: TracebackType | None) -> None:
        if exc_type is None:
            return
        if issubclass(exc_type, errors.LambdaPoolError):
            # It may be one already, from a connection that was borrowed inside of this.
            if not issubclass(exc_type, SettingsError | CommitUncertain):
                self.wrapper.errors_occurred = True
                raise as_django(exc_value).with_traceback(traceback) from exc_value
            return
        if issubclass(exc_type, self.wrapper.Database.Error):
            self.wrapper.note_error(exc_value)
        super().__exit__(exc_type, exc_value, traceback)


def as_django(error: errors.LambdaPoolError) -> Exception:
    """The same as an error of Django's."""
    if isinstance(error, errors.ConfigError):
        return SettingsError(str(error))
    kind = CommitUncertain if isinstance(error, errors.CommitUncertain) else OperationalError
    return kind(*error.args)
