"""What travels to a server: the engine's own functions, as source, and what they are called with; no weights, and no processor.

nnsight ships functions by their source. Its pickler is at a loss with some of what the engine is written in; that is put right here, so
that what arrives are ordinary functions and classes, and the server needs no part of the project.
"""

import contextlib
import functools
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

import nnsight
import torch
import zstandard
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.serialization import CustomCloudPickler, reduce_block
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from interventions.models.vlm import Vlm

PACKAGES = ("interventions", "corruptions", "data_prep")
BARE_SUPER = re.compile(r"\bsuper\(\)")
COMPRESSION = zstandard.ZstdCompressionParameters.from_level(6, window_log=27)  # nnsight's level; the same image is found 128 MiB back


class Pickler(CustomCloudPickler):
    """nnsight's pickler, for what it does not take: a `cached_property` holds a lock, a cached function travels by its name alone, shapes
    in annotations are classes of a package that a server need not have, a decorated generator loses its decorator, and `super()` needs the
    body of a class."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, functools.cached_property):
            return functools.cached_property, (obj.func,), {"attrname": obj.attrname}
        if isinstance(obj, functools._lru_cache_wrapper) and obj.__module__.split(".")[0] in PACKAGES:
            return functools.cache, (obj.__wrapped__,)
        if isinstance(obj, FunctionType) and obj.__code__.co_filename == contextlib.__file__ and hasattr(obj, "__wrapped__"):
            return contextlib.contextmanager, (obj.__wrapped__,)
        if isinstance(obj, type) and type(obj).__module__.startswith("jaxtyping"):
            return type, (None,)
        return super().reducer_override(obj)

    def _dynamic_function_reduce(self, func: FunctionType) -> tuple:
        build, arguments, scope, *rest = super()._dynamic_function_reduce(func)
        if "__class__" in func.__code__.co_freevars and isinstance(arguments[0], str):
            first = next(iter(inspect.signature(func).parameters))
            arguments = (BARE_SUPER.sub(f"super(__class__, {first})", arguments[0]), *arguments[1:])
            cells = dict(zip(func.__code__.co_freevars, func.__closure__ or (), strict=True))
            scope = scope | {"__class__": cells["__class__"].cell_contents}
        return (build, arguments, scope, *rest)


def serialize(tracer: Any, compress: bool) -> bytes:
    """What `RequestModel.serialize` makes of a traced block, with the pickler above."""
    for package in PACKAGES:
        nnsight.register(package)
    frame = tracer.info.frame
    block = reduce_block(tracer.node, frame.f_globals, dict(frame.f_locals))
    with io.BytesIO() as file:
        Pickler(file, protocol=4).dump((tracer, block))
        content = file.getvalue()
    return zstandard.ZstdCompressor(compression_params=COMPRESSION).compress(content) if compress else content


def ship(vlm: Vlm, function: Callable[..., Any], arguments: tuple[Any, ...], backend: Backend) -> None:
    """Hand one session, in which `function(vlm, *arguments)` is called, to a backend of nnsight. What it gives is called "result"."""
    vlm = vlm.for_job(set(token_rows(arguments)))
    with vlm.model.session(backend=backend):
        result = nnsight.save(function(vlm, *arguments))  # noqa: F841


def token_rows(value: Any) -> Iterator[tuple[int, ...]]:
    """The rows of the tensors of token ids in some arguments."""
    if isinstance(value, torch.Tensor):
        yield from map(tuple, value.tolist()) if value.ndim == 2 and not value.is_floating_point() else ()
    elif is_dataclass(value):
        yield from token_rows([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, list | tuple | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from token_rows(inner)


class Request(Backend):
    """Makes a request of a session, and does not send it."""

    content = b""

    def __init__(self, compress: bool) -> None:
        self.compress = compress

    def __call__(self, tracer: Any) -> None:
        self.content = serialize(tracer, self.compress)


class Simulation(LocalSimulationBackend):
    """nnsight's simulation of a server: the session is serialized, read where the project cannot be imported, and run here.

    Unlike nnsight's own it runs what was read, and what comes back is serialized too.
    """

    result: Any = None

    def __call__(self, tracer: Any) -> None:
        content = serialize(tracer, compress=False)
        paths = list(sys.path)
        hidden = self._hide_local_modules()
        try:
            received = RequestModel.deserialize(content, self.model._remoteable_persistent_objects())
        finally:
            self._restore(hidden)
            sys.path[:] = paths
        received.execute(received.info.code)
        with io.BytesIO() as file:
            torch.save(received.info.frame.f_locals["result"], file)
            file.seek(0)
            self.result = torch.load(file, weights_only=False)
