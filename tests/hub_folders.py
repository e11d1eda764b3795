"""Tiny random models in the folder layout of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from transformers import BertTokenizerFast, ViltConfig, ViltForQuestionAnswering
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "color", "is", "the", "cat"]


def vilt_folder(folder: Path) -> Path:
    """Save a tiny ViLT with two answers."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = ViltConfig(
        vocab_size=len(PIECES), hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
        intermediate_size=29, max_position_embeddings=29, image_size=48, patch_size=16,
        modality_type_vocab_size=2, max_image_length=-1, id2label={0: "yes", 1: "no"},
        label2id={"yes": 0, "no": 1},
    )  # fmt: skip
    ViltForQuestionAnswering(config).save_pretrained(folder)
    ViltImageProcessorPil(size={"shortest_edge": 48}, size_divisor=16).save_pretrained(folder)
    return folder
