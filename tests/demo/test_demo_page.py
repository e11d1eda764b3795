"""The page in a real browser, on a phone, a tablet and a desk. Screenshots go to artifacts/demo/;
with `VLM_SCREENSHOTS=1`, those of the documents are written to docs/images/ too."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, rest_slow, rows_slow
from demo_server import bomb, file_of, start, untrained, write_model
from PIL import Image
from test_demo_server import truth

SHOTS = ROOT / "artifacts/demo"
IMAGES = ROOT / "docs/images"
PATIENCE = 60_000
"""Milliseconds that a step may take on a busy machine."""
WIDTHS = {"phone": (390, 844), "tablet": (820, 1180), "desk": (1440, 900)}
WATCH_SHIFTS = """window.shifts = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def address(run: Path, folder: Path) -> str:
    """Two models of the same kind of image."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return start((run, write_model(untrained(), folder / "random.ckpt", "random")))


@pytest.fixture(scope="module")
def bundled() -> str:
    """The models that come with vlm, of different kinds of images."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return start((Path("scenes"), Path("easy_vqa")))


class Watched:
    """A page that records errors and requests to other machines."""

    def __init__(self, browser: Any, address: str, width: str = "desk", **options: Any) -> None:
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        self.page = browser.new_page(viewport=size, **options)
        self.page.set_default_timeout(PATIENCE)
        self.page.add_init_script(WATCH_SHIFTS)
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
        """What the models think most likely, however they say it."""
        return [text.strip() for text in self.page.locator(".vlm-card").all_inner_texts()]

    def map(self, side: int = 0) -> str:
        return str(self.page.get_attribute(f"#map-{side} img", "src"))

    def wait_for_another_map(self, old: str) -> str:
        self.page.wait_for_function(
            "old => { const i = document.querySelector('#map-0 img'); return i && i.src !== old }",
            arg=old,
        )
        return self.map()

    def shot(self, name: str) -> None:
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    made = Watched(browser, address)
    yield made
    made.page.close()
    assert made.errors == []
    assert made.left == []


@pytest.fixture
def bundled_page(browser: Any, bundled: str) -> Iterator[Watched]:
    made = Watched(browser, bundled)
    yield made
    made.page.close()
    assert made.errors == []
    assert made.left == []


def test_upload_ask_and_read_the_right_answer(watched: Watched, run: Path, data: Path) -> None:
    page = watched.page
    # One image of each color: all of a color are the same, and so are their maps.
    different = {answer: path for path, answer in truth(run, data)}
    for answer, path in list(different.items())[:2]:
        watched.upload(path)
        page.wait_for_selector("#result .vlm-hint:has-text('ready')")
        old = watched.map()
        watched.ask("what color is it?")
        page.wait_for_selector(f".vlm-card:first-child :text-matches('^[“]?{answer}[”]?$')")
        watched.wait_for_another_map(old)
    assert "Calibrated on" in page.locator(".vlm-card").first.inner_text()
    assert page.locator(".vlm-agree").count() == 1
    # Both images of this visit can be gone back to, each with its answer.
    page.get_by_role("tab", name="My images").click()
    captions = page.locator("#mine .caption-label")
    assert "what color is it?" in captions.nth(1).inner_text()
    first = next(iter(different))
    page.locator("#mine .thumbnail-item").first.click()
    page.wait_for_selector(f".vlm-card:first-child :text-matches('^[“]?{first}[”]?$')")
    watched.shot("mine")


@pytest.mark.slow
def test_what_differs_is_marked(watched: Watched) -> None:
    page = watched.page
    for question in ("what color is it?", "is it red?", "is it blue?", "is it not green?"):
        watched.ask(question)
        page.wait_for_function(
            "text => document.querySelector('#words-0')?.innerText.includes(text)",
            arg=question.split()[-1].rstrip("?"),
        )
        if page.locator(".vlm-agree[data-agree=false]").count():
            break
    assert "They differ: " in page.locator(".vlm-agree").inner_text()
    assert page.locator(".vlm-card mark").count() == 2
    watched.shot("differ")


@pytest.mark.slow
def test_words_opacity_and_method_change_the_map(bundled_page: Watched) -> None:
    page = bundled_page.page
    whole = bundled_page.map()
    word = page.locator("#words-0 [role=button]:has-text('gray')")
    word.click()
    of_word = bundled_page.wait_for_another_map(whole)
    page.wait_for_selector(".vlm-fine:has-text('What “gray” draws')")
    word.click()
    assert bundled_page.wait_for_another_map(of_word) == whole, "the whole question again"
    slider = page.locator("#opacity input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    weaker = bundled_page.wait_for_another_map(whole)
    page.keyboard.press("ArrowRight")
    assert bundled_page.wait_for_another_map(weaker) == whole
    page.get_by_label("Grad-CAM").check()
    other = bundled_page.wait_for_another_map(whole)
    page.get_by_label("Hide each part").check()
    assert bundled_page.wait_for_another_map(other) == whole
    for name, kind in (("image", "png"), ("json", "json")):
        with page.expect_download() as download:
            page.click(f"#download-{name}")
        assert download.value.suggested_filename == f"answer.{kind}"
        content = Path(download.value.path()).read_bytes()
        if kind == "json":
            assert json.loads(content)["replies"][0]["explanation"]["method"] == "occlusion"
        else:
            assert content.startswith(b"\x89PNG")


@pytest.mark.slow
def test_no_heading_is_that_of_the_last_answer(bundled_page: Watched) -> None:
    """Each change of the page is watched: the answer beside the heading of its reasons."""
    page = bundled_page.page
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => {
        const text = (place) => document.querySelector(place)?.innerText ?? "";
        window.seen.add(text(".vlm-answer") + " | " + text(".vlm-why") + " | "
            + text("#reasons .vlm-fine"));
        }).observe(document.body, {subtree: true, childList: true, characterData: true}); }"""
    )
    bundled_page.ask("How many circles are there?")
    page.wait_for_selector(".vlm-answer:text-is('3')")
    page.wait_for_selector("#reasons[aria-busy=false]")
    page.wait_for_selector(".vlm-fine:has-text('These places and words decided')")
    seen = [each.split(" | ") for each in page.evaluate("() => [...window.seen]")]
    assert {why for answer, why, _ in seen if answer == "3"} == {"scenes: why “3”?"}
    assert "Finding out ..." in {about for *_, about in seen}


def test_an_example_of_a_kind_of_question_asks_at_once(bundled_page: Watched) -> None:
    page = bundled_page.page
    page.click(".vlm-examples button:has-text('How many circles are there?')")
    page.wait_for_selector(".vlm-answer:text-is('3')")
    assert page.input_value("#question textarea") == "How many circles are there?"
    facts = page.locator(".vlm-facts").first.inner_text()
    assert "96.7 % of 29,700 test questions" in facts
    assert "84 % right" in page.locator(".vlm-examples").first.inner_text()
    # The other model answers about its own kind of image.
    page.click(".vlm-examples button:has-text('What is the gray shape?')")
    page.wait_for_selector(".vlm-card[aria-label='What easy_vqa says'] .vlm-answer")
    assert page.locator(".vlm-card").count() == 1


@pytest.mark.slow
def test_what_a_model_cannot_know_gets_no_headline(bundled_page: Watched) -> None:
    page = bundled_page.page
    bundled_page.ask("Is there a dog left of the brown object?")
    page.wait_for_selector(".vlm-none:text-is('Not sure')")
    assert "'dog' is unknown" in page.locator(".vlm-card").inner_text()
    assert "%" not in page.locator(".vlm-card").inner_text().partition("Shares")[0]
    bundled_page.shot("unknown-word")
    bundled_page.ask("wie spät ist es jetzt")
    page.wait_for_selector(".vlm-none:text-is('No answer')")
    card = page.locator(".vlm-card").inner_text()
    assert "Its guess: " in card
    assert "%" not in card
    page.wait_for_selector(".vlm-fine:has-text('scenes: a guess has no reasons')")
    assert page.locator(".vlm-why").count() == 0
    assert page.locator(".vlm-answer, .vlm-bars").count() == 0
    # An image of another kind than the model was trained on.
    page.click(".vlm-examples button:has-text('Is there a circle?')")
    page.wait_for_selector(".vlm-card[aria-label='What easy_vqa says'] .vlm-answer")
    page.locator("#models input").click()
    page.get_by_role("option", name="scenes").click()
    page.click("#ask")
    page.wait_for_selector(".vlm-card[aria-label='What scenes says'] .vlm-note")
    said = page.locator(".vlm-card[aria-label='What scenes says']").inner_text()
    assert "this image is of another kind" in said
    assert "Not sure" in said


def test_less_risk_makes_a_model_say_that_it_does_not_know(bundled_page: Watched) -> None:
    page = bundled_page.page
    bundled_page.ask("What shape is the object closest to the pink object?")
    page.wait_for_selector(".vlm-answer:text-is('triangle')")
    page.fill("#risk input[type=number]", "5")
    page.keyboard.press("Tab")
    page.wait_for_selector('.vlm-none:text-is("I don\'t know")')
    bundled_page.shot("does-not-know")


@pytest.mark.parametrize(
    ("name", "message"),
    rows_slow(
        [
            ("document.jpg", "a PDF document"),
            ("empty.png", "empty"),
            ("bomb.png", "pixels"),
        ],
        3,
    ),
)
def test_a_wrong_file_gets_a_message(
    watched: Watched, tmp_path: Path, run: Path, data: Path, name: str, message: str
) -> None:
    contents = {"document.jpg": b"%PDF-1.7 nothing", "empty.png": b"", "bomb.png": bomb()}
    (tmp_path / name).write_bytes(contents[name])
    watched.upload(tmp_path / name)
    watched.page.wait_for_selector(f"#result .vlm-error:has-text('{message}')")
    # The browser itself logs that it cannot show such an image; the page is not at fault.
    watched.errors.clear()
    path, answer = truth(run, data)[0]
    watched.page.reload()
    watched.page.wait_for_selector("#result .vlm-card")
    watched.upload(path)
    watched.page.wait_for_selector("#result .vlm-hint:has-text('ready')")
    watched.ask("what color is it?")
    watched.page.wait_for_selector(f".vlm-card:first-child :text-matches('^[“]?{answer}[”]?$')")


def test_a_file_that_is_too_large_gets_a_message(watched: Watched, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(file_of(Image.effect_noise((3500, 3500), 99)))
    assert large.stat().st_size > 10_000_000
    watched.upload(large)
    watched.page.wait_for_selector("text=/exceed|too large|maximum/i")
    watched.errors.clear()  # the browser logs the refusal (413) too


@pytest.mark.slow
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
    watched.ask("what color is <img src=x onerror=alert(1)> it?")
    page.wait_for_selector(".vlm-note:has-text('unknown')")
    assert page.locator("img[src=x]").count() == 0
    page.fill("#question textarea", "x" * 10_000)
    assert len(page.input_value("#question textarea")) <= 500


def test_the_last_of_two_hasty_questions_is_answered(watched: Watched) -> None:
    watched.ask("is it red?")
    watched.ask("what color is it?")
    watched.page.wait_for_selector("#words-0 [role=button]:has-text('what')")
    watched.page.wait_for_timeout(500)
    assert watched.page.locator("#words-0 [role=button]:has-text('red')").count() == 0


@pytest.mark.slow
def test_choices_and_free_text_have_their_own_input(browser: Any, folder: Path) -> None:
    paths = [
        write_model(untrained(kind), folder / f"{kind}.ckpt", kind)
        for kind in ("choices", "text", "vocabulary")
    ]
    watched = Watched(browser, start(tuple(paths)))
    page = watched.page
    page.wait_for_selector("#result .vlm-hint")
    page.wait_for_selector(".vlm-facts >> nth=0")
    hidden = page.locator("#reasons, #opacity, #method, #download-image, #map-0, .vlm-why")
    assert not hidden.locator("visible=true").count(), "there is no answer whose reasons they are"
    page.click("#ask")
    page.wait_for_selector("#result .vlm-error:has-text('one a line')")
    assert not hidden.locator("visible=true").count()
    page.fill("#choices textarea", "red\ngreen\n\nblue")
    page.click("#ask")
    page.wait_for_selector(".vlm-card >> nth=1")
    chosen, written = watched.answers()
    assert re.search("red|green|blue", chosen)
    assert re.search(r"[“\n]o", written)
    page.wait_for_selector("#map-1 img")
    assert page.locator("#method").is_visible()
    assert page.locator("#reasons[aria-busy=false], #result[aria-busy=false]").count() == 2
    assert "Its accuracy is not known" in page.locator(".vlm-facts").first.inner_text()
    watched.shot("choices")
    page.close()
    assert watched.errors == []


@pytest.mark.parametrize("archive", [True, False])
def test_a_table_is_answered(bundled_page: Watched, tmp_path: Path, archive: bool) -> None:
    page = bundled_page.page
    example = ROOT / "vlm/bundled/scenes/example.png"
    shutil.copy(example, tmp_path / "a.png")
    rows = [
        "a.png,What shape is the gray object?",
        "no.png,What?",
        "a.png,Is the red object above?",
    ]
    (tmp_path / "in.csv").write_text("\n".join(["image,question", *rows]))
    files = [tmp_path / "a.png"]
    if archive:
        files = [tmp_path / "all.zip"]
        with zipfile.ZipFile(files[0], "w") as made:
            made.write(example, "photos/a.png")
    page.get_by_role("tab", name="Ask many questions").click()
    page.set_input_files("#table input[type=file]", tmp_path / "in.csv")
    page.set_input_files("#images input[type=file]", files)
    page.wait_for_selector(f"#images :text('{files[0].stem}')")
    page.click("#answer-table")
    page.wait_for_selector("text=Answered 3 rows, 1 of them with an error")
    page.get_by_role("gridcell", name="no.png").first.wait_for()
    shown = page.locator("#answered [role=grid]").inner_text()
    assert shown.index("no.png") < shown.index("a.png"), "the rows with an error come first"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the answers").click()
    assert download.value.suggested_filename == "answers.csv"
    lines = Path(download.value.path()).read_text("utf-8-sig").splitlines()
    assert lines[0] == "image,question,prediction,probability,warnings,error"
    assert lines[1].startswith("a.png,What shape is the gray object?,square,0.99")
    assert "none of the images that were sent" in lines[2]
    bundled_page.shot("table")


def test_on_a_phone_the_answer_comes_into_sight(browser: Any, bundled: str) -> None:
    watched = Watched(browser, bundled, "phone")
    page = watched.page
    page.evaluate("window.scrollTo(0, 0)")
    watched.ask("What shape is the red object?")
    page.wait_for_selector(".vlm-answer:text-is('triangle')")
    page.wait_for_timeout(1500)
    box = page.locator(".vlm-answer").bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= 844 - box["height"]
    below = page.locator("#ask").bounding_box()
    assert below is not None
    assert 0 < box["y"] - (below["y"] + below["height"]) < 120, "right below the button"
    assert page.locator(".vlm-examples").first.bounding_box()["y"] > box["y"]
    page.screenshot(path=SHOTS / "phone-answer.png")
    page.close()
    assert watched.errors == []


@pytest.mark.parametrize("width", rest_slow(WIDTHS, "phone"))
def test_nothing_jumps(browser: Any, bundled: str, width: str) -> None:
    """Cumulative layout shift while the page opens, and while it answers (below 0.1 is good)."""
    watched = Watched(browser, bundled, width)
    page = watched.page
    page.wait_for_selector("#map-0 img")
    page.wait_for_timeout(1000)
    assert page.evaluate("window.shifts") < 0.1
    page.evaluate("window.shifts = 0")
    watched.ask("How many triangles are there?")
    page.wait_for_selector(".vlm-answer:text-is('2')")
    page.wait_for_timeout(1500)
    assert page.evaluate("window.shifts") < 0.1
    page.close()


@pytest.mark.parametrize("scheme", rest_slow(["light", "dark"], "dark"))
@pytest.mark.parametrize("width", rest_slow(WIDTHS, "phone"))
def test_it_fits_and_passes_axe(browser: Any, bundled: str, width: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    watched = Watched(browser, bundled, width, color_scheme=scheme)
    page = watched.page
    page.wait_for_selector("#map-0 img")
    page.wait_for_timeout(1000)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= WIDTHS[width][0], "the page scrolls sideways"
    for tab in ("Ask", "Ask many questions"):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(500)
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page.get_by_role("tab", name="Ask", exact=True).click()
    watched.shot(f"{width}-{scheme}")
    if os.environ.get("VLM_SCREENSHOTS") and scheme == "light":
        name = {"desk": "demo", "phone": "demo-phone"}.get(width)
        if name:
            page.screenshot(path=IMAGES / f"{name}.png")
    page.close()


@pytest.mark.parametrize("scheme", rest_slow(["light", "dark"], "light"))
def test_cards_guesses_and_messages_pass_axe(
    browser: Any, address: str, run: Path, data: Path, tmp_path: Path, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    watched = Watched(browser, address, color_scheme=scheme)
    page = watched.page

    def look() -> Any:
        for part in ("result", "reasons"):  # what is about to change is pale for a moment
            page.wait_for_selector(f"#{part}:not([aria-busy='true'])", state="attached")
        page.wait_for_timeout(1000)
        return axe.Axe().run(page)

    path, _ = truth(run, data)[0]
    (tmp_path / "document.jpg").write_bytes(b"%PDF-1.7 nothing")
    watched.upload(path)
    page.wait_for_selector("#result .vlm-hint:has-text('ready')")
    watched.ask("what color is it?")
    page.wait_for_selector("#map-1 img")
    asked = look()
    watched.ask("who painted the elephant?")
    page.wait_for_selector("#result .vlm-card:has-text('guess')")
    guessed = look()
    watched.upload(tmp_path / "document.jpg")
    page.wait_for_selector("#result .vlm-error")
    refused = look()
    for found in (asked, guessed, refused):
        assert found.violations_count == 0, found.generate_report()
    page.close()


def test_everything_can_be_done_with_the_keyboard(bundled_page: Watched) -> None:
    page = bundled_page.page
    page.focus("#question textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("What shape is the orange object?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".vlm-answer:text-is('triangle')")
    page.wait_for_selector("#words-0 [role=button]:has-text('orange')")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """() => { const e = document.activeElement;
                return e.closest('[id=risk], [id=opacity], [id=method], [id=words-0], [id=ask],'
                + '[id=download-image], [id=download-json]')?.id
                || (e.closest('.vlm-examples') ? 'examples' : e.getAttribute('role')) }"""
            )
        )
    wanted = {"ask", "risk", "words-0", "opacity", "method", "download-image", "download-json"}
    assert wanted | {"examples"} <= reached
    whole = bundled_page.map()
    page.focus("#words-0 [role=button]:has-text('orange')")
    page.keyboard.press("Enter")
    bundled_page.wait_for_another_map(whole)
    page.focus(".vlm-examples button:has-text('Is there a circle?')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".vlm-card[aria-label='What easy_vqa says']")
