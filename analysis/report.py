"""The report: a results folder with what the other analyses made of it -> one self-contained `report.html`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.page.limits import Limits
from analysis.store.folder import write_whole
from analysis.store.written import Written
from data_prep.tables.command import reporting

FILE = "report.html"


@dataclass(frozen=True)
class Report(Limits):
    """Write one self-contained report.html about a results folder.

    python analysis/report.py --results results
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py, with what the other analyses made."""


def find(results: Path, options: Limits | None = None) -> dict[str, Any]:
    """What the report shows, as `page.whole.content` gives it. What has not been made is said to be missing.

    Raises
    ------
    ResultsError
        When there is no results folder, nothing in it, or a damaged file.

    >>> find(Path("results"))["models"]
    ['blip-small']
    """
    from analysis.page.whole import content

    return content(results, options or Limits())


def write(results: Path, options: Limits | None = None) -> Written:
    """Write `report.html` into the results folder.

    >>> (path,) = write(Path("results")).paths
    >>> path, path.stat().st_size > 1e6  # with plotly.js in it
    (PosixPath('results/report.html'), True)
    """
    from analysis.page.whole import html

    shown = find(results, options)
    page, path = html(Path(results), shown), Path(results) / FILE
    write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return Written(shown, (path,), f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def main() -> None:
    """Command line."""
    import tyro

    with reporting("report"):
        options = tyro.cli(Report)
        print(write(options.results, options).words)


if __name__ == "__main__":
    main()
