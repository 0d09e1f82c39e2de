"""exports of adapters

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('exports',
    sa.Column('id', sa.String(length=64), nullable=False),
    sa.Column('job_id', sa.String(length=64), nullable=False),
    sa.Column('model', sa.String(length=110), nullable=False),
    sa.Column('format', sa.String(length=16), nullable=False),
    sa.Column('checksum', sa.String(length=64), nullable=True),
    sa.Column('size_bytes', sa.BigInteger(), nullable=True),
    sa.Column('blob_key', sa.String(length=200), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_exports_job_id_jobs')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_exports')),
    sa.UniqueConstraint('job_id', name=op.f('uq_exports_job_id'))
    )
    op.create_index('ix_exports_created', 'exports', ['created_at', 'id'], unique=False)


def downgrade() -> None:
    op.drop_index('ix_exports_created', table_name='exports')
    op.drop_table('exports')
