"""Patched runs of a causal decoder laid end to end in one row: each from its first patched token on, on the corrupt run's keys and values.

Tokens before a patch are as in the corrupt run, so a patched run needs those from the patch on alone. A mask lets each see the
corrupt run before its start, and itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interventions.plan import Patch


@dataclass(frozen=True)
class Packing:
    """Where the tokens of some patched runs stand in one row.

    Attributes
    ----------
    run : the patched run that each packed token belongs to
    position : its position in the prompt
    start : of each run, the position from which it differs from the corrupt run
    last : of each run, the index of its last token in the row
    """

    run: Int[Tensor, " packed"]
    position: Int[Tensor, " packed"]
    start: Int[Tensor, " run"]
    last: Int[Tensor, " run"]

    def visible(self, prompt: int) -> Bool[Tensor, "packed key"]:
        """What each packed token may see: keys of the corrupt run's `prompt` positions, then those of the packed tokens."""
        keys = torch.arange(prompt, device=self.run.device)
        before = keys < self.start[self.run][:, None]
        own = (self.run[:, None] == self.run) & (self.position[:, None] >= self.position)
        return torch.cat([before, own], 1)


def pack(patches: Sequence[Patch], prompt: int, device: torch.device) -> Packing:
    """Lay out the patched runs of a prompt of `prompt` tokens."""
    start = torch.tensor([min(patch.positions) for patch in patches])
    lengths = prompt - start
    run = torch.arange(len(patches)).repeat_interleave(lengths)
    last = lengths.cumsum(0) - 1
    position = torch.arange(len(run)) - last[run] + prompt - 1
    return Packing(run.to(device), position.to(device), start.to(device), last.to(device))
