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


def answer_logits(module, ids, pixels, forced=()):
    """Logits at the answer position of one forward pass, after the forced tokens of the answer, [row, vocabulary]."""
    if hasattr(module, "text_encoder"):
        start = torch.tensor([[module.config.text_config.bos_token_id, *forced]]).expand(len(ids), -1)
        images = module.vision_model(pixel_values=pixels).last_hidden_state
        states = module.text_encoder(input_ids=ids, encoder_hidden_states=images).last_hidden_state
        return module.text_decoder(input_ids=start, encoder_hidden_states=states).logits[:, -1]
    return module(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[:, -1]


def patched_logits(module, ids, pixels, component, numbers, positions, columns, forced=()):
    """Run row 0 (clean), keep a module's state in some layers, run row 1 (corrupt) with these put in at `positions`, `columns`."""
    layers, modules = layers_and_modules(module)
    pick, side = modules[component]

    def run(row):
        return answer_logits(module, ids[row : row + 1], pixels[row : row + 1], forced)[0]

    return patched(run, {number: pick(layers[number]) for number in numbers}, side, positions, columns)


@torch.no_grad()
def patched(run, targets, side, positions, columns):
    """The logits of `run(1)` with some modules' states of `run(0)` put in at `positions`, `columns`.

    `side` says which of a module's values is meant: its first "input", its "output", or the first of a "tuple" that it gives.
    """
    kept = {}

    def state_of(inputs, output):
        return inputs[0] if side == "input" else output[0] if side == "tuple" else output

    def keep(number):
        def hook(_, inputs, output):
            kept[number] = state_of(inputs, output).clone()

        return hook

    def put(number):
        def mix(state):
            state = state.clone()
            for position in positions:
                state[0, position, columns] = kept[number][0, position, columns]
            return state

        if side == "input":
            return lambda _, inputs: (mix(inputs[0]), *inputs[1:])
        if side == "tuple":
            return lambda _, inputs, output: (mix(output[0]), *output[1:])
        return lambda _, inputs, output: mix(output)

    handles = [target.register_forward_hook(keep(number)) for number, target in targets.items()]
    run(0)
    for handle in handles:
        handle.remove()
    register = "register_forward_pre_hook" if side == "input" else "register_forward_hook"
    handles = [getattr(target, register)(put(number)) for number, target in targets.items()]
    try:
        return run(1)
    finally:
        for handle in handles:
            handle.remove()
