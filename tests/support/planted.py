"""A real Hugging Face BLIP whose weights are set by hand so that one known cross-attention head carries the colour of the image."""

import torch

from data_prep.scenes.small_models import blip_shapes
from interventions.models.loading import wrap

LAYER, HEAD = 2, 3
RED, BLUE = 0, 1  # coordinates of the head's z, and of the image states, that say how red and how blue the image is
SAYS_RED, SAYS_BLUE = 90, 91  # coordinates of the text states that the answer is read from


@torch.no_grad()
def planted_blip(folder):
    """The wrapped model. Every other attention and MLP adds nothing; layer norms stay."""
    torch.manual_seed(0)
    module, processor = blip_shapes(folder, layers=4, heads=6, std=0.02)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    vision = module.vision_model
    vision.embeddings.patch_embedding.weight.zero_()
    vision.embeddings.patch_embedding.weight[RED, 0] = 1.0
    vision.embeddings.patch_embedding.weight[BLUE, 2] = 1.0
    for layer in vision.encoder.layers:
        layer.self_attn.projection.weight.zero_()
        layer.mlp.fc2.weight.zero_()
    for layer in [*module.text_encoder.encoder.layer, *module.text_decoder.bert.encoder.layer]:
        for attention in (layer.attention, layer.crossattention):
            attention.self.query.weight.zero_()  # attention is uniform
            attention.output.dense.weight.zero_()
        layer.output.dense.weight.zero_()

    head = module.text_encoder.encoder.layer[LAYER].crossattention
    first = HEAD * head.self.attention_head_size
    head.output.dense.weight[SAYS_RED, first + RED] = 5.0
    head.output.dense.weight[SAYS_BLUE, first + BLUE] = 5.0
    head.self.value.weight[first + RED].zero_()[RED] = 1.0
    head.self.value.weight[first + BLUE].zero_()[BLUE] = 1.0

    reader = module.text_decoder.bert.encoder.layer[0].crossattention
    reader.self.value.weight.copy_(torch.eye(len(reader.self.value.weight)))
    for coordinate in (SAYS_RED, SAYS_BLUE):
        reader.output.dense.weight[coordinate, coordinate] = 5.0

    output = module.text_decoder.cls.predictions
    output.transform.dense.weight.copy_(torch.eye(len(output.transform.dense.weight)))
    words = output.decoder.weight
    words[:, [SAYS_RED, SAYS_BLUE]] = 0.0
    red, blue = processor.tokenizer.convert_tokens_to_ids(["red", "blue"])
    words[red, SAYS_RED], words[blue, SAYS_BLUE] = 1.0, 1.0
    return wrap(module.eval().requires_grad_(False), processor, "planted")
