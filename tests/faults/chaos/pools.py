"""The pools of the ledger's function, as its module scope has them."""

import json
import os

import lambda_pool

URL = os.environ["URL"]
OPTIONS = json.loads(os.environ["OPTIONS"])

if "SECRET" in os.environ:
    OPTIONS["auth"] = lambda_pool.SecretsManager(os.environ["SECRET"])
POOL = lambda_pool.Pool(URL, name="ledger", **OPTIONS)
AUTOCOMMIT = lambda_pool.Pool(URL, name="autocommit", autocommit=True, **OPTIONS)
WIDE = lambda_pool.Pool(URL, name="wide", max_size=2, **OPTIONS)
TENANTS = lambda_pool.Pool(URL, name="tenants", reset="changed", **OPTIONS)
POOLS = (POOL, AUTOCOMMIT, WIDE, TENANTS)

if "SABOTAGE" in os.environ:
    from tests.faults.chaos import sabotage

    sabotage.apply(os.environ["SABOTAGE"])

if "SECRET" in os.environ:
    # Importing the AWS SDK takes as much computing time as some deadlines here allow, and nothing can interrupt it.
    POOL.warm()
