"""PyMySQL in place of MySQLdb, which Django's MySQL backend imports, if mysqlclient is not installed.

Django's modules are imported with a stand-in that is gone from `sys.modules` afterwards, so that nobody else finds it.
Where mysqlclient is installed, Django's modules are bound to it as usual: nothing of it is used here.
"""

import importlib
import sys
from types import ModuleType

import pymysql
from pymysql import constants, converters

_NAMES = {"MySQLdb": None, "MySQLdb.constants": constants, "MySQLdb.converters": converters}
_AS_NEW_AS = (2, 2, 8, "final", 1)
"""The version of mysqlclient that the stand-in passes for: Django asks for one that is new enough."""


def import_backend() -> ModuleType:
    """`django.db.backends.mysql.base`."""
    name = "django.db.backends.mysql.base"
    if name in sys.modules or _is_installed():
        return importlib.import_module(name)
    stand_in = ModuleType("MySQLdb", "PyMySQL, for the time of an import.")
    stand_in.__dict__.update({key: value for key, value in vars(pymysql).items() if not key.startswith("__")})
    stand_in.__dict__.update(version_info=_AS_NEW_AS, __version__=".".join(map(str, _AS_NEW_AS[:3])))
    sys.modules.update({key: module or stand_in for key, module in _NAMES.items()})
    try:
        return importlib.import_module(name)
    finally:
        for key in _NAMES:
            sys.modules.pop(key, None)


def _is_installed() -> bool:
    try:
        importlib.import_module("MySQLdb")
    except ImportError:
        return False
    return True
