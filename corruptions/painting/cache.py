"""A folder of images made from other images, so that none is made twice: a file is named by a hash of all that its image depends on."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo


class ImageCache:
    """PNG files in one folder, which may be shared among data sets, models and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, recipe: Mapping[str, Any], sources: Sequence[Image.Image], make: Callable[[], Image.Image]) -> Path:
        """The file of an image, which is made and written, whole or not at all, where it is not there yet.

        Parameters
        ----------
        recipe : how the image is made, as JSON takes it; the file keeps it as its text "recipe"
        sources : the images it is made from
        """
        text = json.dumps(recipe, sort_keys=True)
        digest = hashlib.sha256(text.encode())
        for image in sources:
            digest.update(f"\n{image.mode} {image.size} ".encode() + image.tobytes())
        path = self.folder / f"{digest.hexdigest()[:32]}.png"
        if not path.is_file():
            self._write(make(), text, path)
        return path

    def _write(self, image: Image.Image, recipe: str, path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = PngInfo()
        kept.add_itxt("recipe", recipe)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}")
        try:
            image.save(temporary, "PNG", pnginfo=kept)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
