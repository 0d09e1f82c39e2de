"""experiments and their arms

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    mapping = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), 'postgresql')
    op.create_table('experiments',
    sa.Column('id', sa.String(length=64), nullable=False),
    sa.Column('name', sa.String(length=100), nullable=True),
    sa.Column('status', sa.String(length=20), nullable=False),
    sa.Column('kind', sa.String(length=20), nullable=False),
    sa.Column('vary', mapping, nullable=False),
    sa.Column('hyperparameters', mapping, nullable=False),
    sa.Column('training_file_id', sa.String(length=64), nullable=False),
    sa.Column('validation_file_id', sa.String(length=64), nullable=True),
    sa.Column('test_file_id', sa.String(length=64), nullable=False),
    sa.Column('max_rows', sa.Integer(), nullable=True),
    sa.Column('seed', sa.BigInteger(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('finished_at', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_experiments'))
    )
    op.create_index('ix_experiments_created', 'experiments', ['created_at', 'id'], unique=False)
    op.create_index('ix_experiments_status', 'experiments', ['status'], unique=False)
    op.create_table('experiment_arms',
    sa.Column('experiment_id', sa.String(length=64), nullable=False),
    sa.Column('number', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('label', sa.String(length=400), nullable=False),
    sa.Column('base_model', sa.String(length=100), nullable=False),
    sa.Column('training_file_id', sa.String(length=64), nullable=True),
    sa.Column('training_rows', sa.Integer(), nullable=False),
    sa.Column('hyperparameters', mapping, nullable=False),
    sa.Column('job_id', sa.String(length=64), nullable=True),
    sa.Column('evaluation_id', sa.String(length=64), nullable=True),
    sa.Column('error', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['evaluation_id'], ['evaluations.id'], name=op.f('fk_experiment_arms_evaluation_id_evaluations')),
    sa.ForeignKeyConstraint(['experiment_id'], ['experiments.id'], name=op.f('fk_experiment_arms_experiment_id_experiments'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_experiment_arms_job_id_jobs')),
    sa.PrimaryKeyConstraint('experiment_id', 'number', name=op.f('pk_experiment_arms'))
    )
    op.create_index(op.f('ix_experiment_arms_evaluation_id'), 'experiment_arms', ['evaluation_id'], unique=False)
    op.create_index(op.f('ix_experiment_arms_job_id'), 'experiment_arms', ['job_id'], unique=False)


def downgrade() -> None:
    op.drop_table('experiment_arms')
    op.drop_index('ix_experiments_status', table_name='experiments')
    op.drop_index('ix_experiments_created', table_name='experiments')
    op.drop_table('experiments')
