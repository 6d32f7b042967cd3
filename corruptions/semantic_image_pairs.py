"""Semantic image pairs (NOTICE, section 3.1): the image is exchanged for one that differs in one property; the question stays."""

import json

from PIL import ImageChops

from corruptions.base import LeftOut, Pair, PairMaker, Tokenize, register
from data_prep.tables.sample import Sample, option_spans


@register("sip", "image", "sees the sample's semantic partner, of which the other option is true", default=True)
class SemanticImagePairs(PairMaker):
    """The corrupt image is the sample's partner image.

    Where the data set states the attributes of both images, they must differ in the asked attribute of exactly one object and
    in nothing else. Where it does not (photographs), the partner is taken as it is.
    """

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        clean, partner = sample["clean_image"], sample["corrupt_image"]
        if clean.size == partner.size and ImageChops.difference(clean.convert("RGB"), partner.convert("RGB")).getbbox() is None:
            raise LeftOut("the partner image is identical to the clean image")
        if sample["clean_attributes"] and sample["corrupt_attributes"]:
            _differ_in_one(json.loads(sample["clean_attributes"]), json.loads(sample["corrupt_attributes"]), sample["changed_attribute"])
        options = option_spans(sample["question"], sample["correct_answer"], sample["incorrect_answer"])
        return Pair(sample, "corrupt_image", sample["question"], options, options)


def _differ_in_one(clean: list[dict[str, str]], corrupt: list[dict[str, str]], asked: str) -> None:
    if len(clean) != len(corrupt):
        raise LeftOut(f"the partner image has {len(corrupt)} objects, the clean image {len(clean)}")
    changes = [
        (number, name)
        for number, (before, after) in enumerate(zip(clean, corrupt, strict=True))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if [name for _, name in changes] != [asked]:
        differences = ", ".join(f"{name} of object {number}" for number, name in changes) or "nothing"
        raise LeftOut(f"the partner image must differ in the {asked} of one object alone; it differs in {differences}")
