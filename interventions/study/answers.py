"""The model's own greedy answers to every sample: accuracy, and which samples are used (NOTICE: those answered correctly)."""

import json
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from data_prep.tables.sample import Sample
from interventions import __version__
from interventions.models.vlm import ANSWER_TOKENS, Vlm
from interventions.results.manifest import update_manifest
from interventions.results.store import differences, read_json, write_text

Ask = Callable[[Sequence[Sequence[int]], int], Generator[dict[str, str]]]


def is_exact_match(generated: str, correct: str) -> bool:
    """Exact match, but for letter case, outer blanks and closing punctuation."""
    return generated.strip().rstrip(".,!").lower() == correct.strip().lower()


def answer_all(
    vlm: Vlm, samples: Dataset, fingerprint: str, results: Path, dataset: str, batch: int = 16, ask: Ask | None = None
) -> dict[str, str]:
    """The generated answer of every sample, by sample id ("" where the prompt is longer than the model takes).

    Kept in `<results>/<model>/<dataset>/answers.json`, batch by batch, and read from there where model, data, prompt, the number of tokens
    and the program's version are the same.
    The accuracy of each category goes into the manifest.

    Parameters
    ----------
    ask : the answers of some batches of rows, in any order, of at most so many tokens; default: the loaded model's
    """
    path = results / vlm.name / dataset / "answers.json"
    tokens = answer_tokens(vlm, samples)
    configuration = {
        "program_version": __version__,
        "model_revision": vlm.revision,
        "dtype": vlm.number_format,
        "dataset_fingerprint": fingerprint,
        "prompt": vlm.template("?")[0],
        "answer_tokens": tokens,
        **vlm.weights_there,
    }
    answers: dict[str, str] = {}
    if path.is_file():
        stored = read_json(path)
        if not differences(stored["configuration"], configuration):
            answers = stored["answers"]
    missing = [i for i, sample_id in enumerate(samples["sample_id"]) if sample_id not in answers]
    rows = [missing[start : start + batch] for start in range(0, len(missing), batch)]
    batches = ask(rows, tokens) if ask else (generate_answers(vlm, [samples[i] for i in some], tokens) for some in rows)
    with closing(batches):
        for some in tqdm(batches, desc=f"{vlm.name} answers {dataset}", unit="batch", total=len(rows), disable=not missing):
            answers |= some
            kept = {name: answers[name] for name in samples["sample_id"] if name in answers}
            write_text(path, json.dumps({"configuration": configuration, "answers": kept}, ensure_ascii=False))
    update_manifest(results, "answers", f"{vlm.name}/{dataset}", accuracy(samples, answers))
    return answers


def answer_tokens(vlm: Vlm, samples: Dataset) -> int:
    """How many tokens an answer may have: enough for the longest option of the whole data set, so that no answer depends on its batch, and
    for what ends it or is put before it."""
    options = {*samples["correct_answer"], *samples["incorrect_answer"]}
    longest = max(len(vlm.processor.tokenizer(option, add_special_tokens=False)["input_ids"]) for option in options)
    return max(ANSWER_TOKENS, longest + 2)


def generate_answers(vlm: Vlm, rows: Sequence[Sample], tokens: int) -> dict[str, str]:
    """The generated answers of one batch, of at most so many tokens, by sample id."""
    short = [row for row in rows if len(vlm.tokenize(row["question"]).ids) <= vlm.longest_prompt]
    generated = vlm.generate([row["question"] for row in short], [row["clean_image"] for row in short], tokens) if short else []
    return {row["sample_id"]: "" for row in rows} | {row["sample_id"]: text for row, text in zip(short, generated, strict=True)}


def accuracy(samples: Dataset, answers: dict[str, str]) -> dict[str, dict[str, int]]:
    """For each category, how many were asked and how many answered correctly."""
    asked: Counter[str] = Counter(samples["category"])
    columns = zip(samples["category"], samples["sample_id"], samples["correct_answer"], strict=True)
    correct = Counter(category for category, sample_id, answer in columns if is_exact_match(answers[sample_id], answer))
    return {category: {"asked": asked[category], "correct": correct[category]} for category in asked}
