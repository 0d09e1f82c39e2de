"""Answers: `/answer` and the OpenAI chat dialect over an answer backend."""
