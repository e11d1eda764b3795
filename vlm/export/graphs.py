"""A model as three graphs, traced by torch.export: so a second question on an image is cheap.

    image    : images                      -> prepared_0, prepared_1, ...   (`Fusion.prepare`)
    question : words, words_mask           -> text_tokens, text_pooled
    answer   : prepared_*, text_*          -> logits, probabilities

A head that picks from choices takes the choices' pooled vectors in the last graph. For a decoder
the last graph gives the keys and values of what it reads, and `step` writes one token more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vlm.core.compat import tree_flatten, tree_unflatten
from vlm.core.features import Features, masked_softmax
from vlm.export.manifest import ExportError
from vlm.heads.base import AnswerKind
from vlm.heads.classification import VocabularyHead
from vlm.heads.generation import Generation, TransformerDecoder
from vlm.heads.generation.decoder import KeysAndValues, TransformerState
from vlm.heads.multi_task import answering
from vlm.heads.multiple_choice import MultipleChoice
from vlm.image.transform import ImageTransform
from vlm.model import VQAModel


class TracedGraph(NamedTuple):
    """One graph.

    Attributes:
        name: image, question, answer or step.
        program: what torch.export made.
        inputs, outputs: names of what goes in and comes out, in order.
    """

    name: str
    program: ExportedProgram
    inputs: list[str]
    outputs: list[str]


class Image(nn.Module):
    """Images -> what `Fusion.prepare` makes of them, without what is None."""

    def __init__(self, model: VQAModel) -> None:
        super().__init__()
        self.encoder, self.fusion = model.image_encoder, model.fusion

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        leaves, self.form = tree_flatten(self.fusion.keep(self.encoder(images)).prepared)
        self.there = [leaf is not None for leaf in leaves]
        return tuple(leaf.contiguous() for leaf in leaves if leaf is not None)


class Question(nn.Module):
    """Token ids -> features; the mask is that of the ids."""

    def __init__(self, model: VQAModel) -> None:
        super().__init__()
        self.encoder = model.text_encoder

    def forward(self, words: Tensor, words_mask: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(words, words_mask)
        return features.tokens.contiguous(), features.pooled.contiguous()


class Answer(nn.Module):
    """Prepared images and features of questions -> logits and probabilities (Q, A)."""

    def __init__(self, model: VQAModel, image: Image) -> None:
        super().__init__()
        self.fusion, self.head = model.fusion, answering(model.head)
        self.form, self.there = image.form, image.there

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        *leaves, tokens, mask, pooled = given
        return self.say(self.fuse(leaves, Features(tokens, mask, pooled)))

    def fuse(self, leaves: Sequence[Tensor], text: Features) -> Features:
        left = iter(leaves)
        prepared = tree_unflatten(
            [next(left) if there else None for there in self.there], self.form
        )
        return self.fusion.fuse(prepared, text)

    def say(self, fused: Features) -> tuple[Tensor, ...]:
        head: Any = self.head
        logits = head(fused, None)
        return logits, head.probabilities(logits)


class Pick(Answer):
    """The same with the choices' vectors (Q, N, D) and mask (Q, N): a logit for each choice."""

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        *leaves, tokens, mask, pooled, choices, choices_mask = given
        fused = self.fuse(leaves, Features(tokens, mask, pooled))
        head: Any = self.head
        logits = head.score(head.merge(fused.pooled[:, None], choices)).squeeze(-1)  # (Q, N)
        return logits, masked_softmax(logits.float(), choices_mask)


class Remember(Answer):
    """What a decoder reads: a mask (Q, 1, 1, N), and keys and values (Q, H, N, d) of each layer."""

    def say(self, fused: Features) -> tuple[Tensor, ...]:
        head: Any = self.head
        state = head.decoder.start(head(fused, None))
        return state.mask, *(tensor for pair in state.read for tensor in pair)


class Step(nn.Module):
    """One more token: the newest ids (Q, 1), what `Remember` gave, keys and values of what is
    written (Q, H, T, d) -> log-probabilities (Q, V), keys and values (Q, H, T + 1, d)."""

    def __init__(self, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        ids, mask, *kept = given
        pairs: list[KeysAndValues] = list(zip(kept[::2], kept[1::2], strict=True))
        layers = len(self.decoder.layers)
        state = TransformerState(pairs[:layers], mask)
        state.written = list(pairs[layers:])
        logits = self.decoder(ids, state)[:, -1].float()
        written = [tensor for pair in state.written if pair is not None for tensor in pair]
        return logits.log_softmax(-1), *written


KINDS: dict[type, tuple[AnswerKind, tuple[str, ...]]] = {
    VocabularyHead: ("vocabulary", ("decode",)),
    MultipleChoice: ("choices", ("forward", "decode")),
    Generation: ("text", ("decode",)),
}
"""The heads that are exported: how they answer, and the methods that the runtime does itself."""


def head_kind(model: VQAModel) -> AnswerKind:
    """How the model answers.

    Raises:
        ExportError: an image encoder, head or decoder that cannot be exported, with the reason.
    """
    head, encoder = answering(model.head), model.image_encoder
    if not isinstance(encoder.transform, ImageTransform):
        raise ExportError(
            f"image_encoder: {type(encoder).__name__} reads features of regions, whose detector is "
            f"no part of the model; expected an encoder of images."
        )
    if type(encoder.transform) is not ImageTransform:
        raise ExportError(
            f"image_encoder: {type(encoder).__name__} prepares each image by its aspect, which the "
            f"runtime cannot; expected an encoder whose images have one size."
        )
    base = next((base for base in KINDS if isinstance(head, base)), None)
    if base is None:
        raise ExportError(
            f"head: got {type(head).__name__}; expected a head with a vocabulary, MultipleChoice, "
            f"or Generation."
        )
    if head.draws:
        raise ExportError(
            f"head: got {type(head).__name__}, whose answers may be pictures; expected one that "
            f"answers with words. Serve the model with `vlm serve RUN`."
        )
    kind, methods = KINDS[base]
    for name in methods:
        if getattr(type(head), name) is not getattr(base, name):
            raise ExportError(
                f"head: {type(head).__name__} has a `{name}` of its own, which an export would not "
                f"run; expected that of {base.__name__}. Serve the model with `vlm serve RUN`."
            )
    if isinstance(head, Generation):
        if not isinstance(head.decoder, TransformerDecoder):
            raise ExportError(
                f"head.decoder: {type(head.decoder).__name__} keeps its state in another library's "
                f"form; expected a TransformerDecoder, which is exported step by step."
            )
        if head.beams > 1 or head.takes_choices:
            found = "choose=True" if head.takes_choices else f"beams={head.beams}"
            raise ExportError(
                f"head: got {found}; expected beams=1 and choose=False, since an export writes "
                f"the likeliest token at each step."
            )
    return kind


@torch.no_grad()
def trace_graphs(model: VQAModel) -> Iterator[TracedGraph]:
    """The graphs of a model in evaluation mode, on the CPU. Batch, words, choices and memory are of
    open length.

    Raises:
        ExportError: as `head_kind`, or a part that torch.export cannot trace.
    """
    kind, head, batch = head_kind(model), answering(model.head), Dim.DYNAMIC
    image, question = Image(model), Question(model)
    images = model.image_encoder.transform.blank(2)
    prepared = image(images)  # sets the form
    ids = torch.full((2, 3), model.text_encoder.tokenizer.pad_id)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    tokens, pooled = question(ids, mask)
    names = [f"prepared_{number}" for number in range(len(prepared))]
    yield _trace("image", image, {"images": images}, names, [{0: batch}])
    read = ["text_tokens", "text_pooled"]
    lengths = [{0: batch, 1: batch}] * 2
    yield _trace("question", question, {"words": ids, "words_mask": mask}, read, lengths)

    given = dict(zip(names, prepared, strict=True))
    given |= {"text_tokens": tokens, "text_mask": mask, "text_pooled": pooled}
    open_axes: list[dict[int, Any]] = [{0: batch}] * len(prepared)
    open_axes += [{0: batch, 1: batch}, {0: batch, 1: batch}, {0: batch}]
    scores = ["logits", "probabilities"]
    if kind == "vocabulary":
        yield _trace("answer", Answer(model, image), given, scores, open_axes)
    elif kind == "choices":
        given |= {"choices": pooled[:, None].repeat(1, 3, 1), "choices_mask": mask}
        open_axes += [{0: batch, 1: batch}] * 2
        yield _trace("answer", Pick(model, image), given, scores, open_axes)
    else:
        assert isinstance(head, Generation)
        assert isinstance(head.decoder, TransformerDecoder)
        remember, layers = Remember(model, image), range(len(head.decoder.layers))
        memory = ["memory_mask"]
        memory += [f"read_{what}_{n}" for n in layers for what in ("key", "value")]
        yield _trace("answer", remember, given, memory, open_axes)
        kept = remember(*given.values())
        step_given = {"ids": torch.zeros(2, 1, dtype=torch.long)}
        step_given |= dict(zip(memory, kept, strict=True))
        written = [name.replace("read", "written") for name in memory[1:]]
        step_given |= dict.fromkeys(written, kept[1][:, :, :2])
        axes: list[dict[int, Any]] = [{0: batch}, {0: batch, 3: batch}]
        axes += [{0: batch, 2: batch}] * (2 * len(written))
        outputs = ["log_probabilities", *(name.replace("written", "next") for name in written)]
        yield _trace("step", Step(head.decoder), step_given, outputs, axes)


def _trace(
    name: str,
    module: nn.Module,
    given: dict[str, Tensor],
    outputs: list[str],
    open_axes: list[dict[int, Any]],
) -> TracedGraph:
    from vlm.core.terminal import working

    # Copies: a view would be traced as one, and what comes from another graph is none.
    example = tuple(v.clone(memory_format=torch.contiguous_format) for v in given.values())
    variadic = isinstance(module, (Answer, Step))
    shapes: Any = (tuple(open_axes),) if variadic else tuple(open_axes)
    try:
        with working(f"Tracing the {name} graph"):
            program = torch.export.export(
                module.eval(), example, dynamic_shapes=shapes, strict=False
            )
    except Exception as error:  # parts, strangers' too, raise anything here
        parts = ", ".join(type(part).__name__ for part in module.children())
        raise ExportError(
            f"The {name} graph ({parts}) cannot be traced by torch.export: "
            f"{str(error).strip().partition(chr(10))[0]:.300}"
        ) from error
    for node in program.graph.nodes:  # a file for others names no folder of this machine
        node.meta.pop("stack_trace", None)
    return TracedGraph(name, program, list(given), outputs)
