"""The table of invoices."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table("invoices", sa.Column("number", sa.Integer, primary_key=True), sa.Column("amount", sa.Integer))


def downgrade():
    op.drop_table("invoices")
