"""the answer log

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), 'postgresql')


def upgrade() -> None:
    op.create_table('answers',
    sa.Column('id', sa.String(length=64), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('model', sa.String(length=110), nullable=False),
    sa.Column('adapter_id', sa.String(length=110), nullable=True),
    sa.Column('adapter_checksum', sa.String(length=64), nullable=True),
    sa.Column('question', sa.Text(), nullable=True),
    sa.Column('question_sha256', sa.String(length=64), nullable=True),
    sa.Column('answer', sa.Text(), nullable=False),
    sa.Column('codes', _JSON, nullable=False),
    sa.Column('confidence', sa.Double(), nullable=False),
    sa.Column('is_calibrated', sa.Boolean(), nullable=False),
    sa.Column('alternatives', _JSON, nullable=False),
    sa.Column('fallback_reason', sa.String(length=40), nullable=True),
    sa.Column('mode', sa.String(length=16), nullable=False),
    sa.Column('latency_ms', sa.Double(), nullable=False),
    sa.Column('passes', sa.Integer(), nullable=False),
    sa.Column('variant', sa.String(length=16), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_answers'))
    )
    op.create_index('ix_answers_created', 'answers', ['created_at', 'id'], unique=False)
    op.create_index('ix_answers_model_created', 'answers', ['model', 'created_at', 'id'], unique=False)
    op.create_index('ix_answers_adapter_created', 'answers', ['adapter_id', 'created_at', 'id'], unique=False)


def downgrade() -> None:
    op.drop_index('ix_answers_adapter_created', table_name='answers')
    op.drop_index('ix_answers_model_created', table_name='answers')
    op.drop_index('ix_answers_created', table_name='answers')
    op.drop_table('answers')
