"""What each head and MLP adds directly to the logit difference of a causal decoder, and what the residual stream says after each layer.

Of the clean run, at the token from which the answer is read: a head's W_O z, an MLP's output and the embedding go through the final norm,
its scale held fixed, onto the difference of the two answers' unembeddings. These direct effects sum to LD. What a head does through later
layers is not in them: that is what patching measures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from nnsight import save
from torch import Tensor

from interventions.engine.capture import Example, example
from interventions.engine.pairs import PreparedPair
from interventions.methods.per_sample import each_sample
from interventions.models.architecture import Port
from interventions.models.readout import lens, readout
from interventions.models.vlm import Vlm, measure
from interventions.results import effects
from interventions.results.assembling import assemble, stacked
from interventions.results.store import Arrays, Store
from interventions.study.study import Study

COMPONENT = "self_attention"
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 4e-3}  # of a sum, relative to its terms


class NotAdditiveError(ValueError):
    """A model whose residual stream or readout is not the sum of its parts: says where."""


def write(study: Study) -> Path:
    """See `interventions.direct_effect`."""
    vlm, corruption = study.vlm, study.options.corruption
    check_decoder(vlm)
    path = study.folder / "direct_effect.nc"
    store = Store(path, study.configuration(samples_of=corruption), study.options.overwrite)
    if not store.is_finished:
        pairs, parts = each_sample(study, store, _of_pair)
        store.finish(_assemble(study, pairs, parts), effects.write)
    return path


def _of_pair(study: Study, pair: PreparedPair, _: bool) -> Arrays:
    return study.vlm.run(of_example, example(study.vlm, pair), study.options.divergence)


def check_decoder(vlm: Vlm) -> None:
    """Raise ValueError for a model without one residual stream from the image to the answer, or whose MLPs cannot be read."""
    architecture = vlm.architecture
    if not architecture.causal:
        raise ValueError(
            f"{vlm.name} ({architecture.name}) is no causal decoder: image, question and answer do not share one residual stream, on which "
            "direct effects are defined; patch its heads instead (interventions.head_patching)"
        )
    if missing := [name for name in (COMPONENT, "mlp") if name not in architecture.components]:
        raise ValueError(f"direct effects need the output of every {missing[0]}, which cannot be read in {architecture.name}")


def of_example(vlm: Vlm, ours: Example, divergence: bool = False) -> Arrays:
    """The direct effects and the logit lens of a pair's clean run (see `direct_effects`).

    Raises
    ------
    NotAdditiveError
    """
    ours = ours.on(vlm)
    clean = slice(ours.clean_run, ours.clean_run + 1)
    pixels = {name: values[clean] for name, values in ours.pixels.items()}
    answers = torch.tensor([ours.answers], device=vlm.device)
    port, mlp, block = (vlm.port(name) for name in (COMPONENT, "mlp", "block"))
    projection = Port(vlm.architecture.attention[COMPONENT].projection)
    inputs = vlm.inputs(ours.ids[clean], pixels, forced=[ours.forced])
    _check_layers(vlm)
    with torch.no_grad(), vlm.model.trace(**inputs):
        entering = vlm.layers[0].input[0, -1].clone()
        zs: list[Any] = []
        added: list[Any] = []
        stream: list[Any] = []
        for layer in vlm.layers:
            zs.append(port.read(layer)[0, -1].clone())
            added.append(mlp.read(layer)[0, -1].clone())
            stream.append(block.read(layer)[0, -1].clone())
        logits = vlm.logits()
        log_probs = logits.float().log_softmax(-1) if divergence else None
        measured = save(measure(logits, answers, log_probs)[0])
        heads = save([])
        biases = save([])
        for layer, z in zip(vlm.layers, zs, strict=True):
            apart = torch.block_diag(*z.view(vlm.n_heads, -1))  # one row a head, the others' z 0; then none
            projected = projection.envoy(layer)(torch.cat([apart, torch.zeros_like(apart[:1])]))
            heads.append(projected[:-1] - projected[-1])
            biases.append(projected[-1])
        read_out = save(readout(vlm, stream[-1], *ours.answers))
        spread = None if log_probs is None else log_probs.expand(len(stream), -1)
        lenses = save(measure(lens(vlm, torch.stack(stream)), answers.expand(len(stream), -1), spread))
        states = save(torch.stack([entering, *stream]).float())
        mlps = save(torch.stack(added).float())
    of_heads, of_biases = torch.stack(heads).float(), torch.stack(biases).float()
    _check_sums(vlm, states, of_heads.sum(1) + of_biases + mlps)
    arrays = {
        "head_effect": of_heads @ read_out.direction,
        "mlp_effect": mlps @ read_out.direction,
        "embedding_effect": states[0] @ read_out.direction,
        "bias_effect": of_biases.sum(0) @ read_out.direction + read_out.constant,
    }
    _check_readout(vlm, arrays, measured)
    return {name: values.cpu().numpy() for name, values in (arrays | {"lens": lenses, "clean": measured}).items()}


def _check_layers(vlm: Vlm) -> None:
    lacking = next((number for number in range(vlm.n_layers) if {COMPONENT, "mlp"} - set(vlm.components_of(number))), None)
    if lacking is not None:
        raise NotAdditiveError(
            f"layer {lacking} of {vlm.name} has no {COMPONENT}: the parts that it adds to the residual stream are others"
        )


def _check_sums(vlm: Vlm, states: Tensor, added: Tensor) -> None:
    """Each layer's output must be its input and what its attention and its MLP add."""
    size = states[1:].norm(dim=-1) + added.norm(dim=-1)
    wrong = (states[1:] - states[:-1] - added).norm(dim=-1) > ROUNDING[vlm.dtype] * size
    if wrong.any():
        raise NotAdditiveError(
            f"layer {int(wrong.nonzero()[0])} of {vlm.name} does not add its attention's and its MLP's output to the residual stream as "
            f"they are (a norm or a gate after them): direct effects are not defined for {vlm.architecture.name}"
        )


def _check_readout(vlm: Vlm, parts: dict[str, Tensor], clean: Tensor) -> None:
    total = sum(part.sum() for part in parts.values())
    size = sum(part.abs().sum() for part in parts.values())
    if abs(total - (clean[0] - clean[1])) > ROUNDING[vlm.dtype] * (1 + size):
        raise NotAdditiveError(
            f"the direct effects of {vlm.name} sum to {float(total):.4f}, its logit difference is {float(clean[0] - clean[1]):.4f}: its "
            "logits are not a norm and a linear map of the residual stream (soft-capped logits, for one)"
        )


def _assemble(study: Study, pairs: Sequence[PreparedPair], parts: Sequence[Arrays]) -> xr.Dataset:
    whole = stacked(parts, len(parts))
    dims = {"head_effect": ("sample", "layer", "head"), "mlp_effect": ("sample", "layer")}
    dims |= {"embedding_effect": ("sample",), "bias_effect": ("sample",)}
    title = "Direct effects on the logit difference, and the logit lens, of the clean run at the last token"
    return assemble(
        study.attributes(title, COMPONENT, samples_of=study.options.corruption),
        [pair.coordinates() for pair in pairs],
        {"layer": np.arange(study.vlm.n_layers), "head": np.arange(study.vlm.n_heads)},
        {name: (dims[name], whole[name]) for name in dims},
        (("sample", "layer"), whole["lens"]),
        whole["clean"][:, None],
    )


def largest_heads(dataset: xr.Dataset, count: int = 10) -> pd.DataFrame:
    """The heads of the largest |mean direct effect|, the largest first: layer, head, and the mean over samples in logits."""
    means = dataset["head_effect"].transpose("sample", "layer", "head").mean("sample").to_series()
    return means.sort_values(key=abs, ascending=False, kind="stable")[:count].rename("direct_effect").to_frame()


def lens_table(dataset: xr.Dataset) -> pd.DataFrame:
    """Means over samples, a row a layer: the MLP's direct effect, and LD and P(correct answer) by the logit lens after the layer."""
    lens = {"LD": dataset.effects.logit_difference_of(), "probability": dataset.effects.probability_of()}
    columns = {"mlp_effect": dataset["mlp_effect"]} | lens
    return xr.Dataset({name: values.mean("sample") for name, values in columns.items()}).to_dataframe()


def summary(path: Path) -> str:
    """The largest heads and the logit lens of a file, as tables."""
    with xr.open_dataset(path) as dataset:
        return "\n\n".join(rows.to_string(float_format="%.3f") for rows in (largest_heads(dataset), lens_table(dataset))) + "\n"
