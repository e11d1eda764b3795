"""The stand-ins that benchmarks/fusion.py times also equal the authors' operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fusion import gflop
from fusion_cases import CASES, Case
from golden import FOLDER, Converted, Converter, Golden, Tensors
from references import attention, ban, mcan, merges
from test_parity import run
from torch import Tensor, nn


def reference(make: Callable[[dict[str, Any]], nn.Module], inputs: str, outputs: str) -> Converter:
    """Build it from the stored arguments and parameters; inputs and outputs keep its order."""

    def convert(golden: Golden) -> Converted:
        module = make(golden.hyperparameters)
        module.load_state_dict(golden.parameters)

        def call(tensors: Tensors) -> Tensors:
            made = module(*(tensors.get(name) for name in inputs.split()))
            made = made if isinstance(made, tuple) else (made,)
            return dict(zip(outputs.split(), made, strict=True))

        return Converted(module, call)

    return convert


class Weighted(ban.BCNet):
    """The connection applied with given weights."""

    def forward(self, v: Tensor, q: Tensor, w: Tensor) -> Tensor:
        return self.forward_with_weights(v, q, w)


def bcnet(golden: Golden) -> Converted:
    sizes = dict(golden.hyperparameters)
    weighted = sizes["method"] == "forward_with_weights"
    cls, inputs = (Weighted, "v q w") if weighted else (ban.BCNet, "v q")
    return reference(lambda h: cls(**only(h, "v_dim q_dim h_dim h_out k")), inputs, "y")(golden)


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
    ),
    "ban_residual": reference(
        lambda h: ban.BAN(**only(h, "v_dim num_hid att_z_dim glimpse")), "q v", "q_sum q att"
    ),
    "mcan_attflat": reference(lambda h: mcan.AttFlat(h["config"]), "x mask", "y att"),
    "mcan_mca_ed": reference(
        lambda h: mcan.EncoderDecoder(h["config"]), "lang img lang_mask img_mask", "lang img"
    ),
    "mcan_net": reference(
        lambda h: mcan.Net(**only(h, "config token_size answer_size")), "ques img", "logits"
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


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_benchmark_compares_like_with_like(case: Case) -> None:
    with torch.device("meta"):
        ours, theirs = case.ours(), case.theirs()
    sizes = [sum(p.numel() for p in module.parameters()) for module in (ours, theirs)]
    # BAN's weight normalisation scalars, and biases that cancel in a softmax.
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)
    if not any(isinstance(part, nn.Bilinear) for part in theirs.modules()):  # not counted
        # 1 %: MCAN also projects each token, which the reference does not.
        assert gflop(case, ours=True) < 1.01 * gflop(case, ours=False)
