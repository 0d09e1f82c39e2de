"""The answer process: one base model in memory, adapters on it. Has no database; is told a checksum and questions."""
