"""A shared model on the hub: its card, made from the run, and its upload."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm.checkpoint.file import CheckpointError
from vlm.core.calibration import Calibration
from vlm.core.part import KEYS
from vlm.core.safe_config import check_config
from vlm.core.validation import shorten
from vlm.core.version import __version__
from vlm.model import VQAModel

CARD, RESULTS = "README.md", "test.json"
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
print(vqa.answer("photo.png", "..."))
```

Or run `vlm ask {option}{load} photo.png "..."`. Once fetched, the files need no network. {code}
"""
FACTS = (
    *("dataset", "the training questions", "data.control", "seed_everything"),
    *("trainer.max_epochs", "data.images_per_batch x processes", "trainer.precision"),
    *("model.optimizer", "model.schedule"),
)
"""Of what a checkpoint keeps about its training: no path of a machine, and what a reader asks."""


def model_card(
    model: VQAModel, about: Mapping[str, Any], results: Mapping[str, Any] | None, load: str
) -> str:
    """The card of a model, in Markdown.

    Args:
        model: the model.
        about: which run made it, on what.
        results: the content of the run's `test.json`; None without a test.
        load: what `vlm.load` takes.
    """
    name = load.rpartition("/")[2].removeprefix("hf:")
    vocabulary = model.head.vocabulary
    answers = "writes its answers" if vocabulary is None else f"knows {len(vocabulary):,} answers"
    if model.head.takes_choices:
        answers = "picks from choices that come with the question"
    ours = _is_ours(model)
    parts = HEAD.format(
        name=name,
        model=f"`{model}`",
        load=load,
        trust="" if ours else ", trust=True",
        option="" if ours else "--trust ",
        code=f"Loading it runs {'no code' if ours else 'the code of parts from outside vlm'}.",
    )
    known = Calibration.of(dict(about))
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
        ("Training", [*_training(about)]),
        ("Limits", [f"- {limit}" for limit in limits]),
    )
    text = "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections)
    return parts + text


def _results(results: Mapping[str, Any] | None) -> Iterator[str]:
    if not results:
        yield "Not measured: the run has no test report."
        return
    yield (
        "Accuracy on the test split in %, with two baselines: the most frequent training answer, "
        "and the most frequent one to the same question."
    )
    yield ""
    yield "| questions | number | accuracy | 95 % interval | majority | question only |"
    yield "|---|---|---|---|---|---|"
    for row in results["results"]:
        names = ("accuracy", "low", "high", "majority", "question_only")
        shares = (row.get(name) for name in names)
        mean, low, high, *floors = ("-" if s is None else f"{100 * s:.2f}" for s in shares)
        yield (
            f"| {row['type']} | {row['questions']:,} | {mean} | {low} - {high} "
            f"| {floors[0]} | {floors[1]} |"
        )
    yield ""
    yield f"Intervals are over {results['results'][0]['over']}."


def _is_ours(model: VQAModel) -> bool:
    """Whether all parts are vlm's own."""
    try:
        check_config(model.config, KEYS)
    except ValueError:
        return False
    return True


def _training(about: Mapping[str, Any]) -> Iterator[str]:
    training = about.get("training") or {}
    if "torch" not in about:  # of an adapter
        yield f"Not by vlm: it was converted from `{about.get('run', 'an unknown model')}`."
        return
    yield f"`vlm fit` of vlm {about.get('vlm', __version__)} with torch {about['torch']}:"
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
        yield f"| seconds | {about['seconds']:,.0f} |"


def read_results(run: str | Path) -> dict[str, Any] | None:
    """The test report of a run's folder; None if there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = Path(run) / RESULTS
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not all("accuracy" in row for row in results["results"]):
            raise ValueError("rows without accuracy")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a test report ({shorten(str(error))}).") from error
    return dict(results)


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
