"""Small timm models, one for each layout of the feature map."""

import torch

from vlm.image import TimmEncoder

SMALL_VIT = {"img_size": 56, "patch_size": 8, "embed_dim": 33, "depth": 2, "num_heads": 3}


SMALL_SWIN = {"embed_dim": 12, "depths": (1, 1), "num_heads": (2, 3), "window_size": 7}


# name, image_size, model_args, dim, grid, prefix tokens, layout of forward_features
MODELS = {
    "vit": ("vit_tiny_patch16_224", None, SMALL_VIT, 33, (7, 7), 1, "NLC"),
    "registers": (
        "vit_small_patch14_reg4_dinov2",
        42,
        {"embed_dim": 22, "depth": 2, "num_heads": 2},
        22,
        (3, 3),
        5,
        "NLC",
    ),
    "attention_pool": (
        "vit_base_patch16_siglip_224",
        48,
        {"embed_dim": 22, "depth": 2, "num_heads": 2},
        22,
        (3, 3),
        0,
        "NLC",
    ),
    "resnet": ("resnet18", 96, None, 512, (3, 3), 0, "NCHW"),
    "swin": ("swin_tiny_patch4_window7_224", 56, SMALL_SWIN, 24, (7, 7), 0, "NHWC"),
    "convnext": (
        "convnext_atto",
        96,
        {"depths": (1, 1, 1, 1), "dims": (5, 7, 11, 13)},
        13,
        (3, 3),
        0,
        "NCHW",
    ),
    "mobilenet": ("mobilenetv3_small_050", 96, None, 288, (3, 3), 0, "NCHW"),
}


def make(key: str) -> TimmEncoder:
    torch.manual_seed(0)
    name, image_size, model_args, *_ = MODELS[key]
    encoder = TimmEncoder(name, image_size=image_size, model_args=model_args)
    # Parameters that start as zeros or ones (scales, biases) would hide mistakes.
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def random_images(encoder: TimmEncoder, number: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (number, 3, *encoder.transform.size)
    return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
