"""Image-text-to-text models of transformers as they are: LLaVA, Qwen-VL, SmolVLM, PaliGemma.

They keep their own processor, chat template and `generate`; none of their parts become ours.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlm.adapters.prompts import PROMPT, PROMPTS, QUESTION, Images, Prompts
from vlm.asking import Answer, Asking, opened
from vlm.core.rust_panic import AnswerError, broken_off
from vlm.core.validation import check_positive
from vlm.heads.base import AnswerKind
from vlm.heads.generation.head import CUT
from vlm.image.load import Source, WhiteLevel, load_image
from vlm.image.rgb import BYTES_PER_PIXEL
from vlm.image.transform import GREY

BLANK = 336
"""Pixels of a side of an image that shows nothing."""
ROWS_AT_ONCE = 8
"""Images with a prompt that go through the model together: one can be thousands of tokens."""


class OriginalImage:
    """The transform of a model whose own processor resizes: upright RGB, else unchanged."""

    white_level: WhiteLevel = None
    shape = (3, 0, 0)
    enough = None

    def __call__(self, image: Image.Image) -> Image.Image:
        return image

    def open(self, source: Source) -> Image.Image:
        """An image in any form that `load_image` takes."""
        return load_image(source)

    def blank(self, count: int) -> list[Image.Image]:
        """A batch of uniformly grey images."""
        return [Image.new("RGB", (BLANK, BLANK), (GREY, GREY, GREY))] * count

    def stack(self, items: Sequence[Image.Image]) -> list[Image.Image]:
        """One batch, of images of any sizes."""
        return list(items)


@dataclass(frozen=True)
class SeenImage:
    """An image that was opened, or several of one question; the model reads them anew with each
    question."""

    image: Image.Image | list[Image.Image]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(BYTES_PER_PIXEL * image.width * image.height for image in _several(self.image))


class ImageTextToText(Asking):
    """A model of transformers' `AutoModelForImageTextToText` that answers questions about images.

    It writes the likeliest answer in free text, or ranks the choices of a question. The probability
    of an answer is that of its tokens and its end, given image and prompt; probabilities of choices
    are normalised over the choices. Batches are padded on the left; batching changes no answer.

    Args:
        model: transformers model; its `generation_config` is replaced by a copy that does not
            sample.
        processor: processor of the model. If neither it nor its tokenizer has a chat template, it
            is called with an image token and the prompt.
        prompt: text that the model reads, with {question} in it; None for a prompt that asks for a
            word or phrase.
        max_tokens: largest number of tokens of an answer.
        beams: number of texts written in parallel. 1 is greedy decoding with one answer; with more,
            the ranking has up to this many answers, by likelihood.
        about: facts about the origin of the model.

    Raises:
        ValueError: a prompt without {question}, a template without a place for an image, a model
            that cannot end an answer, or an encoder-decoder.

    Example:
        >>> name = "hf:HuggingFaceTB/SmolVLM-256M-Instruct"
        >>> vqa = vlm.load(name)  # doctest: +SKIP
        >>> vqa.answer("photo.png", "What color is it?").text  # doctest: +SKIP
        >>> vqa.answer("photo.png", "What color?", choices=["red", "blue"]).top  # doctest: +SKIP
    """

    seen_type = SeenImage
    ranks_choices = True
    max_images = None  # whatever the chat template has places for

    def __init__(
        self,
        model: Any,
        processor: Any,
        prompt: str | None = None,
        max_tokens: int = 20,
        beams: int = 1,
        about: dict[str, Any] | None = None,
    ) -> None:
        check_positive(max_tokens=max_tokens, beams=beams)
        kind = model.config.model_type
        if model.config.is_encoder_decoder:
            raise ValueError(f"{kind}: got an encoder-decoder; expected a decoder alone.")
        self.model, self.processor, self.about = model.eval(), processor, about or {}
        self.max_tokens, self.beams = max_tokens, beams
        self.transform = OriginalImage()
        self.tokenizer = tokens = processor.tokenizer
        tokens.padding_side = "left"
        model.generation_config = config = copy.deepcopy(model.generation_config)
        found = config.eos_token_id
        found = tokens.eos_token_id if found is None else found
        self.ends: list[int] = list(found) if isinstance(found, (list, tuple)) else [found]
        if self.ends == [None]:
            raise ValueError("eos_token_id: got none; expected the token that ends an answer.")
        if tokens.pad_token_id is None:  # padding is masked, so any token will do
            tokens.pad_token = tokens.convert_ids_to_tokens(self.ends[0])
        config.update(
            do_sample=False, temperature=None, top_p=None, top_k=None, num_beams=None,
            length_penalty=None, max_length=None, eos_token_id=self.ends,
            pad_token_id=tokens.pad_token_id,
            # What follows forbids or penalises tokens, which would no longer be the likeliest.
            repetition_penalty=None, encoder_repetition_penalty=None, no_repeat_ngram_size=None,
            encoder_no_repeat_ngram_size=None, suppress_tokens=None, begin_suppress_tokens=None,
            bad_words_ids=None, min_length=None, min_new_tokens=None,
        )  # fmt: skip
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        given = PROMPTS.get(kind, PROMPT) if prompt is None else prompt
        self.prompts = Prompts(processor, given, limit)

    def __repr__(self) -> str:
        return f"ImageTextToText({type(self.model).__name__}, on {self.model.device})"

    @property
    def kind(self) -> AnswerKind:
        return "text"

    @cached_property
    def digest(self) -> str:
        settings = (self.prompts.prompt, self.max_tokens, self.beams, self.prompts.asked(QUESTION))
        made_of = (self.model.config, self.model.generation_config, self.processor)
        digest = hashlib.sha256("\n".join(map(str, settings + made_of)).encode())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
        for value in self.model.state_dict().values():
            digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def encode(self, images: Sequence[Any]) -> list[SeenImage]:
        return [SeenImage(image) for image in images]

    @broken_off
    @torch.inference_mode()
    def _answer(  # type: ignore[override]  # no side is missing: `answers_one_side` is False
        self,
        given: list[Any],
        questions: list[str],
        top_k: int,
        choices: list[list[str]] | None,
    ) -> list[Answer]:
        seen = isinstance(given[0], SeenImage)
        found = [item.image for item in given] if seen else opened(self.transform, given)
        images = list(map(_several, found))
        for number in sorted(set(map(len, images)) - {1}):
            self.prompts.check_slot(number)
        images = images * len(questions) if len(images) == 1 else images
        lists = choices or [[] for _ in questions]
        answers: dict[int, Answer] = {}
        free = [row for row, candidates in enumerate(lists) if not candidates]
        for part in (free[i : i + ROWS_AT_ONCE] for i in range(0, len(free), ROWS_AT_ONCE)):
            texts = self._write([images[row] for row in part], [questions[row] for row in part])
            answers |= dict(zip(part, texts, strict=True))
        for row, candidates in enumerate(lists):
            if candidates:
                answers[row] = self._choose(images[row], questions[row], candidates)
        made = [answers[row] for row in range(len(questions))]
        if not all(math.isfinite(answer.probability) for answer in made):
            raise AnswerError("the model's answer is not finite. Use another model.")
        return [Answer(a.text, a.probability, a.top[:top_k], a.warnings) for a in made]

    def _write(self, images: list[Images], questions: list[str]) -> list[Answer]:
        """The likeliest texts of a batch."""
        inputs, cut = self.prompts.inputs(images, questions, self.max_tokens)
        beams: dict[str, Any] = {}
        if self.beams > 1:  # with a penalty of 0, a text's score is its log-likelihood
            beams = {"num_beams": self.beams, "num_return_sequences": self.beams}
            beams |= {"length_penalty": 0.0, "output_scores": True}
        made = self._generate(inputs, self.max_tokens, **beams)
        written = made.sequences[:, inputs["input_ids"].shape[1] :]
        log_p = made.sequences_scores if beams else self._log_likelihood(written, made.logits)
        answers = []
        for row, note in enumerate(cut):
            ranked: dict[str, float] = {}
            for i in range(row * self.beams, (row + 1) * self.beams):
                text = self.tokenizer.decode(written[i], skip_special_tokens=True).strip()
                text += "" if self._ended(written[i]) else CUT
                ranked[text] = ranked.get(text, 0.0) + log_p[i].exp().item()
            top = sorted(ranked.items(), key=lambda pair: -pair[1])
            never = f"The answer never ended: it was cut at {self.max_tokens} tokens."
            notes = (*note, *([never] if top[0][0].endswith(CUT) else []))
            answers.append(Answer(*top[0], top, notes))
        return answers

    def _choose(self, images: Images, question: str, choices: list[str]) -> Answer:
        """The choices of one question by likelihood."""
        log_p, cut = self._score([images] * len(choices), [question] * len(choices), choices)
        shares = log_p.softmax(0).tolist()
        top = sorted(zip(choices, shares, strict=True), key=lambda pair: -pair[1])
        return Answer(*top[0], top, tuple(cut))

    @torch.inference_mode()
    def log_likelihood(
        self, images: Sequence[Image.Image], questions: Sequence[str], answer: str
    ) -> Tensor:
        """(Q,) log-likelihood of an answer and its end, of each question about its image.

        Raises:
            ValueError: an answer with a control token, or a context that is too long.
        """
        return self._score([[image] for image in images], list(questions), [answer] * len(images))[
            0
        ]

    def _score(
        self, images: list[Images], questions: list[str], answers: list[str]
    ) -> tuple[Tensor, list[str]]:
        """Log-likelihoods (Q,), and what to know of the first question."""
        ids = [self.prompts.ids(answer) for answer in answers]
        longest = max(map(len, ids)) + 1
        found, notes = [], []
        for start in range(0, len(ids), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            inputs, cut = self.prompts.inputs(images[part], questions[part], longest)
            dictated = torch.full((len(cut), longest), self.ends[0], device=self.model.device)
            for row, answer in enumerate(ids[part]):
                dictated[row, : len(answer)] = torch.tensor(answer)
            made = self._generate(inputs, longest, logits_processor=[Dictate(dictated)])
            steps = dictated[:, : len(made.logits)]
            found.append(self._log_likelihood(steps, made.logits))
            notes += cut
        return torch.cat(found), list(notes[0])

    def _generate(self, inputs: Any, max_tokens: int, **options: Any) -> Any:
        """transformers' own `generate`, without sampling."""
        return self.model.generate(
            **inputs.to(self.model.device, self.model.dtype),
            max_new_tokens=max_tokens,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )

    def _log_likelihood(self, written: Tensor, logits: Sequence[Tensor]) -> Tensor:
        """(Q,) of tokens (Q, T) up to their first end, by T logits (Q, V). Any end will do."""
        ends = torch.tensor(self.ends, device=written.device)
        total = torch.zeros(len(written), device=written.device)
        going = torch.ones_like(total, dtype=torch.bool)
        for token, scores in zip(written.T, logits, strict=True):
            shares = scores.float().log_softmax(-1)
            is_end = torch.isin(token, ends)
            own = shares.gather(1, token[:, None])[:, 0]
            total += torch.where(is_end, shares[:, ends].logsumexp(1), own) * going
            going &= ~is_end
        return total

    def _ended(self, written: Tensor) -> bool:
        return bool(torch.isin(written, torch.tensor(self.ends, device=written.device)).any())


class Dictate:
    """A logits processor: `generate` writes the given tokens (Q, T)."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens, self.step = tokens, 0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced.scatter_(1, self.tokens[:, self.step, None], 0.0)
        self.step += 1
        return forced


def _several(image: Image.Image | list[Image.Image]) -> Images:
    return image if isinstance(image, list) else [image]
