"""`PixelShuffle` by hand, and beside Idefics3's own connector."""

from __future__ import annotations

import pytest
import torch

from vlm.core.features import Features
from vlm.fusion import PixelShuffle
from vlm.heads import Classification
from vlm.image import ConvNet, ImageEncoder, NaFlexEncoder, Tiles
from vlm.model import VQAModel
from vlm.text import BagOfWords


def test_by_hand() -> None:
    """Nine patches of three rows, two of which are padding, in squares of two by two."""
    fusion = PixelShuffle(1, 1, out_dim=2, columns=3)
    (project,) = fusion.image_projection
    project.weight.data = torch.tensor([[1.0, 10, 100, 1000], [0, 0, 0, -1]])
    fusion.text_projection.weight.data = torch.tensor([[1.0], [2]])
    fusion.text_projection.bias.data = torch.tensor([1.0, 0])
    image = Features(
        torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 99, float("nan")])[None, :, None],
        torch.tensor([True] * 7 + [False] * 2)[None],
    )
    fused = fusion(image, torch.tensor([[[1.0], [3.0]]]))
    # 1 2 | 3        1 + 2 * 10 + 4 * 100 + 5 * 1000, and -5
    # 4 5 | 6        3 + 6 * 100; 7; nothing real
    # 7 . | .
    squares = [[5421.0, -5], [603, 0], [7, 0], [0, 0]]
    words = [[2.0, 2], [4, 6]]
    torch.testing.assert_close(fused.tokens[0], torch.tensor([*squares, *words]))
    assert fused.mask.tolist() == [[True, True, True, False, True, True]]
    torch.testing.assert_close(fused.pooled, torch.tensor([[3 * 5421.0, 0]]))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_it_is_idefics3_s(factor: int) -> None:
    from transformers import Idefics3Config
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    vision = {"hidden_size": 5, "num_attention_heads": 1}
    text = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 1}
    config = Idefics3Config(scale_factor=factor, vision_config=vision, text_config=text)
    theirs = Idefics3Connector(config)
    ours = PixelShuffle(5, 1, out_dim=8, factor=factor)
    ours.image_projection.load_state_dict({"0.weight": theirs.modality_projection.proj.weight})
    patches = torch.randn(3, 64, 5)
    torch.testing.assert_close(ours.prepare(Features(patches)).tokens, theirs(patches))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"factor: got 0; expected a positive integer"):
        PixelShuffle(13, 11, factor=0)
    with pytest.raises(ValueError, match=r"columns: got -1; expected a positive integer"):
        PixelShuffle(13, 11, columns=-1)
    with pytest.raises(ValueError, match=r"image: got 8 patches, .* expected `columns`"):
        PixelShuffle(13, 11)(torch.randn(1, 8, 13), torch.randn(1, 2, 11))


def test_no_token_is_of_two_images() -> None:
    """Four images of 2 x 2 patches are as many patches as one of 4 x 4."""
    fusion, images = PixelShuffle(3, 5, out_dim=7, columns=2), torch.randn(4, 4, 3)
    each = fusion.prepare(Features(images)).tokens
    fusion.take_images(4)
    fused = fusion(images, torch.randn(1, 2, 5), image_lists=torch.tensor([[2, 0, 1, 3]]))
    torch.testing.assert_close(fused.tokens[0, :4], each[[2, 0, 1, 3], 0])
    with pytest.raises(ValueError, match=r"columns: got None for up to 4 images of a question"):
        PixelShuffle(3, 5).take_images(4)


def model_of(encoder: ImageEncoder, images: int = 1, **options: int) -> VQAModel:
    words, fusion = BagOfWords(["is"], 5), PixelShuffle(encoder.dim, 5, out_dim=7, **options)
    if images > 1:
        fusion.take_images(images)
    return VQAModel(encoder, words, fusion, Classification(7, ["yes", "no"]))


def test_an_encoder_s_tokens_must_be_the_rows_of_a_grid() -> None:
    """Though they may be as many as a square has: 9 x 4 of eight tiles, 64 of any aspect."""
    small = {"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
    encoders = Tiles(ConvNet(32), tiles=8), NaFlexEncoder(tokens=64, model_args=small)
    for encoder in encoders:
        with pytest.raises(
            ValueError, match=r"whose tokens are no grid; .* vlm\.fusion\.Projector"
        ):
            model_of(encoder)
    square = ConvNet(32)
    rows, columns = square.grid
    model_of(square, images=2, columns=columns)
    with pytest.raises(ValueError, match=rf"fusion.columns: got 3 for .*; expected {columns}\."):
        model_of(square, columns=3)
    with pytest.raises(ValueError, match=rf"factor: got 3 for several .* a divisor of {rows}"):
        model_of(square, images=2, columns=columns, factor=3)


def test_no_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="columns: got 0; expected a positive integer"):
        PixelShuffle(8, 6, columns=0)
