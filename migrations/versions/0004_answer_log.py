"""the answer log

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
    op.create_table('answers',
    sa.Column('id', sa.String(length=64), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('model', sa.String(length=110), nullable=False),
    sa.Column('adapter_id', sa.String(length=110), nullable=True),
    sa.Column('question', sa.Text(), nullable=True),
    sa.Column('question_hash', sa.String(length=64), nullable=True),
    sa.Column('answer', sa.Text(), nullable=False),
    sa.Column('confidence', sa.Double(), nullable=False),
    sa.Column('fallback_reason', sa.String(length=40), nullable=True),
    sa.Column('latency_ms', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_answers'))
    )
    op.create_index('ix_answers_created', 'answers', ['created_at', 'id'], unique=False)
    op.create_index('ix_answers_model_created', 'answers', ['model', 'created_at', 'id'], unique=False)


def downgrade() -> None:
    op.drop_index('ix_answers_model_created', table_name='answers')
    op.drop_index('ix_answers_created', table_name='answers')
    op.drop_table('answers')
