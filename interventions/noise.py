"""Corrupt runs that differ from the clean one in embeddings alone: Gaussian noise (ROME; on a VLM's image, Palit et al.), mean and zero."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from nnsight import save
from torch import Tensor
from tqdm import tqdm

from corruptions.pair import Pair
from interventions.models.vlm import Pixels, Vlm, moved


@dataclass(frozen=True)
class Noise:
    """What becomes of the embeddings of a run: `values` are added to them, or stand in their place.

    Attributes
    ----------
    modality : of the states of the "image", or of the embeddings of the "text"
    kept : 1 at positions whose embeddings are added to, 0 where they are replaced
    """

    modality: str
    values: Float[Tensor, "position width"]
    kept: Float[Tensor, " position"]

    def on(self, vlm: Vlm) -> "Noise":
        """On the device and in the dtype of a model."""
        return Noise(self.modality, self.values.to(vlm.device, vlm.dtype), self.kept.to(vlm.device, vlm.dtype))


def draw_noise(vlm: Vlm, pair: Pair, modality: str, sigma: float, seed: int, draw: int) -> Noise:
    """Independent normal numbers with standard deviation `sigma` at the image's or the question's positions, 0 elsewhere.

    They depend on the seed, the sample's id and the number of the draw alone: order and batches do not matter.
    """
    mask = vlm.embedded_positions(modality, vlm.prompt(pair.clean_question))
    rng = np.random.default_rng([seed, zlib.crc32(pair.sample["sample_id"].encode()), draw])
    values = rng.standard_normal((len(mask), vlm.embedding_width(modality)), np.float32) * sigma * mask[:, None]
    return Noise(modality, torch.from_numpy(values.astype(np.float32)), torch.ones(len(mask))).on(vlm)


def embedding_deviation(vlm: Vlm, pairs: Iterable[Pair], modality: str) -> float:
    """The standard deviation of all numbers of these embeddings, over the clean runs of some pairs."""
    count, total, squares = 0, 0.0, 0.0
    for pair in tqdm(list(pairs), desc=f"{vlm.name} deviation of {modality} embeddings", unit="sample"):
        states, there = embeddings(vlm, pair, modality)
        numbers = states[there].double()
        count, total, squares = count + numbers.numel(), total + float(numbers.sum()), squares + float((numbers**2).sum())
    return float(np.sqrt(squares / count - (total / count) ** 2))


def embeddings(vlm: Vlm, pair: Pair, modality: str) -> tuple[Float[Tensor, "position width"], Bool[Tensor, " position"]]:
    """The embeddings of a pair's clean run, and which of them are the image's or the question's."""
    prompt = vlm.prompt(pair.clean_question)
    states = vlm.run(_embeddings, vlm.ids([prompt]), vlm.pixels([pair.clean_image]), modality)
    return states, torch.from_numpy(vlm.embedded_positions(modality, prompt)).to(vlm.device)


def _embeddings(vlm: Vlm, ids: Tensor, pixels: Pixels, modality: str) -> Tensor:
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(ids.to(vlm.device), moved(pixels, vlm))) as tracer:
        states = save(vlm.read_embeddings(modality)[0].clone())
        tracer.stop()
    return states


def embedding_mean(vlm: Vlm, pairs: Iterable[Pair], modality: str) -> Float[Tensor, "position width"]:
    """The mean of these embeddings over the clean runs of some pairs, in float64: of an image at each of its positions, of questions over
    all their tokens (one position)."""
    total: Tensor | float = 0.0
    count = 0
    for pair in tqdm(list(pairs), desc=f"{vlm.name} mean of {modality} embeddings", unit="sample"):
        states, there = embeddings(vlm, pair, modality)
        here = states[there].double()
        total = total + (here if modality == "image" else here.sum(0, keepdim=True))
        count += 1 if modality == "image" else len(here)
    return torch.as_tensor(total) / count


def replaced(vlm: Vlm, pair: Pair, modality: str, by: Float[Tensor, "position width"] | None) -> Noise:
    """Others (None: 0) in the place of a pair's embeddings, at the image's or the question's positions."""
    there = torch.from_numpy(vlm.embedded_positions(modality, vlm.prompt(pair.clean_question)))
    values = torch.zeros(len(there), vlm.embedding_width(modality))
    if by is not None:
        values[there] = by.float().cpu()
    return Noise(modality, values, 1 - there.float()).on(vlm)
