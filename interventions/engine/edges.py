"""Where the two sides of an attention edge are in one sample: positions of its prompt, and keys of the image or of a prompt that was read.

In: an edge "source:target" of groups of tokens (`GROUPS`) or roles. Out: what is blocked.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from PIL import Image

from corruptions.base import LeftOut, Pair, Prompt
from data_prep.tables.sample import Sample
from interventions.engine.attention_maps import patch_shares
from interventions.engine.blocking import Block
from interventions.models.vlm import Vlm
from interventions.results.roles import roles

GROUPS = {
    "image": "all of the image",
    "object": "image patches that the object's mask, or else its box, covers in part",
    "background": "the rest of the image (a class token is part of it)",
    "question": "all tokens of the question",
    "options": "both options",
    "all": "every position, and all of the image",
}
TOUCHED = 0.01  # part of a patch that an object covers at least: less is the rounding of scaled masks


def reads_a_prompt(vlm: Vlm) -> bool:
    """Whether it is a part of a model that reads by cross-attention what the rest has made of the prompt."""
    return any(attention.image_keys == "prompt" for attention in vlm.architecture.attention.values())


@dataclass(frozen=True)
class Places:
    """Where the sides of edges are in one sample's clean prompt, and among the keys of the image, or of the prompt that a part reads."""

    vlm: Vlm
    prompt: Prompt
    pair: Pair

    def block(self, edge: str) -> Block:
        """What is blocked where an edge is, in no layer yet.

        Raises
        ------
        LeftOut
            When there is nothing to block.
        """
        source, _, target = edge.partition(":")
        queries = self.positions(target)
        every = {component: self.keys(source, component) for component in self.vlm.architecture.attention}
        keys = {component: numbers for component, numbers in every.items() if numbers != ()}
        for side, chosen in ((source, keys), (target, queries)):
            if not chosen:
                names = dict.fromkeys([*self.names, *(self.read.names if self.read else [])])
                raise LeftOut(f"nothing is {side!r}; the prompt has {', '.join(names)}")
        self_keys = keys.get("self_attention")
        reads_ahead = not self.vlm.architecture.causal or self.vlm.architecture.causal_from == "nowhere"
        if self_keys and len(keys) == 1 and min(self_keys) > max(queries) and not reads_ahead:
            raise LeftOut(f"{target!r} stands before {source!r} and does not see it anyway")
        return Block((), queries, keys)

    @cached_property
    def read(self) -> "Places | None":
        """The places of the prompt that cross-attention reads, if it reads one."""
        return replace(self, prompt=self.vlm.tokenize(self.pair.clean_question)) if reads_a_prompt(self.vlm) else None

    @cached_property
    def names(self) -> list[str]:
        """The role of each position."""
        return roles(self.prompt, self.pair, self.vlm.architecture.causal)

    def positions(self, side: str) -> tuple[int, ...]:
        """A side's positions in the prompt."""
        image, question = (tuple(i for i, kind in enumerate(self.prompt.kinds) if kind == name) for name in ("image", "question"))
        if side in ("image", "question"):
            return image if side == "image" else question
        if side in ("object", "background"):
            return tuple(image[i] for i in self._patches(side)) if image else ()
        wanted = ("correct", "incorrect") if side == "options" else (side,)
        return tuple(i for i, name in enumerate(self.names) if side == "all" or name in wanted)

    def keys(self, side: str, component: str) -> tuple[int, ...] | None:
        """A side's keys in an attention component; None for every key of the image, where their number is not known."""
        kind = self.vlm.architecture.attention[component].image_keys
        if kind == "image_tokens":
            return self.positions(side)
        if kind == "prompt" and self.read:
            return None if side == "all" else self.read.positions(side)
        if side in ("image", "all"):
            return tuple(range(self.vlm.image_states_per_image)) if kind == "after_class_token" else None
        if side in ("object", "background"):
            class_token = (0,) if side == "background" else ()
            return class_token + tuple(1 + i for i in self._patches(side))
        return ()

    def _patches(self, side: str) -> tuple[int, ...]:
        """The image's patches that the object touches, or the others."""
        return tuple(i for i, touched in enumerate(self._touched) if touched == (side == "object"))

    @cached_property
    def _touched(self) -> list[bool]:
        kinds = {attention.image_keys for attention in self.vlm.architecture.attention.values()}
        count = self.vlm.image_states_per_image - 1 if "after_class_token" in kinds else self.prompt.kinds.count("image")
        if "all" in kinds or round(count**0.5) ** 2 != count:
            raise LeftOut("the model's image is not one square grid of patches, so where the object is in it is not known")
        mask = self.pair.sample["object_mask"] or _mask_of_box(self.pair.sample)
        if mask is None:
            raise LeftOut("the sample has neither an object mask nor a box")
        touched = (patch_shares(self.vlm, mask, count) >= TOUCHED).tolist()
        if not any(touched):
            raise LeftOut("the object is in no patch of what the model sees of the image")
        return touched


def _mask_of_box(sample: Sample) -> Image.Image | None:
    if not sample["object_box"]:
        return None
    mask = Image.new("L", sample["clean_image"].size)
    mask.paste(255, tuple(sample["object_box"]))
    return mask
