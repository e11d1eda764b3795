"""The page in a real browser. Screenshots go to artifacts/demo/, the README's to docs/images/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from demo_server import bomb, file_of, start, untrained, write_model
from PIL import Image
from test_demo_server import truth

SHOTS = ROOT / "artifacts/demo"
PATIENCE = 30_000
"""Milliseconds that a step may take on a busy machine."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def address(run: Path, folder: Path) -> str:
    SHOTS.mkdir(parents=True, exist_ok=True)
    return start((run, write_model(untrained(), folder / "random.ckpt", "random")))


class Watched:
    """A page that records errors and requests to other machines."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.left: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(address)
        self.page.wait_for_selector("#result .vlm-card, #result .vlm-hint")

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, request: Any) -> None:
        if not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", request.url):
            self.left.append(request.url)

    def upload(self, path: Path) -> None:
        """Remove the current image and upload another."""
        close = self.page.locator("#image button[aria-label='Remove Image']")
        if close.count():
            close.first.click()
            self.page.wait_for_selector("#result .vlm-hint:has-text('Choose an image')")
        self.page.set_input_files("#image input[type=file]", path)

    def ask(self, question: str) -> None:
        self.page.fill("#question textarea", question)
        self.page.click("#ask")

    def answers(self) -> list[str]:
        return [text.strip() for text in self.page.locator(".vlm-answer").all_inner_texts()]

    def shot(self, name: str) -> None:
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    made = Watched(browser, address)
    yield made
    made.page.close()
    assert made.errors == []
    assert made.left == []


def test_upload_ask_and_read_the_right_answer(watched: Watched, run: Path, data: Path) -> None:
    page = watched.page
    for path, answer in truth(run, data)[:2]:
        watched.upload(path)
        page.wait_for_selector("#result .vlm-hint:has-text('ready')")
        watched.ask("what color is it?")
        page.wait_for_selector(f".vlm-card:first-child .vlm-answer:text-is('{answer}')")
        page.wait_for_selector(".vlm-card .vlm-reasons")
        assert watched.answers()[0] == answer
    agree = page.locator(".vlm-agree").inner_text()
    first, second = watched.answers()
    assert ("agree" in agree) == (first == second)
    assert "Calibrated on" in page.locator(".vlm-card").first.inner_text()
    watched.shot("asked")


def test_words_and_places_show_each_other(watched: Watched) -> None:
    page = watched.page
    box = page.locator(".vlm-reasons").first
    painted = "canvas => canvas.toDataURL()"
    canvas = box.locator("canvas")
    whole = canvas.evaluate(painted)
    word = box.locator(".vlm-word[data-word='1']")
    word.hover()
    assert canvas.evaluate(painted) != whole
    page.mouse.move(1, 1)
    assert canvas.evaluate(painted) == whole
    word.focus()
    page.keyboard.press("Enter")
    assert word.get_attribute("aria-pressed") == "true"
    assert "draws from the image" in box.locator(".vlm-says").inner_text()
    image_map = box.locator(".vlm-map")
    image_map.click()
    assert re.search("matters most|No word", box.locator(".vlm-says").inner_text())
    image_map.focus()
    before = canvas.evaluate(painted)
    page.keyboard.press("ArrowRight")
    assert canvas.evaluate(painted) != before
    page.keyboard.press("Escape")
    assert canvas.evaluate(painted) == whole
    watched.shot("word")


def test_the_gallery_asks_at_once(watched: Watched) -> None:
    page = watched.page
    page.click(".vlm-pick >> nth=6")
    page.wait_for_function(
        "document.querySelector('#question textarea').value === 'What color is the rectangle?'"
    )
    page.wait_for_selector(".vlm-reasons .vlm-word:has-text('rectangle')")
    page.wait_for_timeout(1500)  # anything else the new image triggers has happened by then
    assert len(watched.answers()) == 2
    assert page.locator(".vlm-reasons").count() == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("document.jpg", "a PDF document"),
        ("empty.png", "empty"),
        ("bomb.png", "pixels"),
    ],
)
def test_a_wrong_file_gets_a_message(
    watched: Watched, tmp_path: Path, run: Path, data: Path, name: str, message: str
) -> None:
    contents = {"document.jpg": b"%PDF-1.7 nothing", "empty.png": b"", "bomb.png": bomb()}
    (tmp_path / name).write_bytes(contents[name])
    watched.upload(tmp_path / name)
    watched.page.wait_for_selector(f"#result .vlm-error:has-text('{message}')")
    watched.shot(f"wrong-{name.partition('.')[0]}")
    # The browser itself logs that it cannot show such an image; the page is not at fault.
    watched.errors.clear()
    _goes_on(watched, run, data)


def _goes_on(watched: Watched, run: Path, data: Path) -> None:
    path, answer = truth(run, data)[0]
    watched.page.reload()
    watched.page.wait_for_selector("#result .vlm-card")
    watched.upload(path)
    watched.page.wait_for_selector("#result .vlm-hint:has-text('ready')")
    watched.ask("what color is it?")
    watched.page.wait_for_selector(f".vlm-card:first-child .vlm-answer:text-is('{answer}')")


def test_a_file_that_is_too_large_gets_a_message(watched: Watched, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(file_of(Image.effect_noise((3500, 3500), 99)))
    assert large.stat().st_size > 10_000_000
    watched.upload(large)
    watched.page.wait_for_selector("text=/exceed|too large|maximum/i")
    watched.errors.clear()  # the browser logs the refusal (413) too


def test_animations_and_printing_colours_are_read_with_a_note(
    watched: Watched, tmp_path: Path
) -> None:
    red, blue = (Image.new("RGB", (40, 30), color) for color in ("red", "blue"))
    (tmp_path / "moving.gif").write_bytes(file_of(red, "GIF", save_all=True, append_images=[blue]))
    (tmp_path / "printed.jpg").write_bytes(file_of(red.convert("CMYK"), "JPEG"))
    for name, note in (("moving.gif", "animated"), ("printed.jpg", "CMYK")):
        watched.upload(tmp_path / name)
        watched.page.wait_for_selector("#result .vlm-hint:has-text('ready')")
        watched.ask("what color is it?")
        watched.page.wait_for_selector(f".vlm-note:has-text('{note}')")


def test_questions_that_say_nothing_too_much_or_html(watched: Watched) -> None:
    page = watched.page
    watched.ask("   ")
    page.wait_for_selector("#result .vlm-error:has-text('The question is empty')")
    watched.shot("empty-question")
    watched.ask("what color is <img src=x onerror=alert(1)> it?")
    page.wait_for_selector(".vlm-note:has-text('unknown')")
    assert page.locator("#result img[src=x]").count() == 0
    page.fill("#question textarea", "x" * 10_000)
    assert len(page.input_value("#question textarea")) <= 500


def test_a_question_beyond_the_model_gets_no_headline(watched: Watched) -> None:
    page = watched.page
    watched.ask("wie spät ist es jetzt")
    page.wait_for_selector(".vlm-unknown:has-text('No answer')")
    page.wait_for_timeout(500)
    card = page.locator(".vlm-card").first.inner_text()
    assert "Its guess: " in card
    assert "%" not in card
    assert watched.answers() == []
    assert page.locator(".vlm-reasons, .vlm-bars, .vlm-wait").count() == 0
    watched.shot("guess")


def test_the_last_of_two_hasty_questions_is_answered(watched: Watched) -> None:
    watched.ask("is it red?")
    watched.ask("what color is it?")
    watched.page.wait_for_selector(".vlm-reasons .vlm-word:has-text('what')")
    watched.page.wait_for_timeout(500)
    assert watched.page.locator(".vlm-reasons .vlm-word:has-text('red')").count() == 0


def test_choices_and_free_text_have_their_own_input(browser: Any, folder: Path) -> None:
    paths = [
        write_model(untrained(kind), folder / f"{kind}.ckpt", kind)
        for kind in ("choices", "text", "vocabulary")
    ]
    watched = Watched(browser, start(tuple(paths)))
    page = watched.page
    page.wait_for_selector("#result .vlm-hint:has-text('Write what to choose from')")
    page.click("#ask")
    page.wait_for_selector("#result .vlm-error:has-text('one a line')")
    page.fill("#choices textarea", "red\ngreen\n\nblue")
    page.click("#ask")
    page.wait_for_selector(".vlm-card >> nth=1")
    chosen, written = watched.answers()
    assert chosen in ("red", "green", "blue")
    assert written == "o"
    assert page.locator("#models").is_visible()
    watched.shot("choices")
    page.close()
    assert watched.errors == []


def test_it_looks_finished_everywhere(browser: Any, address: str) -> None:
    shapes = {
        "light": {},
        "dark": {"color_scheme": "dark"},
        "narrow": {"viewport": {"width": 390, "height": 844}},
    }
    for name, options in shapes.items():
        page = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
        page.goto(address)
        page.wait_for_selector("#result .vlm-reasons", timeout=PATIENCE)
        page.wait_for_timeout(300)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= page.viewport_size["width"], "the page scrolls sideways"
        unnamed = page.evaluate(
            """[...document.querySelectorAll('button, textarea, input, [role=application]')]
            .filter(e => e.offsetParent !== null)
            .filter(e => !(e.getAttribute('aria-label') || e.title || e.innerText.trim()
                || e.closest('label') || (e.labels && e.labels.length)))
            .map(e => e.outerHTML.slice(0, 120))"""
        )
        assert unnamed == [], "for screen readers"
        page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
        page.close()
