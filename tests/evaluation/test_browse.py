"""`vlm browse`: what the page holds, and what it does in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT, rows_slow, write_data
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from vlm.cli.main import main
from vlm.datasets import CustomDataset, EasyVQA
from vlm.datasets.errors import DataError
from vlm.evaluation.browse import browse

EVIL = "</script><img src=x onerror=document.title='broken'><b>& \u2028{{content}}"
"""A question that a stranger wrote."""


def content(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script id="content"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def write_predictions(path: Path, rows: list[dict[str, Any]], answers: list[str]) -> Path:
    """Answers to the first questions, the probability falling from one to the next."""
    lines = [
        {"id": row["id"], "answer": answer, "probability": round(0.95 - 0.1 * n, 2)}
        for n, (row, answer) in enumerate(zip(rows, answers, strict=False))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def custom(tmp_path_factory: pytest.TempPathFactory) -> CustomDataset:
    folder = tmp_path_factory.mktemp("custom")
    rows = []
    for number in range(4):
        Image.new("RGB", (300, 200), (60 * number, 90, 200)).save(folder / f"{number}.png")
        rows += [
            {
                "id": f"c{number}",
                "question": "What color is it?",
                "answers": ["red", "red", "blue"],
            },
            {"id": f"y{number}", "question": "Is it a sky?", "answers": ["yes"]},
        ]
        for row in rows[-2:]:
            row |= {"image": f"{number}.png", "type": row["question"][:4]}
    rows[0]["question"] = EVIL
    rows[-1]["image"] = "missing.png"
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.jsonl").write_text(json.dumps(rows[2] | {"image": "other.png"}) + "\n")
    return CustomDataset(folder / "train.jsonl", test=folder / "test.jsonl", images=folder)


@pytest.fixture(scope="module")
def page_file(custom: CustomDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browse")
    rows = custom.table("test").to_pylist()
    first = write_predictions(folder / "a.jsonl", rows, ["red", "yes", "green", "no", "red", "yes"])
    second = write_predictions(folder / "b.jsonl", rows, ["red", "no", "red", "no", "red", "yes"])
    (folder / "maps").mkdir()
    Image.new("RGBA", (30, 20)).save(folder / "maps/c1.png")
    said = browse(
        custom, predictions=[first, second], output=folder / "page.html", maps=folder / "maps"
    )
    assert said[0] == "All 8 test questions."
    assert "it answers 6 of 8 questions" in said[1]
    assert "1 image cannot be read" in said[-1]
    assert "missing.png" in said[-1]
    return folder / "page.html"


def test_the_page_holds_each_image_once_and_strangers_texts_inert(page_file: Path) -> None:
    found = content(page_file)
    assert [image is None for image in found["images"]] == [False] * 4 + [True]
    assert found["files"] == ["a.jsonl", "b.jsonl"]
    rows = found["rows"]
    assert rows[0]["question"] == EVIL.replace("\u2028", " ") or rows[0]["question"] == EVIL
    assert rows[0]["answers"] == [["red", 2], ["blue", 1]]
    assert rows[1]["said"] == [["yes", 0.85, 1.0], ["no", 0.85, 0.0]]
    assert rows[7]["said"] == [None, None]
    assert [row["id"] for row in rows if row["map"]] == ["c1"]
    text = page_file.read_text()
    assert text.count("<script") == 2, "a question ended the script"
    (inside,) = re.findall(r'<script id="content"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert not set("<>&\u2028") & set(inside)
    assert not re.search(r"https?:", text)


def test_more_than_the_limit_is_a_sample_with_a_seed(tmp_path: Path) -> None:
    data = EasyVQA(root=str(write_data(tmp_path / "data")))
    chosen = []
    for seed in (0, 0, 1):
        said = browse(data, limit=5, seed=seed, output=tmp_path / "new/page.html")
        assert said == [f"A random sample of 5 of the 36 test questions (seed {seed})."]
        rows = content(tmp_path / "new/page.html")["rows"]
        chosen.append([row["id"] for row in rows])
        assert len(rows) == 5
    assert chosen[0] == chosen[1] != chosen[2]


def test_mistakes(custom: CustomDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"maps: got .*nowhere"):
        browse(custom, maps=tmp_path / "nowhere", output=tmp_path / "page.html")
    with pytest.raises(ValueError, match="limit: got 0"):
        browse(custom, limit=0, output=tmp_path / "page.html")
    other = tmp_path / "other.csv"
    other.write_text("id,answer\nunknown,yes\n")
    with pytest.raises(DataError, match="'unknown'"):
        browse(custom, predictions=[other], output=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "page.html"
    given = ["browse", str(ROOT / "configs/easy_vqa.yaml"), f"--dataset.root={data}"]
    main([*given, "--limit", "7", "--seed", "3", "--output", str(output)])
    printed = capsys.readouterr().out
    assert printed == f"A random sample of 7 of the 36 test questions (seed 3).\n{output}\n"
    assert len(content(output)["rows"]) == 7
    with pytest.raises(SystemExit, match=r"^2$"):
        main([*given, "--predictions", str(tmp_path / "nothing.csv"), "--output", str(output)])
    assert "nothing.csv: there is no such file" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(page_file.as_uri())
    yield opened
    assert errors == []
    opened.close()


def shown(page: Page) -> list[str]:
    """Ids of the questions that are shown, once the filter has settled."""
    page.wait_for_timeout(150)
    fine = page.locator("#cards .fine").all_inner_texts()
    return [text.split(" · ")[0] for text in fine]


@pytest.mark.parametrize(
    ("choose", "expected"),
    rows_slow(
        [
            ({}, "c0 y0 c1 y1 c2 y2 c3 y3"),
            ({"#search": "SKY is"}, "y0 y1 y2 y3"),
            ({"#type": "What"}, "c0 c1 c2 c3"),
            ({"#answer": "yes"}, "y0 y1 y2 y3"),
            ({"#answer": "gre"}, "c1"),
            ({"#result": "right"}, "y0 y2"),
            ({"#result": "partly right"}, "c0 c2"),
            ({"#result": "wrong"}, "c1 y1"),
            ({"#result": "no prediction"}, "c3 y3"),
            ({"#file": "b.jsonl", "#result": "wrong"}, "y0 y1"),
            ({"#pair": "answers differ"}, "y0 c1"),
            ({"#pair": "answers agree"}, "c0 y1 c2 y2"),
            ({"#pair": "only these are right"}, "y0"),
            ({"#file": "b.jsonl", "#pair": "only the others are right"}, "y0"),
            ({"#pair": "all are wrong"}, "y1"),
            ({"#low": "60", "#high": "80"}, "c1 y1"),
            ({"#sort": "least confident first"}, "y2 c2 y1 c1 y0 c0 c3 y3"),
            ({"#sort": "confident errors first"}, "c1 y1 c0 c2 y0 y2 c3 y3"),
        ],
        3,
    ),
)
def test_filters_and_orders(page: Page, choose: dict[str, str], expected: str) -> None:
    for field, value in choose.items():
        if page.locator(field).evaluate("e => e.tagName") == "SELECT":
            page.select_option(field, label=value)
        else:
            page.fill(field, value)
    assert " ".join(shown(page)) == expected
    number = len(expected.split())
    assert page.inner_text("#count").startswith(f"{number} of 8 questions")
    page.click("button[type=reset]")
    assert len(shown(page)) == 8


def test_strangers_texts_are_shown_as_text(page: Page) -> None:
    assert page.title() == "CustomDataset, test: vlm browse"
    assert "onerror=document.title" in page.inner_text("#cards li >> nth=0")
    assert page.locator("#cards b").count() == 0
    assert page.locator("#cards img[alt='Its map']").count() == 1
    assert page.locator("text=This image cannot be read.").count() == 1


def test_the_keyboard_suffices(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("sky")
    assert len(shown(page)) == 4
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "type"
    page.keyboard.press("End")
    assert len(shown(page)) == 0, "the last type is What, and no such question has a sky"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones_and_axe(browser: Any, page_file: Path, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto(page_file.as_uri())
    assert not page.locator("#filters").is_visible(), "the questions come first on a phone"
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for field in page.locator("#filters input, #filters select, #filters button").all():
        if field.is_visible():
            assert field.bounding_box()["height"] >= 40, "large enough for a finger"
    assert Axe().run(page).response["violations"] == []
    page.close()


def test_five_thousand_questions_are_filtered_at_once(browser: Any, page_file: Path) -> None:
    """The page draws what is shown, so the time of a filter does not grow with the questions."""
    found = content(page_file)
    found["rows"] = [
        row | {"id": f"{row['id']} {n}"} for n in range(625) for row in found["rows"][1:]
    ]
    text = re.sub(
        r'(<script id="content"[^>]*>).*?(</script>)',
        lambda match: match[1] + json.dumps(found).replace("<", "\\u003c") + match[2],
        page_file.read_text(),
        flags=re.DOTALL,
    )
    large = page_file.with_name("large.html")
    large.write_text(text)
    page = browser.new_page()
    page.goto(large.as_uri())
    assert page.inner_text("#count").startswith("4,375 of 4,375 questions")
    assert page.locator("#cards > li").count() == 60
    page.click("#more")
    assert page.locator("#cards > li").count() == 120
    assert page.evaluate("document.activeElement.matches('#cards > li')")
    assert (
        page.evaluate(
            "(() => { const t = performance.now(); choose(); return performance.now() - t })()"
        )
        < 1000
    )
    page.close()
