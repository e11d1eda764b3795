"""`vlm forgetting`: what fine-tuning did to pretrained encoders.

run -> original (the encoders as they were) -> measure (pictures, texts, accuracy; interpolated)
-> study (what came of it) -> report.
"""
