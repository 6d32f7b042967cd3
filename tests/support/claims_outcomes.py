"""For each claim of the papers, a folder in which it holds and one in which it does not."""

from collections.abc import Iterator

from tests.support.claims_folders import (
    BLIP,
    BLIP_HEADS,
    EARLY,
    EVEN,
    LATE,
    LLAVA,
    LLAVA_HEADS,
    MIDDLE,
    Write,
    ablation,
    accuracy,
    by_layer_heads,
    functions,
    knockout,
    module,
    patches,
    planted_heads,
    ranked_heads,
    robust,
    with_universal,
)

FLIPPED = {"vision": [(1, 1)], "multimodal": [(2, 2)], "text": [(3, 3)]}
NONE, FIRST, LAST = [0.0] * 6, [0.5, 0.1, 0, 0, 0, 0], [0, 0, 0, 0, 0.1, 0.5]
TASKS = ("svo_probes/verb", "mit_states/colour", "fer2013/happy")
KINDS = ("vision", "text", "multimodal")


def both(*writes: Write) -> Write:
    """One after the other."""
    return lambda folder: [write(folder) for write in writes]


def noisy(noise: list[float], others: list[float], name: str) -> Write:
    """A module under noise, SIP and STR."""
    of = {"gaussian_noise": noise, "sip": others, "str": others}
    return both(*(lambda f, c=c, w=w, s=s: module(f, BLIP, c, name, w, seed=s) for s, (c, w) in enumerate(of.items())))


def one_module(model: str, corruption: str, name: str, by_layer: list[float], dataset: str, **more) -> Write:
    return lambda folder: module(folder, model, corruption, name, by_layer, dataset=dataset, **more)


def two_windows(single: float, window: float) -> Write:
    """The constraint's MLP, restored layer by layer and three at a time."""
    at = {"roles": ["noun"], "dataset": "coco_qa"}
    return both(
        lambda f: module(f, LLAVA, "constraint", "mlp", [single] * 6, **at),
        lambda f: module(f, LLAVA, "constraint", "mlp-window3", [window] * 6, window=3, **at),
    )


def sums(window: float) -> Write:
    """An MLP whose layers do 0.2 each, and so much in windows of 3."""
    return both(
        lambda f: module(f, BLIP, "sip", "mlp", [0.2] * 6, ["noun"]),
        lambda f: module(f, BLIP, "sip", "mlp-window3", [window] * 6, ["noun"], window=3),
    )


def with_function(model: str, function: str, kind: str) -> Write:
    """One universal head with a function."""
    return lambda folder: functions(folder, model, lambda *_: function, {(2, 1): kind}, shape=(6, 4))


def of_named(head: tuple[int, int], *of_tasks: str) -> Write:
    """A head with a function in each of `TASKS`."""
    of = dict(zip(TASKS, of_tasks, strict=True))
    return lambda folder: functions(folder, BLIP, lambda task, _: of[task], {head: "vision"}, tasks=TASKS)


def outcomes() -> Iterator[tuple[str, Write, Write]]:
    """The id of each claim, what writes a folder in which it holds, and one in which it does not."""
    for name, model, published in (("blip", BLIP, BLIP_HEADS), ("llava", LLAVA, LLAVA_HEADS)):
        for kind in KINDS:
            yield (
                f"notice-{name}-{kind}",
                lambda f, m=model, p=published: planted_heads(f, m, p),
                lambda f, m=model: planted_heads(f, m, FLIPPED),
            )
    no_vision_or_text = {"multimodal": [(3, 0)]}
    no_multimodal = {"vision": [(5, 3)], "text": [(0, 11)]}
    for kind in KINDS:
        without = no_multimodal if kind == "multimodal" else no_vision_or_text
        yield f"notice-universal-{kind}", lambda f: with_universal(f, BLIP, BLIP_HEADS), lambda f, w=without: with_universal(f, BLIP, w)
    early = BLIP_HEADS | {"vision": [(0, 3)]}
    yield "notice-vision-heads-middle", lambda f: planted_heads(f, BLIP, BLIP_HEADS), lambda f: planted_heads(f, BLIP, early)
    yield "notice-consistent", lambda f: robust(f, 3), lambda f: robust(f, 0)
    yield (
        "notice-middle-cross-attention",
        lambda f: by_layer_heads(f, BLIP, "sip", MIDDLE),
        lambda f: by_layer_heads(f, BLIP, "sip", EVEN[:3] + LATE[3:]),
    )
    at = {"tokens": ["last", "correct"]}
    last, correct = [[1, 0.01]] * 6, [[0.01, 1]] * 6
    yield (
        "notice-last-token",
        lambda f: by_layer_heads(f, LLAVA, "sip", last, **at),
        lambda f: by_layer_heads(f, LLAVA, "sip", correct, **at),
    )
    yield "notice-heads-matter", lambda f: ablation(f, 1.0), lambda f: ablation(f, -1.0)
    detects, suppresses, spreads = "object_detection", "object_suppression", "outlier_suppression"
    yield "notice-blip-L3.H0-function", of_named((3, 0), detects, detects, detects), of_named((3, 0), detects, detects, "none")
    yield "notice-blip-L5.H3-function", of_named((5, 3), suppresses, suppresses, spreads), of_named((5, 3), suppresses, spreads, spreads)
    yield "notice-blip-L0.H11-function", of_named((0, 11), spreads, spreads, spreads), of_named((0, 11), detects, spreads, spreads)
    for function in (detects, suppresses, spreads):
        yield f"notice-blip-{function.replace('_', '-')}", with_function(BLIP, function, "vision"), with_function(BLIP, "none", "vision")
    yield "notice-llava-outlier-suppression", with_function(LLAVA, spreads, "multimodal"), with_function(LLAVA, "none", "multimodal")
    yield "notice-llava-no-grounding", with_function(LLAVA, spreads, "vision"), with_function(LLAVA, detects, "text")
    for name, model, of_data in (("blip", BLIP, (322, 892, 1322)), ("llava", LLAVA, (818, 1356, 1586))):
        for dataset, number in zip(("svo_probes", "mit_states", "fer2013"), of_data, strict=True):
            right, wrong = (lambda f, m=model, d=dataset, n=n: accuracy(f, m, d, n) for n in (number, number + 300))
            yield f"notice-accuracy-{name}-{dataset}", right, wrong
    for name, model, component in (("blip", BLIP, "cross_attention"), ("llava", LLAVA, "self_attention")):
        token = {"blip": "correct", "llava": "last"}[name]
        here = one_module(model, "sip", component, EVEN, "svo_probes", roles=[token])
        yield f"notice-{name}-token", here, one_module(model, "sip", component, EVEN, "svo_probes", roles=["noun"])
    for component in ("mlp", "self_attention", "cross_attention", "block"):
        yield f"notice-noise-{component}", noisy(LATE, EVEN, component), noisy(LATE if component == "mlp" else EVEN, LATE, component)

    for name, component, more in (
        ("states", "block", {}),
        ("self-attention", "self_attention-window3", {"window": 3}),
        ("cross-attention", "cross_attention-window3", {"window": 3}),
        ("decoder", "block", {"part": "decoder"}),
    ):
        late, even = (one_module(BLIP, "gaussian_noise", component, of, "coco_qa", **more) for of in (LATE, EVEN))
        known = one_module(BLIP, "sip", "mlp", EVEN, "coco_qa")
        yield f"palit-late-{name}", both(known, late), both(known, even)
    late, early_ = (one_module(BLIP, "gaussian_noise", "block", of, "coco_qa") for of in (LATE, EARLY))
    yield "palit-all-tokens", late, both(late, early_)

    for component in ("mlp", "self_attention"):
        early_, late = (
            one_module(LLAVA, "constraint", f"{component}-window3", of, "coco_qa", roles=["noun"], window=3) for of in (EARLY, LATE)
        )
        yield f"basu-early-{component}", early_, late
    yield "basu-window", two_windows(0.1, 1.0), two_windows(1.0, 0.1)
    yield "basu-visual-tokens", lambda f: patches(f, True), lambda f: patches(f, False)

    question, image = "question:last", "image:question"
    drops = {
        "background:question": FIRST,
        "object:question": [0, 0, 0.3, 0.3, 0, 0],
        image: FIRST,
        question: LAST,
        "image:last": [0.01] * 6,
    }
    wrong = {"background:question": LAST, "object:question": FIRST, image: LAST, question: FIRST, "image:last": [0.9] * 6}
    for name in ("lower-layers", "middle-layers", "two-stages", "higher-layers", "indirectly"):
        yield f"zhang-{name}", lambda f: knockout(f, drops), lambda f: knockout(f, wrong)

    for name, one, other in (("noise", "str", "gaussian_noise_text"), ("direction", "sip", "sip-noising")):
        alike = both(lambda f, c=one: ranked_heads(f, c, 1, 2), lambda f, c=other: ranked_heads(f, c, 1, 2))
        differently = both(lambda f, c=one: ranked_heads(f, c, 1, 2), lambda f, c=other: ranked_heads(f, c, 5, 3))
        yield f"best-practices-{name}", differently, alike
    yield "best-practices-window", sums(1.0), sums(0.4)
