"""IconQA: problems about abstract diagrams -> questions such as "How many dots are there, 13 or 57?".

In: the data set's folder. Out: a sample table with the categories choose_txt and fill_in_blank. The corrupt image is that of another
problem with the same question and another answer. Problems of choose_img are not used: their choices are pictures, which a question
cannot name.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from data_prep.tables.candidates import Candidate, Preparation, Source, correct_comes_first, left_out_entry, rng_of
from data_prep.tables.counterparts import LeftOutEntries, images_hash, mixed, wrong_layout
from data_prep.tables.images import open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError

TASKS = ("choose_txt", "fill_in_blank")
BLANK = "(_)"
LAYOUT = """\
  iconqa_data/
    iconqa/
      val/
        choose_txt/
          <number>/data.json, image.png
        fill_in_blank/
          <number>/data.json, image.png
      ..."""


@reader(
    title="IconQA",
    categories="choose_txt, fill_in_blank",
    corrupt_image="a problem with the same question and another answer",
)
@dataclass(kw_only=True)
class IconQa(Preparation):
    """Make a sample table of IconQA.

    The options are the answers of two problems with the same question. For choose_txt, each of them must be among the choices of both
    problems, so that it is known to be false of the other image. An answer to be filled in is the only true one.

    Example: python -m data_prep.iconqa --folder iconqa_data --split val --out data/iconqa --limit 500
    """

    folder: Path = Path("iconqa_data")
    """The extracted data set."""
    out: Path = Path("data/iconqa")
    """Folder that receives the sample table; an older table there is replaced."""
    split: Literal["train", "val", "test"] = "val"
    """Part of the data."""

    def read(self) -> Source:
        return read_iconqa(self.folder, split=self.split, seed=self.seed)


@dataclass(frozen=True)
class Problem:
    """One problem: what is asked (with the hint, if any), the right answer and the choices, none where it is to be filled in."""

    name: str
    task: str
    image: Path
    text: str
    unit: str
    answer: str
    choices: tuple[str, ...]

    def opposes(self, other: "Problem") -> bool:
        """Whether the other's answer is known to be false here, and this one's there."""
        mine, theirs = _meaning(self.answer), _meaning(other.answer)
        chosen = [{_meaning(choice) for choice in problem.choices} or {mine, theirs} for problem in (self, other)]
        return mine != theirs and mine in chosen[1] and theirs in chosen[0]


def read_iconqa(folder: Path, *, split: str = "val", seed: int = 0) -> Source:
    """List the samples of IconQA.

    Raises
    ------
    SampleError
        For a folder that is missing or laid out otherwise.
    """
    roots = [root for root in (folder, folder / "iconqa", folder / "iconqa_data" / "iconqa") if (root / split).is_dir()]
    if not roots:
        raise wrong_layout(folder, f"no folder of the split {split!r}" if folder.is_dir() else "no such folder", LAYOUT)
    asked: dict[tuple[str, str, str], list[Problem]] = defaultdict(list)
    left_out: LeftOutEntries = []
    for task in TASKS:
        for path in _folders(roots[0] / split / task):
            name = f"{split}/{task}/{path.name}"
            try:
                problem = _problem(path, name, task)
                asked[task, problem.text, problem.unit].append(problem)
            except SampleError as error:
                left_out.append(left_out_entry(name, f"{name}/data.json", error))
    if not asked:
        raise wrong_layout(roots[0] / split, f"no problem of {' or '.join(TASKS)} can be read", LAYOUT)

    candidates = []
    for problems in asked.values():
        for problem in problems:
            rivals = [other for other in problems if problem.opposes(other)]
            if rivals:
                candidates.append(Candidate(problem.name, problem.task, problem.name, partial(_row, problem, rivals, seed)))
            else:
                found = "no other problem has this question" if len(problems) == 1 else _ALONE[problem.task]
                left_out.append(left_out_entry(problem.name, "", Excluded(f"{found} ({problem.text!r})")))
    pictures = len(_folders(roots[0] / split / "choose_img"))
    not_used = {"choose_img": f"{pictures} problems: the choices are pictures, which a question cannot name"}
    texts = json.dumps([[p.name, p.text, p.unit, p.answer, p.choices] for problems in asked.values() for p in problems])
    provenance = {"split": split, "not_used": not_used, "sha256": hashlib.sha256(texts.encode()).hexdigest()}
    files = images_hash(roots[0], (f"{problem.name}/image.png" for problems in asked.values() for problem in problems))
    return Source("iconqa", mixed(candidates, seed), left_out, provenance, files)


_ALONE = {
    "choose_txt": "no other problem with this question has another answer that is among the choices of both",
    "fill_in_blank": "no other problem with this question has another answer",
}


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _problem(path: Path, name: str, task: str) -> Problem:
    try:
        record = json.loads((path / "data.json").read_text(encoding="utf-8"))
        question, answer, choices = record["question"], record["answer"], record.get("choices", [])
        if task == "choose_txt":
            if isinstance(answer, bool) or not 0 <= answer < len(choices):
                raise ValueError(f"the answer is {answer!r}, not the index of one of {len(choices)} choices")
            answer = choices[answer]
        texts = [question, answer, *choices, record.get("hint") or "", record.get("unit") or ""]
        if not all(isinstance(text, str) for text in texts) or not question.strip() or not answer.strip():
            raise ValueError(f"question, answer and choices must be text: {texts}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SampleError(f"not a problem of {task} ({type(error).__name__}: {error})") from error
    question, answer, *_, hint, unit = (" ".join(text.split()) for text in texts)
    return Problem(name, task, path / "image.png", f"{hint} {question}".strip(), unit, answer, tuple(choices))


def _meaning(answer: str) -> str | float:
    """What two answers have in common that are only written differently, as "7,364" and "7364"."""
    try:
        return float(answer.replace(",", ""))
    except ValueError:
        return " ".join(answer.casefold().split())


def _row(problem: Problem, rivals: Sequence[Problem], seed: int) -> dict[str, Any]:
    rng = rng_of(seed, "partner", problem.name)
    answers = sorted({rival.answer for rival in rivals})
    incorrect = answers[rng.integers(len(answers))]
    same = [rival for rival in rivals if rival.answer == incorrect]
    partner = same[rng.integers(len(same))]
    options = (problem.answer, incorrect) if correct_comes_first(seed, problem.name) else (incorrect, problem.answer)
    return {
        "question": question_with(problem.text, *options, unit=problem.unit),
        "correct_answer": problem.answer,
        "incorrect_answer": incorrect,
        "clean_image": open_image(problem.image, f"{problem.name}/image.png"),
        "corrupt_image": open_image(partner.image, f"{partner.name}/image.png"),
    }


def question_with(text: str, first: str, second: str, unit: str = "") -> str:
    """A question that names both options, in this order: in the place where it names them already, else at its end."""
    pair = rf"(?<!\w)(?:{re.escape(first)} or {re.escape(second)}|{re.escape(second)} or {re.escape(first)})(?!\w)"
    options = f"{first} or {second}"
    if re.search(pair, text, re.IGNORECASE):
        return re.sub(pair, lambda _: options, text, flags=re.IGNORECASE)
    options = f"{options} {unit}".strip()
    if BLANK in text:
        return f"{text} Is {BLANK} {options}?"
    return f"{text[:-1]}, {options}?" if text.endswith("?") else f"{text} Is it {options}?"


if __name__ == "__main__":
    main(IconQa)
