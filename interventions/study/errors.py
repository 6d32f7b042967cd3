"""Errors that a command reports in one line."""


class BackendError(RuntimeError):
    """Samples cannot be measured by the backend that was asked for: says why, and what to do. What was finished before is kept."""
