"""An export as a model: the same questions, answers and warnings. ONNX graphs need no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm.asking import Answer, Asking, opened
from vlm.core.answer_warnings import choice_warnings, question_warnings
from vlm.core.calibration import Calibration
from vlm.core.rust_panic import AnswerError, broken_off
from vlm.export.graph_files import Arrays, open_graph
from vlm.export.manifest import ANSWERS, OWN, TOKENIZER, TRANSFORM, ExportError, read_manifest
from vlm.export.pixels import PixelTransform
from vlm.export.tokenizers import make_decoder, make_reader
from vlm.export.writing import write_answers


@dataclass(frozen=True)
class SeenExport:
    """An image that went through the first graph.

    Attributes:
        prepared: what came out, one row each.
        digest: of the model whose export it was.
    """

    prepared: Arrays
    digest: str

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(rows.nbytes for rows in self.prepared.values())


class Exported(Asking):
    """A model that `vlm export` wrote; you ask it like the models of `vlm.load`.

    vlm first checks every file against the digests in `manifest.json`. They detect damage, but not
    a forger. An ONNX export runs no code of its author; a torch export may, because
    `torch.export.load` unpickles.

    Args:
        folder: folder of the export.
        threads: number of threads of the computation; None lets onnxruntime choose. A torch export
            uses torch's.
        trust: whether to load a torch export too, which may run its author's code.

    Attributes:
        about: contents of `manifest.json`.
        tokenizer: tokenizer of the questions.
        transform: transform that reads the images.

    Raises:
        ExportError: a folder that is no export or one of another version, a file that was changed
            or that `vlm export` cannot have written, a torch export without `trust`, or a graph
            that this onnxruntime cannot read.

    Example:
        exported = Exported(export(vlm.load("my_model"), "my_export"))
        seen = exported.see("photo.png")  # encoded once, for any number of questions
        print(exported.answer(seen, "what color is it?").text)
    """

    seen_type = SeenExport

    def __init__(self, folder: str | Path, threads: int | None = None, trust: bool = False) -> None:
        self.folder = Path(folder)
        self.about = read_manifest(self.folder)
        try:
            self._read(threads, trust)
        except ExportError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ExportError(
                f"{self.folder}: holds what `vlm export` does not write ({error!r:.400}). Export "
                f"the model again."
            ) from error

    def _read(self, threads: int | None, trust: bool) -> None:
        names = {TOKENIZER, TRANSFORM, ANSWERS} & set(self.about["files"])
        stored = {name: json.loads((self.folder / name).read_bytes()) for name in names}
        self.tokenizer = make_reader(stored[TOKENIZER])
        size = tuple(stored[TRANSFORM].pop("size"))
        self.transform = PixelTransform(size, **stored[TRANSFORM])
        self.answers: list[str] = stored.get(ANSWERS, [])
        decoder = self.about.get("decoder")
        self._decode = make_decoder(decoder["tokenizer"]) if decoder else None
        self.calibration = Calibration.of(self.about)
        method = self.calibration and self.calibration.method
        if method and (method == "length") != (self.kind == "text"):
            raise ValueError(f"calibration: got the method {method} for the head {self.kind}")
        graphs = self.about["graphs"]
        self._graphs = {
            name: open_graph(self.folder, self.about, name, threads, trust) for name in graphs
        }

    @property
    def kind(self) -> str:
        return str(self.about["head"])

    @property
    def digest(self) -> str:
        return str(self.about[OWN])

    def __repr__(self) -> str:
        return f"Exported({self.folder}, {self.about['precision']} {self.about['graph_format']})"

    def prepare(self, images: np.ndarray) -> Arrays:
        """Transformed images (U, C, H, W) uint8 -> the prepared tensors that the fusion reads, with
        U rows each."""
        return self._graphs["image"]({"images": images})

    def read(self, words: np.ndarray, mask: np.ndarray) -> Arrays:
        """Ids (T, L) int64 and their mask -> features of T texts."""
        read = self._graphs["question"]({"words": words, "words_mask": mask})
        return {"text_mask": mask, **read}

    def output(
        self, prepared: Arrays, text: Arrays, choices: Sequence[Sequence[str]] | None = None
    ) -> Arrays:
        """The output of the last graph for Q questions, with a row of `prepared` and `text` for
        each: logits and probabilities (Q, A), or the decoder's input."""
        given = {**prepared, **text}
        if choices is not None and self.kind == "choices":
            texts = sorted({candidate for candidates in choices for candidate in candidates})
            places = {candidate: place for place, candidate in enumerate(texts)}
            pooled = self.read(*self.tokenizer(texts))["text_pooled"]
            most = max(map(len, choices))
            index = np.zeros((len(choices), most), np.int64)
            mask = np.zeros((len(choices), most), bool)
            for row, candidates in enumerate(choices):
                index[row, : len(candidates)] = [places[c] for c in candidates]
                mask[row, : len(candidates)] = True
            given |= {"choices": pooled[index], "choices_mask": mask}
        return self._graphs["answer"](given)

    def ranked(
        self, output: Arrays, choices: Sequence[Sequence[str]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """All answers to each question with their probabilities, best first; a decoder gives one.
        The probabilities are calibrated if the model was."""
        known = self.calibration
        if self.kind == "text":
            assert self._decode is not None
            written = write_answers(
                self._graphs["step"], output, self.about["decoder"], self._decode
            )
            if known is None:
                return written
            logs = [[(text, math.log(max(p, 1e-30))) for text, p in row] for row in written]
            return [[(text, known.of_text(log_p, text)) for text, log_p in row] for row in logs]
        ranked = []
        for row, (logits, shares) in enumerate(
            zip(output["logits"], output["probabilities"], strict=True)
        ):
            texts = self.answers if choices is None else choices[row]
            logits = logits[: len(texts)].astype(np.float64)
            best = np.argsort(-logits, kind="stable")
            if known is not None:
                shares = _calibrated(known, logits)
            ranked.append([(texts[i], float(shares[i])) for i in best])
        return ranked

    def encode(self, images: Sequence[Any]) -> list[SeenExport]:
        if not images:
            return []
        prepared = self.prepare(self.transform.stack(images))
        return [
            SeenExport(
                {name: rows[i : i + 1].copy() for name, rows in prepared.items()}, self.digest
            )
            for i in range(len(images))
        ]

    @broken_off
    def _answer(  # type: ignore[override]  # no side is missing: `answers_one_side` is False
        self,
        given: list[Any],
        questions: list[str],
        top_k: int,
        choices: list[list[str]] | None,
    ) -> list[Answer]:
        if (choices is None) == (self.kind == "choices"):
            raise ValueError(
                "choices: got none, but this model picks from candidates; give each question two "
                "or more."
                if choices is None
                else "choices: got some, but this model's head takes none; leave them out."
            )
        if isinstance(given[0], SeenExport):
            if any(seen.digest != self.digest for seen in given):
                raise ValueError(
                    "image: got images that another model has seen; expected those of this model's "
                    "`see`."
                )
            columns = given[0].prepared
            prepared = {n: np.concatenate([seen.prepared[n] for seen in given]) for n in columns}
        else:
            prepared = self.prepare(self.transform.stack(opened(self.transform, given)))
        if len(given) == 1:
            prepared = {n: np.repeat(rows, len(questions), 0) for n, rows in prepared.items()}
        output = self.output(prepared, self.read(*self.tokenizer(questions)), choices)
        ranked = self.ranked(output, choices)
        if not all(np.isfinite(share) for best in ranked for _, share in best):
            raise AnswerError("the export's answer is not finite. Use another model.")
        answers = []
        for row, (question, best) in enumerate(zip(questions, ranked, strict=True)):
            warnings = question_warnings(self.tokenizer, question)
            if choices is not None:
                in_order = self.about["in_order"]
                warnings += choice_warnings(self.tokenizer, choices[row], in_order, lambda _: None)
            if self.kind == "text" and best[0][0].endswith("…"):
                tokens = self.about["decoder"]["max_length"]
                warnings.append(f"The answer never ended: it was cut at {tokens} tokens.")
            guess = self.tokenizer.misses(question)
            calibrated = self.calibration is not None
            answers.append(Answer(*best[0], best[:top_k], tuple(warnings), guess, calibrated))
        return answers


def _calibrated(calibration: Calibration, logits: np.ndarray) -> np.ndarray:
    """Probabilities (A,) of one question, as `vlm.heads.calibration.probabilities`."""
    scaled = calibration.scale * logits + calibration.bias
    if calibration.method == "platt":
        return 1 / (1 + np.exp(-np.clip(scaled, -700, 700)))
    shares = np.exp(scaled - scaled.max())
    return shares / shares.sum()
