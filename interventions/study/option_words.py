"""Options as words of a command line: those that differ from their defaults, and how each is written. Loads nothing.

In: a dataclass of options, whose fields may be dataclasses of options themselves (their names are not prefixed).
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import PurePath
from typing import Any

NOT_REPEATED = ("out", "overwrite")  # where results go, and what was replaced on the way: not what was asked for


def defaults(*options: type) -> dict[str, Any]:
    """The default of every option of a command, by its name; those that have none are left out.

    >>> from corruptions.options import CorruptionOptions
    >>> defaults(CorruptionOptions)["inpainting_steps"]
    120
    """
    leaves = (field for one in options for field in _leaves(one))
    return {field.name: _default(field) for field in leaves if _default(field) is not MISSING}


def asked(options: Any) -> dict[str, Any]:
    """The options that differ from their defaults, flat and as JSON has them.

    >>> from corruptions.options import CorruptionOptions
    >>> asked(CorruptionOptions(inpainting_steps=50, constraint_words=("dog", "cat")))
    {'constraint_words': ['dog', 'cat'], 'inpainting_steps': 50}
    """
    found = dict(_values(options))
    usual = defaults(type(options))
    return {name: plain(value) for name, value in found.items() if name not in NOT_REPEATED and plain(value) != plain(usual.get(name))}


def words(options: Sequence[type], values: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give some options their values, where these are not the defaults; quoted for a shell.

    >>> from corruptions.options import CorruptionOptions
    >>> words([CorruptionOptions], {"inpainting_steps": 120, "constraint_words": ["dog", "big cat"]})
    ['--constraint-words', 'dog', "'big cat'"]
    >>> words([CorruptionOptions], {"noise_multiple": 2.123456789, "inpainting_guidance": 7.0})
    ['--noise-multiple', '2.123456789', '--inpainting-guidance', '7']
    """
    usual = defaults(*options)
    found: list[str] = []
    for name, value in values.items():
        if name not in usual or plain(value) == plain(usual[name]):
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(flag if value else f"--no-{name.replace('_', '-')}")
        else:
            several = list(value) if isinstance(value, (list, tuple)) else [value]
            found += [flag, *(shlex.quote(_text(one)) for one in several)]
    return found


def _text(value: Any) -> str:
    """A value such that reading it gives the same value; whole numbers without a decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, PurePath):
        return str(value)
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _leaves(options: type) -> Iterator[Field]:
    for field in fields(options):
        nested = _default(field)
        if is_dataclass(nested):
            yield from _leaves(type(nested))
        else:
            yield field


def _values(options: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from _values(value)
        else:
            yield field.name, value


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
