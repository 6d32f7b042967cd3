"""Two-choice questions about a rendered scene, as in NOTICE: "Is the striped circle red or blue?".

The question names the object by attributes other than the asked one, and several objects may fit: exactly one option is true of
them. A model can therefore not answer without reading the options.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.scenes.rendering import ATTRIBUTES, Scene

ASKED = ("colour", "shape", "texture", "position")  # size has two values, which leaves nothing to replace the options by

_FORMS = {
    "colour": "Is the {thing} {first} or {second}?",
    "shape": "Is the {thing} a {first} or a {second}?",
    "texture": "Is the {thing} {first} or {second}?",
    "position": "Is the {thing} at the {first} or the {second}?",
}


@dataclass(frozen=True)
class Question:
    """A question about one object of a scene, with its options.

    `possible` is false when neither option is true (training only: the target is then either, with equal chance).
    """

    asked: str
    target: int
    noun: str
    thing: str
    correct: str
    incorrect: str
    correct_first: bool
    possible: bool = True

    @property
    def text(self) -> str:
        options = (self.correct, self.incorrect) if self.correct_first else (self.incorrect, self.correct)
        return _FORMS[self.asked].format(thing=self.thing, first=options[0], second=options[1])


def ask(
    scene: Scene,
    asked: str,
    rng: np.random.Generator,
    *,
    correct_first: bool | None = None,
    counterfactual: bool = False,
    impossible: float = 0.0,
) -> Question | None:
    """Draw a question about one attribute of a random object.

    Parameters
    ----------
    counterfactual : the question must also have one true option, the other one, after the target's attribute is changed
        to the incorrect answer (for `position`: the place must be free).
    impossible : the share of questions to which neither option is true.

    Returns
    -------
    The question, or None when this draw admits no incorrect option.
    """
    target = int(rng.integers(len(scene.objects)))
    this = scene.objects[target]
    used = [name for name in ("size", "texture", "colour") if name != asked and rng.random() < 0.3]
    named = asked != "shape" and rng.random() < 0.7
    noun = this.shape if named else "object"
    described = {name: getattr(this, name) for name in used} | ({"shape": this.shape} if named else {})
    fitting = [o for o in scene.objects if all(getattr(o, name) == value for name, value in described.items())]
    held = [getattr(o, asked) for o in fitting]
    correct = getattr(this, asked)
    if held.count(correct) > 1 and counterfactual:
        return None
    free = [value for value in ATTRIBUTES[asked] if value not in held]
    if counterfactual and asked == "position":
        free = [value for value in free if all(o.position != value for o in scene.objects)]
    possible = not rng.random() < impossible
    if len(free) < 2 - possible:
        return None
    incorrect = str(rng.choice(free))
    if not possible:
        correct = str(rng.choice([value for value in free if value != incorrect]))
    return Question(
        asked=asked,
        target=target,
        noun=noun,
        thing=" ".join([getattr(this, name) for name in used] + [noun]),
        correct=correct,
        incorrect=incorrect,
        correct_first=bool(rng.random() < 0.5) if correct_first is None else correct_first,
        possible=possible,
    )
