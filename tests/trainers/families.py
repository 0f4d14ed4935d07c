"""Chat templates as their families publish them, cut to roles and contents, with small tokenizers of both kinds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Once upon a time there was a little house by the river, and in the house lived an old man.",
    "user assistant system model How are you today? I am fine, thank you. What is 2 + 2? It is 4.",
    "Wie heißt du? Ich heiße Zoë, und das ist schön. 日本語もすこし。 Who goes there?\n\nNobody.\n",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
]
ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + "
    "' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}" + ALTERNATE + "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
#: drops the thoughts of all answers but those after the last question
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in c and loop.index0 < ns.last %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def byte_level(*special: str) -> Tokenizer:
    """As GPT-2's and its heirs': bytes, merges within words, added tokens cut hard."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.ByteLevel(trim_offsets=True)  # tells places without their spaces, as Llama 3's
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        CORPUS * 4, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return inner


@cache
def metaspace(*special: str) -> Tokenizer:
    """As Llama 2's: ▁ for spaces and one before every text, bytes for characters it does not know."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner.train_from_iterator(
        [text[:60] for text in CORPUS] * 4, trainers.BpeTrainer(vocab_size=160, show_progress=False)
    )
    state = learner.get_vocab(), [tuple(merge) for merge in _merges(learner)]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(state[0], key=state[0].__getitem__)]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    inner = Tokenizer(models.BPE(vocabulary, state[1], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = learner.normalizer
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return inner


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    return json.loads(tokenizer.to_str())["model"]["merges"]


@dataclass(frozen=True)
class Family:
    """A template with its tokenizer, and how it writes a turn: (what opens it, what follows that it must produce)."""

    name: str
    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    end: str  #: what stops an answer
    rest: str = ""  #: what the template writes after it
    stops: tuple[str, ...] = ()  #: as generation_config.json has them
    system: bool = True

    @cache  # noqa: B019 - families are few and live as long as the tests
    def tokenizer(self, make=byte_level) -> PreTrainedTokenizerFast:
        names = {"bos_token": self.bos} if self.bos else {}
        return PreTrainedTokenizerFast(
            tokenizer_object=make(*self.special), eos_token=self.eos, chat_template=self.template, **names
        )

    def stop_ids(self, tokenizer) -> frozenset[int]:
        return frozenset(tokenizer.convert_tokens_to_ids(list(self.stops)))


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    family.name: family
    for family in (
        Family("chatml", CHATML, IM, None, "<|im_end|>", "<|im_end|>", "\n"),
        # the tokenizer's end token is another than the template's, as in base models
        Family("chatml-base", CHATML, IM, None, "<|endoftext|>", "<|im_end|>", "\n"),
        Family(
            "llama3",
            LLAMA3,
            ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|eot_id|>",
            stops=("<|end_of_text|>", "<|eot_id|>"),
        ),
        Family("mistral", MISTRAL, ("<s>", "</s>"), "<s>", "</s>", "</s>", system=False),
        Family(
            "gemma",
            GEMMA,
            ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
            "<bos>",
            "<eos>",
            "<end_of_turn>",
            "\n",
            system=False,
        ),
        Family(
            "phi3",
            PHI3,
            ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
            None,
            "<|endoftext|>",
            "<|end|>",
            "\n<|endoftext|>",
            stops=("<|endoftext|>", "<|end|>"),
        ),
        Family("qwen3", QWEN3, IM, None, "<|im_end|>", "<|im_end|>", "\n"),
    )
}
