"""Small models of every kind, for tests of model sharing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

import vlm
from vlm.fusion import Pooled, Product
from vlm.heads import (
    Classification,
    Generation,
    HuggingFaceDecoder,
    MultipleChoice,
    MultiTask,
    SubwordAnswers,
    TransformerDecoder,
)
from vlm.image import ConvNet, TimmEncoder
from vlm.image.base import ImageEncoder
from vlm.model import VQAModel
from vlm.text import BagOfWords, HuggingFaceEncoder, SubwordTokenizer
from vlm.text.base import TextEncoder

WORDS = ["what", "is", "the", "colour", "red"]


ANSWERS = ["yes", "no", "red", "blue"]


CHOICES = ["red", "a dark blue"]


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 22, "depth": 2, "num_heads": 2}


BERT = {
    "model_type": "bert", "vocab_size": 11, "hidden_size": 14, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 19, "max_position_embeddings": 23,
}  # fmt: skip


GPT = {"model_type": "gpt2", "vocab_size": 9, "n_embd": 14, "n_head": 2, "n_layer": 2} | {
    "n_positions": 29, "bos_token_id": 0, "eos_token_id": 1
}  # fmt: skip


def pieces(*more: str) -> str:
    """The JSON of a small tokenizer."""
    known = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", *WORDS, *more])}
    backend = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.enable_padding(pad_id=0, pad_token="[PAD]")
    return backend.to_str()


def put_together(image: ImageEncoder, text: TextEncoder, head: Callable[..., Any]) -> vlm.VQA:
    fusion = Pooled(image.dim, text.dim, partial(Product, out_dim=13))
    wanted = {"answers": ANSWERS} if head is Classification else {}
    return vlm.VQA(VQAModel(image, text, fusion, head(fusion.out_dim, **wanted)))


def conv() -> ConvNet:
    return ConvNet(image_size=32, widths=(5, 7))


def bag() -> BagOfWords:
    return BagOfWords(WORDS, dim=11, hidden_dim=17)


def hugging_face() -> vlm.VQA:
    text = HuggingFaceEncoder(config=BERT, tokenizer=SubwordTokenizer(json=pieces(), max_length=23))
    return put_together(conv(), text, Classification)


def tied() -> vlm.VQA:
    """A generative GPT-2, whose output weights are tied to its embeddings."""
    answers = SubwordAnswers(json=pieces("yes", "no"), begin="[PAD]", end="[UNK]")
    decoder = partial(HuggingFaceDecoder, config=GPT, tokenizer=answers, max_length=5)
    return put_together(conv(), bag(), partial(Generation, decoder=decoder))


def multi_task() -> vlm.VQA:
    heads = {
        "write": partial(Generation, decoder=partial(TransformerDecoder, dim=14, num_heads=2)),
        "classify": Classification,
        "choose": MultipleChoice,
    }
    head = partial(MultiTask, heads=heads, answers=ANSWERS, text_dim=11)
    return put_together(conv(), bag(), head)


MODELS: dict[str, Callable[[], vlm.VQA]] = {
    "cnn, bag of words": lambda: put_together(conv(), bag(), Classification),
    "timm": lambda: put_together(
        TimmEncoder("vit_tiny_patch16_224", model_args=VIT), bag(), Classification
    ),
    "hugging face": hugging_face,
    "generation, tied": tied,
    "multiple choice": lambda: put_together(conv(), bag(), partial(MultipleChoice, text_dim=11)),
    "multi-task": multi_task,
}
