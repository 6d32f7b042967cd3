"""Corrupt runs that differ from the clean one in embeddings alone: Gaussian noise (ROME; on a VLM's image, Palit et al.), mean and zero."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from nnsight import save
from torch import Tensor
from tqdm import tqdm

from corruptions.pair import Pair
from data_prep.samples import Sample
from interventions.models.vlm import Pixels, Vlm, moved

TOGETHER = 16  # samples whose embeddings are measured in one job
Asked = tuple[Tensor, Pixels, Tensor]  # token ids, pixels and the positions that count


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


def embedding_deviation(vlm: Vlm, samples: Iterable[Sample], modality: str) -> float:
    """The standard deviation of all numbers of these embeddings, over the clean runs of some samples."""
    count, total, squares = 0, 0.0, 0.0
    for found in _over(vlm, samples, modality, _moments, "deviation"):
        count, total, squares = count + found[0], total + found[1], squares + found[2]
    return float(np.sqrt(squares / count - (total / count) ** 2))


def embedding_mean(vlm: Vlm, samples: Iterable[Sample], modality: str) -> Float[Tensor, "position width"]:
    """The mean of these embeddings over the clean runs of some samples, in float64: of an image at each of its positions, of questions over
    all their tokens (one position)."""
    total: Tensor | float = 0.0
    count = 0
    for found in _over(vlm, samples, modality, _sum, "mean"):
        count, total = count + found[0], total + found[1]
    return torch.as_tensor(total) / count


def _over(vlm: Vlm, samples: Iterable[Sample], modality: str, work: Callable[..., Any], what: str) -> Iterator[Any]:
    """What `work` finds of the samples, some at a time, where the weights are (see `Vlm.run`)."""
    every = list(samples)
    with tqdm(total=len(every), desc=f"{vlm.name} {what} of {modality} embeddings", unit="sample") as bar:
        for start in range(0, len(every), TOGETHER):
            here = every[start : start + TOGETHER]
            prompts = [vlm.prompt(sample["question"]) for sample in here]
            there = [torch.from_numpy(vlm.embedded_positions(modality, prompt)) for prompt in prompts]
            pixels = [vlm.pixels([sample["clean_image"]]) for sample in here]
            asked = [(vlm.ids([prompt]), *rest) for prompt, *rest in zip(prompts, pixels, there, strict=True)]
            yield vlm.run(work, asked, modality)
            bar.update(len(here))


def _moments(vlm: Vlm, asked: Sequence[Asked], modality: str) -> tuple[int, float, float]:
    """How many numbers there are, their sum and that of their squares."""
    numbers = [_embeddings(vlm, *one, modality).double() for one in asked]
    return sum(x.numel() for x in numbers), sum(float(x.sum()) for x in numbers), sum(float((x**2).sum()) for x in numbers)


def _sum(vlm: Vlm, asked: Sequence[Asked], modality: str) -> tuple[int, Float[Tensor, "position width"]]:
    """How many images there are and their sum, or how many tokens and theirs."""
    states = [_embeddings(vlm, *one, modality).double() for one in asked]
    if modality == "image":
        return len(states), torch.stack(states).sum(0).cpu()
    return sum(map(len, states)), torch.cat(states).sum(0, keepdim=True).cpu()


def _embeddings(vlm: Vlm, ids: Tensor, pixels: Pixels, there: Bool[Tensor, " position"], modality: str) -> Float[Tensor, "position width"]:
    """The embeddings of a run, at the image's or the question's positions."""
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(ids.to(vlm.device), moved(pixels, vlm))) as tracer:
        states = save(vlm.read_embeddings(modality)[0].clone())
        tracer.stop()
    return states[there.to(states.device)]


def replaced(vlm: Vlm, pair: Pair, modality: str, by: Float[Tensor, "position width"] | None) -> Noise:
    """Others (None: 0) in the place of a pair's embeddings, at the image's or the question's positions."""
    there = torch.from_numpy(vlm.embedded_positions(modality, vlm.prompt(pair.clean_question)))
    values = torch.zeros(len(there), vlm.embedding_width(modality))
    if by is not None:
        values[there] = by.float().cpu()
    return Noise(modality, values, 1 - there.float()).on(vlm)
