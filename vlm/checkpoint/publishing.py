"""A shared model on the hub: its card, made from the run, and its upload."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlm.checkpoint.file import CheckpointError
from vlm.core.calibration import Calibration
from vlm.core.part import KEYS
from vlm.core.safe_config import check_config
from vlm.core.validation import counted, shorten
from vlm.core.version import __version__
from vlm.heads.multi_task import answering
from vlm.image.regions import RegionFeatures
from vlm.model import VQAModel

CARD, RESULTS, REPORT, SETTINGS = "README.md", "test.json", "report/report.json", "config.yaml"
HEAD = """\
---
library_name: vlm
pipeline_tag: visual-question-answering
tags: [vlm, visual-question-answering]
---

# {name}

{model}

```python
import vlm

vqa = vlm.load("{load}"{trust})
print(vqa.answer("{photo}", "..."{choices}))
```

Or run `vlm ask {option}{load} {photo} "..."{chosen}`. Once fetched, the files need no network.
{code}
"""
FACTS = (
    *("dataset", "the training questions", "data.control", "seed_everything"),
    *("trainer.max_epochs", "data.images_per_batch x processes", "trainer.precision"),
    *("model.optimizer", "model.schedule"),
)
"""Of what a checkpoint keeps about its training: no path of a machine, and what a reader asks."""
_SHARES = ("accuracy", "low", "high", "majority", "question_only")
WORST_GROUPS = 5
"""That the card shows of the trust report's."""
_FOLDERS = re.compile(r"(?<![\w./:\\])(?:~|[A-Za-z]:)?[\\/](?:[^\s'\",\]}/\\]+[\\/])*")
"""The folders of an absolute path, which name users of a machine; its last part may be public."""


class RunRecord(NamedTuple):
    """What a run's folder says of its model, apart from the checkpoint.

    Attributes:
        results: the content of `test.json`; None without a test.
        report: the content of the trust report's JSON; None without one.
        command: the command that trained it, without folders of a machine; "" if it is not known.
    """

    results: Mapping[str, Any] | None = None
    report: Mapping[str, Any] | None = None
    command: str = ""


def model_card(
    model: VQAModel, about: Mapping[str, Any], record: RunRecord, load: str, digest: str
) -> str:
    """The card of a model, in Markdown.

    Args:
        model: the model.
        about: which run made it, on what.
        record: what the run's folder has besides.
        load: what `vlm.load` takes.
        digest: the model's (`VQA.digest`); a trust report of another state is not shown.
    """
    name = load.rpartition("/")[2].removeprefix("hf:")
    vocabulary = model.head.vocabulary
    ours, picks = _is_ours(model), answering(model.head).takes_choices
    answers = "writes its answers" if vocabulary is None else f"knows {len(vocabulary):,} answers"
    if picks:
        answers = "picks from choices that come with the question"
    parts = HEAD.format(
        name=name,
        model=f"`{model}`",
        load=load,
        trust="" if ours else ", trust=True",
        option="" if ours else "--trust ",
        photo="photo.npz" if isinstance(model.image_encoder, RegionFeatures) else "photo.png",
        choices=', choices=["...", "..."]' if picks else "",
        chosen=' --choices "..." "..."' if picks else "",
        code=f"Loading it runs {'no code' if ours else 'the code of parts from outside vlm'}.",
    )
    known = Calibration.of(dict(about))
    results = published(record.results) if record.results else published_in(about)
    limits = (
        f"The model {answers}, and reads {model.text_encoder.tokenizer.vocab_size:,} words or "
        "pieces of words.",
        "It is for images and questions of the kind it was trained on; nothing warns of images of "
        "another kind.",
        f"Its probabilities were {known.about}, and say nothing of other data."
        if known
        else "Its probabilities are not calibrated: 0.9 does not mean right nine times in ten.",
        "`is_guess` marks a question that is beyond the model and should get no answer.",
    )
    sections = (
        ("Results", [*_results(results)]),
        ("Trust", [*_trust(record.report, digest)]),
        ("Training", [*_training(about, record.command)]),
        ("Limits", [f"- {limit}" for limit in limits]),
    )
    text = "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections)
    return parts + text


def published(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a test report, what a shared model keeps in its `about` under "results": a row for all
    questions, then one for each type, with accuracy, interval and baselines in [0, 1]."""
    names = ("type", "questions", *_SHARES, "over")
    return [{name: row.get(name) for name in names} for row in results["results"]]


def published_in(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that `published` made, as a model's `about` has them, which a stranger may have
    written; none if it has none.

    Raises:
        ValueError: anything else.
    """
    rows = about.get("results")
    rows = [] if rows is None else rows
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise ValueError(f"results: got {rows!r:.200}; expected what `vlm share` writes.")
    return list(rows)


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("type"), str)
        and isinstance(row.get("over", ""), str | None)
        and type(row.get("questions")) is int
        and row["questions"] >= 0
        and row.get("accuracy") is not None
        and all(_is_share(row[name]) for name in _SHARES if row.get(name) is not None)
    )


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _results(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        yield "Not measured: the run has no test report."
        return
    yield (
        "Accuracy on the test split in % (`vlm test`), with two baselines: the most frequent "
        "training answer, and the most frequent one to the same question."
    )
    yield ""
    yield "| questions | number | accuracy | 95 % interval | majority | question only |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        shares = (row.get(name) for name in _SHARES)
        mean, low, high, *floors = ("-" if s is None else f"{100 * s:.2f}" for s in shares)
        yield (
            f"| {_plain(row['type'])} | {row['questions']:,} | {mean} | {low} - {high} "
            f"| {floors[0]} | {floors[1]} |"
        )
    if rows[0].get("over"):
        yield ""
        yield f"Intervals are over {_plain(rows[0]['over'])}."


def _plain(text: str) -> str:
    """A text of another's as Markdown shows it: one line, without links, tables or HTML."""
    return re.sub(r"([\\`*_\[\]<>!#|&:@.])", r"\\\1", " ".join(text.split())[:200])


def _trust(report: Mapping[str, Any] | None, digest: str) -> Iterator[str]:
    if not report:
        yield "Not measured: the run has no trust report (`vlm report RUN`)."
        return
    about = report["about"]
    if about["digest"] != digest:
        yield (
            "Not measured: the run has changed since its trust report, by a training or a "
            "calibration (`vlm report RUN` makes a new one)."
        )
        return
    yield (
        f"`vlm report` of vlm {about['vlm']} on {about['questions']:,} {about['split']} questions "
        f"about {counted(about['images'], 'image')}, with {about['calibration']}. Intervals are "
        f"95 %, over images. docs/trust.md of vlm explains each measure."
    )
    for name, section in report["sections"].items():
        # The accuracy stands above, and a comparison is about two models.
        if name in ("accuracy", "against") or not section["table"]:
            continue
        yield f"\n### {section['title']}\n"
        heads, *rows = section["table"]
        rows = rows[:WORST_GROUPS] if name == "groups" else rows
        yield from map(_row, (heads, ["---"] * len(heads), *rows))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _is_ours(model: VQAModel) -> bool:
    """Whether all parts are vlm's own."""
    try:
        check_config(model.config, KEYS)
    except ValueError:
        return False
    return True


def _training(about: Mapping[str, Any], command: str) -> Iterator[str]:
    training = about.get("training") or {}
    if "torch" not in about:  # of an adapter
        run = about.get("run", "an unknown model")
        name = Path(run).name if Path(run).exists() else run
        yield f"Not by vlm: it was converted from `{name}`."
        return
    yield f"`vlm fit` of vlm {about.get('vlm', __version__)} with torch {about['torch']}:"
    if command:
        yield f"\n```bash\n{command}\n```"
    yield ""
    yield "| | |"
    yield "|---|---|"
    if not training:
        yield f"| data | `{about.get('data', 'unknown')}` |"
    for key in FACTS:
        if (value := training.get(key)) is not None:
            if isinstance(value, dict):
                arguments = ", ".join(f"{k}={v}" for k, v in value.get("init_args", {}).items())
                value = f"{value.get('class_path')}({arguments})"
            yield f"| {key} | `{value}` |"
    if about.get("seconds"):
        yield f"| seconds of training up to this checkpoint | {about['seconds']:,.0f} |"


def read_record(run: str | Path, about: Mapping[str, Any]) -> RunRecord:
    """What a run's folder says of its model; nothing where it is no run's.

    Results of another state of the run are left out: `about`, what its checkpoint keeps, has
    another time of training than these.

    Raises:
        CheckpointError: a file of it is damaged.
    """
    results = _read(
        Path(run) / RESULTS,
        lambda found: [published_in({"results": published(found)}), found["about"].get("seconds")],
    )
    if results and results["about"].get("seconds") != about.get("seconds"):
        results = None
    report = _read(
        Path(run) / REPORT,
        lambda found: [
            [found["about"][name] for name in ("digest", "questions", "split", "images", "vlm")],
            found["about"]["calibration"],
            [(section["title"], [*map(_row, section["table"])])
             for section in found["sections"].values()],
        ],
    )  # fmt: skip
    settings = Path(run) / SETTINGS
    first = settings.read_text(encoding="utf-8").partition("\n")[0] if settings.is_file() else ""
    command = first.removeprefix("# ") if first.startswith("# vlm ") else ""
    return RunRecord(results, report, _FOLDERS.sub("", command))


def _read(path: Path, use: Callable[[Any], object]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        use(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a report of vlm ({shorten(repr(error))}).") from error
    return dict(found)


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Put a folder's files into a repository of the hub, which is made if there is none; the
    address of the commit.

    Raises:
        OSError: the hub does not answer or refuses, with its reason.
        ValueError: no name of a repository.
    """
    from huggingface_hub import HfApi

    from vlm.pretrained.availability import hub_access

    with hub_access(name, what="repository"):
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        made = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=f"Share with vlm {__version__}"
        )
    return str(made.commit_url)
