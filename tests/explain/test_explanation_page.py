"""The page of `vlm explain` in a real browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from known_model import QUESTION, TimesFusion, known_image, known_vqa
from playwright.sync_api import sync_playwright

from vlm.explain import GradCAM, Occlusion, explain, to_html

CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_fits_phones_and_desks_and_passes_axe(tmp_path: Path) -> None:
    vqa, image = known_vqa(TimesFusion()), known_image(2)
    found = [explain(vqa, image, QUESTION, method) for method in (Occlusion(), GradCAM())]
    (tmp_path / "why.html").write_text(to_html(found, image), encoding="utf-8")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (390, 1280):
            page = browser.new_page(viewport={"width": width, "height": 800})
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto((tmp_path / "why.html").as_uri())
            assert all(url.startswith(("file:", "data:")) for url in asked)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("section img").first.bounding_box()["width"] > 250  # type: ignore[index]  # it is shown
            assert Axe().run(page).response["violations"] == []
        browser.close()
