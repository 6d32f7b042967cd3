"""The command line of an intervention script: the shared options and its own, the study, what the verb writes, and what is printed."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes

from corruptions.base import named
from data_prep.tables.command import reporting
from interventions.models.names import resolve
from interventions.study.options import Options, check_bounds

if TYPE_CHECKING:
    from interventions.study.study import Study

T = TypeVar("T")


def parse(method: type[T], args: Sequence[str] | None = None) -> tuple[Options, T]:
    """The shared options and those of a method, from the command line or other words."""
    parts: dict[str, Any] = {"study": Options, "method": method}
    command = make_dataclass(
        "Command", [(name, Annotated[part, OmitArgPrefixes], field(default_factory=part)) for name, part in parts.items()]
    )
    parsed: Any = tyro.cli(command, args=args, description=method.__doc__)
    return parsed.study, parsed.method


def run_script(
    method: type[T], verb: "Callable[[Study, T], Path | Sequence[Path]]", summary: Callable[[Path, T], str] | None = None
) -> None:
    """Read the options, let `verb` write its files, and print where they are, below a summary of the file."""
    with reporting(f"interventions.{Path(sys.argv[0]).stem}", ValueError):
        options, chosen = parse(method)
        for given in (options, chosen):
            check_bounds(given)
        named(options.corruption)
        resolve(options.model)
        from interventions.backends.opening import prepare  # loads the libraries: not before what can be said without them

        written = verb(prepare(options), chosen)
        for path in [written] if isinstance(written, Path) else written:
            if summary:
                print(summary(path, chosen))
            print(path)
