"""What HTTP costs around the answer engine: api and answerer as deployed, the engine scripted, a real load generator."""
