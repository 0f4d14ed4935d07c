"""The demo's base model: a tokenizer and a small Llama trained on the grammar's reviews, cached once made."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from examples.demo import corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from examples.demo.pretraining import Progress

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}<|user|>{{ message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}<|assistant|>{{ message['content'] }}<|end|>"
    "{%- else -%}{{ raise_exception('this model knows user and assistant turns only') }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
DOCUMENTS = 12_000
VOCABULARY = 1024
#: head_dim 32, which vLLM's CPU attention takes; 1.8 million parameters
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def fingerprint() -> str:
    """Of all that decides the weights: this file, the training loop and the grammar."""
    here = Path(__file__).parent
    sources = [here / name for name in ("base_model.py", "corpus.py", "pretraining.py")]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def cached(cache: Path) -> Path | None:
    """The folder of the model that this code makes, if it was made before."""
    folder = cache / f"reviews-{fingerprint()}"
    return folder if folder.is_dir() else None


def build(cache: Path, progress: Progress) -> Path:
    """Make the model (about a minute on two cores) and return its folder, complete or not there at all."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"reviews-{fingerprint()}"
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        _make(Path(scratch) / "model", progress)
        os.rename(Path(scratch) / "model", folder)
    return folder


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text comes back unchanged; no token is added to what it is given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=SHAPE["max_position_embeddings"],
        model_input_names=["input_ids", "attention_mask"],
    )


def documents(rows: list[tuple[str, str]]) -> list[str]:
    """What the model reads: conversations, and every eighth review bare, so that it continues plain text as well."""
    return [
        f"{answer}{END}" if index % 8 == 7 else f"{USER}{question}{ASSISTANT}{answer}{END}"
        for index, (question, answer) in enumerate(rows)
    ]


def _make(folder: Path, progress: Progress) -> None:
    # Threads that spin while they wait starve each other where the cores are shared: two to four times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from examples.demo.pretraining import Recipe, pretrain

    rows = corpus.base_corpus(DOCUMENTS)
    tokenizer = train_tokenizer([text for row in rows for text in row])
    ids = [tokenizer(text)["input_ids"] for text in documents(rows)]
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=end, pad_token_id=end, dtype="float32", **SHAPE
    )
    config.architectures = ["LlamaForCausalLM"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    pretrain(model, ids, Recipe(), progress)
    config.save_pretrained(folder)
    weights = {name: weight for name, weight in model.state_dict().items() if name != "lm_head.weight"}  # tied
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder, save_jinja_files=False)
