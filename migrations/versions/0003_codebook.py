"""the code book, and the codes that a job takes from it

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('codebook',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('updated_at', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_codebook'))
    )
    op.create_table('codebook_entries',
    sa.Column('code', sa.String(length=200), nullable=False),
    sa.Column('category', sa.String(length=200), nullable=True),
    sa.Column('text', sa.Text(), nullable=True),
    sa.Column('updated_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('code', name=op.f('pk_codebook_entries'))
    )
    # ALTER TABLE itself, no batch: on SQLite a batch makes the table anew, and dropping the old one takes the jobs'
    # events and checkpoints along.
    op.add_column('jobs', sa.Column('codebook_version', sa.Integer(), nullable=True))
    op.add_column(
        'jobs',
        sa.Column('extra_codes', sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), 'postgresql'), nullable=True),
    )


def downgrade() -> None:
    op.drop_column('jobs', 'extra_codes')
    op.drop_column('jobs', 'codebook_version')
    op.drop_table('codebook_entries')
    op.drop_table('codebook')
