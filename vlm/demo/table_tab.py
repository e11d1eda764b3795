"""The part of the page that answers a table: CSV and images in, CSV out."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.data_classes import GradioRootModel

from vlm.core.validation import counted
from vlm.datasets.readers.json_file import MemoryFile
from vlm.demo import view
from vlm.demo.api import content_of
from vlm.demo.asker import Asker
from vlm.demo.table import MAX_ROWS, answer_table, unpack
from vlm.demo.uploads import AT_ONCE, Uploads
from vlm.evaluation.answer_table import ADDED

HELP = f"""Send a **CSV file** whose columns `image` and `question` hold a file's name and a
question, and the **images** themselves, as up to {AT_ONCE} files or as a zip archive. You get the
table back with the columns {", ".join(f"`{name}`" for name in ADDED)}. Up to {MAX_ROWS:,} rows;
`vlm predict` on the command line has no limit."""

HEADERS = ["image", "question", "answer", "probability", "note"]
WIDTHS: list[str | int] = ["140px", "250px", "110px", "110px", "560px"]
"""Of the columns, in pixels: a phone scrolls, where shares of its width would break words."""
PROGRESS = gr.Progress()
"""Gradio looks for it among a function's defaults."""


class _Sent(GradioRootModel):
    """Uploads without Gradio's mark of its own files, which the gate removes."""

    root: Any  # `answer` checks it


def add_table_tab(asker: Asker, uploads: Uploads) -> None:
    """Add the components to the page that is being built."""
    names = list(asker.models)
    gr.Markdown(HELP)
    with gr.Row():
        table = gr.File(label="Table (CSV)", file_types=[".csv"], height=160, elem_id="table")
        images = gr.File(
            label="Images, or a zip file",
            file_count="multiple",
            file_types=["image", ".zip"],
            height=160,
            elem_id="images",
        )
    for component in (table, images):
        component.data_model = _Sent
    model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
    start = gr.Button("Answer the table", variant="primary", elem_id="answer-table")
    with gr.Column(elem_id="answered"):
        said = gr.Markdown("No table yet.", min_height=60)
        download = gr.DownloadButton("Download the answers (CSV)", interactive=False)
        head = gr.Dataframe(
            label="Some rows, those with an error first",
            headers=HEADERS,
            column_widths=WIDTHS,
            interactive=False,
            visible=False,
            buttons=[],
            wrap=True,
        )

    def answer(
        sent_table: Any, sent_images: Any, name: Any, bar: gr.Progress = PROGRESS
    ) -> tuple[Any, ...]:
        try:
            content = content_of(sent_table, uploads)
            if content is None:
                raise ValueError("table: got none; expected a CSV file.")
            if name not in names:
                raise ValueError(f"model: got {name!r:.80}; expected one of {', '.join(names)}.")
            sent_images = sent_images or []
            # The list comes from the browser, where anything can be sent.
            if not isinstance(sent_images, list) or len(sent_images) > AT_ONCE:
                raise ValueError(f"images: expected at most {AT_ONCE} files, or zip archives.")
            files = [
                (_name_of(each, number), content_of(each, uploads) or b"")
                for number, each in enumerate(sent_images)
            ]
            found = answer_table(
                asker,
                name,
                MemoryFile(_name_of(sent_table, 0), content),
                unpack(files),
                lambda done, of: bar((done, of), desc="Answering", unit="rows"),
            )
        except (ValueError, OSError) as error:
            # Some messages list what a table has, which may be megabytes.
            raise gr.Error(f"{error!s:.1000}", print_exception=False) from error
        errors = f", {found.errors:,} of them with an error" if found.errors else ""
        file = view.inline(found.content, "answers.csv", "text/csv")
        rows = {"headers": HEADERS, "data": found.head, "metadata": None}
        return (
            f"Answered {counted(found.rows, 'row')}{errors}.",
            gr.update(value=file, interactive=True),
            gr.update(value=rows, visible=True),
        )

    start.click(
        answer,
        [table, images, model],
        [said, download, head],
        concurrency_id="tables",
        concurrency_limit=1,
        api_visibility="private",
        preprocess=False,
        postprocess=False,
        show_progress="full",
        show_progress_on=said,
    )


def _name_of(sent: Any, number: int) -> str:
    """The name that a file had on the visitor's machine, which names it in the table."""
    name = sent.get("orig_name") if isinstance(sent, dict) else None
    return name if isinstance(name, str) and name else f"file {number + 1}"
