"""Accuracy of a model on two-choice questions: greedy answers, exact match, by category."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataclasses import dataclass

import tyro
from datasets import Dataset
from tqdm import tqdm

from data_prep.samples import load as load_samples
from data_prep.shapes import make_shapes
from interventions.answers import accuracy, answer_tokens, generate_answers
from interventions.command import reporting_errors
from interventions.models.loading import load
from interventions.models.vlm import Vlm


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


def measure_accuracy(vlm: Vlm, samples: Dataset, batch: int = 32) -> dict[str, dict[str, int]]:
    """For each category, how many questions were asked and how many answered correctly (greedy answer, exact match)."""
    answers: dict[str, str] = {}
    tokens = answer_tokens(vlm, samples)
    for start in tqdm(range(0, len(samples), batch), desc=f"{vlm.name} answers", unit="batch"):
        answers |= generate_answers(vlm, [samples[i] for i in range(start, min(start + batch, len(samples)))], tokens)
    return accuracy(samples, answers)


def main() -> None:
    options = tyro.cli(Accuracy)
    with reporting_errors():
        tables = {}
        for name in options.data:
            rendered = name in ("validation", "test")
            tables[name] = make_shapes(options.per_category, options.seed, split=name) if rendered else load_samples(name)
        for model in options.models:
            vlm = load(model, options.device)
            for name, samples in tables.items():
                counts = measure_accuracy(vlm, samples)
                asked, correct = (sum(count[key] for count in counts.values()) for key in ("asked", "correct"))
                print(f"{vlm.name} on {name}: {correct / asked:.2%} of {asked}")
                for category, count in counts.items():
                    print(f"  {category:<12} {count['correct'] / count['asked']:.2%} of {count['asked']}")


if __name__ == "__main__":
    main()
