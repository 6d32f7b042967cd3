"""Errors that a command reports in one line."""

from data_prep.tables.command import Fault


class BackendError(Fault):
    """Samples cannot be measured by the backend that was asked for: says why, and what to do. What was finished before is kept."""
