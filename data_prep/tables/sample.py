"""One sample, without the table it stands in: its type, what is wrong with one, and where its options stand in its question."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

Sample = Mapping[str, Any]  # one row of the table


class SampleError(ValueError):
    """A sample or a table that breaks the contract; `problems` holds one line for each fault."""

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        self.problems = list(problems)
        super().__init__("\n  ".join([message, *self.problems]))


class Excluded(SampleError):
    """A sample that is left out by design: its data has no fault, but a data set's reader does not ask about it."""


def option_spans(question: str, correct: str, incorrect: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the two options stand in a question.

    Options are found as whole words, whatever their case. Of several occurrences, the pair is taken that has the word "or" in
    between and is closest to it (with no "or": the closest pair). The two spans never overlap, so that in "dark red or red" the
    option "red" is the last word.

    Returns
    -------
    (start, end) in characters of the correct option, then of the incorrect one; ``question[start:end]`` is the option.

    Raises
    ------
    SampleError
        When the two are the same, or one is not in the question, or only inside the other one.
    """
    if correct.strip().casefold() == incorrect.strip().casefold():
        raise SampleError(f"the two answers are the same: {correct!r}")
    found = {answer: _occurrences(question, answer) for answer in (correct, incorrect)}
    absent = [repr(answer) for answer, spans in found.items() if not spans]
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        raise SampleError(f"{' and '.join(absent)} {verb} not in the question {question!r} as whole words")
    pairs = [(a, b) for a in found[correct] for b in found[incorrect] if a[1] <= b[0] or b[1] <= a[0]]
    if not pairs:
        inner, outer = sorted((correct, incorrect), key=len)
        raise SampleError(f"{inner!r} is in the question {question!r} only as a part of {outer!r}")

    def rank(pair: tuple[tuple[int, int], tuple[int, int]]) -> tuple[bool, int, int]:
        left, right = sorted(pair)
        between = question[left[1] : right[0]]
        return re.search(r"\bor\b", between, re.IGNORECASE) is None, len(between), -left[0]

    return min(pairs, key=rank)


def _occurrences(question: str, answer: str) -> list[tuple[int, int]]:
    words = answer.split()
    if not words:
        return []
    inside = r"\s+".join(re.escape(word) for word in words)
    pattern = rf"(?=((?<!\w)(?<!\w-){inside}(?!\w|-\w)))"  # a hyphen joins: no "open" in "half-open"
    return [match.span(1) for match in re.finditer(pattern, question, re.IGNORECASE)]
