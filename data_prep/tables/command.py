"""How every command of the project ends when something is wrong: one line on stderr, no traceback, and nothing that is half written."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED, NOBODY_READS = 130, 141  # as shells report SIGINT and SIGPIPE


class Fault(Exception):
    """What a user, a file or another machine can cause: the message says what is wrong and what to do."""


@contextmanager
def reporting(command: str, *faults: type[Exception]) -> Iterator[None]:
    """Turn faults into one line, begun with the command's name, and status 1; Ctrl-C into a line and status 130.

    Libraries are loaded inside, so that Ctrl-C ends a command that is still loading in the same way. Where nobody reads what is printed
    any more (`| head`), the command ends without a word, with status 141.

    Parameters
    ----------
    faults : what else counts as one, beside `Fault` and `OSError`

    >>> with reporting("modules"):
    ...     raise Fault("there are none")
    Traceback (most recent call last):
    SystemExit: modules: there are none
    """
    reported: tuple[type[Exception], ...] = (Fault, OSError, *faults)
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _print_nowhere()
        raise SystemExit(NOBODY_READS) from None
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted; what is finished is kept, run the same command to go on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except reported as error:
        raise SystemExit(f"{command}: {error}") from error
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise SystemExit(
            f"{command}: even one run does not fit in the device's memory ({_last_line(error)}): use --batch 1, a smaller number format "
            "(--dtype bfloat16 or nf4) or another --device; every finished sample is kept"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # where it is not loaded, it raised nothing
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _last_line(error: Exception) -> str:
    """Of what an error says: before it, a trace may have put where it was raised."""
    return (str(error).strip().splitlines() or ["out of memory"])[-1]


def _print_nowhere() -> None:
    """What is still buffered goes nowhere, since Python would complain about it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
