"""Questions put into other words by a local language model, as NOTICE had GPT-3.5 correct its questions.

In: a question and the words that it must keep. Out: the model's version where it keeps them, else the question as it was; a log holds
every answer of the model, whether it was used, and why not, so that an interrupted run asks nothing twice.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.tables.counterparts import file_hash
from data_prep.tables.sample import SampleError

INSTRUCTION = "Make the sentence grammatically correct. I want the order of the tokens to be minimally disturbed."  # NOTICE's
MOST_TOKENS = 42  # likewise


class Rephraser:
    """Rephrases questions.

    Parameters
    ----------
    generate : a question -> what the model makes of it
    model : what tells the model from others; answers that another one left in the log are not used
    log : a file of JSON lines, made where it does not exist
    """

    def __init__(self, generate: Callable[[str], str], model: str, log: Path) -> None:
        self._generate, self.model, self.log = generate, model, log
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]  # without it, half a line of an interrupted run
        self._answers = {record["question"]: record["answer"] for record in records if record["model"] == model}

    def __call__(self, question: str, words: Sequence[str]) -> str:
        """The model's version if it has all of `words` in this order, else the question."""
        if question not in self._answers:
            answer = self._answers[question] = self._generate(question).strip().strip("\"'")
            reason = fault(answer, question, words)
            record = {"question": question, "answer": answer, "used": not reason, "reason": reason, "model": self.model}
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(record, ensure_ascii=False) + "\n")
        answer = self._answers[question]
        return question if fault(answer, question, words) else answer


def fault(answer: str, question: str, words: Sequence[str]) -> str:
    """Why an answer cannot stand for a question; empty if it can."""
    if not answer.endswith("?") or "\n" in answer or answer.count("?") > 1:
        return "not one question"
    if len(answer.split()) > 2 * len(question.split()):
        return "much longer than the question"
    end = 0
    for word in words:
        found = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE).search(answer, end)
        if not found:
            return f"does not have {word!r} in its place"
        end = found.end()
    return "" if re.search(r"\bor\b", answer) else "does not have 'or'"


def load_rephraser(folder: Path, log: Path) -> Rephraser:
    """A Hugging Face text model (encoder-decoder, or causal with or without a chat template) on the GPU if there is one, decoding greedily.

    Raises
    ------
    SampleError
        When the folder has no such model with safetensors weights, or one that wants its own code to be run.
    """
    import torch  # these take seconds, and few runs need them
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise SampleError(f"{folder}: not the folder of a Hugging Face model (no config.json and *.safetensors)")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, LookupError) as error:
        own_code = "it wants code of its own to be run, which this program never does"
        raise SampleError(
            f"{folder}: the text model cannot be loaded: {own_code if 'trust_remote_code' in str(error) else error}"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)

    def generate(question: str) -> str:
        text = f"{INSTRUCTION}\n\n{question}"
        if tokenizer.chat_template:
            text = str(tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False))
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=not tokenizer.chat_template).to(device)
        ids = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)[0]
        new = ids if config.is_encoder_decoder else ids[inputs["input_ids"].shape[1] :]
        return str(tokenizer.decode(new, skip_special_tokens=True))

    return Rephraser(generate, " ".join(file_hash(path) for path in weights), log)
