"""What an image-text-to-text model reads: its own prompt, by its processor and chat template."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from PIL import Image

from vlm.core.validation import counted

QUESTION = "{question}"
PROMPT = f"{QUESTION}\nAnswer the question using a single word or phrase."
"""The short-answer prompt of LLaVA-1.5 (Liu et al. 2024, arXiv 2310.03744)."""
PROMPTS = {"paligemma": f"answer en {QUESTION}"}
"""Prompts of models that were trained with another one, by `model_type` (PaliGemma: Beyer et al.
2024, arXiv 2407.07726)."""
Images = list[Image.Image]
"""Those of one question, in their order."""


class Prompts:
    """Images and questions in, the output of a model's processor out.

    Args:
        processor: of transformers; if neither it nor its tokenizer has a chat template, it is
            called with an image token and the prompt.
        prompt: what the model reads, with {question} in it.
        limit: tokens of the model's context; None for no limit.

    Raises:
        ValueError: a prompt without {question}, or a template without a place for an image.
    """

    def __init__(self, processor: Any, prompt: str, limit: int | None) -> None:
        if QUESTION not in prompt:
            raise ValueError(f"prompt: got {prompt!r:.200}; expected {QUESTION} in it.")
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.prompt, self.limit = prompt, limit
        added = self.tokenizer.added_tokens_decoder.values()
        self._controls = [token.content for token in added if token.special]
        template = getattr(processor, "chat_template", None) or self.tokenizer.chat_template
        self._has_template = template is not None
        self.check_slot()

    def inputs(
        self, images: list[Images], questions: list[str], room: int
    ) -> tuple[Any, list[tuple[str, ...]]]:
        """The processor's output for a batch, and what was cut of each question so that the
        context has `room` for an answer.

        Raises:
            ValueError: a question with a control token, or an image that leaves no room.
        """
        for question in questions:
            self.check_text("question", question)
        inputs = self.read(images, questions)
        notes: list[tuple[str, ...]] = [() for _ in questions]
        limit = math.inf if self.limit is None else self.limit - room
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
                    f"image: fills the model's context of {self.limit:,} tokens, of which the "
                    f"answer needs {room}. Scale the image down, or use another model."
                )
            questions = [*questions[:row], " ".join(words[:kept]), *questions[row + 1 :]]
            notes[row] = (
                f"Only the first {kept} of {len(words)} words of the question were read: the "
                f"model's context has {self.limit:,} tokens.",
            )
        inputs = self.read(images, questions) if any(notes) else inputs
        return inputs, notes

    def _length(self, images: Images, words: list[str]) -> int:
        """Tokens of a prompt with its images."""
        return int(self.read([images], [" ".join(words)])["attention_mask"].sum())

    def read(self, images: Sequence[Images], questions: Sequence[str]) -> Any:
        """The processor's output for a batch."""
        if not self._has_template:
            pairs = zip(questions, images, strict=True)
            texts = [self.asked(question, images=len(own)) for question, own in pairs]
            inputs = self.processor(images=list(map(list, images)), text=texts, padding=True)
            inputs.pop("labels", None)  # of PaliGemma, for training
            return inputs.convert_to_tensors("pt")
        chats = [_chat(own, self._prompt(q)) for own, q in zip(images, questions, strict=True)]
        inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        )
        return inputs.convert_to_tensors("pt")  # SmolVLM's leaves lists

    def _prompt(self, question: str) -> str:
        return self.prompt.replace(QUESTION, question)

    def asked(self, question: str, answer: str | None = None, images: int = 1) -> str:
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

    def ids(self, answer: str) -> list[int]:
        """The tokens of an answer where the template puts it, without its end."""
        self.check_text("answer", answer)
        asked, told = self.asked("what?"), self.asked("what?", answer)
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

    def check_text(self, name: str, text: str) -> None:
        """Refuse what the model would read as a control token, such as another image."""
        if found := [token for token in self._controls if token in text]:
            raise ValueError(
                f"{name}: got {text!r:.80}, with the model's control token {found[0]!r}; expected "
                f"plain text."
            )

    def check_slot(self, images: int = 1) -> None:
        slot = getattr(self.processor, "image_token", "")
        asked = self.asked("what?", images=images)
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


def _chat(images: Sequence[Any], prompt: str) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = [
        {"type": "image"} if image is None else {"type": "image", "image": image}
        for image in images
    ]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}]
