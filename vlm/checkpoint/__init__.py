"""Checkpoints and shared models: how they are written, and read safely."""
