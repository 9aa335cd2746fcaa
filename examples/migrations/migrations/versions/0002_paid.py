"""Whether an invoice is paid."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.add_column("invoices", sa.Column("paid", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade():
    op.drop_column("invoices", "paid")
