"""`dianda …`: a client of the HTTP API (`export`), plus `up`, `worker`, `migrate` and `models`. Never imports torch."""
