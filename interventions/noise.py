"""Gaussian noise on embeddings (ROME; on a VLM's image, Palit et al.): a corrupt run that differs from the clean one by the noise alone."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor
from tqdm import tqdm

from corruptions.pair import Pair
from interventions.models.vlm import Vlm


@dataclass(frozen=True)
class Noise:
    """What is added to the embeddings of a run.

    Attributes
    ----------
    modality : to the states of the "image", or to the embeddings of the "text"
    """

    modality: str
    values: Float[Tensor, "position width"]


def draw_noise(vlm: Vlm, pair: Pair, modality: str, sigma: float, seed: int, draw: int) -> Noise:
    """Independent normal numbers with standard deviation `sigma` at the image's or the question's positions, 0 elsewhere.

    They depend on the seed, the sample's id and the number of the draw alone: order and batches do not matter.
    """
    mask = vlm.embedded_positions(modality, vlm.prompt(pair.clean_question))
    rng = np.random.default_rng([seed, zlib.crc32(pair.sample["sample_id"].encode()), draw])
    values = rng.standard_normal((len(mask), vlm.embedding_width(modality)), np.float32) * sigma * mask[:, None]
    return Noise(modality, torch.from_numpy(values.astype(np.float32)).to(vlm.device, vlm.dtype))


def embedding_deviation(vlm: Vlm, pairs: Iterable[Pair], modality: str) -> float:
    """The standard deviation of all numbers of these embeddings, over the clean runs of some pairs."""
    count, total, squares = 0, 0.0, 0.0
    for pair in tqdm(list(pairs), desc=f"{vlm.name} deviation of {modality} embeddings", unit="sample"):
        prompt = vlm.prompt(pair.clean_question)
        with torch.no_grad(), vlm.model.trace(**vlm.inputs(vlm.ids([prompt]), vlm.pixels([pair.clean_image]))):
            states = save(vlm.read_embeddings(modality)[0].clone())
        numbers = states[torch.from_numpy(vlm.embedded_positions(modality, prompt)).to(vlm.device)].double()
        count, total, squares = count + numbers.numel(), total + float(numbers.sum()), squares + float((numbers**2).sum())
    return float(np.sqrt(squares / count - (total / count) ** 2))
