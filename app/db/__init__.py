"""The database: engine, unit of work, clock. Knows no table."""
