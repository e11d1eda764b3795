"""The metric object equals the pure function, in one process and in two."""

import json
import pickle
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vlm.metrics import ExactMatch, VQAAccuracy, accuracy_by, vqa_accuracy

GOLDEN = Path(__file__).parents[1] / "golden" / "vqa_metric"
TYPES = ("yes/no", "number", "other")


def golden():
    """Predictions, answers and answer types of the 450 golden questions."""
    given = {
        row["question_id"]: row["answer"]
        for row in json.loads((GOLDEN / "results.json").read_text(encoding="utf-8"))
    }
    rows = json.loads((GOLDEN / "annotations.json").read_text(encoding="utf-8"))["annotations"]
    # Sorted, so that two halves hold different types.
    rows.sort(key=lambda row: row["answer_type"])
    return (
        [given[row["question_id"]] for row in rows],
        [[answer["answer"] for answer in row["answers"]] for row in rows],
        [row["answer_type"] for row in rows],
    )


def fed(metric, part=slice(None), batch=64):
    columns = [column[part] for column in golden()]
    for start in range(0, len(columns[0]), batch):
        metric.update(*(column[start : start + batch] for column in columns))
    return metric


@pytest.mark.parametrize("rules", ["2021", "2016"])
def test_equals_the_pure_function(rules):
    predictions, answers, types = golden()
    scores = [vqa_accuracy(p, a, rules) for p, a in zip(predictions, answers, strict=True)]
    expected = {name: group.mean for name, group in accuracy_by(scores, types).items()}
    expected["overall"] = sum(scores) / len(scores)
    values = fed(VQAAccuracy(TYPES, rules)).compute()
    assert list(values) == ["overall", *TYPES]
    assert all(value.shape == () for value in values.values())
    assert {name: float(value) for name, value in values.items()} == pytest.approx(expected)


def test_the_order_and_the_batches_do_not_matter():
    one = fed(VQAAccuracy(TYPES), batch=1000)
    two = VQAAccuracy(TYPES)
    rows = list(zip(*golden(), strict=True))
    random.Random(0).shuffle(rows)
    for row in rows:
        two.update(*([value] for value in row))
    assert torch.equal(one.sums, two.sums)
    assert one.compute() == two.compute()


def in_process(rank, folder):
    """Run one of two processes: the first gets no "yes/no" questions, the second no "number"."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = fed(VQAAccuracy(TYPES), slice(0, 200) if rank == 0 else slice(200, None))
    assert (metric.counts == 0).any()
    values = {name: float(value) for name, value in metric.compute().items()}
    Path(folder, f"{rank}.json").write_text(json.dumps(values))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    mp.spawn(in_process, args=(str(tmp_path),), nprocs=2)
    alone = {name: float(value) for name, value in fed(VQAAccuracy(TYPES)).compute().items()}
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone


def test_pickle_keeps_state_and_reset_clears_it():
    metric = fed(VQAAccuracy(TYPES))
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.compute() == metric.compute()
    copy.update(["yes"], [["yes"]], ["other"])
    assert copy.counts[0] == metric.counts[0] + 1 == 451
    copy.reset()
    assert copy.counts.sum() == copy.sums.sum() == 0


def test_forward_gives_the_batch_and_adds_to_the_whole():
    metric = VQAAccuracy(TYPES)
    assert metric(["a"], [["a"]], ["other"])["overall"] == 1
    batch = metric(["a"], [["b"]], ["number"])
    assert batch["overall"] == batch["number"] == 0
    assert batch["other"].isnan()
    values = metric.compute()
    assert (values["overall"], values["other"], values["number"]) == (0.5, 1, 0)
    assert values["yes/no"].isnan()


def test_without_types():
    metric = VQAAccuracy()
    metric.update(["a", "b"], [["a"], ["c"]])
    metric.update([], [])
    assert metric.compute() == {"overall": 0.5}


def test_other_scores_have_types_too():
    metric = ExactMatch(["colour", "count"])
    metric.update(["red", "two"], [["red"], ["three"]], ["colour", "count"])
    assert metric.compute() == {"overall": 0.5, "colour": 1, "count": 0}


@pytest.mark.parametrize(
    ("made", "batch", "error", "message"),
    [
        ((), (["a"], []), ValueError, "answers has length 0 and predictions 1"),
        ((), ("a", [["a"]]), TypeError, "predictions is the string 'a'"),
        ((), (["a"], [["a"]], ["x"]), ValueError, r"types contains 'x'.*made for \[\]"),
        (TYPES, (["a"], [["a"]]), ValueError, "types is None, but the metric reports"),
        (TYPES, (["a"], [["a"]], []), ValueError, "types has length 0 and predictions 1"),
        (TYPES, (["a"] * 2, [["a"]] * 2, ["other", "x"]), ValueError, "types contains 'x'"),
        (TYPES, (["a"] * 2, [["a"], []], ["other"] * 2), ValueError, "answers is empty"),
    ],
)
def test_a_wrong_batch_is_named_and_not_counted(made, batch, error, message):
    metric = VQAAccuracy(made)
    with pytest.raises(error, match=message):
        metric.update(*batch)
    assert metric.counts.sum() == metric.sums.sum() == 0


def test_wrong_constructor_arguments_are_named():
    with pytest.raises(ValueError, match="names must differ"):
        VQAAccuracy(["a", "a"])
    with pytest.raises(ValueError, match=r"names must differ.*'overall'"):
        VQAAccuracy(["overall"])
    with pytest.raises(TypeError, match="types is the string 'other'"):
        VQAAccuracy("other")
    with pytest.raises(ValueError, match="rules is '2015'"):
        VQAAccuracy(rules="2015")
