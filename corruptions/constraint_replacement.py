"""Constraint replacement (Basu et al.): the words that tie the question to the image ("this place") become others ("Paris City").

In a two-choice question these are the noun that names the thing asked about: "Is the striped circle red or blue?" becomes "Is the striped
star red or blue?", where the image has no star. The options and the image stay. The replaced tokens have the role `noun`.
"""

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from corruptions.base import LeftOut, Pair, PairMaker, Prompt, Span, Tokenize, noun_span, register
from data_prep.tables.sample import Sample, option_spans


@dataclass(frozen=True)
class ConstraintOptions:
    """Options of the corruption that replaces nouns."""

    constraint_words: tuple[str, ...] = ()
    """Nouns that `constraint` puts into questions; default: the data set's own."""


@register("constraint", "text", "is asked about another thing of the same token length", options=ConstraintOptions)
class ConstraintReplacement(PairMaker):
    """Replaces the noun by another one of as many tokens of the model's tokenizer, so that positions correspond. Words of another length,
    where Basu et al. fill up the shorter prompt at its start, are not taken.

    The other noun is one of the data set's, of a question with the same first word ("Is", "Are"), and if it can be of the same category.
    It is not yet in the question, and names nothing in the image as far as the sample's attributes tell. Nouns too general to be among
    their own sample's attributes ("object") would still fit the image and are not taken. The draw depends on the seed, the sample's id
    and the set of nouns alone.

    Parameters
    ----------
    samples : every sample of the data set; their nouns are what can be drawn.
    options : the words that can be drawn instead; for a data set with one noun ("person").
    """

    def __init__(
        self, samples: Iterable[Sample] = (), seed: int = 0, options: ConstraintOptions | None = None, device: str = "auto"
    ) -> None:
        super().__init__(samples, seed, options, device)
        self.words = tuple((options or ConstraintOptions()).constraint_words)
        self._nouns = {(_first_word(s["question"]), s["category"], s["noun"]) for s in samples if s["noun"] and _is_particular(s)}

    @property
    def configuration(self) -> dict[str, Any]:
        return {"constraint_words": list(self.words)}

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        question = sample["question"]
        options = option_spans(question, sample["correct_answer"], sample["incorrect_answer"])
        start, end = constraint_span(sample, options)
        clean = tokenize(question)
        for word in self._candidates(sample, (start, end)):
            corrupt_question = question[:start] + word + question[end:]
            if _differ_in(clean, (start, end), tokenize(corrupt_question), (start, start + len(word))):
                shift = len(word) - (end - start)
                right, wrong = ((a + shift, b + shift) if a >= end else (a, b) for a, b in options)
                return Pair(sample, "clean_image", corrupt_question, options, (right, wrong))
        among = "the words given" if self.words else "the data set's nouns (--constraint-words gives others)"
        tokens = len(clean.positions((start, end)))
        raise LeftOut(f"none of {among} takes {tokens} tokens in the place of {question[start:end]!r} and is about something else")

    def _candidates(self, sample: Sample, span: Span) -> Iterator[str]:
        rng = np.random.default_rng([self.seed, zlib.crc32(sample["sample_id"].encode())])
        alike = [(category, noun) for first, category, noun in self._nouns if first == _first_word(sample["question"])]
        of_category = {noun for category, noun in alike if category == sample["category"]}
        others = {noun for _, noun in alike} - of_category
        for group in [set(self.words)] if self.words else [of_category, others]:
            fitting = sorted(word for word in group if _is_about_something_else(word, sample) and _keeps_article(word, sample, span))
            yield from (fitting[index] for index in rng.permutation(len(fitting)))


def constraint_span(sample: Sample, options: tuple[Span, Span]) -> Span:
    """Where the noun stands in the question (see `noun_span`).

    Raises
    ------
    LeftOut
        The sample has no noun, or it is in the question only as part of an option.
    """
    noun, question = sample["noun"], sample["question"]
    if not noun:
        raise LeftOut("the sample does not say which noun of its question names the thing asked about")
    span = noun_span(question, noun, options)
    if span is None:
        raise LeftOut(f"the noun {noun!r} is not in the question outside of its options")
    return span


def _differ_in(clean: Prompt, old: Span, corrupt: Prompt, new: Span) -> bool:
    """Whether two prompts have equally many tokens and differ in the tokens of the two spans alone, which are at the same positions."""
    positions = clean.positions(old)
    changed = [i for i, (a, b) in enumerate(zip(clean.ids, corrupt.ids, strict=False)) if a != b]
    return len(clean.ids) == len(corrupt.ids) and positions == corrupt.positions(new) and bool(changed) and set(changed) <= set(positions)


def _first_word(question: str) -> str:
    return question.split()[0].lower()


def _is_particular(sample: Sample) -> bool:
    """Whether the noun names a kind of thing; true where the sample states no attributes."""
    return not sample["clean_attributes"] or sample["noun"].lower() in _attributes(sample)


def _is_about_something_else(word: str, sample: Sample) -> bool:
    in_question = re.search(rf"\b{re.escape(word)}\b", sample["question"], re.IGNORECASE)
    return in_question is None and word.lower() not in _attributes(sample)


def _attributes(sample: Sample) -> set[str]:
    """All values of the clean image's objects."""
    return {str(value).lower() for item in json.loads(sample["clean_attributes"] or "[]") for value in item.values()}


def _keeps_article(word: str, sample: Sample, span: Span) -> bool:
    """Whether "a" or "an" before the noun, if there is one, is right before the word too."""
    old, before = sample["question"][slice(*span)], sample["question"][: span[0]]
    return re.search(r"\ban?\s+$", before, re.IGNORECASE) is None or _begins_with_vowel(old) == _begins_with_vowel(word)


def _begins_with_vowel(word: str) -> bool:
    return word[0].lower() in "aeiou"
