"""aliases keep a gate, a candidate, and who changed them why

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), 'postgresql')


def upgrade() -> None:
    # ALTER TABLE itself where it can, no batch: on SQLite a batch may make the table anew.
    op.add_column('aliases', sa.Column('gate', _JSON, nullable=True))
    op.create_table('alias_candidates',
    sa.Column('alias', sa.String(length=100), nullable=False),
    sa.Column('adapter_id', sa.String(length=110), nullable=False),
    sa.Column('mode', sa.String(length=8), nullable=False),
    sa.Column('percent', sa.Double(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['adapter_id'], ['adapters.id'], name=op.f('fk_alias_candidates_adapter_id_adapters')),
    sa.ForeignKeyConstraint(['alias'], ['aliases.name'], name=op.f('fk_alias_candidates_alias_aliases'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('alias', name=op.f('pk_alias_candidates'))
    )
    # A batch here: an alias that is deleted moves to nowhere. No table refers to this one.
    with op.batch_alter_table('alias_moves') as batch_op:
        batch_op.alter_column('to_adapter_id', existing_type=sa.String(length=110), nullable=True)
        batch_op.add_column(sa.Column('action', sa.String(length=20), nullable=False, server_default='moved'))
        batch_op.add_column(sa.Column('made_by', sa.String(length=100), nullable=True))
        batch_op.add_column(sa.Column('is_forced', sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column('facts', _JSON, nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM alias_moves WHERE action <> 'moved'")
    with op.batch_alter_table('alias_moves') as batch_op:
        batch_op.drop_column('facts')
        batch_op.drop_column('is_forced')
        batch_op.drop_column('made_by')
        batch_op.drop_column('action')
        batch_op.alter_column('to_adapter_id', existing_type=sa.String(length=110), nullable=False)
    op.drop_table('alias_candidates')
    op.drop_column('aliases', 'gate')
