"""Symmetric token replacement (NOTICE, section 3.1): both options of the question are exchanged for two others; the image stays."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from corruptions.base import LeftOut, Pair, PairMaker, Prompt, Span, Tokenize, register
from data_prep.tables.sample import Sample, option_spans


@register("str", "text", "is asked with two other options of the same token length", default=True)
class SymmetricTokenReplacement(PairMaker):
    """Replaces both options by the two options of another sample of the same category.

    The new options differ from each other and from both old ones and take, in their places, as many tokens of the model's
    tokenizer, so that the clean and the corrupt prompt have equal token counts and differ in the option spans alone. When no other
    sample's two options fit, any two options of the category that do are taken. The draw depends on the seed and the sample's
    id alone. A sample that states its own corrupt question keeps it, and it must meet the same conditions.

    Parameters
    ----------
    samples : every sample of the data set; their options are what can be drawn, by category.
    """

    def __init__(self, samples: Iterable[Sample] = (), seed: int = 0, options: Any = None, device: str = "auto") -> None:
        super().__init__(samples, seed, options, device)
        self._pairs: dict[str, list[tuple[str, str]]] = {}
        for sample in samples:
            pairs = self._pairs.setdefault(sample["category"], [])
            pair = (sample["correct_answer"], sample["incorrect_answer"])
            if pair not in pairs:
                pairs.append(pair)

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        question = sample["question"]
        spans = option_spans(question, sample["correct_answer"], sample["incorrect_answer"])
        clean = tokenize(question)
        if sample["corrupt_question"]:
            return self._stated(sample, spans, clean, tokenize)
        for new in self._candidates(sample):
            corrupt_question, corrupt_spans = replace_options(question, spans, new)
            if mismatch(clean, spans, tokenize(corrupt_question), corrupt_spans) is None:
                return Pair(sample, "clean_image", corrupt_question, spans, corrupt_spans)
        lengths = " and ".join(str(len(clean.positions(span))) for span in spans)
        raise LeftOut(f"no two other options of {sample['category']!r} take {lengths} tokens in the places of the options")

    def _candidates(self, sample: Sample) -> Iterator[tuple[str, str]]:
        rng = np.random.default_rng([self.seed, zlib.crc32(sample["sample_id"].encode())])
        old = {sample["correct_answer"].lower(), sample["incorrect_answer"].lower()}
        pairs = self._pairs.get(sample["category"], [])
        free = [pair for pair in pairs if not old & {pair[0].lower(), pair[1].lower()}]
        singles = list(dict.fromkeys(option for pair in pairs for option in pair if option.lower() not in old))
        mixed = [(a, b) for a in singles for b in singles if a.lower() != b.lower() and (a, b) not in free]
        for group in (free, mixed):
            for index in rng.permutation(len(group)):
                first, second = group[index]
                turned = rng.random() < 0.5
                yield (second, first) if turned else (first, second)
                yield (first, second) if turned else (second, first)

    def _stated(self, sample: Sample, spans: tuple[Span, Span], clean: Prompt, tokenize: Tokenize) -> Pair:
        corrupt_question = sample["corrupt_question"]
        corrupt_spans = _spans_by_frame(sample["question"], spans, corrupt_question)
        if corrupt_spans is None:
            raise LeftOut("the given corrupt question differs from the question in more than the options")
        new = [corrupt_question[start:end].lower() for start, end in corrupt_spans]
        if new[0] == new[1] or {sample["correct_answer"].lower(), sample["incorrect_answer"].lower()} & set(new):
            raise LeftOut(f"the given corrupt options {new[0]!r} and {new[1]!r} are not two others")
        problem = mismatch(clean, spans, tokenize(corrupt_question), corrupt_spans)
        if problem:
            raise LeftOut(f"the given corrupt question {problem}")
        return Pair(sample, "clean_image", corrupt_question, spans, corrupt_spans)


def replace_options(question: str, spans: tuple[Span, Span], new: tuple[str, str]) -> tuple[str, tuple[Span, Span]]:
    """Put `new` in the places `spans`; returns the question and the places of the new options in it, in the same order."""
    placed: dict[int, Span] = {}
    shift = 0
    for which in sorted((0, 1), key=lambda i: spans[i]):
        start, end = spans[which][0] + shift, spans[which][1] + shift
        question = question[:start] + new[which] + question[end:]
        placed[which] = (start, start + len(new[which]))
        shift += len(new[which]) - (end - start)
    return question, (placed[0], placed[1])


def mismatch(clean: Prompt, clean_spans: tuple[Span, Span], corrupt: Prompt, corrupt_spans: tuple[Span, Span]) -> str | None:
    """Why two prompts are not a symmetric replacement (token counts, places, or a change outside the options), or None."""
    if len(clean.ids) != len(corrupt.ids):
        return f"has {len(corrupt.ids)} tokens, the clean one {len(clean.ids)}"
    allowed: set[int] = set()
    for old, new in zip(clean_spans, corrupt_spans, strict=True):
        if clean.positions(old) != corrupt.positions(new):
            return "has an option in other token positions"
        allowed |= set(clean.positions(old))
    outside = [i for i, (a, b) in enumerate(zip(clean.ids, corrupt.ids, strict=True)) if a != b and i not in allowed]
    return f"differs outside the options, at token {outside[0]}" if outside else None


def _spans_by_frame(question: str, spans: tuple[Span, Span], other: str) -> tuple[Span, Span] | None:
    """The places in `other` of what stands for the options, if the text around them is the same; else None."""
    first, second = sorted((0, 1), key=lambda i: spans[i])
    before, between = question[: spans[first][0]], question[spans[first][1] : spans[second][0]]
    after = question[spans[second][1] :]
    inner = other[len(before) : len(other) - len(after)]
    if not other.startswith(before) or not other.endswith(after) or inner.count(between) != 1:
        return None
    cut = len(before) + inner.index(between)
    placed = {first: (len(before), cut), second: (cut + len(between), len(other) - len(after))}
    return placed[0], placed[1]
