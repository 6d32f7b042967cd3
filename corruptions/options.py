"""The options of all corruptions as one dataclass, for command lines; each stands beside its corruption."""

from dataclasses import dataclass

from corruptions.base import CORRUPTIONS

CLASSES = tuple(dict.fromkeys(entry.options for entry in CORRUPTIONS.values()))


@dataclass(frozen=True)
class CorruptionOptions(*reversed(CLASSES)):  # type: ignore[misc]
    """Options of corruptions."""

    def __post_init__(self) -> None:
        for options in CLASSES:
            getattr(options, "__post_init__", lambda _: None)(self)
