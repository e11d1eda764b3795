"""Fault tolerance: checkpoints within epochs, signals, non-finite numbers and failing peers."""
