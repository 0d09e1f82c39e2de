"""The database schema's history (Alembic). A migration must work with the code that is running while it runs."""
