"""files know the file that they were cut from

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # ALTER TABLE itself, no batch: on SQLite a batch may make the table anew.
    op.add_column('files', sa.Column('parent_id', sa.String(length=64), nullable=True))
    op.add_column(
        'files',
        sa.Column('provenance', sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), 'postgresql'), nullable=True),
    )


def downgrade() -> None:
    op.drop_column('files', 'provenance')
    op.drop_column('files', 'parent_id')
