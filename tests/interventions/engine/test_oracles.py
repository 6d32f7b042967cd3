"""Every method, corruption, direction and wrapper that the program supports, held against raw PyTorch hooks; and the table that says so.

Models are tiny, with random weights; sites are read off their code again (`tests/support/raw_models.py`). A cell is recorded once all its
numbers were held: those of the fast path, and in the denoising direction those of the slow path of `engine/oracle`. The last test fails
where a supported cell is open, or where `docs/oracle_table.md` says something else; `python -m tests.support.oracle_table` writes it.
"""

import copy
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import product
from operator import attrgetter
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from corruptions.base import CORRUPTIONS, LeftOut
from interventions.attention_knockout import knock_out_attention as knock_out
from interventions.attention_patterns import map_attention as write_attention
from interventions.attribution_patching import attribute_heads
from interventions.direct_effect import direct_effects as write_direct_effects
from interventions.engine.ablation import run_ablated
from interventions.engine.attention_maps import capture_attention
from interventions.engine.blocking import Block, sweep_blocks
from interventions.engine.capture import SOURCE, Example, capture
from interventions.engine.corrupt_embeddings import draw_noise, embedding_mean, replaced
from interventions.engine.gradients import attribution, integrated_attribution
from interventions.engine.oracle import ablation, attention, direct_effect, knockout, patching, paths
from interventions.engine.oracle import attribution as attributing
from interventions.engine.path_names import Ends, Head, Receiver
from interventions.engine.paths import Paths, run_paths
from interventions.engine.plan import Patch
from interventions.engine.sweep import sweep
from interventions.head_ablation import HeadAblation, ablate_heads
from interventions.head_patching import patch_heads
from interventions.methods.direct_effect import NotAdditiveError, of_example
from interventions.models.loading import wrap
from interventions.models.parts import part_of
from interventions.module_patching import patch_modules
from interventions.path_patching import PathPatching, patch_paths
from interventions.study.choosing import Choosing
from interventions.study.options import Options
from interventions.study.study import Study
from tests.support import oracle_table, zoo
from tests.support.raw_models import RawModel, Run, blocked, constant, on_path, question_positions, raw_model, with_columns

QUESTIONS = ("Is the small circle red or blue?", "Is the small circle green or pink?")
ANSWERS = (5, 6)
KINDS = {}  # a corruption of each kind, its modality and what becomes of embeddings: the first that is registered
for entry in CORRUPTIONS.values():
    KINDS.setdefault((entry.modality, entry.embeddings), entry.name)
MODELS = {  # wrapper: the model, and the part of it
    "Blip": ("blip", ""),
    "AnswerDecoder": ("blip", "decoder"),
    "VisionTower": ("blip", "vision"),
    "Decoder (LLaVA)": ("llava", ""),
    "Decoder (grouped queries, M-RoPE)": ("qwen2_vl", ""),
    "CrossAttentionDecoder": ("mllama", ""),
    "QFormerDecoder": ("instructblip", ""),
    "QFormer": ("instructblip", "qformer"),
}


def pictures():
    """Two of coloured squares."""
    rng = np.random.default_rng(0)
    squares = [Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)) for _ in range(2)]
    return [image.resize((448, 448), Image.Resampling.NEAREST) for image in squares]


@dataclass(frozen=True)
class Model:
    """A wrapper, the module below it, and what the module is given."""

    wrapper: str
    vlm: object
    raw: RawModel
    inputs: dict  # of the module, by number of the picture and of the question

    @property
    def whole(self):
        return getattr(self.vlm, "whole", self.vlm)

    @cached_property
    def places(self):
        """Which embeddings are the image's, and which the question's."""
        module, ids = self.raw.module, self.inputs[0, 0]["input_ids"][0]
        _, how = self.raw.embeddings["image"]
        text = question_positions(self.vlm.processor.tokenizer, self.whole.template(QUESTIONS[0])[0], QUESTIONS[0], ids.tolist())
        if how == "states":
            return {
                "image": torch.ones((module.config.vision_config.image_size // module.config.vision_config.patch_size) ** 2 + 1).bool(),
                "text": text,
            }
        if how == "cross_attention_states":
            tiles = self.inputs[0, 0]["aspect_ratio_mask"].flatten().bool()
            states = len(self.raw.read_embeddings(Run(self.inputs[0, 0]), "image"))
            return {"image": tiles.repeat_interleave(states // len(tiles)), "text": text}
        return {"image": ids == self.vlm.image_token_id, "text": text}


@pytest.fixture(scope="module")
def models(blip, llava):
    """A wrapper in a number format; or, `rounded`, in float32 with weights of that format."""

    @cache
    def whole_of(name, dtype, rounded):
        if dtype == torch.float32:
            shipped = {"blip": blip, "llava": llava}.get(name)
            return wrap(zoo.smaller(shipped.module), shipped.processor, name) if shipped else wrap(*zoo.make(name), name)
        whole = whole_of(name, torch.float32, False)
        module = copy.deepcopy(whole.module).to(dtype)
        return wrap(module.float() if rounded else module, whole.processor, name)

    @cache
    def make(wrapper, dtype=torch.float32, rounded=False):
        name, part = MODELS[wrapper]
        whole, inputs = whole_of(name, dtype, rounded), {}
        for number, question in product((0, 1), (0, 1)):
            given = dict(whole.processed(whole.template(QUESTIONS[question])[0], whole.square(pictures()[number])))
            floats = {key: value.to(dtype).to(whole.dtype) for key, value in given.items() if value.is_floating_point()}
            inputs[number, question] = given | floats
        vlm = part_of(whole, part) if part else whole
        return Model(wrapper, vlm, raw_model(whole.module, part), inputs)

    return make


@dataclass(frozen=True)
class Case:
    """A pair of a model under a corruption, in a direction: as the project takes it, and as runs of the module."""

    model: Model
    example: Example
    source: Run
    base: Run

    @property
    def vlm(self):
        return self.model.vlm

    @property
    def raw(self):
        return self.model.raw

    @cached_property
    def captured(self):
        return capture(self.vlm, [self.example], self.vlm.architecture.components)

    @cached_property
    def states(self):
        """Every site's state in the two runs, by hooks."""
        names = [(component, number) for component in self.raw.sites for number in self.raw.numbers(component)]
        return tuple(self.raw.run(run, keep=names)[1] for run in (self.source, self.base))

    @property
    def positions(self):
        """Some positions that both kinds of corruption reach."""
        tokens = self.example.ids.shape[1]
        return (tokens - 1, *{tokens // 2, tokens - 4} - {tokens - 1}) if tokens > 4 else (0,)

    def pick(self, component):
        """A layer among the last that have a component, and a head."""
        return self.raw.numbers(component)[-2 if len(self.raw.numbers(component)) > 1 else 0], 1


def case_of(model, corruption, direction):
    vlm, entry = model.vlm, CORRUPTIONS[corruption]
    image, question = (int(entry.modality == modality and not entry.embeddings) for modality in ("image", "text"))
    pixels = vlm.pixels([pictures()[0], pictures()[image]])
    ids = vlm.ids([vlm.prompt(QUESTIONS[0]), vlm.prompt(QUESTIONS[question])])
    clean, corrupt = Run(model.inputs[0, 0]), Run(model.inputs[image, question])
    noise = None
    if entry.embeddings:
        noise, change = changed_embeddings(model, entry.embeddings, entry.modality)
        corrupt = replace(corrupt, embeddings={entry.modality: change})
    if direction == "denoising":
        return Case(model, Example(ids, pixels, ANSWERS, noise=noise).on(vlm), clean, corrupt)
    pixels = {name: values.flip(0) for name, values in pixels.items()}
    return Case(model, Example(ids.flip(0), pixels, ANSWERS, noise=noise, base="clean").on(vlm), corrupt, clean)


def changed_embeddings(model, becomes, modality):
    """What becomes of the embeddings: as the project makes it, and as a change of the module's."""
    vlm, there = model.vlm, model.places[modality]
    pair = SimpleNamespace(clean_question=QUESTIONS[0], sample={"sample_id": "a sample"})
    assert vlm.embedded_positions(modality, vlm.prompt(QUESTIONS[0])).tolist() == there.tolist()
    if becomes == "noisy":
        noise = draw_noise(vlm, pair, modality, sigma=1.0, seed=0, draw=0)
        added = noise.values[there]
        assert added.std().item() == pytest.approx(1, abs=0.2)

        def change(states):
            states = states.clone()
            states[:, there] += added
            return states
    else:
        by, mean = torch.zeros(1, 1), None
        if becomes == "mean":
            samples = [{"question": QUESTIONS[0], "clean_image": image} for image in pictures()]
            mean = embedding_mean(vlm, samples, modality)
            of_runs = torch.stack([model.raw.read_embeddings(Run(model.inputs[number, 0]), modality)[there] for number in (0, 1)])
            by = of_runs.mean(0) if modality == "image" else of_runs.flatten(0, 1).mean(0, keepdim=True)
        noise = replaced(vlm, pair, modality, mean)

        def change(states):
            states = states.clone()
            states[:, there] = by.to(states.dtype)
            return states

    return noise, change


def numbers_of(logits):
    logits = logits.float()
    return torch.stack([*logits[list(ANSWERS)], logits.logsumexp(-1)])


# ---------------------------------------------------------------------- the methods
# Each gives, of a case, what the fast path measures of some things, how the slow one does, and what hooks do.


def patched(case, patch):
    """By hooks."""
    source, _ = case.states
    numbers = [number for number in patch.layers if number in case.raw.numbers(patch.component)]
    columns, at = case.raw.columns(patch.head), list(patch.positions)
    put = {
        (patch.component, number): lambda state, number=number: with_columns(state, source[patch.component, number], columns, at)
        for number in numbers
    }
    return numbers_of(case.raw.run(case.base, put)[0])


def of_patches(case, every):
    (fast,) = sweep(case.vlm, case.captured, [every])
    slow = [partial(patching.run_plain, case.vlm, case.example, patch) for patch in every]
    return list(fast), slow, [patched(case, patch) for patch in every]


def module_patching(case):
    """Windows of two layers."""
    components = case.vlm.architecture.components
    layers = {name: (max(case.pick(name)[0] - 1, 0), case.pick(name)[0]) for name in components}
    return of_patches(case, [Patch(name, layers[name], None, case.positions) for name in components])


def head_patching(case):
    """One layer, and a window."""
    every = []
    for name in case.vlm.architecture.attention:
        layer, head = case.pick(name)
        every += [Patch(name, (layer,), head, case.positions), Patch(name, (layer, layer + 1), head - 1, case.positions[:1])]
    return of_patches(case, [patch for patch in every if max(patch.layers) < case.vlm.n_layers])


def path_patching(case):
    """From the component whose heads the papers patch to every one, and to the answer."""
    raw, vlm, (source, base) = case.raw, case.vlm, case.states
    sending, head = vlm.architecture.head_component, 1
    layer = raw.numbers(sending)[0]
    z = {name: state for name, state in base.items() if name[0] in vlm.architecture.attention}
    every = tuple(range(case.example.ids.shape[1]))
    sent = with_columns(base[sending, layer], source[sending, layer], raw.columns(head))
    fast, slow, hooked = [], [], []
    for receiving in vlm.architecture.attention:
        later = next(number for number in raw.numbers(receiving) if number > layer)
        inputs = raw.projections[receiving]
        receivers = [Receiver(Head(later, 2)), Receiver(Head(later, 3), list(inputs)[-1]), Receiver(None)]
        asked = Paths(Ends(sending, receiving), (Head(layer, head),), tuple(receivers), every)
        fast += [*run_paths(vlm, case.captured, asked)[0]]
        for receiver in receivers:
            slow.append(partial(paths.run_plain, vlm, case.example, replace(asked, receivers=(receiver,))))
            names = (receiver.input,) if receiver.input else tuple(inputs)
            end = receiver.head and (receiving, later, receiver.head.number, names)
            hooked.append(numbers_of(on_path(raw, case.base, z, sent, (sending, layer), end)))
    return fast, slow, hooked


def head_ablation(case):
    """z of the corrupt run put into the clean one: of two heads, and of all of a layer."""
    raw, vlm, (source, _) = case.raw, case.vlm, case.states
    fast, slow, hooked = [], [], []
    for component in vlm.architecture.attention:
        numbers = raw.numbers(component)
        put_in = case.captured.states[component][0, SOURCE]
        sets = [{(numbers[0], 1), (numbers[-1], 0)}, {(numbers[0], head) for head in range(raw.heads)}]
        ablated = torch.zeros(len(sets), vlm.n_layers, vlm.n_heads, dtype=torch.bool)
        for row, heads in zip(ablated, sets, strict=True):
            row[tuple(zip(*heads, strict=True))] = True
        fast += [*run_ablated(vlm, case.captured, component, ablated, put_in)[0]]
        for row, heads in zip(ablated, sets, strict=True):
            slow.append(partial(ablation.run_plain, vlm, case.example, component, row, put_in))
            put = {}
            for number, head in heads:
                before = put.get((component, number), lambda z: z)
                other, columns = source[component, number], raw.columns(head)
                put[component, number] = lambda z, b=before, other=other, columns=columns: with_columns(b(z), other, columns)
            hooked.append(numbers_of(raw.run(case.base, put)[0]))
    return fast, slow, hooked


def by_head(case, products):
    return products.unflatten(-1, (case.raw.heads, -1)).sum(-1)


def attribution_patching(case):
    """The gradient at the base run and, where the inputs are corrupt, the mean of two on the way to the source run's z."""
    raw, vlm, (source, base) = case.raw, case.vlm, case.states
    fast, slow, hooked = [], [], []
    for component in vlm.architecture.attention:
        number = case.pick(component)[0]
        change = (source[component, number] - base[component, number]).float()

        def gradient(share, name=(component, number), change=change):
            z = (base[name] + share * change.to(base[name])).requires_grad_()
            logits, _ = raw.run(case.base, {name: constant(z)}, grad=True)
            (logits[ANSWERS[0]] - logits[ANSWERS[1]]).backward()
            return z.grad.float()

        points = ((1 - 3**-0.5) / 2, (1 + 3**-0.5) / 2)  # Gauss and Legendre's two, between 0 and 1
        for steps in (0, 2) if case.example.noise is None else (0,):
            slope = sum(map(gradient, points)) / 2 if steps else gradient(0)
            of_layers = (
                integrated_attribution(vlm, case.captured, component, steps) if steps else attribution(vlm, case.captured, component)
            )
            fast.append(of_layers[number])
            slow.append(partial(attributing.run_plain, vlm, case.example, component, number, steps))
            hooked.append(by_head(case, change * slope)[0])
    return fast, slow, hooked


def attention_knockout(case):
    """Some keys and all of them, in one layer and in all, at some positions and at one that is left nothing to see."""
    vlm, raw, positions = case.vlm, case.raw, case.positions
    keys = dict.fromkeys(vlm.architecture.attention, positions[1:] or (0,))
    if any(attention.image_keys == "after_class_token" for attention in vlm.architecture.attention.values()):
        keys["cross_attention"] = (0, 3, 5)
    if any(attention.image_keys == "all" for attention in vlm.architecture.attention.values()):
        keys["cross_attention"] = None
    layers, layer = tuple(range(vlm.n_layers)), case.pick(vlm.architecture.head_component)[0]
    tokens = tuple(range(case.example.ids.shape[1]))
    blocks = [Block((layer,), positions[:1], keys), Block(layers, positions, {"self_attention": tokens})]
    blocks += [Block(layers, tokens, {"cross_attention": None})] if "cross_attention" in keys else []
    fast = sweep_blocks(vlm, case.captured, blocks)
    slow = [partial(knockout.run_plain, vlm, case.example, block) for block in blocks]
    with eager(raw.module):
        return list(fast), slow, [numbers_of(blocked(raw, case.base, b.layers, b.queries, b.keys)) for b in blocks]


def direct_effects(case):
    """RMSNorm at its scale in the run itself; a head by its columns of W_O."""
    raw, vlm = case.raw, case.vlm
    found = of_example(vlm, case.example)
    decoder = attrgetter(raw.layers.rpartition(".")[0])(raw.module)
    state = {name: value[0, -1] for name, value in case.states[0].items()}
    last = state["block", vlm.n_layers - 1]
    epsilon = decoder.norm.variance_epsilon
    unembedding = raw.module.get_output_embeddings().weight
    direction = decoder.norm.weight * (unembedding[ANSWERS[0]] - unembedding[ANSWERS[1]]) / (last.pow(2).mean() + epsilon).sqrt()
    number, head = case.pick("self_attention")
    columns = raw.columns(head)
    of_head = raw.layer(number).self_attn.o_proj.weight[:, columns] @ state["self_attention", number][columns] @ direction
    fast = [torch.tensor(found["head_effect"][number, head]), torch.tensor(found["mlp_effect"][number])]
    slow = [partial(direct_effect.run_plain, vlm, case.example, number, which) for which in (head, None)]
    return fast, slow, [of_head, state["mlp", number] @ direction]


def attention_patterns(case):
    vlm, raw = case.vlm, case.raw
    fast, slow, hooked = [], [], []
    with eager(raw.module):
        for component in vlm.architecture.attention:
            number, _ = case.pick(component)
            seen = []
            target = attrgetter(raw.attentions[component])(raw.layer(number))
            handle = target.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(output[1][0]))
            raw.run(case.source)
            handle.remove()
            pixels = {name: values[:1] for name, values in case.example.pixels.items()}
            fast.append(capture_attention(vlm, case.example.ids[:1], pixels, component)[number])
            slow.append(partial(attention.run_plain, vlm, case.example, component, number))
            hooked += seen
    return fast, slow, hooked


@contextmanager
def eager(module):
    """Attention computed in the way that gives its probabilities."""
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    try:
        yield
    finally:
        module.set_attn_implementation(before)


# ---------------------------------------------------------------------- what is supported


class Supported(Exception):
    """A verb that went on to choose samples has refused nothing."""


@dataclass(frozen=True)
class Method:
    """A method: how it is held against hooks, and its verb.

    Attributes
    ----------
    direction : that it has where it does not follow the study's: it changes clean runs alone
    corrupts : corrupt runs are of it
    """

    hold: object
    verb: object
    direction: str = ""
    corrupts: bool = True


def first_head(study):
    component = study.vlm.architecture.head_component
    return f"L{next(n for n in range(study.vlm.n_layers) if component in study.vlm.components_of(n))}.H1"


def ablate(study):
    ranking = study.options.out / "ranking.csv"
    layer, head = first_head(study)[1:].split(".H")
    ranking.write_text(f"layer,head\n{layer},{head}\n")
    return ablate_heads(study, HeadAblation(ranking=ranking, replacements=("corrupt",)))


METHODS = {
    "module patching": Method(module_patching, patch_modules),
    "head patching": Method(head_patching, patch_heads),
    "path patching": Method(
        path_patching, lambda study: patch_paths(study, PathPatching(senders=(first_head(study),), receivers=("answer",)))
    ),
    "attribution patching": Method(attribution_patching, attribute_heads),
    "head ablation": Method(head_ablation, ablate, "noising"),
    "attention knockout": Method(attention_knockout, knock_out, "noising", corrupts=False),
    "direct effects": Method(direct_effects, write_direct_effects, "denoising", corrupts=False),
    "attention patterns": Method(attention_patterns, write_attention, "denoising", corrupts=False),
}


ROWS = [  # method, corruption and direction; a method of clean runs has one
    (name, corruption, direction)
    for name, method in METHODS.items()
    for corruption in (KINDS.values() if method.corrupts else ["sip"])
    for direction in (["denoising"] if method.direction else ["denoising", "noising"])
]
SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def refusal(method, model, corruption, direction, shapes, out):
    """Why the program does not run a method so; "" where it does."""
    options = Options(
        model=model.wrapper, out=out, corruption=corruption, direction=direction, part=MODELS[model.wrapper][1], keep_wrong=True
    )
    study = Study(options, model.vlm, "shapes", shapes, "", {}, out)
    try:
        with mock.patch.object(Choosing, "_usable", side_effect=Supported):
            method.verb(study)
    except Supported:
        return ""
    except (ValueError, LeftOut) as reason:
        return str(reason)
    raise AssertionError("a verb wrote a file without samples")


# ---------------------------------------------------------------------- held

RECORD: dict[oracle_table.Cell, str] = {}  # why a cell is refused; "" where it is held


def compared(name, case, again, rounding=0.0):
    """Hold all numbers of a method against hooks; `again` those of the slow path too. Why the method refuses the model, if it does.

    Parameters
    ----------
    rounding : of the model's numbers, where they are of 16 bits
    """
    try:
        fast, slow, hooked = METHODS[name].hold(case)
    except NotAdditiveError as error:
        return str(error)
    base = numbers_of(case.raw.run(case.base)[0])
    effect = max(float((one - base if one.shape == base.shape else one).abs().max()) for one in hooked)
    assert effect > 3e-4, "nothing that was measured differs from the base run"
    tolerance = {"atol": min(8 * rounding, effect / 3), "rtol": 0} if rounding else {"atol": 5e-5, "rtol": 1e-4}
    for one, plain, expected in zip(fast, slow, hooked, strict=True):
        torch.testing.assert_close(one.float(), expected.float(), **tolerance)
        if again:
            torch.testing.assert_close(plain().float(), expected.float(), **tolerance)
    return ""


@pytest.mark.parametrize("wrapper", MODELS)
@pytest.mark.parametrize("corruption", KINDS.values())
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_what_is_measured_agrees_with_raw_hooks(models, shapes, tmp_path, wrapper, corruption, direction):
    model, cases = models(wrapper), {}
    for name, method in METHODS.items():
        if (name, corruption, direction) not in ROWS:
            continue
        ran = method.direction or direction
        reason = refusal(method, model, corruption, direction, shapes, tmp_path)
        if not reason:
            cases.setdefault(ran, case_of(model, corruption, ran))
            again = direction == "denoising" and CORRUPTIONS[corruption].embeddings in ("", "noisy")
            reason = compared(name, cases[ran], again)
        RECORD[name, corruption, direction, wrapper, "float32"] = reason


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def order_of(cell):
    method, corruption, direction, wrapper, dtype = cell
    places = (list(METHODS), list(KINDS.values()), list(MODELS), ["float32", *map(name_of, SIXTEEN_BITS)])
    return (*map(list.index, places, (method, corruption, wrapper, dtype)), direction)


@pytest.mark.parametrize("wrapper", MODELS)
@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_16_bits_agree_with_raw_hooks_but_for_rounding(models, shapes, tmp_path, wrapper, dtype):
    """Rounding is what hooks give in 16 bits against float32 with the same weights; batches of other sizes round a few times otherwise. All
    of it must be small beside the effects."""
    model, exact = models(wrapper, dtype), models(wrapper, dtype, rounded=True)
    logits, of_float32 = (one.raw.run(Run(one.inputs[1, 0]))[0].float() for one in (model, exact))
    for name, method in METHODS.items():
        reason = refusal(method, model, "sip", "denoising", shapes, tmp_path)
        if not reason:
            case = case_of(model, "sip", method.direction or "denoising")
            reason = compared(name, case, again=dtype == torch.bfloat16, rounding=float((logits - of_float32).abs().max()))
        RECORD[name, "sip", "denoising", wrapper, name_of(dtype)] = reason


def test_every_supported_cell_is_held_and_the_table_says_so(request):
    tests = [item for item in request.session.items if item.path == request.path]
    if len(tests) <= len(MODELS) * (2 * len(KINDS) + len(SIXTEEN_BITS)):
        pytest.skip("the table is of all tests of this file")
    cells = {(*row, wrapper, "float32") for row, wrapper in product(ROWS, MODELS)}
    cells |= {(method, "sip", "denoising", wrapper, name_of(dtype)) for method, wrapper, dtype in product(METHODS, MODELS, SIXTEEN_BITS)}
    assert not cells - RECORD.keys(), "open cells"
    oracle_table.check({cell: RECORD[cell] for cell in sorted(RECORD, key=order_of)})
