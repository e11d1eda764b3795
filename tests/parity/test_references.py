"""The references that benchmarks/fusion.py times equal the authors' operators, or else ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rest_slow
from convert_merges import merge_from
from convert_transformers import use_unbiased_norms
from fusion import Side, gflop
from fusion_cases import BLOCK, CASES
from golden import FOLDER, Converted, Converter, Golden, Tensors
from references import attention, ban, mcan, merges
from test_parity import default_dtype, run
from torch import Tensor, nn

import vlm.fusion
from vlm.fusion import Features, Fusion, Merge, MuRel, PixelShuffle, Resampler


def reference(
    make: Callable[[dict[str, Any]], nn.Module],
    inputs: str,
    outputs: str,
    parameters: Callable[[Golden], Tensors] = lambda golden: golden.parameters,
) -> Converter:
    """Build it from the stored arguments and parameters; inputs and outputs keep its order."""

    def convert(golden: Golden) -> Converted:
        module = make(golden.hyperparameters)
        use_unbiased_norms(module)
        module.load_state_dict(parameters(golden))

        def call(tensors: Tensors) -> Tensors:
            made = module(*(tensors.get(name) for name in inputs.split()))
            made = made if isinstance(made, tuple) else (made,)
            return dict(zip(outputs.split(), made, strict=True))

        return Converted(module, call)

    return convert


def normalised(golden: Golden) -> Tensors:
    """Plain weights in place of weight normalisation; a large h is one matrix like a small one."""
    every = golden.parameters | golden.effective
    found = {name: value for name, value in every.items() if not name.endswith(("_g", "_v"))}
    if "h_net.weight" in found:
        found["h_mat"] = found.pop("h_net.weight")[None, :, None]
        found["h_bias"] = found.pop("h_net.bias").view(1, -1, 1, 1)
    return found


def joined(golden: Golden) -> Tensors:
    """Queries, keys and values of MCAN's attention in one matrix; keys and values of a context."""
    found: Tensors = {}
    for name, value in golden.parameters.items():
        path, _, kind = name.rpartition(".")
        path, _, part = path.rpartition(".")
        if part == "linear_merge" and "mhatt" in path:
            found[f"{path}.out.{kind}"] = value
        elif part in ("linear_q", "linear_k", "linear_v"):
            same = [golden.parameters[f"{path}.linear_{x}.{kind}"] for x in "qkv"]
            if path.endswith("mhatt2"):
                found |= {f"{path}.q.{kind}": same[0], f"{path}.kv.{kind}": torch.cat(same[1:])}
            else:
                found[f"{path}.qkv.{kind}"] = torch.cat(same)
        else:
            found[name.replace("a_2", "weight").replace("b_2", "bias")] = value
    return found


def masked(module: nn.Module) -> nn.Module:
    """Takes masks (B, 1, 1, N), True = padding, or none."""

    def real(_: nn.Module, given: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        tokens, masks = given[: len(given) // 2], given[len(given) // 2 :]
        return (
            *tokens,
            *(
                torch.ones(x.shape[:2], dtype=torch.bool) if m is None else ~m[:, 0, 0]
                for x, m in zip(tokens, masks, strict=True)
            ),
        )

    module.register_forward_pre_hook(real)
    return module


class Weighted(ban.BCNet):
    """The connection applied with given weights."""

    def forward(self, v: Tensor, q: Tensor, w: Tensor) -> Tensor:
        return self.forward_with_weights(v, q, w)


def bcnet(golden: Golden) -> Converted:
    sizes = dict(golden.hyperparameters)
    weighted = sizes["method"] == "forward_with_weights"
    cls, inputs = (Weighted, "v q w") if weighted else (ban.BCNet, "v q")
    return reference(
        lambda h: cls(**only(h, "v_dim q_dim h_dim h_out k")), inputs, "y", normalised
    )(golden)


def only(arguments: dict[str, Any], names: str) -> dict[str, Any]:
    return {name: arguments[name] for name in names.split()}


MERGES = "linear_sum concat_mlp mlb mfb mfh mcb tucker block_tucker mutan block"
REFERENCES: dict[str, Converter] = {
    f"block_{name}": reference(merges.merge_from, "x0 x1", "y") for name in MERGES.split()
} | {
    "block_attention": reference(
        lambda h: attention.GlimpseAttention(h["fusion"], h["mlp_glimpses"]), "q v", "y att"
    ),
    "openvqa_mfb_block": reference(
        lambda h: attention.MFBBlock(**only(h, "config img_feat_size ques_feat_size is_first")),
        "img ques exp_prev",
        "z exp",
    ),
    "openvqa_mfb_coatt": reference(
        lambda h: attention.CoAttention(h["config"]), "ques img", "z q_att i_att"
    ),
    "ban_bcnet": bcnet,
    "ban_biattention": reference(
        lambda h: ban.BiAttention(**only(h, "x_dim y_dim z_dim glimpse k v_mask")),
        "v q",
        "att logits",
        normalised,
    ),
    "ban_residual": reference(
        lambda h: ban.BAN(**only(h, "v_dim num_hid att_z_dim glimpse")),
        "q v",
        "q_sum q att",
        normalised,
    ),
    "mcan_attflat": reference(lambda h: masked(mcan.AttFlat(h["config"])), "x mask", "y att"),
    "mcan_mca_ed": reference(
        lambda h: masked(mcan.EncoderDecoder(h["config"])),
        "lang img lang_mask img_mask",
        "lang img",
        joined,
    ),
    "mcan_net": reference(
        lambda h: mcan.Net(**only(h, "config token_size answer_size")), "ques img", "logits", joined
    ),
}
FILES = [
    path
    for path in sorted(FOLDER.glob("*.safetensors"))
    if path.stem.partition("__")[0] in REFERENCES
]


def test_every_reference_is_tested() -> None:
    assert {path.stem.partition("__")[0] for path in FILES} == REFERENCES.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_float64(path: Path) -> None:
    ours, theirs, our_gradients, their_gradients = run(path, torch.float64, REFERENCES)
    for name, got in ours.items():
        torch.testing.assert_close(got, theirs[name], rtol=1e-9, atol=1e-10)
    for name, got in our_gradients.items():
        torch.testing.assert_close(got, their_gradients[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", rest_slow(CASES, *list(CASES)[::4]))
def test_the_benchmark_compares_like_with_like(name: str) -> None:
    case = CASES[name]
    with torch.device("meta"):
        ours, theirs = case.ours(), case.theirs()
    sizes = [sum(p.numel() for p in module.parameters()) for module in (ours, theirs)]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)  # biases that cancel in a softmax
    # MCAN also projects each token, which the reference does not.
    assert gflop(case, ours=True) == pytest.approx(gflop(case, ours=False), rel=0.02)


def test_every_public_fusion_and_merge_has_a_case() -> None:
    public = [getattr(vlm.fusion, name) for name in vlm.fusion.__all__]
    kinds = {part for part in public if isinstance(part, type) and issubclass(part, Fusion | Merge)}
    with torch.device("meta"):
        timed = {type(case.ours()) for case in CASES.values()}
    # A pixel shuffle is the projector behind a reshape; `GatedCrossAttention` has the resampler.
    assert kinds - timed == {Fusion, Merge, PixelShuffle, Resampler}


@pytest.mark.parametrize("name", list(CASES)[list(CASES).index("GMU") :])
def test_the_reference_equals_ours_on_copied_weights(name: str) -> None:
    case = CASES[name].at(9)
    case = replace(case, image=(2, *case.image[1:]), question=(2, *case.question[1:]))
    with default_dtype(torch.float64):
        sides = [Side(case, ours) for ours in (True, False)]
        ours, theirs = (side.module for side in sides)
        if isinstance(ours, MuRel):
            copy_merges(theirs, ours)
        else:
            copy(ours, theirs)
    for side in sides:  # the padding: the last two tokens of the first row
        side.inputs = tuple(map(padded, side.inputs))
    results = [side.run() for side in sides]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
    gradients = [
        torch.autograd.grad(made.sin().sum(), side.leaves)
        for made, side in zip(results, sides, strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


def padded(given: Any) -> Any:
    """The same without the last two tokens of the first row, if it is tokens or a mask of some."""
    mask = given.mask if isinstance(given, Features) else given
    if mask.dtype != torch.bool or mask.shape[1] <= 2:
        return given
    mask = mask.clone()
    mask[0, -2:] = False
    return Features(given.tokens, mask) if isinstance(given, Features) else mask


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    """In the order of both; where theirs makes queries, keys and values at once, ours does not."""
    left = [parameter.detach() for parameter in ours.parameters()]
    for name, target in theirs.named_parameters():
        if name.endswith(".qkv.weight"):
            left[:4] = torch.cat(left[:4:2]), torch.cat(left[1:4:2])
        target.detach().copy_(left.pop(0))
    assert not left


def copy_merges(theirs: nn.Module, ours: nn.Module) -> None:
    for name, place in (
        ("ask", "cell.merge"),
        ("boxes", "cell.pairwise.boxes_merge"),
        ("pair", "cell.pairwise.regions_merge"),
        ("last", "merge"),
    ):
        part = theirs.get_submodule(name)
        dims = part.linear0.in_features, part.linear1.in_features
        ours.set_submodule(place, merge_from(BLOCK | {"input_dims": dims}, part.state_dict()))
