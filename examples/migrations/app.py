"""A function that migrates the database with Alembic: invoke it once for each deployment, before you update the others.

It logs in like the other functions, with the same URL, IAM token or secret: `postgresql+lambda_pool://` means the pool
that the environment describes. A migration and its entry in Alembic's table are one transaction.
"""

from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

import lambda_pool

URL = "postgresql+lambda_pool://"

config = Config()
config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
config.set_main_option("sqlalchemy.url", URL)
engine = sqlalchemy.create_engine(URL)


@lambda_pool.handler
def handler(event, context):
    target = event.get("to", "head")
    if target == "base" or target.startswith("-"):
        command.downgrade(config, target)
    else:
        command.upgrade(config, target)
    with engine.connect() as connection:
        return {"revision": MigrationContext.configure(connection).get_current_revision()}
