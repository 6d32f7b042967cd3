"""Subject, verb and object ("man, sit, grass") -> English questions such as "Is the man sitting or lying in the grass?".

In: triplets of base forms, and sentences about images, which tell how a verb and an object are joined ("sitting *in the* grass", but
"playing football"). Out: questions whose two options are whole words; `options_in` finds the options of a question that others wrote.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

from lemminflect import getAllInflections, getAllLemmas, getInflection

from data_prep.tables.sample import Excluded, SampleError, option_spans

Part = Literal["subject", "verb", "object"]
Triplet = tuple[str, str, str]
PARTS: tuple[Part, ...] = ("subject", "verb", "object")

_WORDS = {
    "plural": "cattle clergy people police",  # that are their own base form
    "pronoun": "anyone everyone he her him it me one she someone something them they us you",
    "article": "a an the",
    "determiner": "a an another both each four her his its many my one our several some that the their these this those three two your",
    "preposition": (
        "about above across after against along alongside among around as at atop before behind below beneath beside between beyond by"
        " down for from in inside into like near off on onto out outside over past through throughout to toward towards under underneath"
        " up upon via with within"
    ),
    "joining": "and as but of or that while who which",
}
_PLURALS, _PRONOUNS, _ARTICLES, _DETERMINERS, _PREPOSITIONS, _JOINING = (set(words.split()) for words in _WORDS.values())
_PLACES = "back|bank|bottom|center|centre|corner|edge|end|front|middle|shore|side|top"
_PHRASES = re.compile(
    rf"\b(?:(?:in front|on top|out|inside|outside|(?:in|at|on|by|near|along|to) the (?:{_PLACES})) of|(?:close|next) to)\b"
)


@dataclass(frozen=True)
class Link:
    """What stands between a verb and its object: a preposition or "", and whether an article or the like follows."""

    preposition: str
    determined: bool


@dataclass(frozen=True)
class Question:
    """A question about two triplets.

    Attributes
    ----------
    options : what it asks of the first and of the second triplet, whichever it names first
    noun : the word that it is about
    words : all words from the triplets, in the order of the text
    """

    text: str
    options: tuple[str, str]
    noun: str
    words: tuple[str, ...]


class Links:
    """How the sentences of a table join verbs and objects.

    Parameters
    ----------
    described : sentences, each with a triplet that it may express.
    """

    def __init__(self, described: Iterable[tuple[str, Triplet]]) -> None:
        self._of_pair: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._of_verb: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._of_object: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._determined: defaultdict[tuple[str, str, str], Counter[bool]] = defaultdict(Counter)
        for sentence, (_, verb, thing) in described:
            if link := read_link(sentence, verb, thing):
                self._of_pair[verb, thing][link.preposition] += 1
                self._of_verb[verb][link.preposition] += 1
                if link.preposition:
                    self._of_object[thing][link.preposition] += 1
                if sentence.split()[0].lower() in _ARTICLES:  # others may leave articles out throughout ("kid sitting on beach")
                    for key in (verb, ""):
                        self._determined[key, link.preposition, thing][link.determined] += 1

    def preposition(self, verb: str, thing: str, sentence: str = "") -> str | None:
        """What joins a verb and an object in the sentence, else most often in others; None where no sentence has the verb and an object."""
        if link := read_link(sentence, verb, thing):
            return link.preposition
        if known := self._of_pair.get((verb, thing)):
            return _most(known)
        of_verb, of_object = self._of_verb[verb], self._of_object[thing]
        if not of_verb or not _most(of_verb):
            return "" if of_verb else None
        of_both = Counter({name: count for name, count in of_object.items() if of_verb[name]})
        return _most(of_both) or _most(of_object) or _most(of_verb)

    def pair(self, part: Part, shown: Triplet, other: Triplet, sentence: str) -> tuple[str, str]:
        """The prepositions of two triplets that differ in a part: the same where both verbs, or both objects, go with it.

        Raises
        ------
        SampleError
            When no sentence has one of the verbs and an object.
        """
        found = [self.preposition(shown[1], shown[2], sentence), self.preposition(other[1], other[2])]
        for (_, verb, _), preposition in zip((shown, other), found, strict=True):
            if preposition is None:
                raise Excluded(f"no sentence of the table shows how {verb!r} and an object are joined; give a question with --prompts")
        first, second = found[0] or "", found[1] or ""
        if part == "subject":
            return first, first
        if part == "object":
            return first, first if self._of_object[other[2]][first] else second
        guessed = (other[1], other[2]) not in self._of_pair and bool(first) == bool(second)
        if guessed or self._of_verb[other[1]][first]:
            return first, first
        return (second, second) if self._of_verb[shown[1]][second] else (first, second)

    def noun_phrase(self, verb: str, preposition: str, thing: str) -> str:
        """An object with "the", or bare where most sentences have it so ("lying in bed", "playing football")."""
        counts = self._determined.get((verb, preposition, thing)) or self._determined["", preposition, thing]
        return thing if counts[False] > counts[True] else _the(thing)


def _most(counts: Counter[str]) -> str:
    """The most frequent; of several, the first in alphabetical order, so that the order of a table does not matter."""
    return min(counts, key=lambda name: (-counts[name], name), default="")


def read_link(sentence: str, verb: str, thing: str) -> Link | None:
    """What a sentence has between a verb and its object, in any of their forms; None where it has not both, or says more in between.

    "A man is walking slowly on the street." has "on" with an article between walk and street. Adverbs and adjectives are not kept.
    """
    words = re.findall(r"\w+(?:['-]\w+)*|,", sentence.lower())
    verbs = [i for i, word in enumerate(words) if verb in _lemmas(word, "VERB")]
    things = [i for i, word in enumerate(words) if thing in _lemmas(word, "NOUN")]
    spans = [(end - start, start, end) for start, end in product(verbs, things) if start < end]
    if not spans:
        return None
    _, start, end = min(spans)
    between = " ".join(word for word in words[start + 1 : end] if word != "," and not word.endswith("ly"))
    between = _PHRASES.sub(lambda phrase: phrase[0].replace(" ", "_"), between)
    inner = between.split()
    places = [i for i, word in enumerate(inner) if "_" in word or word in _PREPOSITIONS]
    stop = places[-1] + 1 if places else 0
    begin = stop
    while begin - 1 in places:
        begin -= 1
    before, after = inner[:begin], inner[stop:]
    determined = bool(after) and (after[0] in _DETERMINERS or after[0].endswith("'s"))
    describing = after[determined:]
    if (before and 0 not in places) or len(describing) > 2 or _JOINING & {*before, *describing} or _DETERMINERS & {*describing}:
        return None  # another object, clause or phrase is in between
    return Link(" ".join(inner[begin:stop]).replace("_", " "), determined)


def expresses(sentence: str, triplet: Triplet) -> bool:
    """Whether a sentence has the words of a triplet, in any forms."""
    words = re.findall(r"\w+(?:['-]\w+)*", sentence.lower())
    kinds = ("NOUN", "VERB", "NOUN")
    return all(any(wanted in _lemmas(word, kind) for word in words) for wanted, kind in zip(triplet, kinds, strict=True))


def ask(part: Part, shown: Triplet, other: Triplet, links: Links, sentence: str = "", *, turned: bool = False) -> Question:
    """Ask which of two triplets is true, in the order subject, verb, object.

    Parameters
    ----------
    part : where they differ.
    shown : the triplet that the sentence is about; the question has the sentence's preposition.
    turned : name the other triplet's option first.

    Raises
    ------
    SampleError
        When no sentence tells how a verb and the object are joined.
    """
    step = -1 if turned else 1
    first, second = (shown, other)[::step]
    join, join_second = links.pair(part, shown, other, sentence)[::step]
    same = join == join_second
    who, who_second = _the(first[0]), _the(second[0])
    doing, doing_second = participle(first[1]), participle(second[1])
    what, what_second = links.noun_phrase(first[1], join, first[2]), links.noun_phrase(second[1], join_second, second[2])
    if part == "subject":
        text = [who, "or", who_second, doing, join, what]
        words, noun = (first[0], second[0], doing, first[2]), first[2]
    elif part == "verb":
        text = [who, doing, "" if same else join, "or", doing_second, join_second, what]  # "walking on or crossing the street"
        words, noun = (first[0], doing, doing_second, first[2]), first[0]
    else:
        text = [who, doing, join, what, "or", "" if same else join_second, what_second]
        words, noun = (first[0], doing, first[2], second[2]), first[0]
    index = PARTS.index(part)
    options = (words[index + 1], words[index]) if turned else (words[index], words[index + 1])
    return Question(" ".join(filter(None, ["Are" if is_plural(first[0]) else "Is", *text])) + "?", options, noun, words)


def _the(noun: str) -> str:
    return noun if noun in _PRONOUNS else f"the {noun}"


@cache
def is_plural(noun: str) -> bool:
    """Whether a noun is plural by its form ("men"; of the others "people" and a few more)."""
    return noun in _PLURALS or noun not in _lemmas(noun, "NOUN")


@cache
def participle(verb: str) -> str:
    """The present participle of a verb, of which more words may follow the first ("take off" -> "taking off")."""
    head, *rest = verb.split()
    base = head if head in _lemmas(head, "VERB") else min(_lemmas(head, "VERB"))
    return " ".join([getInflection(base, "VBG")[0], *rest])


@cache
def _lemmas(word: str, kind: str) -> tuple[str, ...]:
    """The base forms that a word may have as a noun or a verb; a word that the dictionary lacks is its own."""
    return getAllLemmas(word, upos=kind).get(kind, (word,))


def options_in(question: str, part: Part, first: Triplet, second: Triplet) -> tuple[str, str]:
    """The options of a question that someone wrote about two triplets: the words of the asked part, in the forms that it has them.

    Raises
    ------
    SampleError
        When it does not name both as whole words.
    """
    index = PARTS.index(part)
    for pair in product(_forms(first[index], part), _forms(second[index], part)):
        try:
            spans = option_spans(question, *pair)
        except SampleError:
            continue
        named = [question[start:end] for start, end in spans]
        return named[0], named[1]
    raise SampleError(f"the question {question!r} does not name {first[index]!r} and {second[index]!r} as whole words")


def _forms(word: str, part: Part) -> Iterator[str]:
    """The word's forms; of a verb, the present participle first."""
    head, *rest = word.split()
    forms = [participle(head)] if part == "verb" else [head]
    for found in getAllInflections(head, upos="VERB" if part == "verb" else "NOUN").values():
        forms += found
    return (" ".join([form, *rest]) for form in dict.fromkeys([*forms, head]))
