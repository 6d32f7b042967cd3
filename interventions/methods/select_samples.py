"""The samples of a table that a model answers correctly: as many of each category, half with the correct option first (NOTICE).

In: a sample table, and a model whose free (greedy) answers are judged. Out: a sample table of those taken, whose `data.json` says why each
of the others was not, and beside it `accuracy.csv`: how many of each category were answered correctly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pandas as pd
from datasets import Dataset, Value

from data_prep.tables import schema as samples
from data_prep.tables.candidates import rng_of
from data_prep.tables.sample import SampleError
from interventions.backends.answering import ask_backend
from interventions.backends.opening import open_model
from interventions.backends.running import choose
from interventions.methods.options import SelectSamples
from interventions.models.names import HUB, resolve
from interventions.models.vlm import Vlm
from interventions.results.store import check_writable, write_text
from interventions.study.answer_match import is_normalised_match
from interventions.study.answers import answer_all, is_exact_match
from interventions.study.opening import open_study, read_data
from interventions.study.options import Options, check_bounds

ALL = "(all)"
PUBLISHED: Mapping[str, Mapping[str, float]] = {  # % by exact match, over a whole data set (Golovanevsky et al., What Do VLMs NOTICE?)
    "Salesforce/blip-vqa-base": {"svo_probes": 16.10, "mit_states": 44.60, "fer2013": 66.10},
    "llava-hf/llava-1.5-7b-hf": {"svo_probes": 40.89, "mit_states": 67.81, "fer2013": 79.31},
}

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """What was made.

    Attributes
    ----------
    accuracy : as `accuracy_table` gives it
    warnings : a line for each category that lacks samples
    record : what the new `data.json` holds
    """

    accuracy: pd.DataFrame
    warnings: Sequence[str]
    record: Mapping[str, Any]


def select(options: SelectSamples, vlm: Vlm | None = None) -> Selection:
    """Let the model (or a loaded `Vlm`) answer every sample, judge, draw, and save the table in `options.out`.

    Raises
    ------
    SampleError, ModelError, StoreError, BackendError
        For options, a table, a model or folders that cannot be used, and when no answer is correct.
    """
    _check(options)
    check_writable(options.out.resolve().parent)
    source = HUB[options.published] if options.published else resolve(options.model)[1]
    data, old = read_data(options.table), samples.provenance(options.table)
    table = data.table
    asked = Options(options.model, str(options.table), out=options.results, **options.running())
    choose(asked)  # raises where it cannot be used
    vlm = vlm or open_model(asked)
    ask = partial(ask_backend, open_study(asked, vlm, data))
    answers = answer_all(vlm, table, data.fingerprint, options.results, data.name, options.batch, ask)

    judged = judge(table, answers)
    accuracy = accuracy_table(judged, PUBLISHED.get(source, {}))
    taken, warnings = draw(judged, options.match, options.per_category, options.seed)
    reasons = _reasons(judged, set(taken), options.match)
    for index in judged.index[judged.answer == ""]:
        if (tokens := len(vlm.prompt(judged.question[index]).ids)) > vlm.longest_prompt:
            reasons[index] = f"the prompt has {tokens} tokens, the model takes {vlm.longest_prompt}"
    if not taken:
        first = [f"{judged.sample_id[index]}: {reason}" for index, reason in list(reasons.items())[:3]]
        lines = [*first, *accuracy.to_string(index=False).splitlines()]
        raise SampleError(f"{vlm.name} answers no sample of {options.table} correctly ({options.match} match); the first, and all:", lines)
    name = options.name or f"{data.name}-{vlm.name}-selected"
    selection = {
        "table_fingerprint": data.fingerprint,
        "model": vlm.name,
        "model_revision": vlm.revision,
        "dtype": vlm.number_format,
        **{key: getattr(options, key) for key in ("match", "per_category", "seed")},
        "warnings": warnings,
    }
    record = {
        "name": name,
        "seed": options.seed,
        **({"masks": old["masks"]} if "masks" in old else {}),
        "selection": selection,
        "source_table": {key: value for key, value in old.items() if key != "left_out"},
        "left_out": [*old.get("left_out", []), *({"sample": judged.sample_id[i], "reason": reason} for i, reason in reasons.items())],
    }
    record = samples.save(_renamed(table.select(taken), name), options.out, record)
    write_text(options.out / "accuracy.csv", accuracy.to_csv(index=False))
    return Selection(accuracy, warnings, record)


def _check(options: SelectSamples) -> None:
    check_bounds(options)
    out = options.out
    if out.resolve() == options.table.resolve():
        raise SampleError(f"--out is the table itself ({options.table}): give another folder")
    samples.check_folder(out)
    if options.name:
        samples.check_name(options.name)


def judge(table: Dataset, answers: Mapping[str, str]) -> pd.DataFrame:
    """The texts of each sample with the model's `answer`, and whether it is an `exact` and a `normalised` match.

    Every exact match is a normalised one.
    """
    columns = ["sample_id", "dataset", "category", "question", "correct_answer", "incorrect_answer", "correct_first"]
    judged = pd.DataFrame(table.select_columns(columns).to_dict())
    judged["answer"] = judged.sample_id.map(answers)
    given = list(zip(judged.answer, judged.correct_answer, judged.incorrect_answer, strict=True))
    judged["exact"] = [is_exact_match(answer, correct) for answer, correct, _ in given]
    judged["normalised"] = [exact or is_normalised_match(*texts) for exact, texts in zip(judged.exact, given, strict=True)]
    return judged


def accuracy_table(judged: pd.DataFrame, published: Mapping[str, float]) -> pd.DataFrame:
    """For each data set and category, and the whole of each data set: how many were asked, and correct by either match, with percent.

    Parameters
    ----------
    published : data set -> the paper's percentage by exact match (on its own samples), for the column `published_exact_percent`; where it
        is empty there is no such column
    """
    groups = pd.concat([judged, judged.assign(category=ALL)]).groupby(["dataset", "category"], sort=False)
    accuracy = groups.agg(asked=("exact", "size"), exact=("exact", "sum"), normalised=("normalised", "sum")).reset_index()
    for match in ("exact", "normalised"):
        accuracy[f"{match}_percent"] = (100 * accuracy[match] / accuracy.asked).round(2)
    if published:
        accuracy["published_exact_percent"] = accuracy.dataset.map(published).where(accuracy.category == ALL)
    return accuracy


def draw(judged: pd.DataFrame, match: str, per_category: int, seed: int) -> tuple[list[int], list[str]]:
    """Draw among the samples answered correctly, without replacement.

    Returns
    -------
    Row numbers of those taken, mixed, and a line for each category that has too few, or too few of one order of the options. What is drawn
    depends on the seed, the ids and who else is correct; samples that are not do not matter.
    """
    rank = {name: rng_of(seed, "select", name).random() for name in judged.sample_id}
    mixed = judged.assign(rank=judged.sample_id.map(rank)).sort_values("rank")
    taken, warnings = [], []
    for category, asked in mixed.groupby("category", sort=False):
        correct = asked[asked[match]]
        first, second = (list(correct.index[correct.correct_first == order]) for order in (True, False))
        drawn = in_halves(first, second, per_category)
        taken += drawn
        if min(len(first), len(second)) < per_category // 2 or len(drawn) < per_category:
            front = len(set(drawn) & set(first))
            warnings.append(
                f"{category}: {len(drawn)} of {per_category} samples, {front} with the correct option first and {len(drawn) - front} "
                f"after; of {len(asked)}, the model answers {len(first)} and {len(second)} correctly ({match} match)"
            )
    return sorted(taken, key=lambda index: mixed["rank"][index]), sorted(warnings)


def in_halves(first: Sequence[T], second: Sequence[T], wanted: int) -> list[T]:
    """The first `wanted` of two groups, half of each; what one lacks the other fills."""
    half = max(wanted // 2, wanted - len(second))
    return [*first[:half], *second[: wanted - len(first[:half])]]


def _reasons(judged: pd.DataFrame, taken: set[int], match: str) -> dict[int, str]:
    """Row number -> why the sample is left out."""
    reasons = {}
    for index, row in judged.iterrows():
        if not row[match]:
            reasons[index] = f"the model answers {row.answer!r}, not {row.correct_answer!r} ({match} match)"
        elif index not in taken:
            reasons[index] = f"not drawn among those of {row.category!r} that the model answers correctly"
    return reasons


def _renamed(table: Dataset, name: str) -> Dataset:
    column = table.remove_columns("dataset").add_column("dataset", [name] * len(table), feature=Value("string"))
    return column.select_columns(list(samples.FEATURES))
