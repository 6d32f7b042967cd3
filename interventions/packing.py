"""Patched runs laid end to end in one row: a mask lets each see itself, and the image's keys and values serve them all.

In a causal decoder the tokens before a patch are as in the corrupt run: a patched run is packed from its first patched token on, and
sees the corrupt run's keys and values before that. In an encoder it is packed whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interventions.plan import Patch


@dataclass(frozen=True)
class Packing:
    """Where the tokens of some patched runs stand in one row.

    Attributes
    ----------
    run : the patched run that each packed token belongs to
    position : its position in the prompt
    start : of each run, its first packed position
    last : of each run, the index of its last token in the row
    """

    run: Int[Tensor, " packed"]
    position: Int[Tensor, " packed"]
    start: Int[Tensor, " run"]
    last: Int[Tensor, " run"]

    def within_runs(self) -> Bool[Tensor, "packed packed"]:
        """Which packed tokens are of the same run."""
        return self.run[:, None] == self.run

    def causal(self, prompt: int) -> Bool[Tensor, "packed key"]:
        """What each packed token of a causal decoder may see: keys of the corrupt run's `prompt` positions, then packed tokens."""
        keys = torch.arange(prompt, device=self.run.device)
        before = keys < self.start[self.run][:, None]
        own = self.within_runs() & (self.position[:, None] >= self.position)
        return torch.cat([before, own], 1)


def pack(patches: Sequence[Patch], prompt: int, causal: bool, device: torch.device) -> Packing:
    """Lay out the patched runs of a prompt of `prompt` tokens."""
    start = torch.tensor([first_position(patch, causal) for patch in patches])
    lengths = prompt - start
    run = torch.arange(len(patches)).repeat_interleave(lengths)
    last = lengths.cumsum(0) - 1
    position = torch.arange(len(run)) - last[run] + prompt - 1
    return Packing(run.to(device), position.to(device), start.to(device), last.to(device))


def first_position(patch: Patch, causal: bool) -> int:
    """The first position of a patched run that must be run."""
    return min(patch.positions) if causal else 0


def additive(visible: Bool[Tensor, "query key"], dtype: torch.dtype) -> Float[Tensor, "1 1 query key"]:
    """An attention mask as models take it: 0 where visible, the smallest number elsewhere."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)[None, None]
