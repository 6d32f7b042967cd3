"""Image files as they are found -> RGB pixels as they were meant.

In: a path or the bytes of a file. Out: a loaded 8-bit RGB PIL image, upright and without transparency, or an `ImageError` that
names the file and what is wrong with it. Nothing is ever replaced by a blank image.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SMALLEST_SIDE = 4  # pixels; image processors take a side of 1 or 3 for the colour channels
MOST_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "AVIF")  # of Pillow's others, EPS would run Ghostscript

DECODING_ERRORS = (  # what Pillow's decoders raise on damaged bytes
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, AttributeError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class ImageError(ValueError):
    """An image that cannot be used; the message names it and says why."""


def open_image(
    source: str | Path | bytes, name: str | None = None, *, smallest_side: int = SMALLEST_SIDE, most_pixels: int = MOST_PIXELS
) -> Image.Image:
    """Open an image.

    The EXIF orientation is applied. Transparent images are laid on white. 16-bit grey is scaled to 8 bits (v / 257); of grey
    images with 32-bit numbers see `_to_8_bits`. Of an animation, the first frame is taken. Colour profiles are not applied. The
    contents decide what a file is, not the ending of its name.

    Parameters
    ----------
    source : a path, or a file's bytes.
    name : what messages call the image; default: the path.

    Raises
    ------
    ImageError
        For a file that is missing, empty, truncated, an HTML page or Git LFS pointer saved as an image, or no image at all; and
        for sizes with a side below `smallest_side` or more than `most_pixels` in all.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else _read(source, name)
    reason = _not_an_image(data)
    if reason:
        raise ImageError(f"{name}: {reason}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of big images and odd metadata; sizes are checked below
            return _decode(data, name, smallest_side, most_pixels)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too large ({error})") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image in any format that is read ({', '.join(FORMATS)})") from error
    except DECODING_ERRORS as error:
        raise ImageError(f"{name}: the image is damaged or truncated ({error})") from error


def _read(path: str | Path, name: str) -> bytes:
    if str(path).startswith(("http://", "https://")):
        raise ImageError(f"{name}: is a web address; download the image and give its path")
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{name}: is a folder, not an image file")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read ({error})") from error


def _not_an_image(data: bytes) -> str:
    """Why some well-known impostors are no images; empty for anything else."""
    if not data:
        return "the file is empty (0 bytes)"
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")) or (head.startswith(b"<?xml") and b"<html" in head):
        return "is an HTML page, not an image (a failed download?)"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image itself (run `git lfs pull`)"
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "is an SVG drawing; export it as PNG"
    return ""


def _decode(data: bytes, name: str, smallest_side: int, most_pixels: int) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if min(width, height) < smallest_side:
        raise ImageError(f"{name}: is {width} x {height} pixels; each side must have at least {smallest_side}")
    if width * height > most_pixels:
        raise ImageError(f"{name}: is {width} x {height} pixels, more than {most_pixels:,} in all")
    image.load()
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image, name)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return Image.fromarray(np.asarray(image.convert("RGB")))  # a bare copy: no metadata of the file goes along


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DECODING_ERRORS:  # unreadable EXIF: no orientation is known
        return image


def _to_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey numbers of 16 or 32 bits -> 8-bit grey, without clipping.

    16 bits: v / 257. Formats with 32-bit numbers don't say what white is: integers up to 255 are taken for 8 bits and up to 65535
    for 16 bits; fractions up to 1 for 0 to 1, and larger ones as integers.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name}: grey values from {values.min():g} to {values.max():g} have no known scale; convert it to 8 bits")
    top = values.max()
    if image.mode.startswith("I;16") or top > 255:
        values = values / 257
    elif image.mode == "F" and top <= 1:
        values = values * 255
    return Image.fromarray(np.rint(values).astype(np.uint8))


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a mask in pixels, right and bottom exclusive; all zero for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
