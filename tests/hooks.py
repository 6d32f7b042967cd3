"""Activation patching with plain PyTorch hooks on the Hugging Face modules: independent of nnsight and of the project's sites."""

import torch

BLIP_MODULES = {
    "self_attention": (lambda layer: layer.attention.self, "tuple"),
    "cross_attention": (lambda layer: layer.crossattention.self, "tuple"),
    "mlp": (lambda layer: layer.output.dense, "output"),
    "block": (lambda layer: layer, "output"),
}
LLAVA_MODULES = {
    "self_attention": (lambda layer: layer.self_attn.o_proj, "input"),
    "mlp": (lambda layer: layer.mlp, "output"),
    "block": (lambda layer: layer, "output"),
}


def layers_and_modules(module):
    if hasattr(module, "text_encoder"):
        return module.text_encoder.encoder.layer, BLIP_MODULES
    return module.model.language_model.layers, LLAVA_MODULES


def answer_logits(module, ids, pixels):
    """Logits at the answer position of one forward pass, [row, vocabulary]."""
    if hasattr(module, "text_encoder"):
        start = torch.full((len(ids), 1), module.config.text_config.bos_token_id)
        images = module.vision_model(pixel_values=pixels).last_hidden_state
        states = module.text_encoder(input_ids=ids, encoder_hidden_states=images).last_hidden_state
        return module.text_decoder(input_ids=start, encoder_hidden_states=states).logits[:, -1]
    return module(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[:, -1]


@torch.no_grad()
def patched_logits(module, ids, pixels, component, layer_number, positions, columns):
    """Run row 0 (clean), keep a module's state, run row 1 (corrupt) with the state at `positions`, `columns` put in."""
    layers, modules = layers_and_modules(module)
    pick, side = modules[component]
    target = pick(layers[layer_number])
    kept = {}

    def state_of(inputs, output):
        return inputs[0] if side == "input" else output[0] if side == "tuple" else output

    def keep(_, inputs, output):
        kept["clean"] = state_of(inputs, output).clone()

    handle = target.register_forward_hook(keep)
    answer_logits(module, ids[:1], pixels[:1])
    handle.remove()

    def mix(state):
        state = state.clone()
        for position in positions:
            state[0, position, columns] = kept["clean"][0, position, columns]
        return state

    if side == "input":
        handle = target.register_forward_pre_hook(lambda _, inputs: (mix(inputs[0]), *inputs[1:]))
    elif side == "tuple":
        handle = target.register_forward_hook(lambda _, inputs, output: (mix(output[0]), *output[1:]))
    else:
        handle = target.register_forward_hook(lambda _, inputs, output: mix(output))
    try:
        return answer_logits(module, ids[1:], pixels[1:])[0]
    finally:
        handle.remove()
