"""Accuracy of a model on two-choice questions: greedy answers, exact match, by category."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset
from tqdm import tqdm

from data_prep.scenes.table import make_shapes
from data_prep.tables import schema as sample_table
from interventions.backends.answering import ask_backend
from interventions.backends.opening import open_model
from interventions.backends.running import choose
from interventions.methods.options import Accuracy
from interventions.models.vlm import Vlm
from interventions.study.answers import Ask, accuracy, answer_tokens, generate_answers
from interventions.study.opening import open_study, read_data
from interventions.study.options import Options


def measure_accuracy(vlm: Vlm, samples: Dataset, batch: int = 32, ask: Ask | None = None) -> dict[str, dict[str, int]]:
    """For each category, how many questions were asked and how many answered correctly (greedy answer, exact match).

    Parameters
    ----------
    ask : see `answer_all`
    """
    answers: dict[str, str] = {}
    tokens = answer_tokens(vlm, samples)
    rows = [range(start, min(start + batch, len(samples))) for start in range(0, len(samples), batch)]
    batches = ask(rows, tokens) if ask else (generate_answers(vlm, [samples[i] for i in some], tokens) for some in rows)
    for some in tqdm(batches, desc=f"{vlm.name} answers", unit="batch", total=len(rows)):
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
        choose(Options(**options.running()))  # raises where it cannot be used
        folders = {name: _folder(options, name, Path(temporary)) for name in options.data}
        for model in options.models:
            asked = Options(model, out=Path(temporary), **options.running())
            vlm = open_model(asked)
            for name, folder in folders.items():
                study = open_study(asked, vlm, read_data(folder))
                counts = measure_accuracy(vlm, study.table, ask=partial(ask_backend, study))
                questions, correct = (sum(count[key] for count in counts.values()) for key in ("asked", "correct"))
                yield f"{vlm.name} on {name}: {correct / questions:.2%} of {questions}"
                for category, count in counts.items():
                    yield f"  {category:<12} {count['correct'] / count['asked']:.2%} of {count['asked']}"
