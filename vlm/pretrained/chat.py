"""What a language model reads and writes: its tokenizer, and its chat template as one text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from vlm.pretrained.availability import hub_access
from vlm.pretrained.pruning import hub_tokenizer

QUESTION, IMAGE = "{question}", "{image}"
PROMPT = f"{IMAGE}\n{QUESTION}\nAnswer the question using a single word or phrase."
"""The short-answer prompt of LLaVA-1.5 (Liu et al. 2024, arXiv 2310.03744)."""
IMAGE_TOKEN = "<image>"
"""Stands for an image where a tokenizer names no token of its own for it."""
_WHOLE = "<fake_token_around_image><global-img>{}<fake_token_around_image>"
IMAGES = {"idefics3": _WHOLE, "smolvlm": _WHOLE}
"""What the processor of a kind of model writes around the tokens of an image in one piece."""
_ANSWER = "vlmanswer"


class Chat(NamedTuple):
    """A question in the chat template of a language model, and the answer to it.

    Attributes:
        json: the tokenizer.
        prompt: all that the model reads before the answer, with {question} in it and
            `image_token` where the image is.
        image_token: the token that the image's own tokens replace.
        space: what the template puts between prompt and answer.
        end: the token after an answer.
    """

    json: str
    prompt: str
    image_token: str
    space: str
    end: str


def read_chat(name: str, prompt: str = PROMPT) -> Chat:
    """The chat template and the tokenizer of a model, as plain text.

    Where there is no template, the model reads the prompt as it is.

    Args:
        name: a model of the Hugging Face hub, or a local folder.
        prompt: the user's turn, with {image} and {question} in it.

    Raises:
        ValueError: a prompt or a template without one place for the image and one for the
            question, or no token for the end of an answer.
        OSError: the tokenizer is neither in the cache nor available.
    """
    for slot in (IMAGE, QUESTION):
        if prompt.count(slot) != 1:
            raise ValueError(
                f"prompt: got {prompt!r:.200}, with {slot} {prompt.count(slot)} times; expected it "
                f"once, as a question is about one image."
            )
    tokens = hub_tokenizer(name)
    if tokens.chat_template is None:
        tokens.chat_template = _processors_template(Path(name))
    from transformers import AutoConfig

    image_token = getattr(tokens, "image_token", None) or IMAGE_TOKEN
    backend = tokens.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    asked, space, end = _rendered(tokens, prompt, image_token)
    check_slots(f"{name}: chat template", asked, image_token)
    # A template often leaves the first token of a text to the tokenizer.
    first = tokens.bos_token
    if first and not asked.startswith(first):
        added = backend.encode("a").ids
        asked = first * (added[:1] == [tokens.bos_token_id]) + asked
    end = end or tokens.eos_token
    if end is None:
        raise ValueError(f"{name}: its tokenizer names no token for the end of an answer.")
    with hub_access(name):
        kind = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
    asked = asked.replace(image_token, IMAGES.get(kind, "{}").format(image_token))
    return Chat(backend.to_str(), asked, image_token, space, end)


def _processors_template(folder: Path) -> str | None:
    """The template of a model for images in the file where transformers kept it until version 5;
    its tokenizers do not read that one."""
    path = folder / "chat_template.json"
    return json.loads(path.read_text("utf-8"))["chat_template"] if path.is_file() else None


def check_slots(what: str, prompt: str, image_token: str) -> None:
    """Refuse a prompt that has not one place for an image and one for a question.

    Raises:
        ValueError: says which is there how often.
    """
    for kind, slot in (("image", image_token), ("question", QUESTION)):
        if (found := prompt.count(slot)) != 1:
            raise ValueError(
                f"{what}: got {prompt!r:.200}, with {found} places for the {kind}, {slot!r}; "
                f"expected one, as a question is about one image."
            )


def _rendered(tokens: Any, prompt: str, image_token: str) -> tuple[str, str, str | None]:
    """The prompt, what is between it and an answer, and the token after an answer."""
    if tokens.chat_template is None:
        return prompt.replace(IMAGE, image_token), "", None
    # Templates of language models take a text, those of models for images a list of its parts.
    text = prompt.replace(IMAGE, image_token)
    before_image, _, after_image = prompt.partition(IMAGE)
    parts = [{"type": "text", "text": before_image.strip()}, {"type": "image"}]
    parts = [*parts, {"type": "text", "text": after_image.strip()}]
    parts = [part for part in parts if part.get("text") != ""]
    for asked, said in ((text, _ANSWER), (parts, [{"type": "text", "text": _ANSWER}])):
        turns: list[dict[str, Any]] = [{"role": "user", "content": asked}]
        before = tokens.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        turns.append({"role": "assistant", "content": said})
        whole = tokens.apply_chat_template(turns, tokenize=False)
        if QUESTION in before:
            break
    told, _, rest = whole.removeprefix(before).partition(_ANSWER)
    space = told if whole.startswith(before) and not told.strip() else ""
    added = [token.content for token in tokens.added_tokens_decoder.values() if token.special]
    return before, space, next((t for t in added if rest.strip().startswith(t)), None)
