"""Effects of whole modules -> `modules.{nc,csv}`, `modules_text_image.csv` and figures: restoration maps (layer x token role), their peaks,
how much of the effect early, middle and late layers hold, and text beside image corruption.

Maps are averaged by role, of all samples, and of those with the correct option first and second apart, as in NOTICE's figures.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.module_effects.options import MapRule
from analysis.store.errors import NothingToAnalyse
from analysis.store.written import Written, run_command

if TYPE_CHECKING:
    import xarray as xr

FILE = "modules"


@dataclass(frozen=True)
class Modules(MapRule):
    """Map the effects of whole modules: where they peak, which layers hold them, under image and under text corruption.

    python -m analysis.modules --results results --metric restoration_probability
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def find(results: Path, options: MapRule | None = None) -> dict[str, "xr.Dataset"]:
    """The maps of all whole modules in a results folder, one file at a time.

    Returns
    -------
    By <model>/<dataset>/<component>, see `module_effects.folder_maps.maps_of_folder`.

    Raises
    ------
    ResultsError
        When a file is damaged; names the file.
    NothingToAnalyse
        When there are no effects of whole modules.

    >>> maps = find(Path("results"), Modules(resamples=20))["blip-small/shapes/mlp"]
    >>> int(maps["peak_layer"].sel(corruption="sip", order="all"))
    3
    """
    from analysis.module_effects.folder_maps import files_of_modules, maps_of_folder

    return maps_of_folder(files_of_modules(Path(results)), options or MapRule())


def write(results: Path, options: MapRule | None = None) -> Written[dict[str, "xr.Dataset"]]:
    """`find`, then write `modules.nc` (a group for each model, data set and component), `modules.csv` (see `module_effects.tables.table`),
    `modules_text_image.csv` and `figures/<model>/<dataset>/modules-<component>.png` and .pdf into the results folder.

    Raises
    ------
    ResultsError, NothingToAnalyse
        As `find`; without effects of whole modules nothing is written, and stale tables of an earlier run are removed.

    >>> written = write(Path("results"), Modules(resamples=20))
    >>> [path.name for path in written.paths]
    ['modules.nc', 'modules.csv', 'modules_text_image.csv']
    """
    from analysis.module_effects import tables
    from analysis.module_effects.folder_maps import files_of_modules, maps_of_folder, text_beside_image
    from analysis.plots.module_maps import draw_side_by_side
    from analysis.plots.style import save, styled
    from analysis.products import FIGURES_FOLDER
    from analysis.store.folder import write_tree
    from analysis.store.tables import write_table

    results, options = Path(results), options or MapRule()
    paths = (results / f"{FILE}.nc", results / f"{FILE}.csv", results / f"{FILE}_text_image.csv")
    try:
        files = files_of_modules(results)
    except NothingToAnalyse:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    maps = maps_of_folder(files, options)
    beside = tables.text_image_table([tables.text_image_row(*pair) for pair in text_beside_image(files, maps, options)])
    write_tree(maps, paths[0])
    write_table(tables.table(maps), paths[1])
    write_table(beside, paths[2])
    with styled():
        for place, of_place in maps.items():
            save(draw_side_by_side(of_place), (results / FIGURES_FOLDER / place).parent / f"{FILE}-{Path(place).name}.png")
    return Written(maps, paths, tables.summary(maps, beside))


def main() -> None:
    """Command line."""
    run_command(FILE, Modules, write)


if __name__ == "__main__":
    main()
