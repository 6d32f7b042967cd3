"""Every file that a command writes into a results folder: its title, what it is made of, and the command that makes it from this folder.

In: a results folder. Out: paths, and commands for a shell, with the real data folder, the real model and every option that differs from its
default, as the `configuration` of files and `manifest.json` say. Whatever suggests a command asks `command`; whether a file is older than
what it is made of, `inputs` tells. `python -m analysis.products` prints the table that the README has.
"""

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interventions.methods import options as methods
from interventions.study.option_words import defaults, words
from interventions.study.options import Options

FIGURES_FOLDER = "figures"
HEADS, MODULES, ATTENTION = "effects of heads", "effects of whole modules", "attention to image patches"
PLACE = ("model", "dataset")
RESULTS = "{results}"  # stands for the results folder in commands until they are handed out
NAMED_OTHERWISE = ("model", "device")  # of a configuration: the model's short name, and the kind of device, which options name in full


@dataclass(frozen=True)
class Product:
    """What one command writes.

    Attributes
    ----------
    files : below the results folder; {model}, {corruption}, ... stand for names, and what is in brackets may be missing
    title : of a file or figure, for the report and for lists of what is missing
    command : the module that makes it
    inputs : the products that it is made of: where one of them is newer, the file is stale
    needs : of these, those without any of which the command fails
    flags : options that make this product and not another one of the same command
    clean_run : it is of clean runs, which have no direction
    causal : it is of causal decoders alone
    computed : options that its file says as they came out, not as they were asked for
    several_corruptions : it sets the files of one model, data set and component beside each other
    """

    name: str
    files: tuple[str, ...]
    title: str
    command: str
    inputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    clean_run: bool = False
    causal: bool = False
    computed: tuple[str, ...] = ()
    several_corruptions: bool = False

    @property
    def is_figure(self) -> bool:
        return self.files[0].startswith(f"{FIGURES_FOLDER}/")

    @property
    def of_place(self) -> bool:
        """Whether there is one for each model and data set."""
        return self.files[0].startswith("{model}/{dataset}/")


OF_CORRUPTION = "{model}/{dataset}/{corruption}[-{direction}]/{component}"
MEASURED = (
    Product(HEADS, (f"{OF_CORRUPTION}-heads[-window{{window}}].nc",), "Effects of heads", "interventions.head_patching"),
    Product(MODULES, (f"{OF_CORRUPTION}[-window{{window}}].nc",), "Effects of whole modules", "interventions.module_patching"),
    Product(
        ATTENTION, ("{model}/{dataset}/attention.nc",), "Attention to image patches", "interventions.attention_patterns", clean_run=True
    ),
    Product(
        *("ablation", (f"{OF_CORRUPTION}-ablation.nc",), "Heads taken out of the clean run", "interventions.head_ablation"),
        inputs=(HEADS,),
        needs=(HEADS,),
        clean_run=True,
    ),
    Product(
        *("attribution", (f"{OF_CORRUPTION}-attribution.nc",), "Effects of heads estimated by gradients"),
        "interventions.attribution_patching",
    ),
    Product(
        *("paths", (f"{OF_CORRUPTION}[-to-{{receiver}}]-paths.nc",), "Effects of direct paths", "interventions.path_patching"),
        inputs=(HEADS,),
        needs=(HEADS,),
    ),
    Product(
        *("knockout", ("{model}/{dataset}/attention_knockout[-window{window}].nc",), "Attention blocked in the clean run"),
        "interventions.attention_knockout",
        clean_run=True,
    ),
    Product(
        *("direct effects", ("{model}/{dataset}/direct_effect.nc",), "Direct effects of heads and MLPs", "interventions.direct_effect"),
        clean_run=True,
        causal=True,
    ),
)
JUDGED = (
    Product(
        *("universal heads", ("universal_heads.nc", "universal_heads.csv"), "Universal heads", "analysis.universal_heads"),
        inputs=(HEADS,),
        needs=(HEADS,),
    ),
    Product(
        "robust heads",
        ("robust_heads.nc", "robust_heads.csv", "robust_universal.csv", "robust_overlap.csv"),
        *("Heads that hold up", "analysis.robust_heads"),
        computed=("flips",),
        inputs=(HEADS,),
        needs=(HEADS,),
    ),
    Product(
        "head functions",
        ("head_functions.nc", *(f"head_functions{end}.csv" for end in ("", "_by_task", "_agreement", "_validation"))),
        *("Head functions", "analysis.head_functions"),
        inputs=(HEADS, ATTENTION),
        needs=(ATTENTION,),
    ),
    Product(
        *("stability", ("stability.nc", "stability.csv"), "Stability as samples grow", "analysis.stability"),
        inputs=(HEADS,),
        needs=(HEADS,),
    ),
    Product(
        *("power", ("robust_power.csv",), "Power of the rules", "analysis.robust_heads"),
        inputs=(HEADS,),
        needs=(HEADS,),
        flags={"power": True},
    ),
    Product(
        *("modules", ("modules.nc", "modules.csv", "modules_text_image.csv"), "Modules by depth and role", "analysis.modules"),
        inputs=(MODULES,),
        needs=(MODULES,),
    ),
    Product(
        "corruptions side by side",
        ("compare_corruptions.nc", "compare_corruptions.csv", "compare_corruptions_ranks.csv"),
        *("Corruptions side by side", "analysis.compare_corruptions"),
        inputs=(HEADS, MODULES),
        needs=(HEADS, MODULES),
        several_corruptions=True,
    ),
    Product(
        *("claims", ("paper_claims.csv", "paper_claims.md"), "The paper’s claims", "analysis.paper_claims"),
        inputs=(*(one.name for one in MEASURED), "universal heads", "robust heads", "head functions"),
    ),
)


def _figure(title: str, files: str, *inputs: str) -> Product:
    return Product(
        f"figure: {title}", (f"{FIGURES_FOLDER}/{files}.png", f"{FIGURES_FOLDER}/{files}.pdf"), title, "analysis.figures", inputs, inputs
    )


FIGURES = (
    _figure("module maps", "{model}/{dataset}/{corruption}-modules", MODULES),
    _figure("head maps", "{model}/{dataset}/{corruption}-{component}-heads[-window{window}]", HEADS),
    _figure("heads by task", "{model}/heads-by-task", "universal heads"),
    _figure("attention overlays", "{model}/{dataset}/attention-{what}", ATTENTION, "universal heads"),
    _figure("ablation curves", "{model}/{dataset}/{corruption}-{component}-ablation", "ablation"),
    _figure("attribution beside exact effects", "{model}/{dataset}/{corruption}-{component}-attribution", "attribution"),
    _figure("knockout curves", "{model}/{dataset}/attention_knockout[-window{window}]", "knockout"),
    _figure("direct effects", "{model}/{dataset}/direct_effect", "direct effects"),
    _figure("functions of heads", "{model}/head-functions", "head functions"),
    _figure("effects of heads with intervals", "{model}/head-intervals", "robust heads"),
    _figure("overlap of heads", "{model}/overlap-{what}", "robust heads"),
    _figure("stability curves", "{model}/stability", "stability"),
    _figure("power curves", "{model}/power", "power"),
    _figure("module maps by corruption and order of the options", "{model}/{dataset}/modules-{what}", "modules"),
    _figure("comparison of corruptions", "{model}/{dataset}/compare-{what}", "corruptions side by side"),
)
PAGES = (
    Product("answers", ("{model}/{dataset}/answers.json",), "Answers of the clean run", "interventions.head_patching"),
    Product("manifest", ("manifest.json",), "What was run, and what was left out", "interventions.head_patching"),
    Product("figures", (f"{FIGURES_FOLDER}/not_drawn.txt",), "What could not be drawn", "analysis.figures"),
    Product("report", ("report.html",), "The report", "analysis.report", tuple(one.name for one in (*MEASURED, *JUDGED))),
)
PRODUCTS = {one.name: one for one in (*MEASURED, *JUDGED, *FIGURES, *PAGES)}


@dataclass(frozen=True)
class Missing:
    """What could not be drawn or shown: in words, with the command that makes it, or the reason why none does."""

    what: str
    command: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.reason or self.command}"


@cache
def _expression(template: str) -> re.Pattern[str]:
    """What paths of a template look like, with a group for each name; components and receivers have no hyphen."""
    kinds = {"corruption": "[^/]+?", "direction": "noising", "component": r"[^-/.]+", "receiver": r"[^-/.]+", "window": r"\d+"}
    parts = re.split(r"(\{\w+\}|\[|\])", template)
    brackets = {"[": "(?:", "]": ")?"}
    return re.compile("".join(brackets.get(part) or _group(part, kinds) or re.escape(part) for part in parts))


def _group(part: str, kinds: Mapping[str, str]) -> str:
    return f"(?P<{part[1:-1]}>{kinds.get(part[1:-1], '[^/]+')})" if part.startswith("{") else ""


def names_in(product: str, path: Path, results: Path) -> dict[str, str] | None:
    """What the path of a product's file says: model, dataset, corruption, ...; None where it is no file of this product.

    >>> names_in("effects of heads", Path("results/blip-small/shapes/sip/mlp.nc"), Path("results")) is None
    True
    >>> names_in("effects of whole modules", Path("results/blip-small/shapes/sip/mlp-window3.nc"), Path("results"))
    {'model': 'blip-small', 'dataset': 'shapes', 'corruption': 'sip', 'component': 'mlp', 'window': '3'}
    """
    inside = Path(path).relative_to(results).as_posix()
    for template in PRODUCTS[product].files:
        if found := _expression(template).fullmatch(inside):
            return {name: value for name, value in found.groupdict().items() if value is not None}
    return None


def files(results: Path, product: str, **names: str) -> list[Path]:
    """The files of a product that are in the folder, sorted; of some model, data set or corruption, where these are named.

    >>> [path.as_posix() for path in files(Path("results"), "attention to image patches")]
    ['results/blip-small/shapes/attention.nc']
    """
    results = Path(results)
    patterns = {re.sub(r"(\[[^]]*\]|\{\w+\})+", "*", template) for template in PRODUCTS[product].files}
    paths = {path for pattern in patterns for path in results.glob(pattern) if not path.name.startswith(".") and path.is_file()}
    named = ((path, names_in(product, path, results)) for path in sorted(paths))
    return [path for path, said in named if said is not None and names.items() <= said.items()]


def product_of(path: Path, results: Path) -> Product | None:
    """The product that a file is of; None where it is of none that is known.

    >>> product_of(Path("results/robust_overlap.csv"), Path("results")).title
    'Heads that hold up'
    """
    return next((one for one in PRODUCTS.values() if names_in(one.name, path, results) is not None), None)


def unknown_files(results: Path) -> list[Path]:
    """The NetCDF files of interventions that are of no known product.

    >>> unknown_files(Path("results"))
    []
    """
    results = Path(results)
    paths = sorted(path for pattern in ("*/*/*.nc", "*/*/*/*.nc") for path in results.glob(pattern) if not path.name.startswith("."))
    return [path for path in paths if product_of(path, results) is None]


def inputs(path: Path, results: Path) -> list[Path]:
    """The files that a file is made of: those of its product's inputs, of its own model, data set and corruption where it has one.

    >>> sorted({path.name for path in inputs(Path("results/modules.nc"), Path("results"))})
    ['block.nc', 'cross_attention.nc', 'mlp.nc', 'self_attention.nc']
    """
    product = product_of(path, results)
    if product is None:
        return []
    said = names_in(product.name, path, results) or {}
    names = {name: said[name] for name in (*PLACE, "corruption") if name in said}
    found = []
    for name in product.inputs:
        here = {key: value for key, value in names.items() if any(f"{{{key}}}" in template for template in PRODUCTS[name].files)}
        found += files(results, name, **here)
    return found


def places(results: Path) -> list[tuple[str, str]]:
    """(model, data set) of everything that was measured.

    >>> places(Path("results"))
    [('blip-small', 'shapes')]
    """
    found = {path.relative_to(results).parts[:2] for product in MEASURED for path in files(results, product.name)}
    return sorted((model, dataset) for model, dataset in found)


def is_stale(path: Path, results: Path) -> bool:
    """Whether a file is older than one that it is made of (`inputs`): it may contradict the effects then.

    False where there is no such file. Times are those of the files: copy a folder with them (`cp -a`).

    >>> is_stale(Path("results/universal_heads.nc"), Path("results"))
    False
    """
    path = Path(path)
    if not path.is_file():
        return False
    written = path.stat().st_mtime_ns
    return any(other.stat().st_mtime_ns > written for other in inputs(path, results))


def command(results: Path, product: str, model: str = "", dataset: str = "", called: str = "", **options: Any) -> str:
    """The command that makes a product from this results folder, for a shell; before it, those that make what it needs and lacks.

    Parameters
    ----------
    product : a name in `PRODUCTS`
    model, dataset : as they are called in the folder, of a product that is made for each
    called : what the results folder is called in the command, where that is not its path
    options : options of the command that are to have these values, whatever was asked for before

    >>> command(Path("results"), "robust heads")
    'python -m analysis.robust_heads --results results'
    >>> command(Path("my results"), "effects of whole modules", "blip-small", "shapes", corruption="str", window=3)
    "python -m interventions.module_patching --model blip-small --data shapes --out 'my results' --corruption str --window 3"
    """
    return _handed_out(" && ".join(_commands(Path(results), PRODUCTS[product], model, dataset, options)), results, called)


def command_for(path: Path) -> str:
    """The command that makes a file of a results folder again as it is; "" for one that is of no known product.

    >>> command_for(Path("results/robust_power.csv"))
    'python -m analysis.robust_heads --results results --power'
    >>> command_for(Path("results/blip-small/shapes/sip-noising/mlp-window3.nc"))[-62:].strip()
    '--out results --direction noising --window 3 --components mlp'
    >>> command_for(Path("results/notes.csv"))
    ''
    """
    path = Path(path)
    for results in path.parents:
        if product := product_of(path, results):
            said = names_in(product.name, path, results) or {}
            if product.of_place:
                return _handed_out(_measure(results, product, said["model"], said["dataset"], said, {}, again=path), results)
            return command(results, product.name)
    return ""


def made_by(script: str) -> str:
    """The product that a script makes without more options.

    >>> made_by("head_patching"), made_by("robust_heads")
    ('effects of heads', 'robust heads')
    """
    return next(one.name for one in (*MEASURED, *JUDGED) if one.command.split(".")[-1] == script and not one.flags)


def whole_study(results: Path, models: Iterable[str] = (), datasets: Iterable[str] = (), called: str = "", **options: Any) -> str:
    """The command that runs everything for some models and data sets, with the options of what was measured of the first.

    >>> whole_study(Path("results"), ["blip-small"], ["shapes", "fer2013"], samples=500)
    'python run_all.py --models blip-small --datasets shapes data/fer2013 --out results --samples 500'
    """
    models, datasets = list(models), list(datasets)
    asked = _asked(Path(results), models[0], datasets[0]) if models and datasets else {}
    sources = [_asked(Path(results), model, datasets[0] if datasets else "").get("model", model) for model in models]
    folders = [_asked(Path(results), models[0] if models else "", dataset).get("data", _data(dataset)) for dataset in datasets]
    line = ["python run_all.py"]
    line += ["--models", *map(shlex.quote, sources)] if models else []
    line += ["--datasets", *map(shlex.quote, folders)] if datasets else []
    values = {name: value for name, value in asked.items() if name not in ("model", "data", "corruption")} | options
    return _handed_out(" ".join([*line, "--out", RESULTS, *words(_options("run_all"), values)]), results, called)


def _handed_out(line: str, results: Path, called: str = "") -> str:
    return line.replace(RESULTS, shlex.quote(called or str(results)))


def missing(results: Path) -> list[Missing]:
    """What has no figures because it was not measured or judged, is stale, or is unknown: with the command that makes it, or the reason.

    >>> print(missing(Path("results"))[0])
    blip-small, shapes, ablation curves: python -m interventions.head_ablation --model blip-small --data shapes --out results
    """
    results = Path(results)
    of_places = [found for place in places(results) for found in _missing_of_place(results, *place)]
    judged = []
    for product in JUDGED:
        titles = _drawn_of(product)
        path = results / product.files[0]
        if titles and (is_stale(path, results) or not path.is_file()):
            note = f" ({path.name} is older than what it is made of)" if path.is_file() else ""
            judged.append(Missing(titles + note, command(results, product.name), impossible(results, product)))
    unknown = [
        Missing(path.relative_to(results).as_posix(), reason="no figure is known for such a file") for path in unknown_files(results)
    ]
    return of_places + judged + unknown


def applies(results: Path, product: Product, model: str, dataset: str) -> bool:
    """Whether a product can be made of a model, as far as the folder says.

    >>> applies(Path("results"), PRODUCTS["direct effects"], "blip-small", "shapes")
    False
    """
    facts = _study(results, model, dataset).get("facts", {})
    if product.causal:
        return facts.get("causal", not files(results, HEADS, model=model, dataset=dataset, component="cross_attention"))
    return product.name != ATTENTION or facts.get("reads_patches", True)


def _missing_of_place(results: Path, model: str, dataset: str) -> Iterator[Missing]:
    for product in MEASURED:
        titles = _drawn_of(product)
        if not titles or files(results, product.name, model=model, dataset=dataset) or not applies(results, product, model, dataset):
            continue
        what, reason = f"{model}, {dataset}, {titles}", _why_not(results, product, model, dataset)
        yield Missing(what, reason=reason) if reason else Missing(what, command(results, product.name, model, dataset))


def impossible(results: Path, product: Product) -> str:
    """Why no model of the folder has what an analysis needs; "" where one does, or may.

    >>> impossible(Path("results"), PRODUCTS["head functions"])
    ''
    """
    needed = [PRODUCTS[name] for name in product.needs]
    possible = any(applies(results, one, *place) for one in needed for place in places(results))
    return "" if possible or not needed else f"no model here has {needed[0].title.lower()}"


def _drawn_of(product: Product) -> str:
    return ", ".join(one.title for one in FIGURES if product.name in one.inputs)


def _why_not(results: Path, product: Product, model: str, dataset: str) -> str:
    """What the manifest says of a run for which nothing was left; "" where there was none."""
    for run, entry in _manifest(results).get("runs", {}).items():
        said = names_in(product.name, results / run, results) or {}
        status = str(entry.get("status", "")) if isinstance(entry, dict) else ""
        if (said.get("model"), said.get("dataset")) == (model, dataset) and status.startswith("not run"):
            return status
    return ""


def _commands(results: Path, product: Product, model: str, dataset: str, options: Mapping[str, Any]) -> list[str]:
    if product.of_place:
        wanted = {name: value for name, value in {"corruption": options.get("corruption")}.items() if value}
        before = _before(results, product, [(model, dataset)], wanted)
        return [*before, _measure(results, product, model, dataset, wanted, options)]
    before = [] if product.is_figure else _before(results, product, places(results), {})
    line = ["python -m", product.command, "--results", RESULTS]
    return [*before, " ".join([*line, *words(_options(product.command), _chosen(results, product) | dict(options))])]


def _before(results: Path, product: Product, within: list[tuple[str, str]], names: Mapping[str, str]) -> list[str]:
    """The commands for what a product needs, where nothing of it is there."""
    if not results.is_dir() or not product.needs:
        return []
    ready = [
        path
        for name in product.needs
        for model, dataset in within
        for path in files(results, name, model=model, dataset=dataset, **names)
        if not (product.clean_run and "direction" in (names_in(name, path, results) or {}))
    ]
    if not ready:
        needed = PRODUCTS[product.needs[0]]
        more = dict(names) | ({"direction": "denoising"} if product.clean_run else {})
        return [_measure(results, needed, *place, names, more) for place in within if applies(results, needed, *place)]
    if product.several_corruptions and not any(len(_corruptions(results, *place)) > 1 for place in within):
        return [line for place in within if (line := _other_corruption(results, *place))]
    return []


def _corruptions(results: Path, model: str, dataset: str) -> list[str]:
    """The corruptions under which something was patched, without the direction."""
    paths = [(name, path) for name in (HEADS, MODULES) for path in files(results, name, model=model, dataset=dataset)]
    return sorted({(names_in(name, path, results) or {})["corruption"] for name, path in paths})


def _other_corruption(results: Path, model: str, dataset: str) -> str:
    """The command that patches under another corruption than was run, to set beside it: NOTICE's, or noise; "" where none changes what the
    model reads."""
    from corruptions.base import CORRUPTIONS  # its files are read when it is first asked

    run = _corruptions(results, model, dataset)
    others = [name for name, entry in CORRUPTIONS.items() if (entry.default or entry.draws) and name not in run]
    reads = _study(results, model, dataset).get("facts", {}).get("reads")
    other = next((name for name in others if reads is None or CORRUPTIONS[name].modality in reads), "")
    product = PRODUCTS[HEADS if files(results, HEADS, model=model, dataset=dataset) else MODULES]
    return _measure(results, product, model, dataset, {}, {"corruption": other}) if other else ""


def _measure(
    results: Path,
    product: Product,
    model: str,
    dataset: str,
    names: Mapping[str, str],
    options: Mapping[str, Any],
    again: Path | None = None,
) -> str:
    """The command that measures something of a model and data set.

    Parameters
    ----------
    names : what the path of the file is to say
    again : the file that is to be made again, with all of its options where it says them
    """
    usual, shared = defaults(*_options(product.command)), defaults(Options)
    values = _asked(results, model, dataset)
    remade = again if again and configuration(again) else None
    if like := remade or _nearest(results, product, model, dataset, names):
        said = configuration(like)
        kept = usual.keys() if remade else usual.keys() & shared.keys()
        values |= {name: value for name, value in said.items() if name in kept and name not in NAMED_OTHERWISE}
        in_path = (names_in(product_of(like, results).name, like, results) or {}).get("corruption", "sip")  # type: ignore[union-attr]
        values["corruption"] = said.get("samples_of", said.get("corruption", in_path))
        if product.needs and not remade:
            values |= _ranking(results, said, model, dataset)
    if again:
        values["direction"] = "denoising"
        values |= {name: int(value) if name == "window" else value for name, value in names.items() if name in usual}
        values |= {"components": [names.get("component", "")], "receiver_component": names.get("receiver")}
    if product.clean_run:
        values.pop("direction", None)
    source, data = values.pop("model", model), values.pop("data", _data(dataset))
    values |= {name: value for name, value in options.items() if name not in PLACE}
    line = ["python -m", product.command, "--model", shlex.quote(str(source)), "--data", shlex.quote(str(data))]
    return " ".join([*line, "--out", RESULTS, *words(_options(product.command), values)])


def _ranking(results: Path, said: Mapping[str, Any], model: str, dataset: str) -> dict[str, Any]:
    """The options by which a script finds the ranking of heads that is there, where it is not the one it would look for."""
    facts = _study(results, model, dataset).get("facts", {})
    component, tokens = said.get("component"), said.get("tokens", [])
    found = {"component": component} if component and component != facts.get("head_component", component) else {}
    main = facts.get("main_token")
    token = {} if not main or not tokens or main in tokens else {"token": tokens[0], "ranking_token": tokens[0]}
    return found | token


def _nearest(results: Path, product: Product, model: str, dataset: str, names: Mapping[str, str]) -> Path | None:
    """The file whose options a new one is to share: of the same model and data set and, where there is one, the same corruption; of what
    the product is made of before others, NOTICE's image corruption first."""
    kinds = [*product.needs, *(name for name in (HEADS, MODULES, *(one.name for one in MEASURED[2:])) if name not in product.needs)]
    paths = [path for name in kinds for path in files(results, name, model=model, dataset=dataset)]

    def distance(path: Path) -> tuple[bool, bool, bool, int]:
        said = names_in(product_of(path, results).name, path, results) or {}  # type: ignore[union-attr]
        made_with = configuration(path)
        corruption = said.get("corruption", made_with.get("samples_of", ""))
        return not made_with, corruption != names.get("corruption", "sip"), "direction" in said, paths.index(path)

    return min(paths, key=distance, default=None)


def _chosen(results: Path, product: Product) -> dict[str, Any]:
    """The options with which an analysis was made here, as its file says, and those without which it finds nothing to judge."""
    usual = defaults(*_options(product.command))
    values = dict(product.flags)
    path = results / product.files[0]
    attributes = _attributes(path) if path.suffix == ".nc" and path.is_file() else []
    for name, value in usual.items():
        said = [of[name] for of in attributes if name in of]
        if name not in product.computed and value is not None and value != "" and said and len({str(one) for one in said}) == 1:
            values[name] = _like(value, said[0])
    for name, modality in {"image_corruption": "image", "text_corruption": "text"}.items():
        if name in usual and (run := _judged(results, modality)) and usual[name] not in run:
            values[name] = run[0]
    return values


def _judged(results: Path, modality: str) -> list[str]:
    """The corruptions of a modality under which heads were patched."""
    paths = {path.parent.name: path for path in files(results, HEADS)}
    return [name for name, path in sorted(paths.items()) if {"modality": modality}.items() <= _attributes(path)[0].items()]


def _like(usual: Any, said: Any) -> Any:
    """What a file says of an option, as the option's type has it."""
    return bool(said) if isinstance(usual, bool) else type(usual)(said) if isinstance(usual, (int, float, str)) else said


def _asked(results: Path, model: str, dataset: str) -> dict[str, Any]:
    """The options of the last run of a model and data set, as the manifest keeps them; for a folder without such a record, the data folder
    that it names, where that was not rendered for the study."""
    study = _study(results, model, dataset)
    if study:
        of_script = {"model": "blip-shapes", "data": "shapes"} | dict(study.get("options", {}))
        return of_script
    folder = _manifest(results).get("data", {}).get(dataset, {}).get("folder", "")
    rendered = not folder or Path(folder).parent == Path(results) / "data"
    return {} if rendered else {"data": folder}


def _study(results: Path, model: str, dataset: str) -> dict[str, Any]:
    return _manifest(results).get("studies", {}).get(f"{model}/{dataset}", {})


def _data(dataset: str) -> str:
    return dataset if dataset == "shapes" else f"data/{dataset}"


@cache
def _options(module: str) -> tuple[type, ...]:
    """The dataclasses of a command's options: its own, called as its file is, and those that all interventions share."""
    name = "".join(word.capitalize() for word in module.split(".")[-1].split("_"))
    if module.startswith("interventions."):
        return Options, getattr(methods, name)
    return (getattr(importlib.import_module(module), name),)


def configuration(path: Path) -> dict[str, Any]:
    """What a file was made with, as its attribute `configuration` says; empty where it says nothing or is damaged.

    >>> configuration(Path("results/blip-small/shapes/sip/mlp.nc"))
    {}
    """
    try:
        return json.loads(_attributes(path)[0].get("configuration", "{}"))
    except ValueError:
        return {}


def _attributes(path: Path) -> list[dict[str, Any]]:
    """The attributes of a NetCDF file, then those of its groups; empty ones where it is damaged or not there."""
    return _read_attributes(path, path.stat().st_mtime_ns) if path.is_file() else [{}]


@lru_cache(maxsize=4096)
def _read_attributes(path: Path, changed: int) -> list[dict[str, Any]]:
    import netCDF4  # seconds are not spent on it before a file is to be read

    try:
        with netCDF4.Dataset(path) as opened:
            return [{name: one.getncattr(name) for name in one.ncattrs()} for one in _with_groups(opened)]
    except (OSError, RuntimeError, ValueError):
        return [{}]


def _with_groups(opened: Any) -> Iterator[Any]:
    yield opened
    for group in opened.groups.values():
        yield from _with_groups(group)


def _manifest(results: Path) -> dict[str, Any]:
    """What `manifest.json` says; empty where there is none, or it is broken (`store.folder.read_manifest` says so)."""
    path = Path(results) / "manifest.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def table() -> str:
    """The analyses as a table for a README: command, what it is made of, what it writes.

    >>> table().splitlines()[2]
    '| `python -m analysis.universal_heads` | effects of heads | `universal_heads.{nc,csv}` |'
    """
    rows = ["| command (`--results results`) | made of | writes |", "| --- | --- | --- |"]
    for product in (*JUDGED, PRODUCTS["figures"], PRODUCTS["report"]):
        flags = " ".join(words(_options(product.command), product.flags))
        line = f"python -m {product.command}" + (f" {flags}" if flags else "")
        made_of = "everything above and what was measured" if len(product.inputs) > 3 or not product.inputs else ", ".join(product.inputs)
        rows.append(f"| `{line}` | {made_of} | {_written(product)} |")
    return "\n".join(rows)


def _written(product: Product) -> str:
    if product.name == "figures":
        return "`figures/`: PNG and PDF, and `not_drawn.txt`"
    stems: dict[str, list[str]] = {}
    for name in product.files:
        stem, suffix = name.rsplit(".", 1)
        stems.setdefault(stem, []).append(suffix)
    return ", ".join(f"`{stem}.{{{','.join(of)}}}`" if len(of) > 1 else f"`{stem}.{of[0]}`" for stem, of in stems.items())


if __name__ == "__main__":
    print(table())
