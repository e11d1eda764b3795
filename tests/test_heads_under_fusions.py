"""Every head learns with every fusion and depends only on image, question and choices."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from test_model import FUSIONS

from vlm.core.batch import Batch
from vlm.fusion import Product
from vlm.heads import Classification, Generation, MultipleChoice, MultiTask, TransformerDecoder
from vlm.image import ConvNet
from vlm.model import VQAModel
from vlm.text import BagOfWords

WORDS = ["what", "is", "the", "circle", "red", "yes", "no"]
QUESTIONS = ["what is the circle", "is the circle", "what", "is", "the circle"]
INDEX = [2, 0, 0, 1, 2]
CHOICES = [["red", "blue"], ["yes", "no"], ["no", "red", "yes"], ["yes", "no"], ["blue", "red"]]
GIVEN = [["red"], ["yes"], ["no"], ["no"], ["blue"]]


def model(fusion: str) -> VQAModel:
    image, text = ConvNet(image_size=32, widths=(5, 7)), BagOfWords(WORDS, dim=13, hidden_dim=17)
    made = FUSIONS[fusion](image.dim, text.dim)
    heads = {
        "classify": partial(Classification, hidden_dims=(19,)),
        "choose": partial(MultipleChoice, merge=partial(Product, out_dim=11)),
        "write": partial(
            Generation,
            decoder=partial(TransformerDecoder, dim=14, num_heads=2, num_layers=1, max_length=5),
        ),
    }
    answers = ["yes", "no", "red", "blue"]
    head = MultiTask(made.out_dim, heads, text_dim=text.dim, answers=answers)
    return VQAModel(image, text, made, head)


def batch_of(made: VQAModel, rows: list[int], images: torch.Tensor) -> Batch:
    return made.processor.batch(
        images,
        [INDEX[row] for row in rows],
        [QUESTIONS[row] for row in rows],
        [GIVEN[row] for row in rows],
        total=5,
        choices=[CHOICES[row] for row in rows],
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_head_works_under_every_fusion(fusion: str) -> None:
    made = model(fusion)
    images = torch.randint(256, (3, 3, *made.image_encoder.transform.size), dtype=torch.uint8)
    whole = batch_of(made, list(range(5)), images)
    for name, head in made.train().head.heads.items():
        made.zero_grad()
        targets = whole.targets[name]
        head.loss(made(whole)[name], whole._replace(targets=targets)).backward()
        for part in (made.image_encoder, made.text_encoder, made.fusion, head):
            for parameter_name, parameter in part.named_parameters():
                where = f"{name}: {parameter_name}"
                assert parameter.grad is not None, where
                assert torch.isfinite(parameter.grad).all(), where
    made.eval()
    with torch.no_grad():
        together = made.head.decode_each(made(whole), 3)
        total = torch.zeros(())
        for row in range(5):
            alone = batch_of(made, [row], images)
            output = made(alone)
            total += made.head.loss(output, alone)
            for name, ranked in made.head.decode_each(output, 3).items():
                wanted = together[name][row]
                assert [text for text, _ in ranked[0]] == [text for text, _ in wanted], name
                assert dict(ranked[0]) == pytest.approx(dict(wanted), abs=1e-5), name
        torch.testing.assert_close(total, made.head.loss(made(whole), whole))
