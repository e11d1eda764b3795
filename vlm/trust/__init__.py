"""How far a model's answers can be trusted: calibration, selective answering, and their report."""
