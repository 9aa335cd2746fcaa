"""Test databases: nobody may be connected to one that is created, copied or dropped."""

from typing import Any

from . import pools


class ClosingCreation:
    """A mixin in front of Django's DatabaseCreation."""

    connection: Any

    def _get_test_db_name(self) -> str:
        """Like Django's, also if the environment says which database it is."""
        settings = self.connection.settings_dict
        if not settings["NAME"] and not settings["TEST"]["NAME"]:
            return f"test_{self.connection.home().pool.config.url.database}"
        return str(super()._get_test_db_name())  # type: ignore[misc]

    def _execute_create_test_db(self, *args: Any, **kwargs: Any) -> None:
        pools.close_all()
        super()._execute_create_test_db(*args, **kwargs)  # type: ignore[misc]

    def _destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        pools.close_all()
        super()._destroy_test_db(*args, **kwargs)  # type: ignore[misc]
