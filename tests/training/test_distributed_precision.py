"""Half precision in several processes takes the same steps as one, also with accumulation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import write_data
from training_runs import EXACT, FSDP, STRATEGIES, callback, fit, only_run, run, together

from vlm.cli.training_cli import VQACLI

pytestmark = pytest.mark.slow
PRECISIONS = ("bf16-mixed", "16-mixed")
TOLD = [
    *EXACT,
    "--dataset.validation_share=0.23",
    "--model.optimizer=torch.optim.SGD",
]


def weights(folder: Path) -> torch.Tensor:
    """All weights, flattened into one tensor."""
    state = torch.load(only_run(folder) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([weight.flatten().double() for weight in state.values()])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_thirty_steps_are_those_of_one_process(accumulate: int, tmp_path: Path) -> None:
    """Half precision rounds, so differences are measured against how far the weights have moved.
    Adam would hide a wrongly scaled gradient, so this uses plain SGD. Accumulated gradients are
    also clipped, which would reveal any that were not unscaled first."""
    data = write_data(tmp_path / "data", images=26)
    told = [*TOLD, f"--trainer.accumulate_grad_batches={accumulate}"]
    # With larger steps, rounding errors would outweigh the difference being tested.
    told += (
        ["--model.optimizer.lr=0.003"]
        if accumulate == 1
        else ["--model.optimizer.lr=0.03", "--trainer.gradient_clip_val=0.5"]
    )
    whole, half = (f"--data.images_per_batch={4 // accumulate // parts}" for parts in (1, 2))
    together(
        [
            fit(
                data,
                tmp_path / precision / name,
                *told,
                half,
                *strategy,
                f"--trainer.precision={precision}",
            )
            for precision in PRECISIONS
            for name, strategy in STRATEGIES.items()
        ],
        tmp_path,
    )
    VQACLI(fit(data, tmp_path / "exact", *told, whole))
    VQACLI(fit(data, tmp_path / "start", *TOLD, whole, "--model.optimizer.lr=0"))
    exact, start = weights(tmp_path / "exact"), weights(tmp_path / "start")
    for precision in PRECISIONS:
        VQACLI(
            fit(
                data, tmp_path / precision / "one", *told, whole, f"--trainer.precision={precision}"
            )
        )
        one = weights(tmp_path / precision / "one")
        off = ((one - exact).norm() / (exact - start).norm()).item()
        assert 0 < off < 0.1
        for name in STRATEGIES:
            two = weights(tmp_path / precision / name)
            difference = ((two - one).norm() / (one - start).norm()).item()
            # 0.106 was seen in 16-mixed, where two processes skipped one more step of 30 for an
            # overflow: probably because an image's gradients are twice as large in each before
            # they are averaged. A gradient scaled by 2 gives more than 0.5.
            assert difference < 0.2, (precision, name, difference)


def test_an_overflow_in_one_process_skips_the_step_of_all(tmp_path: Path) -> None:
    """Under FSDP2 each process sees only the gradients of its own parameters."""
    data = write_data(tmp_path / "data", images=26)
    told = [*TOLD, "--trainer.precision=16-mixed", "--trainer.max_steps=1"]
    poison = callback("Poison", what="gradient", hook="on_after_backward", step=0, rank=1)
    struck = [*FSDP, *poison, "--model.optimizer.lr=0.1"]
    together([fit(data, tmp_path / "struck", *told, *struck)], tmp_path)
    VQACLI(fit(data, tmp_path / "start", *told, "--model.optimizer.lr=0"))
    torch.testing.assert_close(
        weights(tmp_path / "struck"), weights(tmp_path / "start"), rtol=0, atol=0
    )


def test_averaged_weights_of_a_divided_model_are_refused(data: Path, tmp_path: Path) -> None:
    average = callback("lightning.pytorch.callbacks.EMAWeightAveraging", decay=0.9)
    ended = run(fit(data, tmp_path, *FSDP, *average), 2)
    assert ended.returncode == 1
    assert "got EMAWeightAveraging with ModelParallelStrategy; it cannot average" in ended.stderr
