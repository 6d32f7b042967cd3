"""Accuracy of a model on two-choice questions: greedy answers, exact match, by category."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset
from tqdm import tqdm

from data_prep.scenes.table import make_shapes
from data_prep.tables import schema as sample_table
from interventions import backends
from interventions.methods.options import Accuracy
from interventions.models.vlm import Vlm
from interventions.study.answers import Ask, accuracy, answer_tokens, ask_backend, generate_answers
from interventions.study.options import Options
from interventions.study.study import Study, open_model


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


def lines(options: Accuracy) -> Iterator[str]:
    """See `interventions.accuracy`."""
    with TemporaryDirectory() as temporary:
        backends.choose(Options(**options.running()))  # raises where it cannot be used
        folders = {name: _folder(options, name, Path(temporary)) for name in options.data}
        for model in options.models:
            of_model = Options(model, out=Path(temporary), **options.running())
            vlm = open_model(of_model)
            for name, folder in folders.items():
                samples = sample_table.load(folder)
                study = Study(of_model, vlm, samples[0]["dataset"], samples, sample_table.fingerprint(samples), {}, folder)
                counts = measure_accuracy(vlm, samples, ask=partial(ask_backend, study))
                asked, correct = (sum(count[key] for count in counts.values()) for key in ("asked", "correct"))
                yield f"{vlm.name} on {name}: {correct / asked:.2%} of {asked}"
                for category, count in counts.items():
                    yield f"  {category:<12} {count['correct'] / count['asked']:.2%} of {count['asked']}"
