"""`vlm forgetting`: measure what fine-tuning did to pretrained encoders.

run -> original (the encoders as they were) -> measure (images, texts, accuracy; interpolated)
-> study (the results) -> report.
"""
