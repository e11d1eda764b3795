"""How well a model answers: predictions, scores, baselines and their report."""
