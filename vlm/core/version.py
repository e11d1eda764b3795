"""The version of vlm."""

__version__ = "0.1.0"
