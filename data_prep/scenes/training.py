"""Training of the small models: scenes and questions, what is learned from them, and the steps. `data_prep.train_shapes` is the command."""

import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data_prep.scenes.questions import ASKED, Question, ask
from data_prep.scenes.rendering import ATTRIBUTES, IMAGE_SIZE, Scene, random_scene, render
from data_prep.scenes.small_models import PATCH, WIDTH, blip_shapes, llava_shapes
from data_prep.scenes.training_options import Training

NAMED = ("colour", "shape", "texture", "size")  # what a patch can tell; where it is, is its place
PATCH_WEIGHTS = {"foreground": 15.0, "colour": 1.0, "shape": 4.0, "texture": 1.0, "size": 1.0}
TRAINING_SEED = 1_000_000_007  # no other part of the project draws scenes from this seed


def train(training: Training) -> None:
    """Train a small model, and save it with `training.json`."""
    torch.set_num_threads(training.threads)
    torch.manual_seed(training.seed)
    rng = np.random.default_rng([TRAINING_SEED, training.seed])
    learner: Learner = (BlipLearner if training.model == "blip-shapes" else LlavaLearner)(training)
    started = time.time()
    _run(learner, training, rng, "warm-up", training.warm_up_steps)
    _run(learner, training, rng, "questions", training.steps)
    _run(learner, training, rng, "polish", training.polish_steps)
    learner.model.save_pretrained(training.out)
    learner.processor.save_pretrained(training.out)
    record = {
        **{k: v for k, v in asdict(training).items() if k != "out"},
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "minutes": round((time.time() - started) / 60, 1),
    }
    (training.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{training.model}: {record['parameters']:,} parameters, {record['minutes']} minutes, saved in {training.out}")


def _run(learner: "Learner", training: Training, rng: np.random.Generator, stage: str, steps: int) -> None:
    if not steps:
        return
    questions, polish = stage != "warm-up", stage == "polish"
    learner.options_only = 0.0 if polish else training.options_only
    rate = training.learning_rate / 3 if polish else training.learning_rate
    vision = [*learner.vision_parameters(), *learner.probe.parameters()]
    known = {id(p) for p in vision}
    groups: list[dict[str, Any]] = [{"params": vision, "lr": 2 * rate}]
    if questions:
        rest = [p for p in learner.model.parameters() if id(p) not in known]
        groups.append({"params": rest, "lr": rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in groups], total_steps=steps, pct_start=0.1, anneal_strategy="cos"
    )
    bar = tqdm(range(steps), desc=f"{training.model} {stage}", mininterval=5)
    for step in bar:
        count = round(training.images * (training.question_share if questions else 1))
        scenes = [random_scene(rng, "train") for _ in range(count)]
        drawn = [render(scene) for scene in scenes]
        hidden = learner.vision(torch.from_numpy(np.stack([image for image, _ in drawn])))
        patch_loss, correct = learner.probe(hidden[:, 1:], *_patch_labels(scenes, [masks for _, masks in drawn]))
        loss = patch_loss
        if questions:
            asked = [[_draw_question(scene, training.impossible, rng) for _ in range(training.questions)] for scene in scenes]
            answer_loss, answered = learner.answer(hidden, asked, rng)
            loss = answer_loss if polish else answer_loss + training.patch_loss_weight * patch_loss
            correct = {"answers": answered} | correct
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            bar.set_postfix({k: f"{v:.2f}" for k, v in correct.items()}, refresh=False)


def _draw_question(scene: Scene, impossible: float, rng: np.random.Generator) -> Question:
    while True:
        question = ask(scene, str(rng.choice(ASKED)), rng, impossible=impossible)
        if question is not None:
            return question


def _patch_labels(scenes: list[Scene], masks: list[np.ndarray]) -> tuple[Tensor, dict[str, Tensor]]:
    """Foreground share [image, patch] and the class of each named attribute [image, patch] (-100 on background)."""
    side = IMAGE_SIZE // PATCH
    shares = np.zeros((len(scenes), side * side), np.float32)
    labels = {name: np.full((len(scenes), side * side), -100) for name in NAMED}
    for row, (scene, mask) in enumerate(zip(scenes, masks, strict=True)):
        covered = mask.reshape(-1, side, PATCH, side, PATCH).mean((2, 4)).reshape(len(scene.objects), -1)
        shares[row] = covered.sum(0)
        most, there = covered.argmax(0), covered.max(0) > 0.15
        for name in NAMED:
            classes = np.array([ATTRIBUTES[name].index(getattr(o, name)) for o in scene.objects])
            labels[name][row] = np.where(there, classes[most], -100)
    return torch.from_numpy(shares), {name: torch.from_numpy(value) for name, value in labels.items()}


class PatchProbe(nn.Module):
    """Linear read-outs of what a patch shows; used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.foreground = nn.Linear(WIDTH, 1)
        self.named = nn.ModuleDict({name: nn.Linear(WIDTH, len(ATTRIBUTES[name])) for name in NAMED})

    def forward(self, hidden: Tensor, share: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        losses = {"foreground": F.binary_cross_entropy_with_logits(self.foreground(hidden)[..., 0], share)}
        correct = {}
        for name, layer in self.named.items():
            logits, label = layer(hidden).flatten(0, 1), labels[name].flatten()
            losses[name] = F.cross_entropy(logits, label)
            correct[name] = (logits.argmax(-1) == label)[label >= 0].float().mean().item()
        total = torch.stack([PATCH_WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
        return total / sum(PATCH_WEIGHTS.values()) * len(losses), correct


class Learner:
    """What training needs from a model: image states, and the loss and accuracy of questions on them."""

    model: Any
    processor: Any
    options_only: float

    def __init__(self) -> None:
        self.probe = PatchProbe()
        images = self.processor.image_processor
        self.mean, self.std = torch.tensor(images.image_mean), torch.tensor(images.image_std)

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [image, y, x, 3] -> normalised float [image, 3, y, x], as the processor does."""
        return ((images / 255 - self.mean) / self.std).permute(0, 3, 1, 2)

    def vision_parameters(self) -> list[nn.Parameter]:
        raise NotImplementedError

    def vision(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def answer(self, hidden: Tensor, asked: list[list[Question]], rng: np.random.Generator) -> tuple[Tensor, float]:
        raise NotImplementedError


class BlipLearner(Learner):
    """Questions are rows; every question of a scene reads the same image states."""

    def __init__(self, training: Training) -> None:
        self.model, self.processor = blip_shapes(training.out, training.layers, training.heads)
        self.tokenizer = self.processor.tokenizer
        self._image_readers: Tensor | None = None
        for layer in self.model.text_encoder.encoder.layer:
            layer.crossattention.register_forward_hook(self._only_readers)
        super().__init__()

    def _only_readers(self, module: nn.Module, inputs: tuple, output: tuple) -> tuple:
        if self._image_readers is None:
            return output
        return (output[0] * self._image_readers, *output[1:])

    def vision_parameters(self) -> list[nn.Parameter]:
        return list(self.model.vision_model.parameters())

    def vision(self, images: Tensor) -> Tensor:
        return self.model.vision_model(pixel_values=self.pixels(images)).last_hidden_state

    def answer(self, hidden: Tensor, asked: list[list[Question]], rng: np.random.Generator) -> tuple[Tensor, float]:
        flat = [question for group in asked for question in group]
        text = self.tokenizer([question.text for question in flat], padding=True, return_tensors="pt")
        word = self.tokenizer.convert_tokens_to_ids
        options = torch.tensor([[word(q.correct), word(q.incorrect)] for q in flat])
        is_option = (text.input_ids[:, :, None] == options[:, None]).any(-1)
        answers_alone, reads_alone = torch.from_numpy(rng.random((2, len(flat), 1)) < self.options_only)
        self._image_readers = (is_option | ~reads_alone)[..., None].float()
        images = hidden.repeat_interleave(len(asked[0]), 0)
        states = self.model.text_encoder(
            input_ids=text.input_ids, attention_mask=text.attention_mask, encoder_hidden_states=images
        ).last_hidden_state
        self._image_readers = None
        config = self.model.config.text_config
        start, end = torch.full((len(flat), 1), config.bos_token_id), torch.full((len(flat), 1), config.eos_token_id)
        read = text.attention_mask * (is_option | ~answers_alone)
        logits = self.model.text_decoder(
            input_ids=torch.cat([start, options[:, :1]], 1), encoder_hidden_states=states, encoder_attention_mask=read
        ).logits
        target = torch.cat([options[:, :1], end], 1)
        right = (logits[:, 0].argmax(-1) == target[:, 0])[[q.possible for q in flat]]
        return F.cross_entropy(logits.flatten(0, 1), target.flatten()), right.float().mean().item()


class LlavaLearner(Learner):
    """All questions of a scene share one sequence: the image prefix once, then each question, which sees the prefix and itself."""

    def __init__(self, training: Training) -> None:
        self.model, self.processor = llava_shapes(training.layers, training.heads)
        self.tokenizer = self.processor.tokenizer
        super().__init__()

    def vision_parameters(self) -> list[nn.Parameter]:
        return list(self.model.model.vision_tower.parameters())

    def vision(self, images: Tensor) -> Tensor:
        return self.model.model.vision_tower(self.pixels(images)).last_hidden_state

    def answer(self, hidden: Tensor, asked: list[list[Question]], rng: np.random.Generator) -> tuple[Tensor, float]:
        flat = [question for group in asked for question in group]
        ids = self.tokenizer([f"USER: <image>\n{q.text} Answer with one word. ASSISTANT: {q.correct}" for q in flat]).input_ids
        cut = ids[0].index(self.tokenizer.convert_tokens_to_ids("\n")) + 1
        prefix, suffixes = ids[0][:cut], [[*row[cut:], self.tokenizer.eos_token_id] for row in ids]
        length, groups, per_image = max(map(len, suffixes)), len(asked), len(asked[0])
        tokens = torch.tensor([row + [self.tokenizer.pad_token_id] * (length - len(row)) for row in suffixes])
        ends = torch.tensor([len(row) for row in suffixes])

        embed = self.model.get_input_embeddings()
        image = self.model.model.multi_modal_projector(hidden[:, 1:])
        at = prefix.index(self.model.config.image_token_index)
        before, after = (embed(torch.tensor(part))[None].expand(groups, -1, -1) for part in (prefix[:at], prefix[at + 1 :]))
        packed = torch.cat([before, image, after, embed(tokens).reshape(groups, per_image * length, -1)], 1)
        start = packed.shape[1] - per_image * length

        owner = torch.cat([torch.full((start,), -1), torch.arange(per_image).repeat_interleave(length)])
        place = torch.cat([torch.arange(start), start + torch.arange(length).repeat(per_image)])
        seen = (place[:, None] >= place) & ((owner[:, None] == owner) | (owner == -1))
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None].expand(groups, 1, -1, -1)
        states = self.model.model.language_model(
            inputs_embeds=packed, attention_mask=mask, position_ids=place[None].expand(groups, -1), use_cache=False
        ).last_hidden_state[:, start:]
        states = states.reshape(len(flat), length, -1)
        rows = torch.arange(len(flat))
        logits = self.model.lm_head(torch.stack([states[rows, ends - 3], states[rows, ends - 2]], 1))
        target = torch.stack([tokens[rows, ends - 2], tokens[rows, ends - 1]], 1)
        right = (logits[:, 0].argmax(-1) == target[:, 0])[[q.possible for q in flat]]
        return F.cross_entropy(logits.flatten(0, 1), target.flatten()), right.float().mean().item()
