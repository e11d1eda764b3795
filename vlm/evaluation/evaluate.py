"""Score anybody's answers to the questions of a data set, without a model."""

from __future__ import annotations

from pathlib import Path

from vlm.datasets.base import Dataset, Split
from vlm.datasets.baselines import compute_floors
from vlm.evaluation.predictions import read_predictions
from vlm.evaluation.report import Report
from vlm.evaluation.results import Results


def evaluate(
    predictions: str | Path,
    dataset: Dataset,
    split: Split = "test",
    partial: bool = False,
    output: str | Path | None = None,
) -> Report:
    """Score a file of answers as `vlm test` scores a model's.

    Args:
        predictions: file of answers, in one of the formats of `read_predictions`.
        dataset: data set whose questions are answered; its metric scores the answers.
        split: split of the data set.
        partial: whether to score only the questions that have an answer, if others have none.
        output: folder for `<split>.json` and `<split>_predictions.jsonl`; None writes nothing.

    Returns:
        The report. Its ceiling is the best that the annotators' own answers can reach, because the
        file does not say which answers its model can give.

    Raises:
        FileNotFoundError: a file that does not exist.
        DataError: a split without answers, or a file that does not fit its questions; the error
            names file, line, value and remedy.
        ValueError: an `output` folder that contains the file of answers itself, under a name that
            would be overwritten.

    Example:
        >>> dataset = vlm.datasets.EasyVQA()
        >>> rows = [f"{key},yes" for key in dataset.table("test")["id"].to_pylist()]
        >>> _ = Path("answers.csv").write_text("\\n".join(["id,answer", *rows]))
        >>> report = vlm.evaluate("answers.csv", dataset, output="scored")
        >>> print(f"{report.accuracy:.3f}, {report.interval.low:.3f} to {report.interval.high:.3f}")
        0.373, 0.364 to 0.382
    """
    source = Path(predictions)
    dataset.check_answers(split)
    table = dataset.table(split)
    read = read_predictions(source, table, split, partial)
    results = Results(
        read.table,
        read.by_id,
        dataset,
        writes_text=not read.choices,
        takes_choices=read.choices,
    )
    baselines = compute_floors(
        dataset, dataset.table("train"), read.table, None, choose=read.choices
    )
    about = {
        "predictions": str(source),
        "matched": read.matched,
        "answered": len(read.table),
        "questions": len(table),
        "dataset": type(dataset).__name__,
    }
    answers = "the set of each question's choices" if read.choices else "free text"
    report = Report(results, split, baselines, answers, about)
    if output is not None:
        written = (Path(output) / f"{split}{rest}" for rest in (".json", "_predictions.jsonl"))
        if source.resolve() in {path.resolve() for path in written}:
            raise ValueError(f"output: {source} would be overwritten; choose another folder.")
        report.write(Path(output))
    return report
