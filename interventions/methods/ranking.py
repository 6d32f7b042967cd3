"""Heads in the order of their importance, and random sets to compare them with.

In: a file of effects of head patching, or a table with the columns layer and head. Out: (layer, head) pairs, the most important first.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from interventions.engine.plan import Heads, all_heads
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.study.study import Study

log = logging.getLogger(__name__)


class RankingError(ValueError):
    """A ranking that cannot be used: says what is wrong, where, and what to do."""


def made_of(study: Study) -> dict[str, str]:
    """What effects that rank the heads of a study should be of too; see `ranked_heads`."""
    return {"dataset_fingerprint": study.fingerprint, "direction": study.options.direction}


def ranked_heads(path: Path, vlm: Vlm, component: str, token: str, of: Mapping[str, str] | None = None) -> Heads:
    """The heads of a file, the most important first.

    Parameters
    ----------
    path : effects (.nc): heads in order of the mean |logit difference| at `token` over all samples; or a table (.csv) whose rows are in
        order of importance. Where a table has columns model and component, rows of others are passed over.
    of : attributes that effects should have beside the model's name; the log warns of others.

    Raises
    ------
    RankingError, FileNotFoundError, SchemaError
        Effects of another model (a part of a model is one) are refused too.
    """
    is_table = path.suffix.lower() == ".csv"
    heads = _from_table(path, vlm.name, component) if is_table else _from_effects(path, vlm.name, component, token, of or {})
    existing = set(all_heads(vlm, component))
    if unknown := [head for head in heads if head not in existing]:
        raise RankingError(f"{path}: {vlm.name} has no {component} head {unknown[0][1]} in a layer {unknown[0][0]}; is it another model's?")
    if twice := next((head for rank, head in enumerate(heads) if head in heads[:rank]), None):
        raise RankingError(f"{path}: head {twice[1]} of layer {twice[0]} is there twice; keep its first row")
    return heads


def _from_effects(path: Path, model: str, component: str, token: str, of: Mapping[str, str]) -> Heads:
    dataset = effects.read(path)
    if dataset.attrs["model"] != model:
        raise RankingError(f"{path} holds effects of {dataset.attrs['model']}, and heads of {model} are to be ranked")
    for name, wanted in of.items():
        if dataset.attrs.get(name, wanted) != wanted:
            log.warning("%s ranks heads by another %s: %s, not %s", path, name.replace("_", " "), dataset.attrs[name], wanted)
    if dataset.attrs["granularity"] != "heads" or dataset.attrs["component"] != component:
        measured = f"{dataset.attrs['component']} ({dataset.attrs['granularity']})"
        raise RankingError(f"{path} holds effects of {measured}, and heads of {component} are to be ranked")
    at_token = dataset["token_role"] == token
    if not bool(at_token.any()):
        roles = ", ".join(dict.fromkeys(str(role) for role in dataset["token_role"].values.ravel() if role))
        raise RankingError(f"{path} has no effects at the token {token!r}; there are {roles}. Choose with --token")
    importance = abs(dataset.effects.logit_difference()).where(at_token).mean(("sample", "token")).transpose("layer", "head").values
    order = np.argsort(-importance, axis=None, kind="stable")  # NaN, where a layer has no such head, comes last
    cells = zip(*np.unravel_index(order, importance.shape), strict=True)
    return tuple((int(layer), int(head)) for layer, head in cells if np.isfinite(importance[layer, head]))


def _from_table(path: Path, model: str, component: str) -> Heads:
    if not path.is_file():
        raise FileNotFoundError(f"no table of heads at {path}")
    try:
        table = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise RankingError(f"{path} is not a CSV table in UTF-8: {error}") from error
    if missing := [name for name in ("layer", "head") if name not in table]:
        raise RankingError(f"{path}: missing columns {' and '.join(missing)}; there are {', '.join(map(str, table.columns))}")
    for column, wanted in (("model", model), ("component", component)):
        table = table[table[column] == wanted] if column in table else table
    for column in ("layer", "head"):
        numbers = pd.to_numeric(table[column], errors="coerce")
        wrong = table.index[numbers.isna() | (numbers % 1 != 0)]
        if len(wrong):
            raise RankingError(f"{path}, row {wrong[0] + 2}, column {column}: {table[column][wrong[0]]!r} is not a whole number")
    if table.empty:
        raise RankingError(f"{path} has no rows for {component} of {model}")
    return tuple((int(layer), int(head)) for layer, head in zip(table["layer"], table["head"], strict=True))


def random_order(ranked: Heads, heads: Heads, seed: int, draw: int) -> Heads:
    """An order whose beginnings are random sets: of any size, as many heads in each layer as the ranked order's beginning has.

    Parameters
    ----------
    heads : those that are drawn from: all of the component, ranked ones among them
    """
    rng = np.random.default_rng([seed, draw])
    of_layer = {layer: [at for at in heads if at[0] == layer] for layer in sorted({layer for layer, _ in heads})}
    drawn = {layer: iter(rng.permutation(len(of_one))) for layer, of_one in of_layer.items()}
    return tuple(of_layer[layer][next(drawn[layer])] for layer, _ in ranked)


def growing_sizes(count: int) -> tuple[int, ...]:
    """0, 1, 2, 4, ... and all."""
    return (0, *(1 << power for power in range(count.bit_length()) if 1 << power < count), count)


def check_sizes(sizes: Sequence[int], count: int) -> None:
    """Raise `RankingError` for sizes that are not ascending numbers from 0 to `count`."""
    if list(sizes) != sorted(set(sizes)) or sizes[0] < 0 or sizes[-1] > count:
        raise RankingError(f"--sizes must ascend and lie between 0 and the {count} ranked heads, not {' '.join(map(str, sizes))}")
