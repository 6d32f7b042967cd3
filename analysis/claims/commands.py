"""The commands that make what a claim needs and the folder lacks. All of them come from `command`."""

from analysis.claims.folder import Folder

RESULTS_FOLDER = "RESULTS"  # stands for the folder in commands, so that the tables of equal studies in different folders are equal
RUN_ALL = "run_all"
DEFAULTS = {"samples": 100, "seed": 0, "dtype": "float32", "keep_wrong": False}  # options whose other values a command repeats


def command(folder: Folder, script: str, model: str = "", *datasets: str, **options: object) -> str:
    """The command of the analysis `script`; with a model, that of an intervention, or of `run_all`, on its data.

    Parameters
    ----------
    options : of the script, by the names of their fields; those that are None, False or empty are left out. The options that the model's
        files in the folder were made with are added where they are not the defaults, so that all files are of the same samples.
    """
    if not model:
        return f"python -m analysis.{script} --results {RESULTS_FOLDER}"
    data = " ".join(name if name == "shapes" else f"data/{name}" for name in datasets)
    if script == RUN_ALL:
        words = f"python run_all.py --models {model} --datasets {data}"
    else:
        words = f"python -m interventions.{script} --model {model} --data {data}"
    configuration = folder.configuration(model)
    options |= {name: configuration[name] for name, usual in DEFAULTS.items() if configuration.get(name, usual) != usual}
    return words + f" --out {RESULTS_FOLDER}" + "".join(_words(name, value) for name, value in options.items())


def _words(name: str, value: object) -> str:
    if value is None or value is False or value == ():
        return ""
    values = "" if value is True else " " + " ".join(map(str, value if isinstance(value, tuple) else (value,)))
    return f" --{name.replace('_', '-')}{values}"
