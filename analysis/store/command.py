"""How a command of the analysis ends when something is wrong: one line on stderr, no traceback, and no file that is half written."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from analysis.store.errors import ResultsError

INTERRUPTED, NOBODY_READS = 130, 141  # as shells report SIGINT and SIGPIPE


@contextmanager
def reporting(name: str) -> Iterator[None]:
    """Turn what a user can cause into one line, begun with the command's name, and status 1; Ctrl-C into a line and status 130.

    Where nobody reads what is printed any more (`| head`), the command ends without a word, with status 141.

    >>> with reporting("modules"):
    ...     raise ResultsError("there are none")
    Traceback (most recent call last):
    SystemExit: modules: there are none
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _print_nowhere()
        raise SystemExit(NOBODY_READS) from None
    except (ResultsError, OSError) as error:
        raise SystemExit(f"{name}: {error}") from None
    except KeyboardInterrupt:
        print(f"{name}: interrupted; no file is half written", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _print_nowhere() -> None:
    """What is still buffered goes nowhere, since Python would complain about it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
