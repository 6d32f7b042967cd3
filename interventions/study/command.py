"""How a script ends when something is wrong: one message on stderr, no traceback, and what was finished is kept."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from corruptions.base import LeftOut
from interventions.engine.oracle.verify import VerificationError
from interventions.results.store import ResultsError
from interventions.study.errors import BackendError

INTERRUPTED = 130


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turn the errors that a user can cause into a message and exit status 1; Ctrl-C into a hint and status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted: every finished sample is kept; run the same command again to go on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except torch.OutOfMemoryError as error:
        raise SystemExit(
            f"error: even one run does not fit in the device's memory ({_last_line(error)}): use --batch 1, a smaller number format "
            "(--dtype bfloat16 or nf4) or another --device; every finished sample is kept"
        ) from error
    except (ValueError, OSError, ResultsError, LeftOut, VerificationError, BackendError) as error:
        raise SystemExit(f"error: {error}") from error


def _last_line(error: BaseException) -> str:
    """Of what an error says: before it, a trace may have put where it was raised."""
    return (str(error).strip().splitlines() or ["out of memory"])[-1]
