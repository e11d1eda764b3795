"""`vlm forgetting`: what fine-tuning did to pretrained encoders.

run -> original (the encoders as they were) -> pictures, texts (measures) -> interpolate -> report.
"""
