"""feedback on answers

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), 'postgresql')


def upgrade() -> None:
    op.add_column('answers', sa.Column('verdict', sa.String(length=16), nullable=True))
    op.add_column('answers', sa.Column('right_codes', _JSON, nullable=True))
    op.add_column('answers', sa.Column('reviewed_at', sa.Double(), nullable=True))
    op.create_index('ix_answers_confidence', 'answers', ['confidence', 'id'], unique=False)
    op.create_index('ix_answers_reviewed', 'answers', ['reviewed_at', 'id'], unique=False)
    op.create_table('answer_reviews',
    sa.Column('answer_id', sa.String(length=64), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('verdict', sa.String(length=16), nullable=False),
    sa.Column('codes', _JSON, nullable=True),
    sa.Column('reviewer', sa.String(length=100), nullable=True),
    sa.Column('comment', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['answer_id'], ['answers.id'], name=op.f('fk_answer_reviews_answer_id_answers'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('answer_id', 'number', name=op.f('pk_answer_reviews'))
    )


def downgrade() -> None:
    op.drop_table('answer_reviews')
    op.drop_index('ix_answers_reviewed', table_name='answers')
    op.drop_index('ix_answers_confidence', table_name='answers')
    op.drop_column('answers', 'reviewed_at')
    op.drop_column('answers', 'right_codes')
    op.drop_column('answers', 'verdict')
