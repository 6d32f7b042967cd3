"""The two small architectures shipped in `checkpoints/`: their tokenizers, processors and untrained models.

Both vocabularies hold the words of the rendered scenes' questions as whole pieces and every letter and digit as a fallback, so that
any other question can be tokenized too (in more pieces).
"""

import json
import string
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import (
    AutoTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from data_prep.scenes.rendering import ATTRIBUTES, IMAGE_SIZE

WIDTH, FEED_FORWARD, PATCH = 96, 192, 8
VALUES = [value for values in ATTRIBUTES.values() for value in values]
QUESTION_WORDS = ["is", "the", "a", "at", "or", "object"]
PUNCTUATION = list("?.,:'-!")


def blip_shapes(folder: Path, layers: int = 6, heads: int = 6, std: float = 0.08) -> tuple[BlipForQuestionAnswering, BlipProcessor]:
    """A BLIP with random weights and its processor; `folder` receives the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = list(string.ascii_lowercase + string.digits)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PUNCTUATION, *characters]
    vocabulary += [f"##{c}" for c in characters] + [w for w in QUESTION_WORDS + VALUES if w not in characters] + ["[DEC]", "[ENC]"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64})
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(vocabulary), "the tokenizer did not take the vocabulary"
    start, end = vocabulary.index("[DEC]"), vocabulary.index("[SEP]")
    config = BlipConfig(
        text_config=dict(  # noqa: C408
            vocab_size=len(vocabulary), hidden_size=WIDTH, encoder_hidden_size=WIDTH, intermediate_size=FEED_FORWARD,
            projection_dim=WIDTH, num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=64,
            bos_token_id=start, eos_token_id=end, sep_token_id=end, pad_token_id=0, initializer_range=std,
        ),
        vision_config=dict(  # noqa: C408
            hidden_size=WIDTH, intermediate_size=FEED_FORWARD, projection_dim=WIDTH, num_hidden_layers=4,
            num_attention_heads=6, image_size=IMAGE_SIZE, patch_size=PATCH, initializer_range=std,
        ),
        projection_dim=WIDTH, image_text_hidden_size=WIDTH, initializer_range=std,
    )  # fmt: skip
    images = BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    model = BlipForQuestionAnswering(config)
    model.generation_config.update(bos_token_id=start, eos_token_id=end, pad_token_id=0)
    return model, BlipProcessor(images, tokenizer)


def llava_shapes(layers: int = 6, heads: int = 6, std: float = 0.08) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA (CLIP vision tower, two-layer projector, Llama) with random weights and its processor."""
    words = [*QUESTION_WORDS, *VALUES, "USER", "ASSISTANT", "Is", "Answer", "with", "one", "word"]
    characters = list(string.ascii_letters + string.digits) + PUNCTUATION + ["\n", "▁"]
    pieces = dict.fromkeys(["<unk>", "<s>", "</s>", "Is"] + [f"▁{w}" for w in words] + characters)
    scores = [(piece, -10.0 if len(piece) == 1 else -1.0) for piece in pieces]
    core = Tokenizer(models.Unigram(scores, unk_id=0))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left",
        extra_special_tokens={"image_token": AddedToken("<image>", special=True, normalized=False)},
    )  # fmt: skip
    image, pad = (tokenizer.get_vocab()[token] for token in ("<image>", "<pad>"))
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=FEED_FORWARD, projection_dim=WIDTH, num_hidden_layers=4, num_attention_heads=6,
        image_size=IMAGE_SIZE, patch_size=PATCH, initializer_range=std,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=FEED_FORWARD, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=512, initializer_range=std,
        bos_token_id=1, eos_token_id=2, pad_token_id=pad,
    )  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=image, vision_feature_layer=-1,
        vision_feature_select_strategy="default", image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
    )  # fmt: skip
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_convert_rgb=True
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=pad)
    processor = LlavaProcessor(images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1)
    return model, processor
