"""COCO-QA's questions as a machine made them from captions -> plain, grammatical ones, and the thing that they ask about.

In: a question in lower case and in tokens of the Penn Treebank, without a question mark ("how many cat is laying on the dog 's bed").
Out: `Wording` ("How many cats are laying on the dog's bed", of "cats"), or an `Excluded` that says why it is not mended.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.tables.coco import Noun, nouns
from data_prep.tables.sample import Excluded

COLOUR = "what is the color of the "
AUXILIARIES = {"is": "are", "was": "were", "has": "have", **{word: word for word in ("are", "were", "have", "can", "could")}}
WORDS = json.loads((Path(__file__).parent / "word_lists" / "coco_qa_wording.json").read_text(encoding="utf-8"))
STOPS = {*AUXILIARIES, *(word for name in ("prepositions", "participles", "verbs", "determiners", "other_stops") for word in WORDS[name])}


@dataclass(frozen=True)
class Wording:
    """A mended question.

    Attributes
    ----------
    text : without a question mark
    noun : the word or words of the text that name the thing asked about
    thing : the same in the singular
    category : COCO's object category of the thing; "" when it has none
    """

    text: str
    noun: str
    thing: str
    category: str


def mended(category: str, tokens: str) -> Wording:
    """A question of the category colour, count or location in plain words.

    Colour questions are taken as they are. In questions for a count, the thing counted and its verb are put into the plural, and "are"
    is added where there is no verb. Of questions for a location, only those with "where is" and "where are" are used (the others are
    mostly broken), with a missing "the" added. The thing of a count or location must be in the list of COCO objects.

    Raises
    ------
    Excluded
        When the question is of another form, or its thing is not found.
    """
    words = tokens.lower().rstrip(" .,;:!?/-").split()
    if words.count("``") != words.count("''"):
        raise Excluded("a quotation mark without its other half")
    noun: Noun | None
    if category == "colour":
        if not (name := re.fullmatch(COLOUR + r"([a-z][a-z-]*)", " ".join(words))):
            raise Excluded(f"the question is not {COLOUR + '...'!r}")
        noun, words_of_noun = nouns().get(name[1]), name[1]
    elif category == "count":
        noun, words_of_noun, words = _count(words)
    else:
        noun, words_of_noun, words = _location(words)
    text = plain(" ".join(words))
    return Wording(
        text=text[:1].upper() + text[1:],
        noun=words_of_noun,
        thing=noun.singular if noun else words_of_noun,
        category=noun.category if noun else "",
    )


def _count(words: list[str]) -> tuple[Noun, str, list[str]]:
    if words[:2] != ["how", "many"]:
        raise Excluded("the question is not 'how many ...'")
    start, end = _noun(words, 2)
    noun = nouns()[" ".join(words[start:end])]
    rest = words[end:]
    following = rest[0] if rest else ""
    if following in AUXILIARIES:
        rest = [AUXILIARIES[following], *rest[1:]]
    elif following in WORDS["prepositions"] or following in WORDS["participles"] or following.endswith("ing"):
        verb = next((place for place, word in enumerate(rest) if word in ("is", "are")), None)
        rest = ["are", *rest] if verb is None else [*rest[:verb], "are", *rest[verb + 1 :]]
    elif not following:
        rest = ["are", "there"]
    elif following not in WORDS["verbs"] and not following.endswith("ed"):
        raise Excluded(f"no verb after 'how many {' '.join(words[2:end])}', but {following!r}")
    return noun, noun.plural, [*words[:start], *noun.plural.split(), *rest]


def _location(words: list[str]) -> tuple[Noun, str, list[str]]:
    if words[:1] != ["where"] or words[1:2] not in (["is"], ["are"]):
        raise Excluded("the question is not 'where is ...' or 'where are ...'")
    if {"is", "are"} & set(words[2:]):
        raise Excluded("a second 'is' or 'are'")
    first = 3 if words[2:3] and words[2] in WORDS["determiners"] else 2
    start, end = _noun(words, first)
    found = " ".join(words[start:end])
    noun = nouns()[found]
    phrase = words[2:]
    several = words[2] in WORDS["counted"] and words[2] != "one"
    if found != noun.singular or (found == noun.plural and (words[1] == "are" or several)):
        verb = "are"
    elif words[1] == "is":
        verb = "is"
        if first == 2 and words[2] not in WORDS["counted"]:
            phrase = ["the", *phrase]
    elif "and" in words[end : end + 1]:
        verb = "are"
    else:
        raise Excluded(f"'are' with the singular {found!r}")
    return noun, found, ["where", verb, *phrase]


def _noun(words: list[str], first: int) -> tuple[int, int]:
    """Where the last listed noun of the phrase stands that starts at word `first`; the phrase must end with it."""
    end = first
    while end < len(words) and not _ends_phrase(words, first, end):
        end += 1
    for length in (2, 1):
        if end - length >= first and " ".join(words[end - length : end]) in nouns():
            return end - length, end
    raise Excluded(f"no thing of the list of COCO objects at the end of {' '.join(words[:end])!r}")


def _ends_phrase(words: list[str], first: int, end: int) -> bool:
    word = words[end]
    if word in nouns() or word in WORDS["counted"]:
        return False
    if word == "and" or word.endswith(("ing", "ed")):  # "flying birds", but "birds flying"
        return end > first and words[end - 1] in nouns()
    return word in STOPS or word == ","


def plain(tokens: str) -> str:
    """Tokens of the Penn Treebank as plain text."""
    text = re.sub(r"`` ?", '"', tokens)
    text = re.sub(r" ?''", '"', text)
    text = text.replace("-lrb- ", "(").replace(" -rrb-", ")")
    text = re.sub(r" (n't|'(?:s|re|ve|ll|d|m)|[,.;:!?%])(?= |\"|$)", r"\1", text)
    text = re.sub(r"(?<=s) '(?= )", "'", text)
    return re.sub(r"\$ (?=\d)", "$", text)
