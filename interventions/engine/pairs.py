"""A sample's pair as a model reads it. It is prepared once, when the sample is chosen, and passed along."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from corruptions.base import Pair, Prompt
from data_prep.tables.sample import Sample
from interventions.models.vlm import Scored, Vlm
from interventions.results.roles import EVERY, Cell, every_token, roles, tokens_of_roles


class PairError(ValueError):
    """A pair that cannot be patched position by position: says why."""


@dataclass(frozen=True)
class PreparedPair:
    """A pair, the tokens that its answers are scored by, and its two prompts.

    Attributes
    ----------
    clean_prompt, corrupt_prompt : of equal length; in a decoder they end with the tokens of the answer that are given
    roles : of each position of both prompts (see `interventions.results.roles`)
    given_answer : the tokens of the answer that are given, as text
    """

    pair: Pair
    scored: Scored
    clean_prompt: Prompt
    corrupt_prompt: Prompt
    roles: tuple[str, ...]
    given_answer: str

    @property
    def sample(self) -> Sample:
        return self.pair.sample

    @property
    def sample_id(self) -> str:
        return self.pair.sample["sample_id"]

    def cells(self, tokens: Sequence[str]) -> list[Cell]:
        """The cells of some roles, or, for `every`, of each token.

        Raises
        ------
        ValueError
            When the prompt has no token of a role.
        """
        if list(tokens) == [EVERY]:
            return every_token(self.clean_prompt, self.roles)
        return tokens_of_roles(self.clean_prompt, self.roles, tokens)

    def coordinates(self) -> dict[str, Any]:
        """What a file says of the sample (see `interventions.results.assembling`)."""
        columns = ("sample_id", "category", "correct_answer", "incorrect_answer", "correct_first")
        texts = {"clean_prompt": self.clean_prompt.text, "corrupt_prompt": self.corrupt_prompt.text, "given_answer": self.given_answer}
        return {name: self.sample[name] for name in columns} | texts

    def without_sample(self) -> "PreparedPair":
        """The pair with its sample's id alone, to be sent to another process; see `with_sample`."""
        return self.with_sample({"sample_id": self.sample_id})

    def with_sample(self, sample: Any) -> "PreparedPair":
        return replace(self, pair=replace(self.pair, sample=sample))


def prepare_pair(vlm: Vlm, pair: Pair, scored: Scored) -> PreparedPair:
    """Tokenize a pair's prompts, and find the role of each position.

    Raises
    ------
    PairError
        When the prompts differ in length: positions do not correspond then.
    """
    clean, corrupt = (vlm.read_after(vlm.prompt(question), scored.forced) for question in (pair.clean_question, pair.corrupt_question))
    if len(clean.ids) != len(corrupt.ids):
        raise PairError(f"the corrupt prompt has {len(corrupt.ids)} tokens, the clean prompt {len(clean.ids)}")
    names = tuple(roles(clean, pair, vlm.architecture.causal))
    return PreparedPair(pair, scored, clean, corrupt, names, vlm.processor.tokenizer.decode(scored.forced))
