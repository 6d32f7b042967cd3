"""A model's own answers, asked where its weights are."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from functools import partial

import numpy as np

from interventions.backends.running import choose
from interventions.backends.work import Batch
from interventions.results.store import Arrays
from interventions.study.answers import generate_answers
from interventions.study.study import Study


def ask_backend(study: Study, rows: Sequence[Sequence[int]], tokens: int) -> Generator[dict[str, str]]:
    """The answers of some batches of a study's rows, of at most so many tokens, by sample id."""
    names = study.table["sample_id"]
    paths = (f"{study.vlm.name}/{study.name}/answers.json",)
    todo = [Batch(tuple(names[i] for i in some), ("answers",), paths=paths) for some in rows]
    if todo:
        with closing(choose(study.options).run(study, partial(_answer, tokens=tokens), todo)) as answered:
            for batch, files in answered:
                yield {name: str(of_sample["answers"]["text"]) for name, of_sample in zip(batch.samples, files, strict=True)}


def _answer(study: Study, batch: Batch, tokens: int) -> list[Mapping[str, Arrays]]:
    """The work of answering (see `interventions.backends.work.Work`)."""
    answers = generate_answers(study.vlm, [study.sample(name) for name in batch.samples], tokens)
    return [{"answers": {"text": np.array(answers[name])}} for name in batch.samples]
