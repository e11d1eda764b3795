"""Image-text-to-text models of transformers as they are: LLaVA, Qwen-VL, SmolVLM, PaliGemma.

They keep their own processor, chat template and `generate`; none of their parts become ours.
"""

from __future__ import annotations

import copy
import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlm.asking import Answer, Asking, opened
from vlm.core.rust_panic import AnswerError, broken_off
from vlm.core.validation import check_positive, counted
from vlm.heads.base import AnswerKind
from vlm.heads.generation.head import CUT
from vlm.image.load import Source, WhiteLevel, load_image
from vlm.image.transform import GREY

QUESTION = "{question}"
PROMPT = f"{QUESTION}\nAnswer the question using a single word or phrase."
"""The short-answer prompt of LLaVA-1.5 (Liu et al. 2024, arXiv 2310.03744)."""
PROMPTS = {"paligemma": f"answer en {QUESTION}"}
"""Prompts of models that were trained with another one, by `model_type` (PaliGemma: Beyer et al.
2024, arXiv 2407.07726)."""
BLANK = 336
"""Pixels of a side of an image that shows nothing."""
Images = list[Image.Image]
"""Those of one question, in their order."""
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
        return sum(3 * image.width * image.height for image in _several(self.image))


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
        self.prompt = PROMPTS.get(kind, PROMPT) if prompt is None else prompt
        if QUESTION not in self.prompt:
            raise ValueError(f"prompt: got {self.prompt!r:.200}; expected {QUESTION} in it.")
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
        )  # fmt: skip
        added = tokens.added_tokens_decoder.values()
        self._controls = [token.content for token in added if token.special]
        template = getattr(processor, "chat_template", None) or tokens.chat_template
        self._has_template = template is not None
        self._limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._check_slot()

    def __repr__(self) -> str:
        return f"ImageTextToText({type(self.model).__name__}, on {self.model.device})"

    @property
    def kind(self) -> AnswerKind:
        return "text"

    @cached_property
    def digest(self) -> str:
        settings = (self.prompt, self.max_tokens, self.beams, self._asked(QUESTION))
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
            self._check_slot(number)
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
        inputs, cut = self._inputs(images, questions, self.max_tokens)
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
        ids = [self._ids(answer) for answer in answers]
        longest = max(map(len, ids)) + 1
        found, notes = [], []
        for start in range(0, len(ids), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            inputs, cut = self._inputs(images[part], questions[part], longest)
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
            **inputs,
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

    # What the model reads.

    def _inputs(
        self, images: list[Images], questions: list[str], room: int
    ) -> tuple[Any, list[tuple[str, ...]]]:
        """The processor's output for a batch, and what was cut of each question so that the
        context has `room` for an answer.

        Raises:
            ValueError: a question with a control token, or an image that leaves no room.
        """
        for question in questions:
            self._check_text("question", question)
        inputs = self._read(images, questions)
        notes: list[tuple[str, ...]] = [() for _ in questions]
        limit = math.inf if self._limit is None else self._limit - room
        lengths = inputs["attention_mask"].sum(1).tolist()
        for row, length in enumerate(lengths):
            if length <= limit:
                continue
            own, words = images[row], questions[row].split()
            kept = bisect_right(
                range(1, len(words) + 1), limit, key=lambda n: self._length(own, words[:n])
            )
            if not kept:
                raise ValueError(
                    f"image: fills the model's context of {self._limit:,} tokens, of which the "
                    f"answer needs {room}. Scale the image down, or use another model."
                )
            questions = [*questions[:row], " ".join(words[:kept]), *questions[row + 1 :]]
            notes[row] = (
                f"Only the first {kept} of {len(words)} words of the question were read: the "
                f"model's context has {self._limit:,} tokens.",
            )
        inputs = self._read(images, questions) if any(notes) else inputs
        return inputs.to(self.model.device, self.model.dtype), notes

    def _length(self, images: Images, words: list[str]) -> int:
        """Tokens of a prompt with its images."""
        return int(self._read([images], [" ".join(words)])["attention_mask"].sum())

    def _read(self, images: Sequence[Images], questions: Sequence[str]) -> Any:
        """The processor's output for a batch."""
        if not self._has_template:
            pairs = zip(questions, images, strict=True)
            texts = [self._asked(question, images=len(own)) for question, own in pairs]
            inputs = self.processor(images=list(map(list, images)), text=texts, padding=True)
            inputs.pop("labels", None)  # of PaliGemma, for training
            return inputs.convert_to_tensors("pt")
        chats = [_chat(own, self._prompt(q)) for own, q in zip(images, questions, strict=True)]
        return self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        )

    def _prompt(self, question: str) -> str:
        return self.prompt.replace(QUESTION, question)

    def _asked(self, question: str, answer: str | None = None, images: int = 1) -> str:
        """The text of a prompt before the images are put in, or of a prompt and its answer."""
        if not self._has_template:
            slot = getattr(self.processor, "image_token", "")
            return f"{slot * images}{self._prompt(question)}{answer or ''}"
        chat = _chat([None] * images, self._prompt(question))
        if answer is not None:
            said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
            chat.append(said)
        made = self.processor.apply_chat_template(chat, add_generation_prompt=answer is None)
        return str(made)

    def _ids(self, answer: str) -> list[int]:
        """The tokens of an answer where the template puts it, without its end."""
        self._check_text("answer", answer)
        asked, told = self._asked("what?"), self._asked("what?", answer)
        # Some templates put a space between prompt and answer.
        space, found, _ = told.removeprefix(asked).partition(answer)
        before = space if told.startswith(asked) and found and not space.strip() else ""
        first, whole = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (asked, asked + before + answer)
        )
        if whole[: len(first)] == first:
            return list(whole[len(first) :])
        return list(self.tokenizer(before + answer, add_special_tokens=False)["input_ids"])

    def _check_text(self, name: str, text: str) -> None:
        """Refuse what the model would read as a control token, such as another image."""
        if found := [token for token in self._controls if token in text]:
            raise ValueError(
                f"{name}: got {text!r:.80}, with the model's control token {found[0]!r}; expected "
                f"plain text."
            )

    def _check_slot(self, images: int = 1) -> None:
        slot = getattr(self.processor, "image_token", "")
        asked = self._asked("what?", images=images)
        if slot not in asked:
            raise ValueError(
                f"chat template: writes {asked!r:.200}, without the image token {slot!r}; expected "
                f"a place for the image."
            )
        if slot and (found := asked.count(slot)) < images:
            raise ValueError(
                f"image: got {counted(images, 'image')} for a question, and the model's chat "
                f"template has places for {found}; expected no more."
            )


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


def _chat(images: Sequence[Any], prompt: str) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = [
        {"type": "image"} if image is None else {"type": "image", "image": image}
        for image in images
    ]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}]
