"""Where the two options stand in a question, by the rule that `option_spans` states; expectations are written by hand."""

import pytest

from data_prep.tables.sample import SampleError, option_spans

# The options are between brackets: the correct one first.
RULES = {
    "the pair around or, though another is closer": "In the blue red flag, is the stripe [red], I ask you, or rather [blue]?",
    "the pair around or, though it comes first": "Is it [red] or maybe even a little bit [blue], like a blue, red one?",
    "of two pairs around or the closest": "Is red, which is one colour, or [blue] or [red] right?",
    "of two pairs around or the closest, though it comes first": "Is it [red] or [blue], or is it perhaps red?",
    "with no or the closest": "Which fits the red flag: [blue], [red]?",
    "or is a word": "Is blue for red, or is [red] or the other [blue]?",
    "or in capitals": "blue red: [red] OR [blue]?",
    "of equally close pairs the last": "red or blue? I mean, [red] or [blue]?",
    "whole words": "Is it a blues, a [red] or a [blue] one?",
    "no part of a word with a hyphen": "Is it red-hot, [red] or half-blue or [blue]?",
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("swapped", [False, True])
def test_options_stand_where_the_rule_says(rule, swapped):
    marked = RULES[rule]
    question = marked.replace("[", "").replace("]", "")
    starts = [marked.index("["), marked.rindex("[") - 2]
    words = [part.partition("]")[0] for part in marked.split("[")[1:]]
    expected = {word: (start, start + len(word)) for word, start in zip(words, starts, strict=True)}
    first, second = ("blue", "red") if swapped else ("red", "blue")
    assert option_spans(question, first, second) == (expected[first], expected[second])


def test_an_option_within_the_other_is_the_one_outside():
    assert option_spans("Is it dark red or red?", "red", "dark red") == ((18, 21), (6, 14))
    with pytest.raises(SampleError, match=r"'red' is in the question .* only as a part of 'dark red'"):
        option_spans("Is it dark red or blue?", "red", "dark red")


def test_an_option_of_several_words_may_have_other_blanks_and_letters():
    assert option_spans("Is it  Dark  Red or blue?", "dark red", "blue") == ((7, 16), (20, 24))


@pytest.mark.parametrize(
    ("question", "correct", "incorrect", "message"),
    [
        ("Is it red or blue?", "red", " RED ", "the two answers are the same: 'red'"),
        ("Is it red or blue?", "green", "blue", "'green' is not in the question"),
        ("Is it red or blue?", "green", "pink", "'green' and 'pink' are not in the question"),
        ("Is it red or blue?", "red", " ", "is not in the question"),
    ],
)
def test_options_that_are_not_two_of_the_question_are_refused(question, correct, incorrect, message):
    with pytest.raises(SampleError, match=message):
        option_spans(question, correct, incorrect)
