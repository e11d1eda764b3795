"""The demo: a page and an API that put questions about images to trained models."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
