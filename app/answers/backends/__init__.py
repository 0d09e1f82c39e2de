"""The implementations of `AnswerBackend`."""
