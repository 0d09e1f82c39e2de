"""rows of evaluations in the database

Until now a finished evaluation's rows were one file in the blob store; those files stay, but nothing reads them any more.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('evaluation_rows',
    sa.Column('evaluation_id', sa.String(length=64), nullable=False),
    sa.Column('row', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('is_right', sa.Boolean(), nullable=False),
    sa.Column('data', sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), 'postgresql'), nullable=False),
    sa.ForeignKeyConstraint(['evaluation_id'], ['evaluations.id'], name=op.f('fk_evaluation_rows_evaluation_id_evaluations'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('evaluation_id', 'row', name=op.f('pk_evaluation_rows'))
    )
    op.create_index('ix_evaluation_rows_right', 'evaluation_rows', ['evaluation_id', 'is_right', 'row'], unique=False)
    with op.batch_alter_table('evaluations') as table:
        table.drop_column('rows_key')


def downgrade() -> None:
    with op.batch_alter_table('evaluations') as table:
        table.add_column(sa.Column('rows_key', sa.String(length=200), nullable=True))
    op.drop_index('ix_evaluation_rows_right', table_name='evaluation_rows')
    op.drop_table('evaluation_rows')
