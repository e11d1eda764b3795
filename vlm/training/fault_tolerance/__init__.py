"""Checkpoints in mid-epoch, signals, numbers that are not finite, peers that fail."""
