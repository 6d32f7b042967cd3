"""What the scripts of all data sets share: candidates become samples one by one, those that cannot are left out with the reason,
and what is finished is kept, so that an interrupted run goes on where it was.

In: `data_prep/tables/candidates.py`, as a data set's reader lists them. Out: a sample table (`data_prep/tables/schema.py`).
"""

import hashlib
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, load_from_disk
from PIL import Image
from tqdm import tqdm

from data_prep.tables import schema as samples
from data_prep.tables.candidates import Candidate, Preparation, Source, left_out_entry, rng_of
from data_prep.tables.images import SMALLEST_SIDE, ImageError
from data_prep.tables.sample import Excluded, SampleError, option_spans

PART = 64  # candidates between two savings
SHOWN = 10  # reasons why samples are left out that are printed; `data.json` has all

_NAMES = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)|https?://\S+|\d+""")  # what reasons of one kind differ in
_PLACE = re.compile(r".*\.\w{2,5}(, .*\d)?")  # a file, or a line of one
_WORDS = {"candidates": "samples", "images": "image files", "name": "name of the data set"}  # for keys of a configuration


def run(options: Preparation) -> None:
    """Read a data set, prepare its table, and say what was made and left out.

    Raises
    ------
    SampleError, ImageError, OSError
        See `Preparation.read` and `prepare`.
    """
    datasets.disable_progress_bars()  # ours says more than that of saving files
    record = prepare(options, options.read())
    left_out = record["left_out"]
    kinds = by_reason(left_out)
    for kind in kinds[:SHOWN]:
        many = f"{kind['count']} such as " if kind["count"] > 1 else ""
        print(f"left out {many}{kind['sample']}: {kind['reason']}", file=sys.stderr)
    if len(kinds) > SHOWN:
        print(f"... and {sum(kind['count'] for kind in kinds[SHOWN:])} for other reasons, see {options.out / 'data.json'}", file=sys.stderr)
    print(f"{record['samples']} samples ({', '.join(f'{v} {k}' for k, v in record['counts'].items())}) in {options.out}")
    by_design = sum(entry.get("kind") == "excluded" for entry in left_out)
    print(f"{len(left_out)} left out" + (f", {by_design} of them by design (above, and in data.json)" if left_out else ""))


def by_reason(left_out: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Samples left out by the kind of their reason: how many, and the first of them; the most frequent first.

    Reasons are of one kind when they differ only in files, numbers and what stands in quotation marks.
    """
    kinds: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for entry in left_out:
        parts = entry["reason"].removeprefix(entry["sample"]).split(": ")
        pattern = ": ".join("" if _PLACE.fullmatch(part) else _NAMES.sub("", part) for part in parts)
        kinds.setdefault((entry.get("kind", ""), pattern), []).append(entry)
    return [{"count": len(entries), **entries[0]} for entries in sorted(kinds.values(), key=len, reverse=True)]


def prepare(options: Preparation, source: Source, progress: bool = True) -> dict[str, Any]:
    """Make the samples of a source and save their table in `options.out`.

    Returns
    -------
    What `data.json` holds. A table that the same configuration has already made is left as it is. One of another configuration is made
    again, finished or not, after saying what differs.

    Raises
    ------
    SampleError
        When no sample is left, ids repeat, the name cannot be used, or the folder holds something else; with `strict`, for the first
        sample whose data has a fault.
    """
    samples.check_name(source.name)
    for entry in source.left_out if options.strict else ():
        if entry.get("kind") != "excluded":
            raise SampleError(f"{entry['sample']}: {entry['reason']}")
    repeated = [name for name, count in Counter(c.sample_id for c in source.candidates).items() if count > 1]
    if repeated:
        raise SampleError(f"{source.name}: the sample id {repeated[0]!r} is used twice")
    configuration = _configuration(options, source)
    if _is_made(options.out, configuration):
        print(f"{options.out} is already made by these options; remove it to make it again", file=sys.stderr)
        return samples.provenance(options.out)
    parts = _Parts(options.out, configuration)
    left_out = [*source.left_out, *_make(options, source, parts, progress)]
    if not (tables := parts.tables()):
        parts.drop()
        reasons = [f"{kind['count']} such as {kind['sample']}: {kind['reason']}" for kind in by_reason(left_out)[:SHOWN]]
        raise SampleError(f"{source.name}: no sample can be used; the reasons:", reasons)
    record = {
        "name": source.name, "seed": options.seed, **(source.provenance or {}), "configuration": configuration,
        "left_out_by_reason": by_reason(left_out), "left_out": left_out,
    }  # fmt: skip
    record = samples.save(datasets.concatenate_datasets(tables), options.out, record)
    parts.drop()
    return record


def _configuration(options: Preparation, source: Source) -> dict[str, Any]:
    """What decides the table, so that parts and tables of another are not taken for it."""
    ids = hashlib.sha256(json.dumps([[c.sample_id, c.category, c.where] for c in source.candidates]).encode()).hexdigest()
    chosen = {name: getattr(options, name) for name in ("limit", "seed", "longest_side", "strict")}
    provenance = json.loads(json.dumps(source.provenance or {}))
    return {**chosen, "name": source.name, "candidates": ids, "images": source.images, "provenance": provenance}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two configurations, in words."""
    flat = [{**configuration, **configuration.get("provenance", {}), "provenance": None} for configuration in (old, new)]
    names = [name for name in dict.fromkeys([*flat[1], *flat[0]]) if flat[0].get(name) != flat[1].get(name)]
    return ", ".join(_WORDS.get(name, name) for name in names)


def _is_made(folder: Path, configuration: Mapping[str, Any]) -> bool:
    """Whether the folder has the table of a configuration; raises SampleError when it holds no table but something else."""
    samples.check_folder(folder)  # `samples.save` would say so, but after the work
    if not (folder / "state.json").is_file():
        return False
    old = samples.provenance(folder).get("configuration") or {}
    if old and old != configuration:
        print(f"{folder} holds a table that differs in {_differences(old, configuration)}; it will be replaced", file=sys.stderr)
    return old == configuration


def _make(options: Preparation, source: Source, parts: "_Parts", progress: bool) -> list[dict[str, str]]:
    """Make what the parts lack; returns what was left out, in these and in earlier parts."""
    candidates = list(source.candidates)
    if options.limit:
        order = rng_of(options.seed, "limit").permutation(len(candidates))
        candidates = [candidates[i] for i in order]
    wanted = Counter(c.category for c in candidates)
    wanted = Counter({name: min(count, options.limit or count) for name, count in wanted.items()})
    left_out, start = parts.left_out(), parts.next()
    made = Counter(name for table in parts.tables() for name in table["category"])
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    fetched = start
    with tqdm(total=sum(wanted.values()), initial=sum(made.values()), desc=source.name, unit="sample", disable=not progress) as bar:
        for number in range(start, len(candidates)):
            if source.fetch and number == fetched:
                needed, fetched = _needed(candidates, number, wanted - made)
                source.fetch(needed)
            candidate = candidates[number]
            if made[candidate.category] < wanted[candidate.category]:
                try:
                    rows.append(_row(options, source, candidate))
                    made[candidate.category] += 1
                    bar.update()
                except (SampleError, ImageError) as error:
                    if options.strict and not isinstance(error, Excluded):
                        raise SampleError(f"{candidate.sample_id}: {candidate.where}: {error}") from error
                    refused.append(left_out_entry(candidate.sample_id, candidate.where, error))
            full = all(made[name] >= count for name, count in wanted.items())
            if full or (number + 1 - start) % PART == 0 or number + 1 == len(candidates):
                if rows or refused:
                    parts.put(number + 1, rows, refused)
                left_out += refused
                rows, refused = [], []
            if full:
                break
    return left_out


def _needed(candidates: Sequence[Candidate], start: int, lacking: Counter[str]) -> tuple[list[Candidate], int]:
    """The next candidates, as many of each category as it lacks, and the number of the one after the last."""
    needed, number = [], start
    for number in range(start, len(candidates)):
        if lacking[candidates[number].category] > 0:
            lacking[candidates[number].category] -= 1
            needed.append(candidates[number])
        if not lacking.total():
            break
    return needed, number + 1


def _row(options: Preparation, source: Source, candidate: Candidate) -> dict[str, Any]:
    """A candidate's row, checked."""
    row = dict.fromkeys(samples.FEATURES, "") | {"object_mask": None, "object_box": []} | dict(candidate.make())
    row |= {"sample_id": candidate.sample_id, "dataset": source.name, "category": candidate.category}
    right, wrong = option_spans(row["question"], row["correct_answer"], row["incorrect_answer"])
    row["correct_first"] = right < wrong
    _check(row)
    row |= _scaled(row, options.longest_side)
    _check(row)
    clean, corrupt = row["clean_image"], row["corrupt_image"]
    if clean.size == corrupt.size and clean.tobytes() == corrupt.tobytes():
        raise SampleError("the clean and the corrupt image are identical")
    return row


def _check(row: Mapping[str, Any]) -> None:
    if found := samples.problems(row):
        raise SampleError("; ".join(found))


def _scaled(row: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """The images no larger than `longest`, with the mask and box of the clean one: a pixel is theirs if any part of the thing is in it."""
    changed: dict[str, Any] = {}
    for name in ("clean_image", "corrupt_image"):
        width, height = row[name].size
        if not 0 < longest < max(width, height):
            continue
        size = (max(1, round(width * longest / max(width, height))), max(1, round(height * longest / max(width, height))))
        if min(size) < SMALLEST_SIDE:
            raise SampleError(f"{name} of {width} x {height} pixels would become {size[0]} x {size[1]}; a side must have {SMALLEST_SIDE}")
        changed[name] = row[name].resize(size, Image.Resampling.LANCZOS)
        if name == "clean_image" and row["object_mask"] is not None:
            whole = row["object_mask"].point(lambda value: 255 * (value > 127))
            changed["object_mask"] = whole.resize(size, Image.Resampling.BOX).point(lambda value: 255 * (value > 0))
        if name == "clean_image" and row["object_box"]:
            left, top, right, bottom = row["object_box"]
            starts = [left * size[0] // width, top * size[1] // height]
            changed["object_box"] = [*starts, -(-right * size[0] // width), -(-bottom * size[1] // height)]
    return changed


class _Parts:
    """Finished parts of a table beside the folder that it will be in."""

    def __init__(self, out: Path, configuration: Mapping[str, Any]) -> None:
        self.folder = out.resolve().with_name(f".{out.resolve().name}.partial")
        record = self.folder / "configuration.json"
        try:
            old = json.loads(record.read_text())
        except (FileNotFoundError, ValueError):
            old = {}
        if old != configuration:
            if old:
                print(f"the unfinished table of {out} differs in {_differences(old, configuration)}; it is begun again", file=sys.stderr)
            self.drop()
            self.folder.mkdir(parents=True)
            record.write_text(json.dumps(configuration))

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("part-*"))

    def next(self) -> int:
        """The number of the first candidate that no part has seen."""
        return max((int(path.name.removeprefix("part-")) for path in self._all()), default=0)

    def tables(self) -> list[Dataset]:
        return [load_from_disk(str(path)) for path in self._all() if (path / "state.json").is_file()]  # type: ignore[misc]

    def left_out(self) -> list[dict[str, str]]:
        return [entry for path in self._all() for entry in json.loads((path / "left_out.json").read_text())]

    def put(self, through: int, rows: Sequence[Mapping[str, Any]], left_out: Sequence[Mapping[str, str]]) -> None:
        """Keep the candidates up to number `through`: named last, so that half a part is none."""
        temporary = self.folder / "new"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        if rows:  # a saved table without rows cannot be read again
            samples.build(rows).save_to_disk(temporary)
        (temporary / "left_out.json").write_text(json.dumps(list(left_out), ensure_ascii=False))
        temporary.rename(self.folder / f"part-{through:09d}")

    def drop(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
