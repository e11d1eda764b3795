"""Every public class keeps the promises of its role."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contract.encoder_parts import IMAGE_ENCODERS, TEXT_ENCODERS
from contract.fusion_parts import FUSIONS, MERGES

import vlm.data.augmentation
import vlm.datasets
import vlm.fusion
import vlm.heads
import vlm.image
import vlm.text
import vlm.training
from vlm.fusion import GMU, MCB, Fusion, Merge, Product
from vlm.heads import (
    AnswerHead,
    AuxiliaryClassification,
    Classification,
    Drawing,
    Generation,
    LearnedMixin,
    MultipleChoice,
    MultiTask,
    PictureCodes,
    TransformerDecoder,
    WordsAndCodes,
)
from vlm.image import ImageEncoder
from vlm.testing import (
    check_fusion,
    check_head,
    check_image_encoder,
    check_merge,
    check_text_encoder,
)
from vlm.text import TextEncoder

ANSWERS = ("no", "yes", "two cats", "red")


HEADS: dict[type, list[Callable[[], AnswerHead]]] = {
    Classification: [
        lambda: Classification(13, ANSWERS, hidden_dims=(17,)),
        lambda: Classification(13, ("mauve", *ANSWERS), hidden_dims=(), loss="kl"),
        lambda: Classification(13, ANSWERS, hidden_dims=(17, 19), dropout=0.3, loss="ce"),
        lambda: Classification(13, ANSWERS, consistency=0.5, opposites=("yes", "no")),
        lambda: Classification(
            13, ANSWERS, loss="focal", label_smoothing=0.1, class_weights={"yes": 0.5}
        ),
    ],
    AuxiliaryClassification: [
        lambda: AuxiliaryClassification(13, 9, 11, ANSWERS, hidden_dims=(17,)),
        lambda: AuxiliaryClassification(13, 9, 11, ANSWERS, hidden_dims=(), loss="ce"),
    ],
    LearnedMixin: [
        lambda: LearnedMixin(13, 11, ANSWERS, hidden_dims=(17,)),
        lambda: LearnedMixin(13, 11, ANSWERS, hidden_dims=(), loss="ce", consistency=0.5),
    ],
    MultipleChoice: [
        lambda: MultipleChoice(13, 11, partial(Product, out_dim=17)),
        lambda: MultipleChoice(13, 11, partial(MCB, out_dim=17, sketch_dim=23)),
    ],
    Generation: [
        lambda: Generation(13, partial(TransformerDecoder, dim=14, num_heads=2, num_layers=1)),
        lambda: Generation(
            13, partial(TransformerDecoder, dim=14, num_heads=2, num_layers=1), choose=True
        ),
    ],
    Drawing: [
        lambda: Drawing(
            13,
            11,
            partial(
                TransformerDecoder, dim=14, num_heads=2, num_layers=1, tokenizer=WordsAndCodes(6)
            ),
            PictureCodes(size=4, patch=2, codes=6, dim=3, hidden_dim=5),
        ),
    ],
    MultiTask: [
        lambda: MultiTask(
            13,
            {"classify": Classification, "choose": partial(MultipleChoice, merge=GMU)},
            answers_by="choose",
            weights={"classify": 0.5},
            text_dim=11,
            answers=ANSWERS,
        ),
        lambda: MultiTask(
            13,
            {
                "classify": partial(Classification, hidden_dims=(17,), loss="ce"),
                "soft": partial(LearnedMixin, loss="bce"),
                "sides": AuxiliaryClassification,
            },
            image_dim=9,
            text_dim=11,
            answers=ANSWERS,
        ),
    ],
}


def public(package: Any, role: type) -> list[type]:
    """List a role's concrete classes in a package."""
    values = [getattr(package, name) for name in package.__all__]
    classes = [v for v in values if isinstance(v, type) and issubclass(v, role)]
    return [cls for cls in classes if not inspect.isabstract(cls)]


@pytest.mark.parametrize(
    ("package", "role", "table"),
    [
        (vlm.fusion, Merge, MERGES),
        (vlm.fusion, Fusion, FUSIONS),
        (vlm.image, ImageEncoder, IMAGE_ENCODERS),
        (vlm.text, TextEncoder, TEXT_ENCODERS),
        (vlm.heads, AnswerHead, HEADS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_public_class_is_checked(package: Any, role: type, table: dict[type, list]) -> None:
    without = [cls.__name__ for cls in public(package, role) if not table.get(cls)]
    assert not without, f"{without} have no construction in {Path(__file__).parent}."
    hidden = [cls.__name__ for cls in table if cls not in public(package, role)]
    assert not hidden, f"{hidden} are not in {package.__name__}.__all__."


PACKAGES = (
    *(vlm.fusion, vlm.image, vlm.text, vlm.heads, vlm.datasets, vlm.training),
    vlm.data.augmentation,
)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_the_first_line_of_a_docstring_is_a_sentence(package: Any) -> None:
    """`--help` and `vlm list` show this line alone."""
    values = [getattr(package, name) for name in package.__all__]
    for cls in (value for value in values if isinstance(value, type)):
        first, *rest = (inspect.getdoc(cls) or "").splitlines()
        assert first.endswith("."), f"{cls.__name__}: {first}"
        assert not rest or not rest[0], f"{cls.__name__}: {first}"


LONG = {
    *(vlm.fusion.DFAF, vlm.fusion.GatedCrossAttention, vlm.fusion.LXMERT),
    *(vlm.fusion.MergedAttention, vlm.fusion.MFBCoAttention, vlm.fusion.MuRel),
    *(vlm.image.Tiles, vlm.image.TorchvisionEncoder),
}
"""Classes whose check takes 7 to 21 s."""


def cases(table: dict[type, list]) -> list:
    """Each class in its first construction; the others, and those that take long, are slow."""
    return [
        pytest.param(
            make,
            id=f"{cls.__name__}-{number}",
            marks=[pytest.mark.slow] if number or cls in LONG else [],
        )
        for cls, makes in table.items()
        for number, make in enumerate(makes)
    ]


@pytest.mark.parametrize("make", cases(MERGES))
def test_merge(make: Callable[[], Merge]) -> None:
    check_merge(make())


@pytest.mark.parametrize("make", cases(FUSIONS))
def test_fusion(make: Callable[[], Fusion]) -> None:
    check_fusion(make())


@pytest.mark.parametrize("make", cases(HEADS))
def test_head(make: Callable[[], AnswerHead]) -> None:
    check_head(make(), ANSWERS)


@pytest.mark.parametrize("make", cases(IMAGE_ENCODERS))
def test_image_encoder(make: Callable[[], ImageEncoder]) -> None:
    check_image_encoder(make())


@pytest.mark.parametrize("make", cases(TEXT_ENCODERS))
def test_text_encoder(make: Callable[[Path], TextEncoder], tmp_path: Path) -> None:
    check_text_encoder(make(tmp_path))
