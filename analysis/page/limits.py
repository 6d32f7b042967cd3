"""How much of a results folder the report holds: options, which load no library."""

from dataclasses import dataclass

from analysis.store.errors import ResultsError


@dataclass(frozen=True)
class Limits:
    """How much of a large results folder the page holds; what was left out is said in it."""

    samples: int = 100
    """Most samples of each category in the sample browser."""
    megabytes: float = 10.0
    """Most megabytes that samples take: of each category as many as fit."""
    heads: int = 64
    """Heads of a model, the most telling first, that have attention overlays and function scores."""

    def __post_init__(self) -> None:
        for name in ("samples", "megabytes", "heads"):
            if getattr(self, name) <= 0:
                raise ResultsError(f"--{name} is {getattr(self, name)}; it must be more than 0")
