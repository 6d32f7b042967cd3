"""Accuracy of a model on two-choice questions: greedy answers, exact match, by category."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryDirectory
from typing import Annotated

import tyro
from datasets import Dataset
from tqdm import tqdm

from data_prep.scenes.table import make_shapes
from data_prep.tables import schema as sample_table
from interventions import backends
from interventions.backends.options import Backend, RayOptions, RemoteOptions
from interventions.models.vlm import Vlm
from interventions.study.answers import Ask, accuracy, answer_tokens, ask_backend, generate_answers
from interventions.study.command import reporting_errors
from interventions.study.study import Options, Study, open_model


@dataclass
class Accuracy:
    """Print how many questions of each category models answer correctly.

    With no options: the shipped models on rendered scenes that they were not trained on: `validation` (other scenes of the same
    kind) and `test` (every object a combination of colour, shape and texture, and a background, that no training scene has).

    Example: python -m interventions.accuracy --models blip-shapes --data validation test --per-category 250
    """

    models: tuple[str, ...] = ("blip-shapes", "llava-shapes")
    """Models, as in the other scripts."""
    data: tuple[str, ...] = ("validation", "test")
    """Folders of prepared data sets; or validation, test: scenes rendered on the spot."""
    per_category: int = 500
    """Rendered questions of each category."""
    seed: int = 1
    """Seed of the rendered scenes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<number>."""
    backend: Backend = "local"
    """Where the model answers, as in the intervention scripts: local, ray, remote or remote-dry-run. Ray on several
    machines needs folders as --data: it cannot read what is rendered on the spot on this one."""
    ray: Annotated[RayOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RayOptions)
    """Options of the backend ray."""
    remote: Annotated[RemoteOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RemoteOptions)
    """Options of the backend remote."""


def measure_accuracy(vlm: Vlm, samples: Dataset, batch: int = 32, ask: Ask | None = None) -> dict[str, dict[str, int]]:
    """For each category, how many questions were asked and how many answered correctly (greedy answer, exact match).

    Parameters
    ----------
    ask : see `answer_all`
    """
    answers: dict[str, str] = {}
    tokens = answer_tokens(vlm, samples)
    rows = [range(start, min(start + batch, len(samples))) for start in range(0, len(samples), batch)]
    found = ask(rows, tokens) if ask else (generate_answers(vlm, [samples[i] for i in some], tokens) for some in rows)
    for some in tqdm(found, desc=f"{vlm.name} answers", unit="batch", total=len(rows)):
        answers |= some
    return accuracy(samples, answers)


def _folder(options: Accuracy, name: str, temporary: Path) -> Path:
    """A data set's folder, in which it is rendered first where it is to be."""
    if name not in ("validation", "test"):
        return Path(name)
    sample_table.save(make_shapes(options.per_category, options.seed, split=name), temporary / name, {"name": "shapes", "left_out": []})
    return temporary / name


def main() -> None:
    options = tyro.cli(Accuracy)
    with reporting_errors(), TemporaryDirectory() as temporary:
        shared = {key: getattr(options, key) for key in ("device", "backend", "ray", "remote")}
        backends.choose(Options(**shared))  # raises where it cannot be used
        folders = {name: _folder(options, name, Path(temporary)) for name in options.data}
        for model in options.models:
            of_model = Options(model, out=Path(temporary), **shared)
            vlm = open_model(of_model)
            for name, folder in folders.items():
                samples = sample_table.load(folder)
                study = Study(of_model, vlm, samples[0]["dataset"], samples, sample_table.fingerprint(samples), {}, folder)
                counts = measure_accuracy(vlm, samples, ask=partial(ask_backend, study))
                asked, correct = (sum(count[key] for count in counts.values()) for key in ("asked", "correct"))
                print(f"{vlm.name} on {name}: {correct / asked:.2%} of {asked}")
                for category, count in counts.items():
                    print(f"  {category:<12} {count['correct'] / count['asked']:.2%} of {count['asked']}")


if __name__ == "__main__":
    main()
