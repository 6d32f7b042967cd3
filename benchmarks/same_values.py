"""What a refactor must not change: the values that the commands write, recorded from one checkout and compared with those of another.

    python benchmarks/same_values.py record --tree <checkout before> --out <folder A>
    python benchmarks/same_values.py record --tree <checkout after> --out <folder B>
    python benchmarks/same_values.py compare <folder A> <folder B> --allow intended.txt

`record` runs nearly every command of a checkout on a few rendered scenes with both shipped models, in one thread, on the CPU, without a
network, and keeps what they wrote: `digests.json` has a digest of it, `files/` the files themselves, `logs/` what was printed. `compare`
says what differs. The script imports nothing of the project, so that it can record a checkout in which it is not; both records should be
made by the same version of it, in the same environment, on the same kind of machine: values are compared bit for bit.

Not compared: when something was made and how long it took, the versions of libraries, how much memory was used, the paths of the checkout
and of the record, what is printed on stderr, and the contents of figures, of the report and of Arrow files (of these, only which there are;
the fingerprint in `data.json` stands for the rows of a sample table).
"""

import csv
import hashlib
import io
import json
import os
import platform
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
import xarray as xr
from PIL import Image

FORMAT = 1  # of digests.json
MODELS = ("blip-shapes", "llava-shapes")
OTHER_CORRUPTIONS = (  # beside sip and str, which more commands use; all that need no download
    *("gaussian_noise", "gaussian_noise_text", "mean_ablation", "mean_ablation_text", "zero_ablation", "zero_ablation_text"),
    *("object_removal", "constraint"),
)
LIBRARIES = ("numpy", "torch", "transformers", "nnsight", "xarray", "datasets", "pandas")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
SETTINGS = ONE_THREAD | {"PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "COLUMNS": "120", "MPLBACKEND": "agg"}
IGNORED_ATTRIBUTES = ("created", "library_versions")
IGNORED_KEYS = ("seconds", "minutes", "peak_memory_gib")  # of JSON files, besides those attributes
IGNORED_JSON = ("state.json", "dataset_info.json")  # of the library `datasets`
TEXTS = (".md", ".txt")


@dataclass(frozen=True)
class Record:
    """Run the commands of a checkout on a small table, and write what they give as digests.

    It takes about 12 minutes of one core. The status is 1 when a command ended with another status than it should, so that two records
    of the same failure are not taken for two that agree.

    Example: nice python benchmarks/same_values.py record --tree . --out /tmp/after
    """

    tree: Path
    """The checkout whose commands are run."""
    out: Path
    """Folder that receives the record; it must be empty or not there, since commands skip what is done."""


@dataclass(frozen=True)
class Compare:
    """Compare two records, and print each difference; the status is 1 when there is one that is not allowed.

    Example: python benchmarks/same_values.py compare /tmp/before /tmp/after --allow intended.txt
    """

    first: Annotated[Path, tyro.conf.Positional]
    """Folder of the record that the other is held against."""
    second: Annotated[Path, tyro.conf.Positional]
    """Folder of the other record."""
    allow: Path | None = None
    """File of differences that are intended. Each line has a pattern as of a shell (* ? [..]), a `#`, and the reason; a pattern is held
    against the place of a difference, which is what is printed before ` | `. Lines that begin with `#` are comments."""
    most: int = 20
    """Differences of one file (or command) that are printed; 0 for all of them."""


@dataclass(frozen=True)
class Command:
    """One command line of a checkout.

    Attributes
    ----------
    name : by which the same command of two checkouts is found
    module : what `python -m` runs, or a script's file name; of several, the first that the checkout has
    status : with which it should end
    """

    name: str
    module: tuple[str, ...]
    arguments: tuple[str, ...]
    status: int = 0

    def line(self, tree: Path) -> list[str]:
        """The command line, of the interpreter that runs this script."""
        there = [module for module in self.module if (tree / _file_of(module)).is_file()]
        module = (there or self.module)[0]
        return [sys.executable, *([module] if module.endswith(".py") else ["-m", module]), *self.arguments]


def _file_of(module: str) -> str:
    return module if module.endswith(".py") else module.replace(".", "/") + ".py"


def commands(files: Path) -> Iterator[Command]:
    """Every command, in order: later ones read what earlier ones wrote.

    Parameters
    ----------
    files : folder below which all of them write
    """
    yield from _preparing(files)
    yield from _patching(files)
    yield from _other_interventions(files)
    yield Command("run_all", ("run_all.py",), ("--samples", "4", "--threads", "1", "--device", "cpu", "--out", str(files / "study")))
    yield from _analysing(files)


def _preparing(files: Path) -> Iterator[Command]:
    shapes = str(files / "data" / "shapes")
    yield Command("data_prep.shapes", ("data_prep.shapes",), ("--per-category", "6", "--seed", "3", "--out", shapes))
    pairs = ("--table", str(files / "tables" / "pairs.csv"), "--out", str(files / "data" / "pairs"))
    yield Command("data_prep.pairs", ("data_prep.pairs",), pairs)
    for model in MODELS:
        modules = ("interventions.select_samples", "data_prep.select_samples")
        chosen = ("--table", shapes, "--model", model, "--per-category", "3", "--device", "cpu")
        written = ("--out", str(files / "data" / f"of-{model}"), "--results", str(files / "selected"))
        yield Command(f"select_samples {model}", modules, (*chosen, *written))
    yield Command("accuracy", ("interventions.accuracy",), ("--per-category", "4", "--device", "cpu"))


def _intervention(
    files: Path, script: str, model: str, *more: str, folder: str = "results", data: str = "shapes", status: int = 0
) -> Command:
    """One intervention; its name is the script, the model and what else it is given."""
    where = ("--data", str(files / "data" / data), "--out", str(files / folder), "--inpainted", str(files / "inpainted"))
    shared = ("--model", model, *where, "--samples", "3", "--threads", "1", "--device", "cpu")
    name = " ".join([script, model, *([data] if data != "shapes" else []), *more])
    return Command(name, (f"interventions.{script}",), (*shared, *more), status)


def _patching(files: Path) -> Iterator[Command]:
    blip, llava = MODELS
    for model in MODELS:
        yield _intervention(files, "head_patching", model)
        yield _intervention(files, "head_patching", model, "--direction", "noising")
        yield _intervention(files, "head_patching", model, "--corruption", "str", "--divergence")
        for corruption in OTHER_CORRUPTIONS:
            draws = ("--noise-draws", "2") if corruption.startswith("gaussian_noise") else ()
            yield _intervention(files, "head_patching", model, "--corruption", corruption, *draws)
        forced = ("--keep-wrong", "--shared-pieces", "force")
        yield _intervention(files, "head_patching", model, *forced, folder="variants", data="pairs")
        yield _intervention(files, "module_patching", model)
        yield _intervention(files, "module_patching", model, "--window", "3", "--direction", "noising")
        yield _intervention(files, "module_patching", model, "--definition", "reference", "--components", "mlp", folder="variants")
    yield _intervention(files, "module_patching", blip, "--corruption", "str", "--window", "3")
    yield _intervention(files, "module_patching", llava, "--corruption", "str", "--direction", "noising")
    noise = ("--corruption", "gaussian_noise", "--noise-draws", "2", "--components", "mlp")
    yield _intervention(files, "module_patching", blip, *noise)
    yield _intervention(files, "head_patching", llava, "--corruption", "str", "--tokens", "every", folder="variants")
    yield _intervention(files, "head_patching", blip, "--component", "self_attention")  # path patching needs it too
    for part in ("decoder", "vision"):
        yield _intervention(files, "head_patching", blip, "--part", part)
    yield _intervention(files, "module_patching", blip, "--part", "decoder", "--corruption", "str", "--divergence")


def _other_interventions(files: Path) -> Iterator[Command]:
    """After head patching, which ranks the heads."""
    blip, llava = MODELS
    for model in MODELS:
        yield _intervention(files, "attention_patterns", model)
        yield _intervention(files, "attention_knockout", model)
        yield _intervention(files, "attention_knockout", model, "--window", "3", "--divergence")
        replacements = ("--replacements", "mean", "zero", "resample", "corrupt")
        yield _intervention(files, "head_ablation", model, "--random-sets", "2", *replacements)
        yield _intervention(files, "path_patching", model, "--top", "4")
    yield _intervention(files, "attention_knockout", blip, "--part", "decoder")
    yield _intervention(files, "attribution_patching", blip, "--steps", "4", "--exact-samples", "2")
    yield _intervention(files, "attribution_patching", llava, "--direction", "noising", "--exact", "all")
    frozen = ("--receiver-component", "self_attention", "--mlps", "frozen", "--top", "3")
    yield _intervention(files, "path_patching", blip, *frozen)
    yield _intervention(files, "direct_effect", llava, "--divergence")
    yield _intervention(files, "direct_effect", blip, status=1)  # refused: it is no causal decoder


def _analysing(files: Path) -> Iterator[Command]:
    """Of what the interventions wrote; `run_all` has analysed its own results."""
    compared = ("--model", "blip-shapes", "--component", "cross_attention")  # else it draws very many figures
    more = {"robust_heads": ("--power", "--runs", "2"), "compare_corruptions": compared}
    names = ("universal_heads", "robust_heads", "stability", "head_functions", "modules", "compare_corruptions", "paper_claims", "report")
    for name in names:
        yield Command(f"analysis.{name}", (f"analysis.{name}",), ("--results", str(files / "results"), *more.get(name, ())))


def write_pairs(folder: Path) -> None:
    """A table of image pairs for `data_prep.pairs`: plain squares, some of them with answers that begin alike, and a row to be left out."""
    folder.mkdir(parents=True)
    colours = {"red": (200, 40, 40), "blue": (40, 60, 200), "green": (40, 160, 60), "yellow": (220, 200, 40)}
    for name, colour in colours.items():
        pixels = np.full((64, 64, 3), 128, np.uint8)
        pixels[20:44, 16:40] = colour
        Image.fromarray(pixels).save(folder / f"{name}.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 16:40] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    columns = ("clean_image", "corrupt_image", "question", "correct_answer", "incorrect_answer", "category", "noun", "mask", "box")
    rows = [
        ("red.png", "blue.png", "Is the square red or blue?", "red", "blue", "plain", "square", "mask.png", ""),
        ("blue.png", "green.png", "Is the square green or blue?", "blue", "green", "plain", "square", "", "16 20 40 44"),
        ("green.png", "yellow.png", "Is the square green or yellow?", "green", "yellow", "plain", "square", "", ""),
        ("red.png", "green.png", "Is it large red or large green?", "large red", "large green", "alike", "", "mask.png", ""),
        ("yellow.png", "red.png", "Is it large red or large yellow?", "large yellow", "large red", "alike", "", "", ""),
        ("yellow.png", "red.png", "Is the square red or blue?", "yellow", "red", "plain", "square", "", ""),  # no such option
    ]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def record(options: Record) -> list[str]:
    """Make a record. Returns the names of commands that ended with another status than they should.

    Raises
    ------
    SystemExit
        When the tree is no checkout of this project, or the folder is not empty.
    """
    tree, out = options.tree.resolve(), options.out.resolve()
    if not (tree / "run_all.py").is_file():
        raise SystemExit(f"same_values: {tree} is no checkout of this project: it has no run_all.py")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SystemExit(f"same_values: {out} is there and not empty: remove it, or choose another folder")
    files, logs = out / "files", out / "logs"
    logs.mkdir(parents=True)
    write_pairs(files / "tables")
    hide = {str(files): "<files>", str(tree): "<tree>"}
    surroundings = os.environ | SETTINGS | {"HF_HOME": str(out / "cache")}
    todo = list(commands(files))
    ended: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    started = perf_counter()
    for number, command in enumerate(todo, 1):
        begun = _cpu_seconds()
        line = command.line(tree)
        log = logs / f"{number:02d}"
        with log.with_suffix(".out").open("w") as printed, log.with_suffix(".err").open("w") as errors:
            errors.write(" ".join(line) + "\n")
            errors.flush()
            status = subprocess.run(line, cwd=tree, env=surroundings, stdout=printed, stderr=errors, stdin=subprocess.DEVNULL).returncode
        seconds = round(_cpu_seconds() - begun, 1)
        text = _hidden(log.with_suffix(".out").read_text(errors="replace"), hide)
        ended[command.name] = {"status": status, "printed": text.splitlines(), "log": log.name, "cpu_seconds": seconds}
        print(f"{number:2d} of {len(todo)}: {command.name}: status {status}, {seconds} s of CPU", flush=True)
        if status != command.status:
            wrong.append(command.name)
            print(f"   should have ended with {command.status}; see {log.with_suffix('.err')}", flush=True)
    digests = {name: digest(path, hide) for name, path in _files(files)}
    made = {
        "format": FORMAT,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "commands": ended,
        "files": digests,
    }
    (out / "digests.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    spent = sum(one["cpu_seconds"] for one in ended.values())
    print(f"{len(ended)} commands, {len(digests)} files, {(perf_counter() - started) / 60:.1f} minutes, {spent / 60:.1f} of CPU")
    return wrong


def _cpu_seconds() -> float:
    """Seconds of CPU that the commands took until now."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files below a folder but lock files, by their relative paths, in order."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    yield from sorted(found.items())


def _hidden(text: str, hide: Mapping[str, str]) -> str:
    """A text without the paths of this record."""
    for path, name in hide.items():
        text = text.replace(path, name)
    return text


def digest(path: Path, hide: Mapping[str, str]) -> dict[str, Any]:
    """What is kept of a file: digests of the variables of NetCDF, the contents of tables, JSON and texts, nothing of others.

    Parameters
    ----------
    hide : paths, and what is put in their place
    """
    if path.suffix == ".nc":
        with xr.open_datatree(path) as tree:
            groups = {node.path: _of_group(node.to_dataset(inherit=False), hide) for node in tree.subtree}
        return {"kind": "netcdf", "groups": groups}
    if path.suffix == ".csv":
        return {"kind": "table", "rows": list(csv.reader(io.StringIO(_hidden(path.read_text(encoding="utf-8"), hide))))}
    if path.suffix == ".json" and path.name not in IGNORED_JSON:
        return {"kind": "json", "contents": json.loads(_hidden(path.read_text(encoding="utf-8"), hide))}
    if path.suffix in TEXTS:
        return {"kind": "text", "lines": _hidden(path.read_text(encoding="utf-8"), hide).splitlines()}
    return {"kind": "other"}


def _of_group(dataset: xr.Dataset, hide: Mapping[str, str]) -> dict[str, Any]:
    """The variables, as xarray decodes them, and the attributes of one group."""
    found = {}
    for name, variable in dataset.variables.items():
        values = variable.values
        of_text = values.dtype.kind in "OSU"
        content = _hidden(json.dumps(values.tolist()), hide).encode() if of_text else np.ascontiguousarray(values).tobytes()
        found[str(name)] = {
            "is": "coordinate" if name in dataset.coords else "data",
            "dtype": "text" if of_text else values.dtype.str,
            "dims": [str(dim) for dim in variable.dims],
            "shape": list(variable.shape),
            "sha256": hashlib.sha256(content).hexdigest(),
            "attributes": _attributes(variable.attrs, hide),
        }
    return {"variables": found, "attributes": _attributes(dataset.attrs, hide)}


def _attributes(attributes: Mapping[Any, Any], hide: Mapping[str, str]) -> dict[str, Any]:
    """Attributes as values that JSON has."""
    found = {}
    for name, value in attributes.items():
        plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        found[str(name)] = _hidden(plain, hide) if isinstance(plain, str) else plain
    return found


class Difference(NamedTuple):
    """Where two records differ, and how.

    `where` begins with a file's path, or with `command:` and a command's name; what follows after a colon is a place in it.
    """

    where: str
    what: str


def compare(first: Path, second: Path) -> list[Difference]:
    """All differences between two records, in the order of commands and files.

    Raises
    ------
    SystemExit
        When one is no record, or was made by a version of this script that kept other things.
    """
    a, b = _load(first), _load(second)
    for name, one, other in _versions(a, b):
        print(f"note: {name} {one} made the first record, {other} the second", file=sys.stderr)
    found: list[Difference] = []
    for name, one, other in _by_name(a["commands"], b["commands"]):
        where = f"command:{name}"
        if one is None or other is None:
            found.append(_alone(where, one))
            continue
        found += _of_values(f"{where}:status", one["status"], other["status"])
        found += _of_lines(f"{where}:printed", one["printed"], other["printed"])
    for name, one, other in _by_name(a["files"], b["files"]):
        if one is None or other is None:
            found.append(_alone(name, one))
        elif one["kind"] == "netcdf":
            found += _of_netcdf(name, one["groups"], other["groups"], first / "files" / name, second / "files" / name)
        elif one["kind"] == "table":
            found += _of_tables(name, one["rows"], other["rows"])
        elif one["kind"] == "json":
            found += _of_entries(name, one["contents"], other["contents"])
        elif one["kind"] == "text":
            found += _of_lines(name, one["lines"], other["lines"])
    return found


def _load(folder: Path) -> dict[str, Any]:
    path = folder / "digests.json"
    if not path.is_file():
        raise SystemExit(f"same_values: there is no record in {folder}: make one with `same_values.py record`")
    made = json.loads(path.read_text(encoding="utf-8"))
    if made.get("format") != FORMAT:
        raise SystemExit(f"same_values: {path} has format {made.get('format')}, not {FORMAT}: record it again")
    return made


def _versions(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The interpreter and libraries of which the two records had different versions."""
    ours, theirs = ({"Python": made["python"], **made["libraries"]} for made in (a, b))
    yield from ((name, ours[name], theirs[name]) for name in ours if ours[name] != theirs[name])


def _by_name(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each name of two mappings with what both have under it, None where one lacks it."""
    for name in dict.fromkeys([*a, *b]):
        yield name, a.get(name), b.get(name)


def _alone(where: str, one: Any) -> Difference:
    return Difference(where, "is in the second record alone" if one is None else "is in the first record alone")


def _same(a: Any, b: Any) -> bool:
    """Whether two values are written alike in JSON: NaN is itself, and 1 is not 1.0."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _of_values(where: str, a: Any, b: Any) -> list[Difference]:
    return [] if _same(a, b) else [Difference(where, f"{a!r} became {b!r}{_apart(a, b)}")]


def _apart(a: Any, b: Any) -> str:
    """How far two numbers, or cells that hold numbers, are apart; empty for others."""
    try:
        return f" ({abs(float(b) - float(a)):.3g} apart)"
    except (TypeError, ValueError):
        return ""


def _of_lines(where: str, a: Sequence[str], b: Sequence[str]) -> list[Difference]:
    """Lines that are other ones, by their numbers in the first text, from 1."""
    found = []
    for kind, start, end, other_start, other_end in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind != "equal":
            before, after = list(a[start:end]), list(b[other_start:other_end])
            found.append(Difference(f"{where}:line {start + 1}", f"{_shown(before)} became {_shown(after)}"))
    return found


def _shown(lines: Sequence[str]) -> str:
    return "\n    ".join(["nothing"] if not lines else [repr(line) for line in lines])


def _of_entries(where: str, a: Any, b: Any) -> list[Difference]:
    """Entries of nested JSON, of attributes for example; a text that is itself a JSON object is taken for one."""
    ours, theirs = _flat(a), _flat(b)
    found = []
    for name in dict.fromkeys([*ours, *theirs]):
        place = f"{where}:{name}" if name else where
        if name not in theirs:
            found.append(Difference(place, f"{ours[name]!r} was removed"))
        elif name not in ours:
            found.append(Difference(place, f"{theirs[name]!r} was added"))
        else:
            found += _of_values(place, ours[name], theirs[name])
    return found


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested JSON by their dotted names, without those that are not compared."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return {name: value}
    if not isinstance(value, (dict, list)) or not value:
        return {name: value}
    entries: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    leaves: dict[str, Any] = {}
    for key, entry in entries:
        if key not in (*IGNORED_ATTRIBUTES, *IGNORED_KEYS):
            leaves |= _flat(entry, f"{name}.{key}" if name else str(key))
    return leaves


def _of_tables(where: str, a: Sequence[Sequence[str]], b: Sequence[Sequence[str]]) -> list[Difference]:
    """Columns and rows that one table lacks, then cells of the others; rows are counted from 1, without that of the column names."""
    found = []
    (names, *rows), (other_names, *other_rows) = a or [[]], b or [[]]
    if names != other_names:
        both = f"{', '.join(names)} became {', '.join(other_names)}"
        found.append(Difference(f"{where}:columns", both))
    if len(rows) != len(other_rows):
        found.append(Difference(f"{where}:rows", f"{len(rows)} became {len(other_rows)}"))
    for number, (row, other) in enumerate(zip(rows, other_rows, strict=False), 1):
        cells, other_cells = dict(zip(names, row, strict=False)), dict(zip(other_names, other, strict=False))
        for name in [name for name in cells if name in other_cells]:
            found += _of_values(f"{where}:row {number}:{name}", cells[name], other_cells[name])
    return found


def _of_netcdf(where: str, a: Mapping[str, Any], b: Mapping[str, Any], first: Path, second: Path) -> list[Difference]:
    """Differences of two NetCDF files, of which a and b are the digests."""
    found = []
    for group, one, other in _by_name(a, b):
        here = where if group == "/" else f"{where}:{group}"
        if one is None or other is None:
            found.append(_alone(here, one))
            continue
        found += _of_entries(f"{here}:attribute", one["attributes"], other["attributes"])
        for name, ours, theirs in _by_name(one["variables"], other["variables"]):
            place = f"{here}:{name}"
            if ours is None or theirs is None:
                found.append(_alone(place, ours))
                continue
            found += _of_entries(f"{place}:attribute", ours["attributes"], theirs["attributes"])
            shapes = [each for key in ("is", "dtype", "dims", "shape") for each in _of_values(f"{place}:{key}", ours[key], theirs[key])]
            found += shapes
            if ours["sha256"] != theirs["sha256"]:
                comparable = ours["shape"] == theirs["shape"] and (ours["dtype"] == "text") == (theirs["dtype"] == "text")
                how = _how_far(_values(first, group, name), _values(second, group, name)) if comparable else "other values"
                found.append(Difference(place, how))
    return found


def _values(path: Path, group: str, name: str) -> np.ndarray:
    with xr.open_dataset(path, group=group) as dataset:
        return dataset[name].values


def _how_far(a: np.ndarray, b: np.ndarray) -> str:
    """In words, how two arrays of one shape differ."""
    if a.dtype.kind in "OSU":
        places = np.argwhere(a.astype(str) != b.astype(str))
        if not len(places):
            return "the same texts in another type"
        place = tuple(int(index) for index in places[0])
        return f"{len(places)} of {a.size} texts differ, the first at {place}: {str(a[place])!r} became {str(b[place])!r}"
    a, b = (values.astype(np.float64) for values in (a, b))
    missing, other_missing = np.isnan(a), np.isnan(b)
    both = ~missing & ~other_missing
    apart = np.abs(b[both] - a[both])
    words = [f"{np.count_nonzero(apart)} of {a.size} values differ, by at most {apart.max(initial=0):.3g}"]
    if np.any(missing != other_missing):
        words.append(f"{np.count_nonzero(~missing & other_missing)} became NaN, {np.count_nonzero(missing & ~other_missing)} were NaN")
    elif not apart.any():
        words = ["equal numbers in other bits (another number format, or the sign of 0)"]
    return "; ".join(words)


def read_allowed(path: Path) -> dict[str, str]:
    """The patterns of a file of intended differences, each with its reason.

    Raises
    ------
    SystemExit
        For a line without a pattern, or without a reason.
    """
    allowed = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pattern, _, reason = (part.strip() for part in line.partition("#"))
        if not reason:
            raise SystemExit(f"same_values: {path}, line {number}: give the reason after a #")
        allowed[pattern] = reason
    return allowed


def show(found: Sequence[Difference], allowed: Mapping[str, str], most: int) -> int:
    """Print the differences that no pattern allows, and how many each pattern does. Returns how many there are of the former."""
    explained: Counter[str] = Counter()
    of_a_file: dict[str, list[Difference]] = {}
    for difference in found:
        pattern = next((pattern for pattern in allowed if fnmatchcase(difference.where, pattern)), None)
        if pattern is None:
            of_a_file.setdefault(_file_in(difference.where), []).append(difference)
        else:
            explained[pattern] += 1
    for name, differences in of_a_file.items():
        shown = differences[: most or None]
        for difference in shown:
            print(f"{difference.where} | {difference.what}")
        if left := len(differences) - len(shown):
            print(f"{name} | and {left} more differences (--most 0 shows all)")
    for pattern, reason in allowed.items():
        count = explained[pattern]
        print(f"{count} allowed by {pattern}: {reason}" if count else f"none is allowed by {pattern}, which can go: {reason}")
    unexplained = sum(map(len, of_a_file.values()))
    print(f"{len(found)} differences, {unexplained} of them unexplained" if found else "no differences")
    return unexplained


def _file_in(where: str) -> str:
    """The file, or the command, of a place."""
    return ":".join(where.split(":")[: 2 if where.startswith("command:") else 1])


def main() -> None:
    kinds: dict[str, Any] = {"record": Record, "compare": Compare}
    options: Record | Compare = tyro.extras.subcommand_cli_from_dict(kinds, prog="same_values.py", description=__doc__)
    if isinstance(options, Record):
        if wrong := record(options):
            raise SystemExit(f"same_values: {len(wrong)} commands did not end as they should: {'; '.join(wrong)}")
        return
    allowed = read_allowed(options.allow) if options.allow else {}
    if show(compare(options.first, options.second), allowed, options.most):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
