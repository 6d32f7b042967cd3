"""What is wrong with a results folder or an option, in words for the user; loads no library."""

from math import isfinite

from data_prep.tables.command import Fault


class ResultsError(Fault):
    """A results folder that cannot be analysed, or an option that cannot be used: says what is wrong, where, and what to do."""


class NothingToAnalyse(ResultsError):
    """A folder without the effects that one analysis needs. The other analyses go on."""


def check_shares(options: object, *names: str) -> None:
    """Raise `ResultsError` where one of these options is not a share, above 0 and below 1."""
    for name in names:
        if not 0 < getattr(options, name) < 1:
            raise ResultsError(f"{name} is {getattr(options, name)}; it must lie between 0 and 1")


def check_finite(options: object, *names: str) -> None:
    """Raise `ResultsError` where one of these options is not a finite number."""
    for name in names:
        if not isfinite(getattr(options, name)):
            raise ResultsError(f"{name} is {getattr(options, name)}; it must be a finite number")


def check_not_negative(options: object, *names: str) -> None:
    """Raise `ResultsError` where one of these options is below 0."""
    for name in names:
        if getattr(options, name) < 0:
            raise ResultsError(f"{name} is {getattr(options, name)}; it cannot be negative")


def check_positive(options: object, *names: str) -> None:
    """Raise `ResultsError` where one of these options is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise ResultsError(f"{name} is {getattr(options, name)}; at least one is needed")
