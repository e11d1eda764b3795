"""Training steps of a SmolVLM from our parts beside transformers' own model, on the same weights.

    python benchmarks/decoder.py                     # a small one, about a minute
    python benchmarks/decoder.py --sizes smolvlm     # as large as SmolVLM-256M
    python benchmarks/decoder.py --sizes smolvlm --device cuda

A step is a forward and a backward pass of all weights in float32, from images in memory. Both sides
must give the same loss. transformers' model reads one row for each question, image included; here
each image goes through the image encoder and the connector once for all its questions.

How to read the table:
  steps/s      1 / median time of a step
  ours/theirs  median of the ratios of neighbouring steps, and its 95 % bootstrap interval over the
               pairs of this call; below 1 we are faster
  MiB          most memory that a step holds beyond weights and inputs
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pairs import Pairs, machine, markdown, peak_memory, take_turns, timed
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import Idefics3Config, Idefics3ForConditionalGeneration

from vlm.adapters import VisionTower
from vlm.adapters.language_models import IDEFICS3
from vlm.fusion import PixelShuffle
from vlm.heads import Generation, LanguageModel, SubwordAnswers
from vlm.model import VQAModel
from vlm.text import Prompt, PromptTokenizer

SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "small": (
        {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "image_size": 256}
        | {"num_attention_heads": 3, "patch_size": 16},
        {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "vocab_size": 8192}
        | {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 64},
    ),
    "smolvlm": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "image_size": 512}
        | {"num_attention_heads": 12, "patch_size": 16},
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        | {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49280},
    ),
}
FACTOR, IMAGES = 4, 4
ASKED = "user : <image> {question} answer with a word or a short phrase . assistant :"
HEADINGS = (
    "questions an image | ours steps/s | theirs steps/s | ours/theirs | target | ours MiB | "
    "theirs MiB"
)
TARGETS = {1: 1.05, 5: 0.5}
"""Most of ours/theirs, by the questions of an image."""


def parts(sizes: str) -> tuple[VQAModel, Any]:
    """Our model and transformers', with the same random weights."""
    vision, text = SIZES[sizes]
    words = ["<unk>", "</s>", "<image>", "user", ":", "answer", "with", "a", "word", "or"]
    words += ["short", "phrase", ".", "assistant"]
    words += [f"w{number}" for number in range(1000)]
    pieces = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    json = pieces.to_str()
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1}
    config = Idefics3Config(
        vision_config=vision, text_config={"model_type": "llama", **text, **ends},
        image_token_id=2, scale_factor=FACTOR, pad_token_id=1,
    )  # fmt: skip
    theirs = Idefics3ForConditionalGeneration._from_config(config, dtype=torch.float32)
    encoder = VisionTower(config.vision_config.to_dict())
    prompt = Prompt(tokenizer=PromptTokenizer(json, ASKED))
    width = text["hidden_size"]
    decoder = partial(
        LanguageModel,
        config=config.text_config.to_dict(),
        tokenizer=SubwordAnswers(json=json, end="</s>"),
        image_id=2,
        max_length=8,
    )
    fusion = PixelShuffle(encoder.dim, prompt.dim, width, FACTOR)
    ours = VQAModel(encoder, prompt, fusion, Generation(width, decoder))
    state = theirs.state_dict()
    with torch.no_grad():
        for name, value in ours.state_dict().items():
            for own, their in IDEFICS3.items():
                if name.startswith(own):
                    value.copy_(state[their + name.removeprefix(own)])
    return ours, theirs


def steps(ours: VQAModel, theirs: Any, questions: int, device: str) -> list[Callable[[], Tensor]]:
    """A step of each side, on the same images, questions and answers."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        256, (IMAGES, 3, *ours.image_encoder.transform.size), generator=generator
    )
    rows = IMAGES * questions
    index = torch.arange(rows) // questions
    lengths = torch.randint(4, 12, (rows,), generator=generator).tolist()
    asked = [" ".join(f"w{row + k}" for k in range(n)) for row, n in enumerate(lengths)]
    answers = [[f"w{row}" + " w7" * (row % 3)] for row in range(rows)]
    batch = ours.processor.batch(images.byte(), index, asked, answers).to(device)
    pixels = ours.image_encoder.normalised(batch.images)[0][batch.image_index][:, None]
    tokens = (ours.image_encoder.grid[0] // FACTOR) ** 2
    whole = []
    for row in range(rows):
        ids = ours.text_encoder.tokenizer.ids(asked[row])
        place = list(ids).index(2)
        answer = batch.targets.ids[row, 0][batch.targets.mask[row, 0]].tolist()
        whole.append(([*ids[:place], *[2] * tokens, *ids[place + 1 :]], answer))
    longest = max(len(prompt) + len(answer) for prompt, answer in whole)
    ids = torch.ones(rows, longest, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(whole):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
        mask[row, :end] = 1
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    given = {name: value.to(device) for name, value in given.items()} | {"pixel_values": pixels}
    answered = float(batch.targets.mask[:, 0].sum()) / rows  # theirs is a mean over tokens

    def step(loss: Callable[[], Tensor], model: torch.nn.Module) -> Tensor:
        found = loss()
        found.backward()
        model.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        return found.detach()

    return [
        partial(step, lambda: ours.head.loss(ours(batch), batch), ours),
        partial(step, lambda: theirs(**given).loss * answered, theirs),
    ]


def memory(work: Callable[[], object], device: str) -> float:
    """Most MiB that a call holds beyond what was held before."""
    if device == "cpu":
        return peak_memory(work)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def compare(sizes: str, questions: int, device: str, pairs: int) -> tuple[Pairs, str]:
    """The times, and the row of the table."""
    torch.manual_seed(0)
    ours, theirs = (model.to(device).train() for model in parts(sizes))
    sides = steps(ours, theirs, questions, device)
    losses = [side().item() for side in sides]
    if abs(losses[0] - losses[1]) > 1e-3 * losses[1]:
        raise SystemExit(f"the losses differ: {losses}")
    held = [memory(side, device) for side in sides]
    found = Pairs(
        f"SmolVLM ({sizes}), {questions} questions an image: ours / theirs",
        *take_turns([partial(timed, side) for side in sides], pairs),
    )
    kept = statistics.median(found.ratios) <= TARGETS[questions]
    return found, " | ".join(
        [
            str(questions),
            *(f"{1 / median:.3g}" for median in found.medians),
            found.interval,
            f"{'at most' if kept else 'missed:'} {TARGETS[questions]}",
            *(f"{size:.0f}" for size in held),
        ]
    )


def compare_all(pairs: int) -> list[Pairs]:
    return [compare("small", questions, "cpu", pairs)[0] for questions in TARGETS]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", choices=SIZES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pairs", type=int, default=9, help="steps of each side (9)")
    given = parser.parse_args()
    rows = [compare(given.sizes, number, given.device, given.pairs)[1] for number in TARGETS]
    where = torch.cuda.get_device_name() if given.device == "cuda" else machine()
    print(f"{given.sizes}, {IMAGES} images a step. {where}\n\n{markdown(HEADINGS, rows)}")


if __name__ == "__main__":
    main()
