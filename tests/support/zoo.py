"""Tiny vision-language models with random weights and working processors, one for each architecture: `make(name)`, `NAMES`.

They are made from configs, with no download. Layouts, special tokens and chat templates are those of the published checkpoints; sizes are
not: a prompt with one image of 64 x 64 pixels has fewer than 150 tokens.
"""

import copy
import importlib
import math
import string
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast, processing_utils
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

from data_prep.scenes.small_models import PUNCTUATION, QUESTION_WORDS, VALUES

WIDTH, FEED_FORWARD, HEADS, LAYERS = 32, 48, 4, 3
TILE, PATCH = 32, 8
WORDS = [*QUESTION_WORDS, *VALUES, "Is", "this", "Answer", "with", "one", "word", "USER", "ASSISTANT", "User", "Assistant"]
WORDS += ["user", "assistant", "model", "system"]
GAIN = 2.0  # of the weights over 1 / sqrt(inputs): the logits depend visibly on image and text

Made = tuple[Any, Any]  # model and processor


def make(name: str) -> Made:
    """The model (eval mode, float32, no gradients) and the processor called `name`, one of `NAMES`; always the same weights."""
    with torch.random.fork_rng(devices=[]), _torchvision():
        torch.manual_seed(0)
        model, processor = _MAKERS[name]()
        _randomize(model)
    tokenizer = processor.tokenizer
    model.generation_config.update(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval().requires_grad_(False), processor


def smaller(model: Any) -> Any:
    """A model of the same kind with few layers and random weights."""
    config = copy.deepcopy(model.config)
    config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers = LAYERS, 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = type(model)(config)
        _randomize(made)
    return made.eval().requires_grad_(False)


@torch.no_grad()
def _randomize(model: Any) -> None:
    for path, weights in model.named_parameters():
        if weights.dim() > 1:
            weights.normal_(0, GAIN / math.sqrt(weights[0].numel()))
        elif path.endswith("bias"):
            weights.normal_(0, 0.1)
        elif "gate" in path:  # Mllama's image reaches the text through gates that start closed
            weights.fill_(1.0)


def _tokenizer(
    specials: Sequence[str], bos: str | None = None, eos: str = "</s>", pad: str = "<pad>", prepend: bool = False, **named: str
) -> PreTrainedTokenizerFast:
    """Words (with and without a space before them) and letters; it puts `bos` before a text, and `prepend`s a space as Llama 2's does."""
    pieces = dict.fromkeys(
        ["<unk>", *(f"▁{word}" for word in WORDS), *WORDS, *string.ascii_letters, *string.digits, *PUNCTUATION, "\n", "▁"]
    )
    core = Tokenizer(models.Unigram([(piece, -10.0 if len(piece) == 1 else -1.0) for piece in pieces], unk_id=0))
    space = normalizers.Replace(" ", "▁")
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prepend else space
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token=eos, pad_token=pad, padding_side="left",
        extra_special_tokens={key: AddedToken(token, special=True, normalized=False) for key, token in named.items()},
        **({} if bos is None else {"bos_token": bos}),
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in specials], special_tokens=True)
    if bos is not None:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
        )
    return tokenizer


@contextmanager
def _torchvision() -> Iterator[None]:
    """Where torchvision is missing, an empty one in its place, for as long as processors are made.

    Classes that the zoo needs import it or are hidden by transformers without it; but they call it for videos only.
    """
    paths = ["torchvision", "torchvision.transforms", "torchvision.transforms.v2", "torchvision.transforms.v2.functional"]
    if is_torchvision_available():
        yield
        return
    for path in paths:
        sys.modules[path] = ModuleType(path)
        parent, _, child = path.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[path])
    try:
        with mock.patch.object(processing_utils.transformers_module, "VideoProcessorMixin", VideoProcessorMixin, create=True):
            yield
    finally:
        for path in paths:
            del sys.modules[path]


def _hidden(module: str, name: str) -> Any:
    """A class of transformers that the package shows only where torchvision is installed."""
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


def _text(tokenizer: PreTrainedTokenizerFast, kv_heads: int = HEADS, layers: int = LAYERS, **more: Any) -> dict[str, Any]:
    """What the configs of all text decoders have in common."""
    ids: dict[str, Any] = {f"{key}_token_id": getattr(tokenizer, f"{key}_token_id") for key in ("bos", "eos", "pad")}
    sizes = {"hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "num_hidden_layers": layers, "num_attention_heads": HEADS}
    return {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "num_key_value_heads": kv_heads, **sizes, **ids, **more}


def _vision(**more: Any) -> dict[str, Any]:
    """What the configs of all vision towers have in common."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "image_size": TILE, "patch_size": PATCH, **more}


def _chat(before: str, image: str, after: str, answer: str, first: str = "") -> str:
    """A chat template: for each turn `before`, its parts in their order, `after`; then `answer`, where the model begins."""
    parts = (
        f"{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
    )
    turns = f"{{% for message in messages %}}{before}{parts}{{% endfor %}}{after}{{% endfor %}}"
    return f"{first}{turns}{{% if add_generation_prompt %}}{answer}{{% endif %}}"


def _clip_tiles() -> dict[str, Any]:
    return {"size": {"shortest_edge": TILE}, "crop_size": {"height": TILE, "width": TILE}}


def _square() -> dict[str, Any]:
    return {"size": {"height": TILE, "width": TILE}}


def _llava_next(text: str, kv_heads: int, chat: str) -> Made:
    tokenizer = _tokenizer([], bos="<s>", prepend=True, image_token="<image>")
    pinpoints = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
    config = transformers.LlavaNextConfig(
        text_config=_text(tokenizer, kv_heads, model_type=text, sliding_window=None),
        vision_config=_vision(model_type="clip_vision_model", projection_dim=WIDTH),
        image_token_index=tokenizer.image_token_id, image_grid_pinpoints=pinpoints, image_seq_length=(TILE // PATCH) ** 2,
    )  # fmt: skip
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessorPil(**_clip_tiles(), image_grid_pinpoints=pinpoints), tokenizer, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=chat,
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config), processor


def llava_next() -> Made:
    return _llava_next("llama", HEADS, _chat("{{ message['role'] | upper }}: ", "{{ '<image>\n' }}", " ", "ASSISTANT:"))


def llava_next_mistral() -> Made:
    return _llava_next("mistral", 2, _chat("[INST] ", "{{ '<image>\n' }}", " [/INST]", ""))


def vipllava() -> Made:
    tokenizer = _tokenizer([], bos="<s>", prepend=True, image_token="<image>")
    config = transformers.VipLlavaConfig(
        text_config=_text(tokenizer, model_type="llama"),
        vision_config=_vision(model_type="clip_vision_model", projection_dim=WIDTH),
        image_token_index=tokenizer.image_token_id, vision_feature_layer=[-1, -2, 0], image_seq_length=(TILE // PATCH) ** 2,
    )  # fmt: skip
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(**_clip_tiles()), tokenizer, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=_chat("###{{ 'Human' if message['role'] == 'user' else 'Assistant' }}: ", "{{ '<image>\n' }}", "", "###Assistant:"),
    )  # fmt: skip
    return transformers.VipLlavaForConditionalGeneration(config), processor


def llava_onevision() -> Made:
    tokenizer = _tokenizer(["<|im_start|>", "<|im_end|>"], eos="<|im_end|>", image_token="<image>", video_token="<video>")
    pinpoints = [[TILE, TILE], [TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
    config = transformers.LlavaOnevisionConfig(
        text_config=_text(tokenizer, 2, model_type="qwen2"),
        vision_config=_vision(model_type="siglip_vision_model", vision_use_head=False),
        image_token_index=tokenizer.image_token_id, video_token_index=tokenizer.video_token_id, image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessorPil(**_square(), image_grid_pinpoints=pinpoints), tokenizer,
        _hidden("llava_onevision.video_processing_llava_onevision", "LlavaOnevisionVideoProcessor")(**_square()),
        num_image_tokens=(TILE // PATCH) ** 2, vision_feature_select_strategy="full",
        chat_template=_chat("<|im_start|>{{ message['role'] }} ", "{{ '<image>\n' }}", "<|im_end|>", "<|im_start|>assistant\n"),
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen(version: str, model: str, vision: dict[str, Any], rope: dict[str, Any], system: bool, video: str, **text: Any) -> Made:
    marks = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>", "image": "<|image_pad|>", "video": "<|video_pad|>"}
    tokenizer = _tokenizer([*marks.values(), "<|im_start|>", "<|im_end|>"], eos="<|im_end|>", pad="<|endoftext|>")
    config = getattr(transformers, f"{model}Config")(
        text_config=_text(tokenizer, 2, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, **rope}, **text),
        vision_config={"depth": 2, "num_heads": 2, "patch_size": PATCH, **vision},
        **{f"{mark}_token_id": tokenizer.convert_tokens_to_ids(token) for mark, token in marks.items()},
    )
    size = {"shortest_edge": (2 * TILE) ** 2, "longest_edge": (3 * TILE) ** 2}
    first = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    processor = getattr(transformers, f"{model.removesuffix('Moe')}Processor")(
        transformers.Qwen2VLImageProcessorPil(size=size, patch_size=PATCH), tokenizer,
        _hidden(f"{version}.video_processing_{version}", video)(),
        chat_template=_chat(
            "<|im_start|>{{ message['role'] }}\n", "<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>\n",
            "<|im_start|>assistant\n", first if system else "",
        ),
    )  # fmt: skip
    return getattr(transformers, f"{model}ForConditionalGeneration")(config), processor


def qwen2_vl() -> Made:
    vision: dict[str, Any] = {"embed_dim": WIDTH, "hidden_size": WIDTH, "mlp_ratio": 2}
    return _qwen("qwen2_vl", "Qwen2VL", vision, {"mrope_section": [1, 1, 2]}, True, "Qwen2VLVideoProcessor")


def qwen2_5_vl() -> Made:
    vision: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "out_hidden_size": WIDTH, "window_size": 4 * PATCH}
    vision |= {"fullatt_block_indexes": [1]}
    return _qwen("qwen2_vl", "Qwen2_5_VL", vision, {"mrope_section": [1, 1, 2]}, True, "Qwen2VLVideoProcessor")


def _qwen3_vl(model: str, **more: Any) -> Made:
    vision: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 64,
    }
    vision |= {"deepstack_visual_indexes": [0, 1]}
    rope = {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return _qwen("qwen3_vl", model, vision, rope, False, "Qwen3VLVideoProcessor", head_dim=8, **more)


def qwen3_vl() -> Made:
    return _qwen3_vl("Qwen3VL")


def qwen3_vl_moe() -> Made:
    return _qwen3_vl("Qwen3VLMoe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=FEED_FORWARD, decoder_sparse_step=1)


_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
_IDEFICS = ["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>", *_TILES]
_IDEFICS_TURN = "{{ message['role'] | capitalize }}{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"


def _idefics(tokenizer: PreTrainedTokenizerFast, model: str, **video: Any) -> Made:
    config = getattr(transformers, f"{model}Config")(
        text_config=_text(tokenizer, 2, model_type="llama"), vision_config=_vision(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    processor = getattr(transformers, f"{model}Processor")(
        getattr(transformers, f"{model}ImageProcessorPil")(size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE}),
        tokenizer, **video, image_seq_len=(TILE // PATCH // 2) ** 2,
        chat_template=_chat(_IDEFICS_TURN, "<image>", "<end_of_utterance>\n", "Assistant:", tokenizer.bos_token),
    )  # fmt: skip
    return getattr(transformers, f"{model}ForConditionalGeneration")(config), processor


def idefics3() -> Made:
    tokenizer = _tokenizer(_IDEFICS, bos="<|begin_of_text|>", eos="<end_of_utterance>")
    return _idefics(tokenizer, "Idefics3")


def smolvlm() -> Made:
    tokenizer = _tokenizer([*_IDEFICS, "<|im_start|>"], eos="<end_of_utterance>", pad="<|im_end|>")
    tokenizer.bos_token = "<|im_start|>"  # in the chat template only
    video = _hidden("smolvlm.video_processing_smolvlm", "SmolVLMVideoProcessor")()
    return _idefics(tokenizer, "SmolVLM", video_processor=video)


def _paligemma(text: str, **more: Any) -> Made:
    tokenizer = _tokenizer(["<bos>"], eos="<eos>", image_token="<image>")
    tokenizer.bos_token = "<bos>"  # which the processor puts between the image and the text
    images: Any = transformers.SiglipImageProcessorPil(**_square())
    images.image_seq_length = (TILE // PATCH) ** 2
    processor = transformers.PaliGemmaProcessor(images, tokenizer)
    config = transformers.PaliGemmaConfig(
        text_config=_text(tokenizer, 1, model_type=text, head_dim=8, **more),
        vision_config=_vision(model_type="siglip_vision_model", vision_use_head=False),
        image_token_index=tokenizer.image_token_id, projection_dim=WIDTH, hidden_size=WIDTH,
    )  # fmt: skip
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def paligemma() -> Made:
    return _paligemma("gemma")


def paligemma2() -> Made:
    return _paligemma("gemma2", sliding_window=512, query_pre_attn_scalar=8)


def gemma3() -> Made:
    tokenizer = _tokenizer(
        ["<start_of_turn>", "<end_of_turn>"], bos="<bos>", eos="<end_of_turn>",
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    config = transformers.Gemma3Config(
        text_config=_text(tokenizer, 2, head_dim=8, sliding_window=512, layer_types=kinds, query_pre_attn_scalar=8),
        vision_config=_vision(model_type="siglip_vision_model", vision_use_head=False, patch_size=PATCH // 2), mm_tokens_per_image=16,
        boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id, image_token_index=tokenizer.image_token_id,
    )  # fmt: skip
    role = "{{ 'model' if message['role'] == 'assistant' else message['role'] }}"
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(**_square()), tokenizer, image_seq_length=16,
        chat_template=_chat(
            f"<start_of_turn>{role}\n", "<start_of_image>", "<end_of_turn>\n", "<start_of_turn>model\n", "{{ bos_token }}"
        ),
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config), processor


def internvl() -> Made:
    tokenizer = _tokenizer(
        ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>", pad="<|endoftext|>",
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    config = transformers.InternVLConfig(
        text_config=_text(tokenizer, 2, model_type="qwen2"),
        vision_config=_vision(image_size=[TILE, TILE], patch_size=[PATCH // 2, PATCH // 2]),
        image_token_id=tokenizer.context_image_token_id, image_seq_length=16,
    )  # fmt: skip
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessorPil(**_square(), max_patches=4), tokenizer,
        _hidden("internvl.video_processing_internvl", "InternVLVideoProcessor")(**_square()), image_seq_length=16,
        chat_template=_chat("<|im_start|>{{ message['role'] }}\n", "{{ '<IMG_CONTEXT>\n' }}", "<|im_end|>\n", "<|im_start|>assistant\n"),
    )  # fmt: skip
    return transformers.InternVLForConditionalGeneration(config), processor


def mistral3() -> Made:
    tokenizer = _tokenizer(["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"], bos="<s>")
    config = transformers.Mistral3Config(
        text_config=_text(tokenizer, 2, model_type="mistral", head_dim=16, sliding_window=None),
        vision_config=_vision(model_type="pixtral", image_size=2 * TILE, head_dim=16),
        image_token_index=tokenizer.get_vocab()["[IMG]"], spatial_merge_size=2, tie_word_embeddings=False,
    )  # fmt: skip
    processor = _hidden("pixtral.processing_pixtral", "PixtralProcessor")(
        transformers.PixtralImageProcessorPil(size={"longest_edge": 2 * TILE}, patch_size=PATCH), tokenizer, patch_size=PATCH,
        spatial_merge_size=2, chat_template=_chat("[INST]", "[IMG]", "[/INST]", "", "{{ bos_token }}"),
    )  # fmt: skip
    return transformers.Mistral3ForConditionalGeneration(config), processor


def _q_former(tokenizer: PreTrainedTokenizerFast, model: str, text: dict[str, Any], q_former: dict[str, Any]) -> Any:
    q_former |= {"hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "num_hidden_layers": 4, "num_attention_heads": HEADS}
    config = getattr(transformers, f"{model}Config")(
        text_config=text, vision_config=_vision(), qformer_config=q_former | {"encoder_hidden_size": WIDTH}, num_query_tokens=6,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return getattr(transformers, f"{model}ForConditionalGeneration")(config)


def instructblip() -> Made:
    tokenizer = _tokenizer([], bos="<s>", prepend=True)
    characters = [*string.ascii_lowercase, *string.digits]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *PUNCTUATION,
        *characters,
        *(f"##{c}" for c in characters),
        *QUESTION_WORDS,
        *VALUES,
    ]
    questions = BertTokenizer(vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))})
    processor = transformers.InstructBlipProcessor(
        transformers.BlipImageProcessorPil(**_square()), tokenizer, questions, num_query_tokens=6
    )
    q_former = {"vocab_size": len(questions)}
    return _q_former(tokenizer, "InstructBlip", _text(tokenizer, model_type="llama"), q_former), processor


def blip_2() -> Made:
    tokenizer = _tokenizer([], bos="</s>")
    processor = transformers.Blip2Processor(transformers.BlipImageProcessorPil(**_square()), tokenizer, num_query_tokens=6)
    text = _text(tokenizer, model_type="opt", ffn_dim=FEED_FORWARD, word_embed_proj_dim=WIDTH)
    return _q_former(tokenizer, "Blip2", text, {}), processor


def mllama() -> Made:
    specials = ["<|image|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"]
    tokenizer = _tokenizer(specials, bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|finetune_right_pad_id|>")
    config = transformers.MllamaConfig(
        text_config=_text(tokenizer, 2, layers=5, cross_attention_layers=[1, 3]),
        vision_config=_vision(
            attention_heads=2, num_global_layers=1, intermediate_layers_indices=[0], vision_output_dim=2 * WIDTH
        ),
        image_token_index=tokenizer.get_vocab()["<|image|>"],
    )  # fmt: skip
    processor = transformers.MllamaProcessor(
        transformers.MllamaImageProcessorPil(**_square()), tokenizer,
        chat_template=_chat(
            "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n", "<|image|>", "<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n", "{{ bos_token }}",
        ),
    )  # fmt: skip
    return transformers.MllamaForConditionalGeneration(config), processor


_MAKERS: dict[str, Callable[[], Made]] = {
    maker.__name__: maker
    for maker in (
        llava_next, llava_next_mistral, vipllava, llava_onevision, qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe, idefics3, smolvlm,
        paligemma, paligemma2, gemma3, internvl, mistral3, instructblip, blip_2, mllama,
    )
}  # fmt: skip
NAMES = tuple(_MAKERS)
