"""How a script ends when something is wrong: one message on stderr, no traceback, and what was finished is kept."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from corruptions.pair import LeftOut
from interventions.backends import BackendError
from interventions.results import ResultsError
from interventions.verify import VerificationError

INTERRUPTED = 130


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turn the errors that a user can cause into a message and exit status 1; Ctrl-C into a hint and status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted: every finished sample is kept; run the same command again to go on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except (ValueError, OSError, ResultsError, LeftOut, VerificationError, BackendError) as error:
        raise SystemExit(f"error: {error}") from error
