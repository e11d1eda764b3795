"""What fine-tuning did to a text encoder, measured on words and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from vlm.core.features import masked_mean
from vlm.core.terminal import track
from vlm.core.validation import counted
from vlm.datasets.errors import DataError
from vlm.studies.forgetting.cka import LEAST
from vlm.studies.forgetting.images import split
from vlm.studies.forgetting.layers import Retention, layer_cka, layer_grams, layer_modules
from vlm.studies.forgetting.similarity import (
    Change,
    nearest,
    neighbour_changes,
    paraphrase_share,
    similarities,
    similarity_kept,
)
from vlm.text.base import TextEncoder
from vlm.text.words import split_words


@dataclass(frozen=True)
class Sentences:
    """Distinct sentences; if `pairs`, consecutive ones are paraphrases."""

    texts: list[str]
    about: str
    pairs: bool

    @property
    def words(self) -> list[str]:
        """The sentences' words, in order of first appearance."""
        return list(dict.fromkeys(word for text in self.texts for word in split_words(text)))


def read_sentences(path: Path | None) -> Sentences:
    """Read sentences from a file, one per line or two paraphrases separated by a tab; vlm's own
    pairs if `path` is None."""
    own = path is None
    name = "the pairs of vlm/studies/forgetting/paraphrases.tsv" if own else f"--sentences: {path}"
    try:
        source = files("vlm.studies.forgetting") / "paraphrases.tsv" if path is None else path
        lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{name} cannot be read ({error}); expected a text file, a sentence a line."
        ) from error
    rows = [[text.strip() for text in line.split("\t")] for line in lines if line]
    widths = {len(row) for row in rows}
    if len(widths) > 1 or widths - {1, 2}:
        raise DataError(
            f"{name}: got lines of {' and '.join(map(str, sorted(widths)))} texts; expected one in "
            f"every line, or two that mean the same with a tab between them."
        )
    texts = [text for row in rows for text in row]
    if len(texts) < 2 * LEAST:
        found = counted(len(texts), "sentence")
        raise DataError(f"{name}: got {found}; expected {2 * LEAST} or more.")
    if len(set(texts)) < len(texts) or "" in texts:
        wrong = next(text for text in texts if texts.count(text) > 1 or not text)
        raise DataError(f"{name}: {wrong!r} is empty or repeated; expected different sentences.")
    pairs = widths == {2}
    about = f"{len(texts)} sentences of {Path(name).name}" if own else f"{len(texts)} of {path}"
    return Sentences(texts, about, pairs)


@dataclass(frozen=True)
class TextRetention(Retention):
    """What a text encoder retained.

    Attributes:
        changes: changes of each word's neighbours.
        similarity: rank correlation of the similarities of all pairs of sentences, before and
            after, in [-1, 1].
        paraphrases: share of sentences whose nearest one is their paraphrase, before and after;
            None if the sentences are not pairs.
    """

    changes: list[Change]
    similarity: float
    paraphrases: tuple[float, float] | None

    @property
    def neighbours(self) -> float:
        """Share of neighbours retained, averaged over words."""
        return sum(change.kept for change in self.changes) / len(self.changes)


class TextMeasure:
    """Compares text encoders with an original, which runs only once.

    A word's vector is the encoder's `pooled` output for the word by itself. `batch_size` is at
    least 8.
    """

    def __init__(
        self, before: TextEncoder, sentences: Sentences, neighbours: int, batch_size: int
    ) -> None:
        self.sentences, self.neighbours, self.batch_size = sentences, neighbours, batch_size
        tokenizer = before.tokenizer
        self.words = [word for word in sentences.words if not tokenizer.unknown(word)]
        if len(self.words) <= neighbours:
            known = counted(len(self.words), "word")
            raise DataError(
                f"--neighbours: got {neighbours}, and the encoder has {known} of "
                f"{sentences.about}; expected more words, or fewer neighbours."
            )
        probe = _inputs(before, sentences.texts[:1])
        self.layers = layer_modules(before.eval(), lambda: before(*probe))
        self._before = self._run(before, "the original text encoder")

    def retention(self, encoder: TextEncoder, name: str) -> TextRetention:
        """Measure an encoder of the same architecture; `name` is for the progress bar."""
        (old, old_sentences, old_words) = self._before
        (new, new_sentences, new_words) = self._run(encoder, name)
        alike = similarities(old_sentences), similarities(new_sentences)
        neighbours = [nearest(words, self.neighbours) for words in (old_words, new_words)]
        return TextRetention(
            layer_cka(self.layers, old, new),
            neighbour_changes(self.words, *neighbours),
            similarity_kept(*alike),
            (paraphrase_share(alike[0]), paraphrase_share(alike[1]))
            if self.sentences.pairs
            else None,
        )

    def _run(self, encoder: TextEncoder, name: str) -> tuple[list[list[Tensor]], Tensor, Tensor]:
        """Gram matrices by batch, and `pooled` of sentences (S, D) and words (W, D)."""
        encoder.eval()
        grams, sentences, words = [], [], []
        batches = split(self.sentences.texts, self.batch_size)
        for texts in track(batches, f"Sentences: {name}"):
            ids, mask = _inputs(encoder, texts)
            run, rows = partial(encoder, ids, mask), partial(_mean_word, mask=mask)
            found, features = layer_grams(encoder, self.layers, run, rows)
            grams.append(found)
            sentences.append(features.pooled.float().cpu())
        batches = split(self.words, self.batch_size)
        for texts in track(batches, f"Words: {name}"):
            with torch.inference_mode():
                words.append(encoder(*_inputs(encoder, texts)).pooled.float().cpu())
        return grams, torch.cat(sentences), torch.cat(words)


def _mean_word(output: Tensor, mask: Tensor) -> Tensor:
    # Some models pad to a fixed length.
    return masked_mean(output[:, : mask.shape[1]], mask) if output.ndim == 3 else output


def _inputs(encoder: TextEncoder, texts: list[str]) -> tuple[Tensor, Tensor]:
    device = next(encoder.parameters()).device
    ids, mask = encoder.tokenizer(texts)
    return ids.to(device), mask.to(device)
