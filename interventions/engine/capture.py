"""The source and the base runs of some pairs: one trace gives the states that are patched and the two baselines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from nnsight import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interventions.engine.corrupt_embeddings import Noise
from interventions.engine.pairs import PreparedPair
from interventions.models.vlm import Pixels, Vlm, measure, moved

SOURCE, BASE = 0, 1  # the two runs of a pair: states are taken from the first, and put into the second
FEATURES = "features"  # of images, in lists


@dataclass(frozen=True)
class Example:
    """A pair as a model takes it: two runs, of which the first (`SOURCE`) gives states and the second (`BASE`) gets them.

    Attributes
    ----------
    ids : token ids of the two prompts
    pixels : of the two images
    answers : the tokens that the correct and the incorrect answer are scored by
    forced : tokens that both answers begin with and that are given to the model; in a decoder's prompt they are its last
    noise : on the embeddings of the corrupt run
    base : which run is the base: the corrupt one, or, where corrupt states are put into the clean run, the clean one
    """

    ids: Int[Tensor, "run token"]
    pixels: Pixels
    answers: tuple[int, int]
    forced: tuple[int, ...] = ()
    noise: Noise | None = None
    base: Literal["clean", "corrupt"] = "corrupt"

    @property
    def clean_run(self) -> int:
        return BASE if self.base == "clean" else SOURCE

    @property
    def corrupt_run(self) -> int:
        return SOURCE if self.base == "clean" else BASE

    def noise_of(self, run: int) -> Noise | None:
        """The noise on the embeddings of a run, if it has any."""
        return self.noise if run == self.corrupt_run else None

    def on(self, vlm: Vlm) -> "Example":
        """On the device and in the dtype of a model."""
        return replace(self, ids=self.ids.to(vlm.device), pixels=moved(self.pixels, vlm), noise=self.noise and self.noise.on(vlm))


@dataclass(frozen=True)
class Captured:
    """States of both runs of some pairs. Prompts shorter than the longest are filled up at their end.

    Attributes
    ----------
    ids, lengths : token ids of the base runs' prompts, and their numbers of tokens
    answers : the tokens that the two answers of each pair are scored by
    states : for each captured component, of each run and layer
    before : of the base runs, the output of each layer's modules that are done before a captured component, by layer and module
    image : of the base runs, what spares later traces from encoding the image (the model's `image_states`)
    embedded : the base runs' prompts, embedded
    leaving : of the base runs, the residual stream that each layer gives
    text_inputs : of the base runs, what else later traces need (the model's `text_inputs`)
    image_projected : of the base runs, keys and values of the image in each layer's cross-attention
    cache : of the base runs of a causal decoder, keys and values of each layer, [sample, key-value head, token, head_dim] each
    measured : the stored measurements of both runs
    clean_log_probs : log-probabilities of the clean runs, if the divergence from them is measured
    forced : of each pair, the tokens of the answers that are given to the model
    """

    ids: Int[Tensor, "sample token"]
    lengths: tuple[int, ...]
    answers: Int[Tensor, "sample option"]
    states: dict[str, Float[Tensor, "sample run layer token width"]]
    before: dict[tuple[int, str], Tensor]
    image: Any
    embedded: Float[Tensor, "sample token width"]
    leaving: list[Float[Tensor, "sample token width"]]
    text_inputs: dict[str, Any]
    image_projected: list[list[Tensor]]
    cache: list[tuple[Tensor, Tensor]]
    measured: Float[Tensor, "sample run measurement"]
    clean_log_probs: Float[Tensor, "sample vocabulary"] | None
    forced: tuple[tuple[int, ...], ...]


def example(vlm: Vlm, prepared: PreparedPair, noise: Noise | None = None, base: Literal["clean", "corrupt"] = "corrupt") -> Example:
    """A pair as the model takes it."""
    pair, scored = prepared.pair, prepared.scored
    prompts, images = [prepared.clean_prompt, prepared.corrupt_prompt], [pair.clean_image, pair.corrupt_image]
    if base == "clean":
        prompts, images = prompts[::-1], images[::-1]
    return Example(vlm.ids(prompts), vlm.pixels(images), (scored.correct, scored.incorrect), scored.forced, noise, base)


def capture(vlm: Vlm, examples: Sequence[Example], components: Sequence[str], divergence: bool = False) -> Captured:
    """Run some pairs in one trace, and keep the states of some components at every layer and position.

    With `divergence`, that from the clean run is measured too (see `measure`).
    """
    examples = [pair.on(vlm) for pair in examples]
    lengths = tuple(pair.ids.shape[1] for pair in examples)
    ids = pad_sequence([pair.ids[run] for run in (SOURCE, BASE) for pair in examples], batch_first=True)
    real = torch.arange(ids.shape[1]) < torch.tensor(2 * lengths)[:, None]
    pixels = {
        name: torch.cat([pair.pixels[name][run : run + 1] for run in (SOURCE, BASE) for pair in examples]) for name in examples[0].pixels
    }
    answers = torch.tensor([pair.answers for pair in examples], device=vlm.device)
    last = torch.tensor(2 * lengths, device=vlm.device) - 1
    base = slice(len(examples), None)  # rows: all source runs, then all base runs
    forced = tuple(pair.forced for pair in examples)
    modality, *noise = noise_of_runs(examples)
    clean_rows = [pair.clean_run * len(examples) + i for i, pair in enumerate(examples)]
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(ids, pixels, real.to(vlm.device), cache=True, forced=2 * forced)):
        if modality in vlm.embedded_first:
            vlm.change_embeddings(modality, *noise)
        image = save(vlm.image_states())
        if modality and modality not in vlm.embedded_first:
            vlm.change_embeddings(modality, *noise)
        text_inputs = save(vlm.text_inputs())
        collected: dict[str, list[Tensor]] = save({component: [] for component in components})
        before: dict[tuple[int, str], Tensor] = save({})
        leaving: list[Tensor] = save([])
        projected: list[list[Tensor]] = save([])
        embedded = save(vlm.embedded()[base].clone())
        for number, layer in enumerate(vlm.layers):
            projected.append([])
            present = vlm.components_of(number)
            wanted = {port.module for name in present if name in components for port in vlm.done_before(name, number)}
            for component in present:
                for port in vlm.done_before(component, number):
                    if port.module in wanted and (number, port.module) not in before:
                        before[number, port.module] = port.read(layer)[base].clone()
                for port in vlm.image_projections(component):
                    projected[-1].append(port.read(layer)[base].clone())
                if component in components:
                    collected[component].append(vlm.port(component).read(layer).clone())
            for component in set(components) - set(present):
                collected[component].append(embedded.new_zeros(*ids.shape, vlm.n_heads * vlm.head_dim))
            leaving.append(vlm.architecture.block.read(layer)[base].clone())
        cache = save(vlm.cache())
        logits = vlm.logits(last)
        clean_log_probs = save(logits.float().log_softmax(-1)[clean_rows] if divergence else None)
        measured = save(measure(logits, answers.repeat(2, 1), clean_log_probs.repeat(2, 1) if divergence else None))
    runs = (2, len(examples))
    return Captured(
        ids=ids[base],
        lengths=lengths,
        answers=answers,
        states={name: torch.stack(layers, 1).unflatten(0, runs).transpose(0, 1) for name, layers in collected.items()},
        before=before,
        image=None if image is None else image[base],
        embedded=embedded,
        leaving=leaving,
        text_inputs=rows_of(text_inputs, torch.arange(len(examples), 2 * len(examples), device=vlm.device), 2 * len(examples)),
        image_projected=projected,
        cache=[(keys[base], values[base]) for keys, values in cache],
        measured=measured.unflatten(0, runs).transpose(0, 1),
        clean_log_probs=clean_log_probs,
        forced=forced,
    )


def noise_of_runs(examples: Sequence[Example]) -> tuple[str, Float[Tensor, "row position width"], Float[Tensor, "row position"]]:
    """Modality ("" for none), values and `kept` (see `Noise`) of some pairs' runs, all source runs before all base runs; a run without
    noise keeps its embeddings."""
    noises = [pair.noise for pair in examples if pair.noise is not None]
    if not noises:
        return "", torch.empty(0), torch.empty(0)
    if len(noises) < len(examples):
        raise ValueError("pairs with and without noise cannot be run together")
    runs = [(noise, pair.corrupt_run == run) for run in (SOURCE, BASE) for pair, noise in zip(examples, noises, strict=True)]
    values = [noise.values * noisy for noise, noisy in runs]
    kept = [noise.kept if noisy else torch.ones_like(noise.kept) for noise, noisy in runs]
    return noises[0].modality, pad_sequence(values, batch_first=True), pad_sequence(kept, batch_first=True, padding_value=1)


def rows_of(value: Any, rows: Int[Tensor, " row"], of: int, name: str = "") -> Any:
    """Some rows of a batch of `of`, of a tensor or of all tensors in dicts, lists and tuples; what has no rows stays.

    Rows are the first axis, but for position ids of three axes the second. Features of images may hold all rows end to end.
    """
    if isinstance(value, dict):
        return {key: rows_of(inner, rows, of, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rows_of(inner, rows, of, FEATURES) for inner in value)
    if not isinstance(value, Tensor) or value.ndim < 2:
        return value
    axis = 1 if name == "position_ids" and value.ndim == 3 else 0
    if value.shape[axis] == of:
        return value.index_select(axis, rows)
    if name in (FEATURES, "cross_attention_states") and value.shape[0] % of == 0:
        return value.unflatten(0, (of, -1))[rows].flatten(0, 1)
    return value
