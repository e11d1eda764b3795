"""What a run's folder keeps when it goes on."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

from vlm.training.run_dir import continue_metrics


def test_a_part_of_a_line_of_the_log_is_left_out(tmp_path: Path) -> None:
    """As a kill or a full disk leaves it."""
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,loss\n0,1,0.5\n0,2,0.25\n0,3")
    continue_metrics(CSVLogger(tmp_path, name="", version=""), step=9)
    assert log.read_text().split() == ["epoch,loss,step", "0,0.5,1", "0,0.25,2"]
