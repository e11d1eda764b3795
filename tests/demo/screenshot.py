"""Make the screenshot of the demo for the README.

    python tests/demo/screenshot.py RUN [ANOTHER_RUN]

Use the default model and one with cross-attention, for example; writes docs/images/demo.png.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> None:
    from demo_server import start
    from playwright.sync_api import sync_playwright

    address = start(tuple(Path(run).resolve() for run in sys.argv[1:]))
    (ROOT / "docs/images").mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.click(".vlm-pick >> nth=1")
        page.wait_for_selector(".vlm-reasons .vlm-word:has-text('image')")
        page.wait_for_timeout(500)
        page.mouse.move(1, 1)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=ROOT / "docs/images/demo.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
