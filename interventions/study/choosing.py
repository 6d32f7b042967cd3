"""Which samples are used under a corruption, as prepared pairs, and why the others are left out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from datasets import Dataset

from corruptions.base import CORRUPTIONS, LeftOut, Pair, PairMaker
from data_prep.tables import schema as sample_table
from data_prep.tables.sample import Sample
from interventions.engine.pairs import PairError, PreparedPair, prepare_pair
from interventions.models.vlm import Scored, Vlm
from interventions.study.answers import is_exact_match
from interventions.study.options import Options


class Chosen(NamedTuple):
    """The pairs that are used under a corruption, and of each sample that is left out its id and the reason."""

    pairs: list[PreparedPair]
    left_out: list[dict[str, str]]


@dataclass(frozen=True)
class Choosing:
    """Chooses samples of a table for a model, as the options say.

    Attributes
    ----------
    answers : the model's own answer to each sample, by id
    """

    options: Options
    vlm: Vlm
    table: Dataset
    answers: Mapping[str, str]

    def choose(self, corruption: str) -> Chosen:
        """The samples that are used under a corruption.

        They are taken in the table's order until each category has `options.samples`, half of them with the correct option first; what one
        half lacks the other may fill.

        Raises
        ------
        LeftOut
            When none is left; gives the first reasons.
        """
        self._check_modality(corruption)
        options = self.options
        maker = CORRUPTIONS[corruption].make(sample_table.rows(self.table), options.seed, options.corruption_options, options.device)
        groups: dict[str, dict[bool, list[Sample]]] = {}
        for sample in sample_table.rows(self.table):
            groups.setdefault(sample["category"], {True: [], False: []})[sample["correct_first"]].append(sample)
        left_out: list[dict[str, str]] = []
        pairs: list[PreparedPair] = []
        wanted = self.options.samples
        for group in groups.values():
            first, second = (self._usable(maker, group[order], left_out) for order in (True, False))
            taken = list(islice(first, wanted // 2))
            taken += islice(second, wanted - len(taken))
            taken += islice(first, wanted - len(taken))
            pairs += sorted(taken, key=lambda pair: pair.sample_id)
        if not pairs:
            reasons = "; ".join(f"{entry['sample']}: {entry['reason']}" for entry in left_out[:3])
            raise LeftOut(
                f"no sample of {self.table[0]['dataset']!r} is left for {self.vlm.name} under {corruption}. The first reasons: {reasons}. "
                "Samples that the model answers wrongly are used with --keep-wrong"
            )
        return Chosen(pairs, left_out)

    def _check_modality(self, corruption: str) -> None:
        modality = CORRUPTIONS[corruption].modality
        if modality not in self.vlm.reads:
            raise LeftOut(f"{corruption} changes the {modality}, which {self.vlm.name} does not read: no state would differ")
        if CORRUPTIONS[corruption].embeddings and modality in self.vlm.late_embeddings:
            raise LeftOut(
                f"{corruption} changes {modality} embeddings that come after the layers of {self.vlm.name}, where no state would differ: "
                "use a corruption of what the model reads"
            )

    def _usable(self, maker: PairMaker, samples: Sequence[Sample], left_out: list[dict[str, str]]) -> Iterator[PreparedPair]:
        """The pairs of some samples, made when they are asked for; those that cannot be used go into `left_out`."""
        for sample in samples:
            try:
                self._check_length(sample)
                self._check_answer(sample)
                pair = maker.corrupt(sample, self.vlm.tokenize)
                prepared = prepare_pair(self.vlm, pair, self.scored(pair))
            except (LeftOut, PairError) as reason:
                left_out.append({"sample": sample["sample_id"], "reason": str(reason)})
            else:
                yield prepared

    def _check_answer(self, sample: Sample) -> None:
        generated = self.answers[sample["sample_id"]]
        if not self.options.keep_wrong and not is_exact_match(generated, sample["correct_answer"]):
            raise LeftOut(f"the model answers {generated!r}, not {sample['correct_answer']!r}")

    def _check_length(self, sample: Sample) -> None:
        tokens = len(self.vlm.tokenize(sample["question"]).ids)
        if tokens > self.vlm.longest_prompt:
            raise LeftOut(f"the prompt has {tokens} tokens, the model takes {self.vlm.longest_prompt}")

    def scored(self, pair: Pair) -> Scored:
        """By what tokens the two answers are scored; raises `LeftOut` when they cannot be told apart."""
        generated = self.answers[pair.sample["sample_id"]]
        if self.options.definition == "reference":
            answers = (pair.sample[name] for name in ("correct_answer", "incorrect_answer"))
            scored = Scored(*self.vlm.reference_answer_ids(generated, *answers))
            if scored.correct == scored.incorrect:
                raise LeftOut(f"the answers are scored by the same token, {scored.correct}")
            return scored
        texts = [self.vlm.spoken(pair.sample[name], generated) for name in ("correct_answer", "incorrect_answer")]
        try:
            scored = self.vlm.scored(pair.clean_question, *texts)
        except ValueError as error:
            raise LeftOut(str(error)) from error
        if scored.forced and self.options.shared_pieces == "leave-out":
            raise LeftOut(
                f"the answers {texts[0]!r} and {texts[1]!r} begin with the same token (--shared-pieces force scores the first that differs)"
            )
        return scored
