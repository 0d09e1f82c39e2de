"""The ML core: knows no database, queue, settings or HTTP; torch only under `engine`."""
