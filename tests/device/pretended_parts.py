"""Every part on a pretended GPU: no mixed devices, the CPU's values, and nothing that waits.

In a process of its own: `test_pretended_gpu.py` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.encoder_parts import IMAGE_ENCODERS, TEXT_ENCODERS
from contract.fusion_parts import FUSIONS, MERGES
from contract.test_parts import ANSWERS, HEADS, cases
from heads.test_huggingface_decoder import KINDS
from heads.test_huggingface_decoder import make as pretrained_head
from pretend import DEVICE, MixedDevices, on_cpu, on_device, pretended, waits
from torch import Tensor, nn
from torch.testing import assert_close

from vlm.core.compat import tree_leaves
from vlm.core.features import Features
from vlm.evaluation.evaluation import Evaluation
from vlm.fusion import Fusion, Merge, record_attention
from vlm.fusion.attention import trace_attention
from vlm.heads import AnswerHead, Classification, Generation, TransformerDecoder
from vlm.image import ImageEncoder, Tiles
from vlm.testing.fusions import some_features
from vlm.testing.heads import _Check
from vlm.text import TextEncoder


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with pretended():
        yield


def floats(output: Any) -> list[Tensor]:
    return [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]


def require_alike(there: Any, here: Any) -> None:
    """The same values, and all of them on the device."""
    for one, other in zip(floats(there), floats(here), strict=True):
        assert one.device == DEVICE
        assert_close(on_cpu(one), other.detach(), rtol=1e-4, atol=1e-4)


def train(part: nn.Module, forward: Callable[[], Any]) -> None:
    """A forward and a backward pass in training."""
    part.train()
    sums = [x.float().sum() for x in floats(forward()) if x.requires_grad]
    if sums:  # regions have no parameters
        torch.stack(sums).sum().backward()
    gradients = [p.grad for p in part.parameters() if p.grad is not None]
    assert all(gradient.device == DEVICE for gradient in gradients)


def check(part: nn.Module, *inputs: Any) -> None:
    """A part's result and gradients on the device, without waiting for it."""
    part.eval()
    with torch.no_grad():
        here = part(*inputs)
    on_device(part)
    inputs = on_device(inputs)
    require_alike(part(*inputs), here)
    train(part, lambda: part(*inputs))
    assert waits == []


@pytest.mark.parametrize("make", cases(MERGES))
def test_merge(make: Callable[[], Merge]) -> None:
    merge = make()
    check(merge, torch.randn(3, 5, merge.x_dim), torch.randn(3, 1, merge.y_dim))


@pytest.mark.parametrize("make", cases(FUSIONS))
def test_fusion(make: Callable[[], Fusion]) -> None:
    fusion = make()
    image = some_features(fusion.image_dim, (7, 3, 1, 0), 7, boxes=True)
    text = some_features(fusion.text_dim, (5, 2, 1, 0), 5)
    check(fusion, image, text)
    with record_attention(fusion), trace_attention(fusion):
        fusion(on_device(image), on_device(text))
    assert waits == []


# Tiles waits for the number of tiles that are no padding.
WITHOUT_WAITING = {k: v for k, v in IMAGE_ENCODERS.items() if k is not Tiles}


@pytest.mark.parametrize("make", cases(WITHOUT_WAITING))
def test_image_encoder(make: Callable[[], ImageEncoder]) -> None:
    encoder = make()
    if hasattr(encoder.transform, "shape"):
        images = torch.randint(0, 255, (2, *encoder.transform.shape), dtype=torch.uint8)
    else:
        images = some_features(encoder.dim, (4, 1), 4, boxes=True)
    check(encoder, images)


@pytest.mark.parametrize("make", cases(TEXT_ENCODERS))
def test_text_encoder(make: Callable[[Path], TextEncoder], tmp_path: Path) -> None:
    encoder = make(tmp_path)
    check(encoder, *encoder.tokenizer(["what colour is the circle", "circle", ""]))


def written(**options: Any) -> Generation:
    decoder = partial(TransformerDecoder, dim=14, num_heads=2, num_layers=1, max_length=12)
    return Generation(13, decoder, **options)


MORE_HEADS = [
    pytest.param(partial(Classification, 13, ANSWERS, loss="sampled_ce"), id="sampled_ce"),
    pytest.param(partial(written, train_on="sampled", beams=3, length_penalty=0.5), id="beams"),
]


@pytest.mark.parametrize("make", [*cases(HEADS), *MORE_HEADS])
def test_head(make: Callable[[], AnswerHead]) -> None:
    check_head(make(), ANSWERS)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_head(kind: str, beams: int, tmp_path: Path) -> None:
    if kind == "bloom":
        pytest.skip("it has no SDPA, and so makes its masks in a way of its own")
    check_head(pretrained_head(kind, tmp_path, beams), ("dark", "red cat", "a cat", "cat"))


def check_head(head: AnswerHead, answers: tuple[str, ...]) -> None:
    """Its loss and its answers; a batch of answers waits for the device once a head, a written one
    once a token."""
    with torch.no_grad():
        made = _Check(head.eval(), answers)  # type: ignore[arg-type]  # tests' own
    head = on_device(head)
    fused, batch = on_device((made.fused, made.whole))
    output = head(fused, batch)
    require_alike(head.evidence(output, [row[0] for row in made.given]), made.evidence)
    waits.clear()
    train(head, lambda: head.loss(head(fused, batch), batch))
    assert waits == []
    head.eval()
    for one, other in zip(head.decode(output, 4), made.ranked, strict=True):
        assert [text for text, _ in one] == [text for text, _ in other]
    longest = getattr(head, "decoder", None)
    heads = len(getattr(head, "heads", [0]))
    assert len(waits) <= (1 if longest is None else longest.max_length) * heads, waits
    assert all(wait.startswith(("an event", "tolist", "a copy")) for wait in waits)


def test_an_evaluation_waits_once_a_batch() -> None:
    head = Classification(13, ANSWERS)
    made = _Check(head.eval(), ANSWERS)
    head = on_device(head)
    fused, batch = on_device((made.fused, made.whole))
    dataset: Any = type("Watching", (), {"watched": "red"})
    evaluation = Evaluation(None, head, dataset)  # type: ignore[arg-type]  # reads no table yet
    with torch.no_grad():
        evaluation.update(head(fused, batch), batch)
    places = [wait for wait in waits if not wait.startswith("an event")]
    assert places == []
    assert all(answer.watched is not None for answer in evaluation.predictions.values())


def test_what_it_is_to_find_is_found() -> None:
    there, here = on_device(torch.ones(3)), torch.ones(3)
    with pytest.raises(MixedDevices):
        there + here
    assert on_cpu(there + torch.tensor(1.0)).tolist() == [2, 2, 2]
    waits.clear()
    bool(there.all())
    there[there > 0]
    there.tolist()
    there.cpu()
    there.to("cpu", non_blocking=True)
    assert [wait.split(" at ")[0] for wait in waits] == [
        "aten::_local_scalar_dense",
        "a mask as an index",
        "tolist",
        "a copy to the CPU",
    ]
    Features(there[None, None].expand(2, 4, 3)).zero_padding()
