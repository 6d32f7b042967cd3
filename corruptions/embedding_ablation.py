"""Mean and zero ablation: the image's or the question's embeddings carry nothing of this sample. The baselines of semantic corruptions."""

from typing import Literal

from corruptions.pair import Pair, Tokenize
from data_prep.tables.sample import Sample, option_spans


class EmbeddingAblation:
    """Image and question stay; the corrupt run's embeddings become their mean over the data set's clean runs (1,000 of a
    larger one's), or 0.

    The mean of image states is taken at each position; that of a question's tokens over all positions, which do not correspond.
    """

    def __init__(self, becomes: Literal["mean", "zero"], modality: Literal["image", "text"]) -> None:
        self.becomes, self.modality = becomes, modality
        self.name = f"{becomes}_ablation{'' if modality == 'image' else '_text'}"

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        """The pair, both of whose runs read the clean inputs; `interventions.engine.corrupt_embeddings` replaces the embeddings."""
        options = option_spans(sample["question"], sample["correct_answer"], sample["incorrect_answer"])
        return Pair(sample, "clean_image", sample["question"], options, options, noise=self.modality, becomes=self.becomes)


KINDS = {made.name: made for made in (EmbeddingAblation(b, m) for b in ("mean", "zero") for m in ("image", "text"))}  # type: ignore[arg-type]
