"""Whether a model's free answer means the correct option, however it is worded: the normalised match, beside the paper's exact one.

In: the generated text and the two options of the question. Out: yes or no.
"""

import re
import unicodedata

ARTICLES = ("a", "an", "the")
_TO_TEN = "zero one two three four five six seven eight nine ten"
_TO_TWENTY = "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
NUMBERS = {word: str(number) for number, word in enumerate([*_TO_TEN.split(), *_TO_TWENTY.split()])}
_NO_WORD = re.compile(r"_|(?![.,:/-]\d)[^\w\s]")  # the point of 1.5 and the sign of -5 stay
_EXPLANATION = re.compile(r"[.,;:!?](?!\d)|[(\n]|\s[-\u2013\u2014]\s|\b(?:because|since|as|due to)\b", re.IGNORECASE)


def normalised(text: str) -> str:
    """The words without letter case, punctuation and articles; number words up to twenty as digits.

    A text of nothing but articles keeps them.
    """
    words = [NUMBERS.get(word, word) for word in _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split()]
    return " ".join([word for word in words if word not in ARTICLES] or words)


def is_normalised_match(generated: str, correct: str, incorrect: str) -> bool:
    """Whether a text is the correct option when both are `normalised`, or becomes it when an explanation is cut off.

    An explanation is what follows the option after punctuation, a line's end, a dash, or "because", "since", "as" or "due to" ("Red,
    because it is ripe"). A text that also names the other option is no match; nor is any where the options are the same once normalised,
    or nothing is left of one ("+" or "-").
    """
    wanted, other = normalised(correct), normalised(incorrect)
    if not wanted or not other or wanted == other:
        return False
    for end in (*(match.start() for match in _EXPLANATION.finditer(generated)), len(generated)):
        if normalised(generated[:end]) == wanted:
            return f" {other} " not in f" {normalised(generated[end:])} "
    return False
