"""Corrupt runs that differ from the clean one in embeddings alone: Gaussian noise (ROME; on a VLM's image, Palit et al.), mean and zero."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from nnsight import save
from torch import Tensor
from tqdm import tqdm

from corruptions.base import Pair
from data_prep.tables.sample import Sample
from interventions.models.vlm import Pixels, Vlm, moved

SAMPLES_A_RUN = 16  # on a remote host a run is a job


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


def embedding_deviation(vlm: Vlm, samples: Sequence[Sample], modality: str) -> float:
    """The standard deviation of all numbers of the image's or the question's embeddings, over the clean runs of some samples."""
    count, total, squares = _sums(vlm, samples, modality, f"{vlm.name} deviation of {modality} embeddings", each_position=False)
    numbers = count * total.shape[-1]
    return float(np.sqrt(squares / numbers - (float(total.sum()) / numbers) ** 2))


def embedding_mean(vlm: Vlm, samples: Sequence[Sample], modality: str) -> Float[Tensor, "position width"]:
    """The mean of these embeddings over the clean runs of some samples, in float64: of an image at each of its positions, of questions
    over all their tokens (one position)."""
    each_position = modality == "image"
    count, total, _ = _sums(vlm, samples, modality, f"{vlm.name} mean of {modality} embeddings", each_position)
    return total / (count // len(total))


def _sums(
    vlm: Vlm, samples: Sequence[Sample], modality: str, label: str, each_position: bool
) -> tuple[int, Float[Tensor, "position width"], float]:
    """How many embeddings there are, their sum (over positions too unless `each_position`) and that of their squares; in float64."""
    count, total, squares = 0, torch.zeros(1, vlm.embedding_width(modality), dtype=torch.float64), 0.0
    with tqdm(total=len(samples), desc=label, unit="sample") as bar:
        for start in range(0, len(samples), SAMPLES_A_RUN):
            some = samples[start : start + SAMPLES_A_RUN]
            prompts = [vlm.prompt(sample["question"]) for sample in some]
            runs = [(vlm.ids([prompt]), vlm.pixels([sample["clean_image"]])) for prompt, sample in zip(prompts, some, strict=True)]
            masks = [torch.from_numpy(vlm.embedded_positions(modality, prompt)) for prompt in prompts]
            sums, of_squares = vlm.run(_sums_of_runs, runs, masks, modality, each_position)
            count += sum(int(positions.sum()) for positions in masks)
            total, squares = total + torch.from_numpy(sums), squares + of_squares
            bar.update(len(some))
    return count, total, squares


def _sums_of_runs(
    vlm: Vlm, runs: Sequence[tuple[Tensor, Pixels]], masks: Sequence[Bool[Tensor, " position"]], modality: str, each_position: bool
) -> tuple[np.ndarray, float]:
    """The sum of the embeddings of some runs and that of their squares; where the weights are (see `Vlm.run`)."""
    total: Tensor | float = 0.0
    squares = 0.0
    for (ids, pixels), positions in zip(runs, masks, strict=True):
        states = _embeddings(vlm, ids, pixels, modality)
        embeddings = states[positions.to(states.device)].double()
        total = total + (embeddings if each_position else embeddings.sum(0, keepdim=True))
        squares += float((embeddings**2).sum())
    return torch.as_tensor(total).cpu().numpy(), squares


def _embeddings(vlm: Vlm, ids: Tensor, pixels: Pixels, modality: str) -> Float[Tensor, "position width"]:
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(ids.to(vlm.device), moved(pixels, vlm))) as tracer:
        states = save(vlm.read_embeddings(modality)[0].clone())
        tracer.stop()
    return states


def replaced(vlm: Vlm, pair: Pair, modality: str, by: Float[Tensor, "position width"] | None) -> Noise:
    """Others (None: 0) in the place of a pair's embeddings, at the image's or the question's positions."""
    mask = torch.from_numpy(vlm.embedded_positions(modality, vlm.prompt(pair.clean_question)))
    values = torch.zeros(len(mask), vlm.embedding_width(modality))
    if by is not None:
        values[mask] = by.float().cpu()
    return Noise(modality, values, 1 - mask.float()).on(vlm)
