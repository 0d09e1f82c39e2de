"""idempotency keys of evaluations, experiments and exports, too

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op
revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    before = _rows('SELECT key, body_sha256, job_id, created_at FROM idempotency_keys')
    op.drop_table('idempotency_keys')
    table = op.create_table('idempotency_keys',
    sa.Column('kind', sa.String(length=20), nullable=False),
    sa.Column('key', sa.String(length=255), nullable=False),
    sa.Column('body_sha256', sa.String(length=64), nullable=False),
    sa.Column('made_id', sa.String(length=64), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('kind', 'key', name=op.f('pk_idempotency_keys'))
    )
    op.create_index('ix_idempotency_keys_made', 'idempotency_keys', ['kind', 'made_id'], unique=False)
    op.bulk_insert(table, [
        {'kind': 'jobs', 'key': key, 'body_sha256': digest, 'made_id': job_id, 'created_at': created_at}
        for key, digest, job_id, created_at in before
    ])


def downgrade() -> None:
    before = _rows("SELECT key, body_sha256, made_id, created_at FROM idempotency_keys WHERE kind = 'jobs'")
    op.drop_table('idempotency_keys')
    table = op.create_table('idempotency_keys',
    sa.Column('key', sa.String(length=255), nullable=False),
    sa.Column('body_sha256', sa.String(length=64), nullable=False),
    sa.Column('job_id', sa.String(length=64), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_idempotency_keys_job_id_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('key', name=op.f('pk_idempotency_keys'))
    )
    op.bulk_insert(table, [
        {'key': key, 'body_sha256': digest, 'job_id': job_id, 'created_at': created_at}
        for key, digest, job_id, created_at in before
    ])


def _rows(query: str) -> list[sa.Row]:
    return list(op.get_bind().execute(sa.text(query)))
