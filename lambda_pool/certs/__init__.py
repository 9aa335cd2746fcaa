"""The certificate authorities of RDS, one PEM file for each region, and of RDS Proxy.

The files are data, written by scripts/refresh_certs.py. A path is handed to the TLS library; nothing is read here.
"""

import os

_HERE = os.path.dirname(__file__)  # noqa: PTH120 - importing pathlib takes 4 ms of a cold start


def path(name: str) -> str | None:
    """The file for a region's name, for `all` regions or for RDS Proxy (`proxy`); None if none is shipped.

    `name` must be letters, digits and hyphens.
    """
    file = os.path.join(_HERE, name + ".pem")  # noqa: PTH118
    return file if os.path.isfile(file) else None  # noqa: PTH113
