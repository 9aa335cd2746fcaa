"""Django on a pool: database engines whose connections are the pool's, and a decorator for functions without HTTP.

`ENGINE = "lambda_pool.django.postgresql"` or `"lambda_pool.django.mysql"`. The only public names are `handler` and the
errors. Importing this package imports Django.
"""

from ..errors import ConfigError

try:
    import django  # noqa: F401
except ImportError as _error:
    raise ConfigError(f"lambda_pool.django needs Django: pip install 'lambda-pool[django]' ({_error})") from _error

from .errors import CommitUncertain, SettingsError
from .invocations import handler

__all__ = ["CommitUncertain", "SettingsError", "handler"]
