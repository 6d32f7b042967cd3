"""Gaussian noise on the embeddings of the image (Palit et al.) or of the question (ROME): the baseline of semantic corruptions."""

from typing import Literal

from corruptions.pair import Pair, Tokenize
from data_prep.tables.sample import Sample, option_spans


class GaussianNoise:
    """Image and question stay; the corrupt run's embeddings get noise, which `interventions.engine.corrupt_embeddings` draws."""

    def __init__(self, modality: Literal["image", "text"]) -> None:
        self.modality = modality
        self.name = "gaussian_noise" if modality == "image" else "gaussian_noise_text"

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        """The pair, both of whose runs read the clean inputs."""
        options = option_spans(sample["question"], sample["correct_answer"], sample["incorrect_answer"])
        return Pair(sample, "clean_image", sample["question"], options, options, noise=self.modality)
