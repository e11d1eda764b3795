"""Greedy writing with a decoder's graph, whose keys and values are kept. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vlm.core.clean_text import clean_text

Arrays = dict[str, np.ndarray]
CUT = "…"
"""The rest of an answer that never ended."""


def write_answers(
    step: Callable[[Arrays], Arrays],
    memory: Arrays,
    decoder: dict[str, Any],
    decode: Callable[[list[int]], str],
) -> list[list[tuple[str, float]]]:
    """The answer of each question and its probability, as `vlm.heads.Generation` with one beam.

    Args:
        step: the decoder's graph: the newest ids (Q, 1), the memory's keys and values, those of
            what is written -> log-probabilities (Q, V) and keys and values with the newest.
        memory: what the graph before it gave.
        decoder: `begin`, `end`, `max_length`, `min_length`, `layers`, `num_heads` and `head_dim`.
        decode: from ids to the text.
    """
    end, questions = decoder["end"], len(memory["memory_mask"])
    empty = np.zeros((questions, decoder["num_heads"], 0, decoder["head_dim"]), np.float32)
    names = [f"written_{kind}_{n}" for n in range(decoder["layers"]) for kind in ("key", "value")]
    written = dict.fromkeys(names, empty)
    newest = np.full((questions, 1), decoder["begin"], np.int64)
    ids: list[list[int]] = [[] for _ in range(questions)]
    totals, running = np.zeros(questions), np.ones(questions, bool)
    for length in range(1, decoder["max_length"] + 1):
        output = step({"ids": newest, **memory, **written})
        shares = output.pop("log_probabilities")
        if length <= decoder["min_length"]:
            shares[:, end] = -np.inf
        written = {name: output[name.replace("written", "next")] for name in names}
        newest = shares.argmax(-1)[:, None]
        totals += np.where(running, shares.max(-1), 0)
        for row in np.flatnonzero(running & (newest[:, 0] != end)):
            ids[row].append(int(newest[row, 0]))
        running &= newest[:, 0] != end
        if not running.any():
            break
    texts = (clean_text(decode(row)) for row in ids)
    return [
        [(text + CUT * bool(cut), float(np.exp(total)))]
        for text, cut, total in zip(texts, running, totals, strict=True)
    ]
