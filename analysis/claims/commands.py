"""The commands that make what a claim needs and the folder lacks. All of them come from `command`."""

from analysis import products
from analysis.claims.folder import Folder

RESULTS_FOLDER = "RESULTS"  # stands for the folder in commands, so that the tables of equal studies in different folders are equal
RUN_ALL = "run_all"


def command(folder: Folder, script: str, model: str = "", *datasets: str, **options: object) -> str:
    """The command of the analysis `script`; with a model, that of an intervention, or of `run_all`, on its data.

    Parameters
    ----------
    options : of the script, by the names of their fields; those that are None are left out. The options that the model's files in the
        folder were made with are added where they are not the defaults (`products.command`), so that all files are of the same samples.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if script == RUN_ALL:
        return products.whole_study(folder.path, [model], datasets, RESULTS_FOLDER, **given)
    return products.command(folder.path, products.made_by(script), model, *datasets, called=RESULTS_FOLDER, **given)
