"""The papers' claims, one entry each: what it says, how it is tested, on which models, and the judge with its parameters.

A new claim is one entry. The judges are in `layers` (thirds of the layers), `largest` (largest effects), `universal` (universal heads),
`functions` (what heads do) and `effects` (accuracy, cost of heads, ranks).
"""

from functools import partial

from analysis.claims import effects, functions, largest, layers, universal
from analysis.claims.claim import (
    ALL_MODELS,
    BASU,
    BEST_PRACTICES,
    DECODERS,
    ENCODERS,
    NOTICE,
    PALIT,
    ZHANG,
    Claim,
    Models,
)
from analysis.claims.subject import SIP, Patching
from analysis.corruptions.statistics import NOISE, TEST
from analysis.store.folder import head_name

WINDOW = 3
ABOVE = "holds when above 0, does not hold when below"
ITS_INTERVAL_ABOVE = "holds when its interval lies above 0, does not hold when below"
MOST = "holds when its interval lies above 0.5, does not hold when below"
BOTH_ABOVE = "holds when both intervals lie above 0, does not hold when one lies below"
CHOSEN = "the cell is chosen on one half of the samples and measured on the other, then the other way round, and the mean interval decides"
CHOSEN_AGAINST_EACH = (
    "the cell that one half chooses is held against each of the others in the other half, and the mean interval of both halves decides"
)
JUDGED = "by the tests and floors of head_functions"
OF_UNIVERSAL = f"functions of the universal heads over all tasks, {JUDGED}"
DETECTION, OBJECTS, OUTLIERS = "object_detection", "object_suppression", "outlier_suppression"


def _named(model: str, kind: str, models: Models, *heads: tuple[int, int]) -> Claim:
    return Claim(
        f"notice-{model.lower()}-{kind}",
        NOTICE,
        "tables of universal attention heads",
        f"{model}'s universal {kind} heads are {' '.join(head_name(*head) for head in heads)}",
        "share of the heads named that are universal of this kind here by NOTICE's rule (mean |LD| at least mean + 2 SD in every task): "
        "holds when its interval over resamples lies wholly at 0.5 or above, does not hold when wholly below",
        models,
        partial(universal.named, kind=kind, heads=heads),
        each_dataset=False,
        papers_model_only=True,
    )


def _exist(kind: str, under: str) -> Claim:
    return Claim(
        f"notice-universal-{kind}",
        NOTICE,
        "abstract; tables of universal attention heads",
        f"some heads are {kind} heads: important in every task under {under}",
        "the number of such heads by NOTICE's rule: holds when its interval over resamples is 1 or more and one of them has effects of one "
        "sign in every task beyond chance (robust_heads: q <= 0.05 under each corruption that makes the kind); does not hold when none is "
        "found and each head is clearly none: its interval, Bonferroni's over tasks, lies below the threshold in a task that makes the "
        "kind or, for vision and text, above it in every task under the other corruption",
        ALL_MODELS,
        partial(universal.exist, kind=kind),
        each_dataset=False,
    )


def _named_function(head: tuple[int, int], what: str, *of_datasets: str) -> Claim:
    return Claim(
        f"notice-blip-{head_name(*head)}-function",
        NOTICE,
        "head functions of BLIP",
        f"{head_name(*head)} does {what}",
        f"whether it does that in every task, {JUDGED}: holds when in all, does not hold when not in one; undecided where that cannot be "
        "judged (objects without masks) or the floors are passed and the tests are not",
        ENCODERS,
        partial(functions.named_head_has, head=head, functions=dict(zip(NOTICE.data, of_datasets, strict=True))),
        each_dataset=False,
        papers_model_only=True,
    )


def _some_do(function: str) -> Claim:
    name = function.replace("_", " ")
    return Claim(
        f"notice-blip-{name.replace(' ', '-')}",
        NOTICE,
        "abstract",
        f"among BLIP's universal cross-attention heads, some do {name}",
        f"{OF_UNIVERSAL}: holds when one has it, does not hold when none has it; undecided where it cannot be judged, or the floors are "
        "passed and the tests are not",
        ENCODERS,
        partial(functions.universal_heads_have, quantity=functions.SOME, functions=(function,)),
        each_dataset=False,
    )


def _accuracy(model: str, models: Models, dataset: str, name: str, published: float) -> Claim:
    return Claim(
        f"notice-accuracy-{model.lower()}-{dataset}",
        NOTICE,
        "accuracy by exact match",
        f"{model} answers {100 * published:.2f} % of the questions on {name} correctly",
        f"accuracy by exact match: holds when its interval lies within {100 * effects.MARGIN:.0f} points of that, does not hold when "
        "outside",
        models,
        partial(effects.accurate, published=published),
        papers_model_only=True,
        papers_data=(dataset,),
    )


def _token(model: str, models: Models, component: str, token: str) -> Claim:
    return Claim(
        f"notice-{model.lower()}-token",
        NOTICE,
        "choice of the token for head-wise patching",
        f"{model}'s {component.replace('_', '-')} acts at {token}",
        "largest mean LD in size under sip, of any layer, at this role less that at all others, paired over samples; "
        f"{CHOSEN_AGAINST_EACH}: {ABOVE}",
        models,
        partial(largest.largest, cells=partial(largest.main_token_and_others, component=component)),
    )


def _noise(component: str, models: Models) -> Claim:
    return Claim(
        f"notice-noise-{component}",
        NOTICE,
        "Figure 4",
        f"Gaussian noise's effect ({component}) is confined to the last layers; that of SIP and STR is not",
        f"share of the sum of mean |LD| that the last third of the layers has; {TEST.format(layers.MOST)}",
        models,
        partial(layers.confined_by_noise, component=component),
    )


def _late(name: str, what: str, component: str, window: int = 1, part: str = "") -> Claim:
    return Claim(
        f"palit-late-{name}",
        PALIT,
        "causal tracing for BLIP: states restored under Gaussian noise",
        f"only the last layers' {what}",
        f"share of the sum of mean |restored probability| that the last third of the layers has under gaussian_noise: {MOST}",
        ENCODERS,
        partial(layers.mostly_late, component=component, window=window, part=part),
    )


def _early(component: str, name: str) -> Claim:
    return Claim(
        f"basu-early-{component}",
        BASU,
        "abstract; MultimodalCausalTrace of LLaVA",
        f"{name} of early layers hold what the visual constraint needs",
        "mean restored probability of a layer at the constraint's tokens (window of 3), early less middle and early less late third, "
        f"paired over samples: {BOTH_ABOVE}",
        DECODERS,
        partial(layers.more_in, third="early", by_layer=partial(layers.probability_restored, component=component, window=WINDOW)),
    )


def _most_drop(name: str, says: str, third: str, edge: str, others: str) -> Claim:
    return Claim(
        f"zhang-{name}",
        ZHANG,
        "abstract; attention knockout",
        says,
        f"mean drop of P(answer) with {edge} blocked around a layer, {others}: {BOTH_ABOVE}",
        DECODERS,
        partial(layers.more_in, third=third, by_layer=partial(layers.drop, edge=edge)),
    )


def _later(name: str, says: str, late: str, early: str) -> Claim:
    return Claim(
        f"zhang-{name}",
        ZHANG,
        "abstract; attention knockout",
        says,
        f"centre of the drop over layers, {late} less {early}: {ITS_INTERVAL_ABOVE}; undecided unless both edges' mean drops over layers "
        "lie clearly above 0",
        DECODERS,
        partial(layers.later, late=late, early=early),
    )


def _ranks(name: str, says: str, one: Patching, other: Patching, source: str) -> Claim:
    return Claim(
        f"best-practices-{name}",
        BEST_PRACTICES,
        source,
        says,
        f"Spearman's rank correlation of mean |LD| of heads, {one} and {other}, beside random halves of {one}'s samples: holds when its "
        "interval lies below that of the halves, does not hold when it lies at their mean or above",
        ALL_MODELS,
        partial(effects.ranked_differently, one=one, other=other),
    )


CLAIMS = (
    _named("BLIP", "vision", ENCODERS, (5, 3)),
    _named("BLIP", "multimodal", ENCODERS, (3, 0)),
    _named("BLIP", "text", ENCODERS, (0, 11)),
    _named(
        *("LLaVA", "vision", DECODERS),
        *((15, 5), (16, 18), (14, 4), (15, 8), (18, 26), (17, 0)),
        *((17, 22), (14, 28), (19, 4), (15, 14), (17, 13), (20, 28)),
    ),
    _named("LLaVA", "multimodal", DECODERS, (28, 7), (31, 27), (16, 24), (19, 15), (18, 30), (18, 10), (21, 30)),
    _named("LLaVA", "text", DECODERS, (22, 16), (29, 19)),
    _exist("vision", "image corruption only"),
    _exist("text", "text corruption only"),
    _exist("multimodal", "both corruptions"),
    Claim(
        "notice-vision-heads-middle",
        NOTICE,
        "tables of universal attention heads (BLIP L5 of 12; LLaVA L14 to L20 of 32)",
        "vision heads lie in the middle third of the layers",
        f"share of the vision heads that lie in the middle third: {MOST}",
        ALL_MODELS,
        partial(universal.mostly_in_the_middle, kind="vision"),
        each_dataset=False,
    ),
    Claim(
        "notice-consistent",
        NOTICE,
        "abstract",
        "universal heads consistently contribute across tasks and modalities",
        "heads that NOTICE's rule names, which takes |effect|, against the signed rule with corrected p-values (robust_heads): holds when "
        "all hold up, does not hold when none does",
        ALL_MODELS,
        universal.hold_up,
        each_dataset=False,
    ),
    Claim(
        "notice-middle-cross-attention",
        NOTICE,
        "abstract of version 1",
        "cross-attention heads of the middle layers matter most to the image",
        "mean |LD| of a cross-attention head under sip, middle less early and middle less late third, paired over samples: " + BOTH_ABOVE,
        ENCODERS,
        partial(layers.more_in, third="middle", by_layer=layers.head_effects),
    ),
    Claim(
        "notice-last-token",
        NOTICE,
        "head-wise patching of LLaVA",
        "LLaVA's heads act at the last prompt token (\"Assistant:\"; mean LD up to 0.4), not at the correct answer's (at most 0.016)",
        f"largest mean LD of a head under sip at the last token less that at the correct answer's; {CHOSEN_AGAINST_EACH}: {ABOVE}",
        DECODERS,
        partial(largest.largest, cells=partial(largest.heads_at_tokens, token="last", other="correct")),
    ),
    Claim(
        "notice-heads-matter",
        NOTICE,
        "abstract",
        "the heads with the largest effects contribute to the answer",
        "logit difference that is lost beyond random heads of the same layers, when the highest-ranked heads are knocked out of the clean "
        f"run, mean over the sizes of the sets: {ITS_INTERVAL_ABOVE}",
        ALL_MODELS,
        effects.ranked_heads_cost_more,
    ),
    _named_function((3, 0), "object detection in all tasks", DETECTION, DETECTION, DETECTION),
    _named_function((5, 3), "object suppression (SVO-Probes, MIT-States) and outlier suppression (faces)", OBJECTS, OBJECTS, OUTLIERS),
    _named_function((0, 11), "outlier suppression in all tasks", OUTLIERS, OUTLIERS, OUTLIERS),
    _some_do(DETECTION),
    _some_do(OBJECTS),
    _some_do(OUTLIERS),
    Claim(
        "notice-llava-outlier-suppression",
        NOTICE,
        "abstract; head functions of LLaVA",
        "LLaVA's universal multimodal heads do outlier suppression",
        f"functions of the universal multimodal heads over all tasks, {JUDGED}: holds when all have it, does not hold when one has not",
        DECODERS,
        partial(functions.universal_heads_have, quantity=functions.ALL, functions=(OUTLIERS,), kinds=("multimodal",)),
        each_dataset=False,
    ),
    Claim(
        "notice-llava-no-grounding",
        NOTICE,
        "abstract",
        "LLaVA's important self-attention heads do not ground the image",
        f"{OF_UNIVERSAL}: holds when none detects or suppresses objects, does not hold when one does",
        DECODERS,
        partial(functions.universal_heads_have, quantity=functions.NONE, functions=(DETECTION, OBJECTS)),
        each_dataset=False,
    ),
    _accuracy("BLIP", ENCODERS, "svo_probes", "SVO-Probes", 0.1610),
    _accuracy("BLIP", ENCODERS, "mit_states", "MIT-States", 0.4460),
    _accuracy("BLIP", ENCODERS, "fer2013", "faces", 0.6610),
    _accuracy("LLaVA", DECODERS, "svo_probes", "SVO-Probes", 0.4089),
    _accuracy("LLaVA", DECODERS, "mit_states", "MIT-States", 0.6781),
    _accuracy("LLaVA", DECODERS, "fer2013", "faces", 0.7931),
    _token("BLIP", ENCODERS, "cross_attention", "the correct answer's token"),
    _token("LLaVA", DECODERS, "self_attention", "the last prompt token"),
    _noise("mlp", ALL_MODELS),
    _noise("self_attention", ALL_MODELS),
    _noise("cross_attention", ENCODERS),
    _noise("block", ALL_MODELS),
    _late("states", "states of the question encoder matter", "block"),
    _late("self-attention", "self-attention (window of 3) matters", "self_attention", WINDOW),
    _late("cross-attention", "cross-attention (window of 3) matters", "cross_attention", WINDOW),
    _late("decoder", "states of the answer decoder matter", "block", part="decoder"),
    Claim(
        "palit-all-tokens",
        PALIT,
        "abstract",
        "later layers' states matter for all tokens",
        "at each token role, mean |restored probability| of a layer under gaussian_noise, late less early third, paired over samples (sign "
        "flips, Holm over roles, 0.05): holds when more at every role, does not hold when less at one",
        ENCODERS,
        partial(layers.late_at_every_role, component="block"),
    ),
    _early("mlp", "MLPs"),
    _early("self_attention", "self-attention blocks"),
    Claim(
        "basu-window",
        BASU,
        "MultimodalCausalTrace of LLaVA: size of the window",
        "effects appear when 3 layers are restored together",
        "largest mean restored probability over layers (MLP, the constraint's tokens), window of 3 less single layer, paired over samples; "
        f"{CHOSEN_AGAINST_EACH}: {ABOVE}",
        DECODERS,
        partial(largest.largest, cells=partial(largest.window_and_layers, window=WINDOW)),
    ),
    Claim(
        "basu-visual-tokens",
        BASU,
        "abstract",
        "a consistent small subset of the visual tokens passes the image's information on",
        "share of the attention to the image, in the early third of the layers, on the tenth of the patches that has most of it in the "
        f"other half of the samples: {MOST}. Attention, not the paper's attention contributions, and from the query token of attention.nc",
        DECODERS,
        largest.few_patches,
    ),
    _most_drop(
        "lower-layers",
        "in lower layers, general information of the whole image goes to the question's tokens",
        *("early", "background:question", "early less middle and early less late third"),
    ),
    _most_drop(
        "middle-layers",
        "in middle layers, information on the object asked about goes to the question's tokens",
        *("middle", "object:question", "middle less early and middle less late third"),
    ),
    _later(
        "two-stages",
        "the object's information goes to the question after the rest of the image's",
        *("object:question", "background:question"),
    ),
    _later(
        "higher-layers",
        "the question's tokens pass the answer on to the last token in higher layers than those in which they read the image",
        *("question:last", "image:question"),
    ),
    Claim(
        "zhang-indirectly",
        ZHANG,
        "abstract; attention knockout",
        "the image reaches the last token through the question, hardly directly",
        f"largest mean drop over layers, image:question and question:last, each less image:last; {CHOSEN_AGAINST_EACH}: {BOTH_ABOVE}",
        DECODERS,
        partial(largest.largest, cells=partial(largest.edges_and_one, edge="image:last", others=("image:question", "question:last"))),
    ),
    _ranks(
        "noise",
        "Gaussian noise and STR find different components",
        *(Patching("str"), Patching(f"{NOISE}_text")),
        "corruption: STR over Gaussian noise",
    ),
    _ranks(
        "direction",
        "denoising and noising find different components",
        *(SIP, Patching("sip", noising=True)),
        "both directions are reported",
    ),
    Claim(
        "best-practices-window",
        BEST_PRACTICES,
        "single layers before sliding windows",
        "a sliding window of layers shows more effect than its layers do one by one",
        "mean LD (MLP, sip) of the window of 3 with the largest effect, less the sum of its three layers' at the same role; "
        f"{CHOSEN}: {ABOVE}",
        ALL_MODELS,
        partial(largest.window_more_than_sum, window=WINDOW),
    ),
)
