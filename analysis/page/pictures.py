"""The pictures of the sample browser: the data sets that the manifest names, read where they still are -> clean and corrupt pictures.

Only rows that are wanted are decoded; nothing of the program that made the tables is needed.
"""

import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import xarray as xr
from PIL import Image

from analysis.store.folder import DAMAGED

BLOCK = 256  # samples whose pictures are read at a time
PAIRED = "sip"  # the corruption whose corrupt picture is a column of the table; the others change no picture, or keep it elsewhere


def table_folder(results: Path, manifest: dict[str, Any], dataset: str) -> Path | None:
    """Where the table of a data set is: where the manifest says, or under the same name in the results' `data/`; None where in neither."""
    data = manifest.get("data")
    said = (data.get(dataset) or {}).get("folder") if isinstance(data, dict) else None
    if not said:
        return None
    places = (Path(said), Path(results) / "data" / Path(said).name)
    return next((place for place in places if any(place.glob("data-*.arrow"))), None)


def fingerprint(folder: Path) -> str | None:
    """The fingerprint that a table was saved with; None where it says none."""
    path = folder / "data.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return None
    return said.get("fingerprint")


def read_pictures(folder: Path, wanted: Collection[str]) -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """(sample id, clean picture, corrupt picture) of the wanted samples of a table, a record batch at a time."""
    for path in sorted(folder.glob("data-*.arrow")):
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                for row, sample in enumerate(batch.column("sample_id").to_pylist()):
                    if sample in wanted:
                        yield sample, *(_decoded(batch.column(name)[row].as_py()) for name in ("clean_image", "corrupt_image"))


def kept_pictures(attention: Path, wanted: Collection[str]) -> dict[str, list[Image.Image]]:
    """The clean pictures that are kept with attention maps, as the model saw them and no larger than that needs, of the wanted samples."""
    with xr.open_dataset(attention, engine="netcdf4") as kept:
        if "image" not in kept:
            return {}
        samples = kept["sample"].values.astype(str).tolist()
        image = kept["image"].transpose("sample", "y", "x", "rgb")
        blocks = (image[start : start + BLOCK].values for start in range(0, len(samples), BLOCK))
        pixels = (one for block in blocks for one in block)
        return {sample: [Image.fromarray(one)] for sample, one in zip(samples, pixels, strict=True) if sample in wanted}


def _decoded(stored: dict[str, Any]) -> Image.Image:
    image = Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
    image.load()
    return image


def of_data_set(results: Path, manifest: dict[str, Any], dataset: str, fingerprints: set[str], wanted: Collection[str]) -> tuple[dict, str]:
    """Clean and corrupt picture of each wanted sample, by its id; and, in words, why there are none ("" where there are).

    Parameters
    ----------
    fingerprints : those that the files of effects give of the data set
    """
    folder = table_folder(results, manifest, dataset)
    if folder is None:
        return {}, f"the table of the data set {dataset} is not where the manifest says, so its pictures could not be read"
    if (said := fingerprint(folder)) and fingerprints and {said} != fingerprints:
        return {}, f"the table {folder.name} holds other data than {dataset} was run with, so its pictures are not shown"
    try:
        return {sample: pair for sample, *pair in read_pictures(folder, wanted)}, ""
    except (*DAMAGED, KeyError, TypeError) as error:
        return {}, f"the pictures of the data set {dataset} could not be read ({error})"
