"""The sites (components) whose states are patched: facts that need no torch, in the order in which a layer computes the sites.

Where a site is in a model is said by the model's description (`architecture`): a site is added by an entry here and its ports there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Site:
    """A kind of state of a layer.

    Attributes
    ----------
    name : what options and results call it
    label : its name in figures
    sentence : what its state is
    attention : its state is that of an attention: z of all heads, each of which can be patched by itself
    groups : how many equal parts its state has: the architecture's "heads", "key_value_heads" or "neurons" (of an MLP), or "one"
    """

    name: str
    label: str
    sentence: str
    attention: bool = False
    groups: Literal["heads", "key_value_heads", "neurons", "one"] = "one"


_SITES = (
    Site("self_attention", "self-attention", "z of the heads of self-attention, before the output projection", True, "heads"),
    Site("cross_attention", "cross-attention", "z of the heads of cross-attention, before the output projection", True, "heads"),
    Site("mlp", "MLP", "the output of the MLP's own last linear map, before the residual sum"),
    Site("block", "block (residual stream after the layer)", "the residual stream after the layer"),
)
SITES: Mapping[str, Site] = {site.name: site for site in _SITES}


def label_of(component: str) -> str:
    """The name of a site in figures; that of an unknown one is what the file calls it."""
    return SITES[component].label if component in SITES else component
