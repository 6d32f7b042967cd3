"""Patched runs laid end to end, those of one sample in one row: a mask lets each see itself, and the image serves them all.

In a causal decoder the tokens before a patch are as in the corrupt run: a patched run is packed from its first patched token on, and
sees the corrupt run's keys and values before that. In an encoder it is packed whole.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the tokens of some patched runs stand.

    Attributes
    ----------
    sample : of each row, the sample whose runs it holds
    run : the patched run that each packed token belongs to; -1 fills a row up
    position : its position in the prompt
    start : of each run, its first packed position
    tokens : of each run, where its tokens stand if all rows are laid end to end; the last is repeated to fill up
    real : which of these are the run's own
    last : of each run, where its last token stands
    apart : each run has a row of its own, as long as the longest prompt, and holds its whole prompt
    """

    sample: Int[Tensor, " row"]
    run: Int[Tensor, "row packed"]
    position: Int[Tensor, "row packed"]
    start: Int[Tensor, " run"]
    tokens: Int[Tensor, "run token"]
    real: Bool[Tensor, "run token"]
    last: Int[Tensor, " run"]
    apart: bool

    def to(self, device: torch.device) -> "Packing":
        tensors = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self) if field.name != "apart"}
        return dataclasses.replace(self, **tensors)

    def gather(self, states: Float[Tensor, "sample token *width"]) -> Float[Tensor, "row packed *width"]:
        """The states at each packed token's place; of runs apart, all there are."""
        return states[self.sample] if self.apart else states[self.sample[:, None], self.position]

    def within_runs(self) -> Bool[Tensor, "row packed packed"]:
        """Which packed tokens are of the same run."""
        return self.run[:, :, None] == self.run[:, None, :]

    def causal(self, prefix: int) -> Bool[Tensor, "row packed key"]:
        """What each packed token of a causal decoder may see: keys of the corrupt run's first `prefix` positions, then packed tokens."""
        keys = torch.arange(prefix, device=self.run.device)
        before = keys < self.start[self.run][..., None]
        own = self.within_runs() & (self.position[:, :, None] >= self.position[:, None, :])
        return torch.cat([before, own], -1)


def pack(samples: Sequence[int], starts: Sequence[int], lengths: Sequence[int], apart: bool = False) -> Packing:
    """Lay out patched runs.

    Parameters
    ----------
    samples : of each run, its sample, ascending
    starts : of each run, the first position that must be run
    lengths : of each *sample*, the tokens of its prompt
    apart : give each run a row by itself, from position 0 on
    """
    sample, start = torch.tensor(samples), torch.zeros(len(samples), dtype=torch.long) if apart else torch.tensor(starts)
    count = torch.tensor(lengths)[sample] - start
    runs = torch.arange(len(samples))
    rows, row = (sample, runs) if apart else torch.unique_consecutive(sample, return_inverse=True)
    run = runs.repeat_interleave(count)
    first = count.cumsum(0) - count  # of each run, with all rows end to end and not filled up
    begin = first[torch.searchsorted(row, torch.arange(len(rows)))]  # of each row, likewise
    index = torch.arange(len(run))
    slot = index - begin[row[run]]
    packed = max(lengths) if apart else int(slot.max()) + 1
    place = (row[run], slot)
    last = row * packed + first + count - 1 - begin[row]
    offset = torch.arange(int(count.max()))
    fill = torch.arange(packed).expand(len(rows), -1) if apart else torch.zeros(len(rows), packed, dtype=torch.long)
    return Packing(
        sample=rows,
        run=torch.full((len(rows), packed), -1).index_put(place, run),
        position=fill.index_put(place, start[run] + index - first[run]),
        start=start,
        tokens=torch.minimum((last - count + 1)[:, None] + offset, last[:, None]),
        real=offset < count[:, None],
        last=last,
        apart=apart,
    )


def additive(visible: Bool[Tensor, "row query key"], dtype: torch.dtype) -> Float[Tensor, "row 1 query key"]:
    """An attention mask as models take it: 0 where visible, the smallest number elsewhere."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)[:, None]
