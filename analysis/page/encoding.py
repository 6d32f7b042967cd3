"""How numbers, maps and pictures are written into the page: rounded lists, 16-bit maps, data URIs without their prefix."""

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

STEPS = 32767  # of a 16-bit map on either side of 0
MISSING = -STEPS - 1
WEBP = {"format": "WEBP", "quality": 82, "method": 4}


def rounded(values: Iterable[float] | np.ndarray, digits: int = 4) -> list[float | None]:
    """Numbers to so many significant digits; None where not finite."""
    flat = np.asarray(values, dtype="float64").ravel().tolist()
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in flat]


def packed(values: np.ndarray) -> dict[str, Any]:
    """A map as 16-bit integers: value = integer x `scale`, so each number is within half a `scale` (the largest / 65534) of the true one.

    Returns
    -------
    scale : the step; data : little-endian integers in base64, row by row, -32768 where there is no value
    """
    flat = np.asarray(values, dtype="float64").ravel()
    finite = np.isfinite(flat)
    largest = float(np.abs(flat[finite]).max()) if finite.any() else 0.0
    scale = float(f"{largest / STEPS:.6g}") or 1.0
    steps = np.where(finite, np.clip(np.round(np.where(finite, flat, 0) / scale), -STEPS, STEPS), MISSING)
    return {"scale": scale, "data": base64.b64encode(steps.astype("<i2").tobytes()).decode("ascii")}


def picture(image: Image.Image, longest: int = 128) -> str:
    """A small picture as a data URI (WebP, at most `longest` pixels a side)."""
    image = image.convert("RGB")
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return "data:image/webp;base64," + _encoded(image, **WEBP)


def png(pixels: np.ndarray) -> str:
    """Pixels [row, column, rgba] of 8 bits as a PNG in base64."""
    return _encoded(Image.fromarray(pixels, "RGBA"), format="PNG", optimize=True)


def _encoded(image: Image.Image, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, **options)
    return base64.b64encode(file.getvalue()).decode("ascii")


class Pictures:
    """The pictures of the page, each kept once; a picture is named by its number."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, image: Image.Image) -> int:
        """The number of a picture, new or known."""
        uri = picture(image)
        if uri not in self._numbers:
            self._numbers[uri] = len(self.uris)
            self.uris.append(uri)
        return self._numbers[uri]
