"""Figures: a results folder -> `figures/`: everything in it that can be drawn, as PNG and PDF, one or two columns wide.

`figures/<model>/<dataset>/` has what one data set shows, `figures/<model>/` what is judged over all of a model's tasks. What has no file
is not drawn; `figures/not_drawn.txt` says so, with the command that would make it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis import products
from analysis.store.written import Written
from data_prep.tables.command import reporting
from interventions.results.metrics import help_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

NOT_DRAWN = "not_drawn.txt"


@dataclass(frozen=True)
class Figures:
    """Draw everything in a results folder that can be drawn.

    python analysis/figures.py --results results --metric logit_difference
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""
    metric: Annotated[str, arg(help=f"Effect to draw. {help_text()}")] = "logit_difference"
    samples: int = 4
    """Samples (rows) of each attention overlay."""
    heads: int = 6
    """Most heads (columns) of each attention overlay."""


def find(results: Path, options: Figures | None = None) -> "Iterator[tuple[str, Picture | None]]":
    """Every figure that the results allow, one after the other: its name below `figures/`, and None where the file that is there is kept.

    Raises
    ------
    ResultsError
        When there is no results folder, nothing in it to draw, no such metric, or a damaged file.

    >>> dict(find(Path("results")))["blip-small/shapes/sip-modules"].axes[0].get_title()
    'self-attention'
    """
    from analysis.plots.every import every_figure

    options = options or Figures()
    return every_figure(results, options.metric, options.samples, options.heads)


def write(results: Path, options: Figures | None = None) -> Written:
    """Draw every figure into `figures/`, and list there what could not be drawn, with the commands that make it (`products.missing`).

    Returns
    -------
    data : the `products.Missing`; paths : the PNGs, each with a PDF of the same name beside it

    >>> written = write(Path("results"))
    >>> sorted(path.relative_to("results/figures").as_posix() for path in written.paths)[:2]
    ['blip-small/shapes/sip-cross_attention-heads.png', 'blip-small/shapes/sip-modules.png']
    >>> Path("results/figures/not_drawn.txt").read_text().splitlines()[-1]
    'comparison of corruptions: python -m analysis.compare_corruptions --results results'
    """
    from analysis.plots.style import save, styled
    from analysis.store.folder import write_whole

    folder = Path(results) / products.FIGURES_FOLDER
    with styled():
        drawn = [
            save(figure, folder / f"{name}.png") if figure is not None else folder / f"{name}.png"
            for name, figure in find(results, options)
        ]
    missing = products.missing(results)
    lines = "".join(f"{one}\n" for one in missing) or "everything was drawn\n"
    write_whole(folder / NOT_DRAWN, lambda temporary: temporary.write_text(lines, encoding="utf-8"))
    how = [f"make them with `{one.command}`" if not one.reason else one.reason for one in missing]
    words = [f"drew {len(drawn)} figures into {folder}", *(f"not drawn: {one.what}; {so}" for one, so in zip(missing, how, strict=True))]
    return Written(missing, tuple(drawn), "\n".join(words))


def main() -> None:
    """Command line."""
    import tyro

    with reporting("figures"):
        options = tyro.cli(Figures)
        print(write(options.results, options).words)


if __name__ == "__main__":
    main()
