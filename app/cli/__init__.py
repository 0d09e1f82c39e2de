"""`dianda …`: a client of the HTTP API, plus `up`, `worker`, `migrate` and `models`. Never imports torch."""
