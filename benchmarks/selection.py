"""Does anything tell wrong answers better than the largest probability does?

    python benchmarks/selection.py --out runs/selection.json
    python benchmarks/selection.py --out runs/selection.json --daquar data/daquar

Trains a product on 1,200 images of Scenes and three abilities with three seeds, and asks it, and
the bundled model, a hard mixture of equal parts: plain questions, their paraphrases, images with
strokes that are no objects, corrupted images, and questions about objects that are not there, to
which these models have no right answer. Each selector ranks the same answers, and its AUGRC (x 100,
low is good) and coverage at 5 and 10 % risk are compared with those of the largest calibrated
probability, with intervals by bootstrap over images. Learned selectors see the selection part of
validation alone: plain, of the same mixture, or, for each part, of the mixture without that part,
which says what they are worth on a kind of question that nobody thought of. An ensemble of the
seeds is also compared by its own answers.

With --daquar, `configs/daquar.yaml` is trained with the seeds instead, and asked the test questions
of DAQUAR.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from vlm import VQAModel
from vlm.cli.training_cli import VQACLI
from vlm.core.files import write_whole
from vlm.data.batches import VQADataset
from vlm.data.images.store import Images, ImageStore
from vlm.data.sampler import ImageGroupSampler
from vlm.datasets import Scenes
from vlm.datasets.base import Split
from vlm.datasets.generated.questions import NOT_THERE
from vlm.datasets.table import image_groups, image_sample, split_by_image, with_rows
from vlm.heads.calibration import answer_scores, method_for
from vlm.inference import load
from vlm.trust import selective
from vlm.trust.calibrate import fit_map
from vlm.trust.perturb import CORRUPTIONS, corrupted
from vlm.trust.selective import Floats, cluster_bootstrap

PLAIN, ABSENT = "plain", "absent"
ABILITIES = ["attribute", "exist", "position"]
QUESTIONS, SEVERITY, STROKES = 1500, 2, 40
EPOCHS, LEAST_STEPS, RESAMPLES = 12, 72, 300
TOP = 4
MEASURES: dict[str, Callable[[Floats, Floats], float]] = {
    "AUGRC": selective.augrc,
    "C@5 %": lambda s, p: selective.coverage_at_risk(s, p, 0.05).coverage,
    "C@10 %": lambda s, p: selective.coverage_at_risk(s, p, 0.10).coverage,
}


@dataclass
class Outputs:
    """What a model gave to Q questions: logits (Q, A), joint and question vectors (Q, D), the
    questions' lengths (Q,), the scores (Q, A) that each of its answers would earn, and images
    (Q,)."""

    logits: Tensor
    joint: Tensor
    text: Tensor
    length: Tensor
    worth: Tensor
    images: np.ndarray

    @property
    def scores(self) -> Floats:
        return self.worth.gather(1, self.logits.argmax(1, keepdim=True))[:, 0].double().numpy()


Parts = dict[str, tuple[pa.Table, Images]]
"""Questions and their images, by part; those of validation are of its selection part."""


def hard_scenes(model: VQAModel, split: Split) -> Parts:
    absent = Scenes(part="absent", abilities=ABILITIES).table(split)
    pairs = Scenes(pairs=True, abilities=ABILITIES).table(split)
    tables = {
        PLAIN: Scenes(abilities=ABILITIES).table(split),
        "paraphrases": pairs.filter(pc.equal(pairs["relation"], "paraphrase")),
        "clutter": Scenes(clutter=STROKES, abilities=ABILITIES).table(split),
        ABSENT: absent.filter(pc.equal(pc.list_element(absent["answers"], 0), NOT_THERE)),
    }
    plain = ImageStore(model.image_encoder.transform)
    parts: Parts = {}
    for name, table in tables.items():
        whole = split_by_image(table, 0.5, 0)[0] if split == "validation" else table
        parts[name] = with_rows(whole, image_sample(whole, QUESTIONS)), plain
        if name == PLAIN:
            worse = with_rows(whole, image_sample(whole, QUESTIONS))
            groups = image_groups(worse) % len(CORRUPTIONS)
            for number, kind in enumerate(CORRUPTIONS):
                parts[kind] = with_rows(worse, groups == number), corrupted(plain, kind, SEVERITY)
    return parts


@torch.inference_mode()
def asked(model: VQAModel, parts: Parts) -> dict[str, Outputs]:
    """The outputs to each part."""
    found = {}
    for name, (table, store) in parts.items():
        data = VQADataset(table, model.asking_processor, store, targets=False)
        columns: list[list[Tensor]] = [[], [], [], []]
        order = []
        for index in ImageGroupSampler(image_groups(table), 16, seed=None):
            batch = data[index]
            question, fused = model.read(batch).pooled, model.fuse(batch)
            _, scores, names = answer_scores(model.head, model.head(fused, batch))
            words = batch.words_mask.sum(1).float()
            words = words if batch.text_index is None else words[batch.text_index]
            for column, value in zip(columns, (scores, fused.pooled, question, words), strict=True):
                column.append(value)
            order.append(index.rows)
        rows = np.concatenate(order)
        given = [table["answers"][row].as_py() for row in rows.tolist()]
        worth = torch.tensor([[float(a == g[0]) for a in names[0]] for g in given])
        # Variations show the same scenes; those with absent objects are others.
        set_ = ABSENT if name == ABSENT else PLAIN
        images = [f"{set_} {Path(table['image'][row].as_py()).name}" for row in rows.tolist()]
        logits, joint, text, length = map(torch.cat, columns)
        found[name] = Outputs(logits, joint, text, length, worth, np.array(images))
    return found


def joined(parts: list[Outputs]) -> Outputs:
    def all_of(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    images = np.concatenate([part.images for part in parts])
    names = ("logits", "joint", "text", "length", "worth")
    return Outputs(**{name: all_of(name) for name in names}, images=images)


def shares(outputs: Outputs, scale: float) -> Tensor:
    """(Q, A) calibrated probabilities."""
    return (scale * outputs.logits).softmax(1)


def by_probabilities(outputs: Outputs, scale: float) -> Tensor:
    """Features (Q, F) of the answers' probabilities and the question's length."""
    p = shares(outputs, scale)
    top = p.topk(TOP, 1).values
    entropy = -(p * p.clamp(min=1e-12).log()).sum(1)
    best = outputs.logits.max(1).values
    energy = outputs.logits.logsumexp(1)
    columns = [entropy, top[:, 0] - top[:, 1], best, energy, outputs.length]
    return torch.cat([top.clamp(min=1e-12).log(), torch.stack(columns, 1)], 1)


def with_question(outputs: Outputs, scale: float) -> Tensor:
    return torch.cat([by_probabilities(outputs, scale), outputs.text], 1)


def with_all(outputs: Outputs, scale: float) -> Tensor:
    return torch.cat([with_question(outputs, scale), outputs.joint], 1)


def learned(
    features: Callable[[Outputs, float], Tensor], hidden: int | None, train: Outputs, scale: float
) -> Callable[[Outputs], Floats]:
    """A selector trained to say whether the answer is right: logistic, or with a hidden layer."""
    torch.manual_seed(0)
    x, y = features(train, scale), torch.from_numpy(train.scores).float()
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    width = x.shape[1]
    net: nn.Module = nn.Linear(width, 1)
    if hidden is not None:
        net = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 1)
        )
    batches = -(-len(x) // 256)
    epochs = max(EPOCHS, -(-LEAST_STEPS // batches))
    steps = epochs * batches
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    x = (x - mean) / deviation
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(256):
            loss = F.binary_cross_entropy_with_logits(net(x[rows])[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()

    @torch.no_grad()
    def confidence(outputs: Outputs) -> Floats:
        found = net((features(outputs, scale) - mean) / deviation)[:, 0]
        return found.double().numpy()

    return confidence


def confidences(
    validation: dict[str, Outputs], test: dict[str, Outputs]
) -> tuple[Floats, dict[str, Floats], Tensor]:
    """The scores of the mixture's answers, each selector's confidence, and all probabilities."""
    plain = validation[PLAIN]
    worse = plain.logits - plain.logits.max(1, keepdim=True).values
    scale = fit_map("temperature", worse.double().numpy(), plain.scores)[0]
    outputs = joined([*test.values()])
    p = shares(outputs, scale)
    top = p.topk(2, 1).values.double().numpy()
    found = {
        "largest probability": top[:, 0],
        "margin": top[:, 0] - top[:, 1],
        "entropy": (p * p.clamp(min=1e-12).log()).sum(1).double().numpy(),
        "largest logit": outputs.logits.max(1).values.double().numpy(),
    }
    seen = {PLAIN: plain}
    if len(validation) > 1:
        seen["mixture"] = joined([*validation.values()])
    for which, train in seen.items():
        for name, features, hidden in (
            ("probabilities, logistic", by_probabilities, None),
            ("and question, logistic", with_question, None),
            ("and question, joint vector, MLP", with_all, 64),
        ):
            select = learned(features, hidden, train, scale)
            found[f"learned on {which}: {name}"] = select(outputs)
    if len(validation) > 1:
        found["learned on the other parts: and question, joint vector, MLP"] = unseen(
            validation, test, scale
        )
    return outputs.scores, found, p


def unseen(validation: dict[str, Outputs], test: dict[str, Outputs], scale: float) -> Floats:
    """The confidence that a selector gives to each part which has not seen that part; all kinds of
    corruption count as one, and plain questions are always seen."""
    groups = {name: "corruptions" if name in CORRUPTIONS else name for name in test}
    selectors = {
        group: learned(
            with_all,
            64,
            joined([o for name, o in validation.items() if name == PLAIN or groups[name] != group]),
            scale,
        )
        for group in dict.fromkeys(groups.values())
    }
    return np.concatenate([selectors[groups[name]](outputs) for name, outputs in test.items()])


Answers = list[tuple[Floats, Floats]]
"""Of each model, the scores of its answers and a confidence for each."""


def resampled(answers: Answers, images: np.ndarray) -> dict[str, Floats]:
    """The mean of each measure over models, (1 + R,): of all questions, then of each resample of
    the images, which are the same for all that are compared."""
    found = {}
    for name, measure in MEASURES.items():
        values: list[float] = []

        def statistic(rows: Any, measure: Any = measure, values: list[float] = values) -> float:
            values.append(float(np.mean([measure(s[rows], p[rows]) for s, p in answers])))
            return values[-1]

        statistic(slice(None))
        cluster_bootstrap(statistic, images.tolist(), RESAMPLES)
        found[name] = np.array(values)
    return found


def difference(first: dict[str, Floats], second: dict[str, Floats]) -> dict[str, list[float]]:
    """Of each measure, first minus second, and its interval."""
    gaps = {name: first[name] - second[name] for name in MEASURES}
    return {
        name: [float(gap[0]), *np.quantile(gap[1:], [0.025, 0.975]).tolist()]
        for name, gap in gaps.items()
    }


def trained(config: str, seed: int, given: argparse.Namespace, *options: str) -> VQACLI:
    """A finished run; one that was stopped goes on."""
    return VQACLI(
        [
            "fit",
            f"--config={config}",
            *options,
            f"--seed_everything={seed}",
            f"--data.seed={seed}",
            f"--run.folder={given.out.parent}",
            "--run.name=selection",
            "--run.resume=auto",
            "--run.test=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
    )


def of_scenes(given: argparse.Namespace) -> dict[str, Any]:
    """Seeds of a product, and the bundled model, on the mixture."""
    options = (
        "--model.fusion=vlm.fusion.Pooled",
        "--model.optimizer.init_args.lr=0.003",
        f"--dataset.scenes={given.scenes}",
        f"--dataset.abilities=[{','.join(ABILITIES)}]",
        f"--trainer.max_epochs={given.epochs}",
    )
    runs = {
        str(seed): load(trained("configs/scenes.yaml", seed, given, *options).run_folder).model
        for seed in given.seeds
    }
    return {
        f"{len(runs)} seeds, {given.epochs} epochs": measured(runs, hard_scenes, len(runs) > 1),
        "bundled model": measured({"bundled": load("scenes").model}, hard_scenes, False),
    }


def of_daquar(given: argparse.Namespace) -> dict[str, Any]:
    """Seeds of the configuration on DAQUAR's test questions, whose images are encoded once."""
    options = (
        f"--dataset.root={given.daquar}",
        f"--data.images.features={given.out.parent / 'features'}",
    )
    runs = [trained("configs/daquar.yaml", seed, given, *options) for seed in given.seeds]
    data = runs[0].datamodule

    def parts(model: VQAModel, split: Split) -> Parts:
        table = data.table(split)
        table = split_by_image(table, 0.5, 0)[0] if split == "validation" else table
        return {PLAIN: (table, data.encoded_images(split, model.image_encoder))}

    models = {str(i): load(run.run_folder).model for i, run in enumerate(runs)}
    return {f"DAQUAR, {len(runs)} seeds": measured(models, parts, len(runs) > 1)}


def measured(
    models: dict[str, VQAModel], parts: Callable[[VQAModel, Split], Parts], ensemble: bool
) -> dict[str, Any]:
    """Mean of each measure over models, and each selector's difference to the first."""
    of_models = []
    for model in models.values():
        if method_for(model.head) != "temperature":
            raise ValueError("expected a model with a softmax over its answers")
        test = asked(model, parts(model, "test"))
        of_models.append((*confidences(asked(model, parts(model, "validation")), test), test))
    images = joined([*of_models[0][3].values()]).images
    base = [(scores, found["largest probability"]) for scores, found, _, _ in of_models]
    of_base = resampled(base, images)
    result: dict[str, Any] = {
        "questions": len(images),
        "accuracy": float(np.mean([scores.mean() for scores, _ in base])),
        "accuracy by part": {
            name: float(np.mean([test[name].scores.mean() for *_, test in of_models]))
            for name in of_models[0][3]
        },
        "largest probability": {name: float(values[0]) for name, values in of_base.items()},
        "differences": {},
    }
    for name in of_models[0][1]:
        if name != "largest probability":
            other = [(scores, found[name]) for scores, found, _, _ in of_models]
            result["differences"][name] = difference(resampled(other, images), of_base)
    if ensemble:
        mean = torch.stack([p for _, _, p, _ in of_models]).mean(0)
        worth = joined([*of_models[0][3].values()]).worth
        own = worth.gather(1, mean.argmax(1, keepdim=True))[:, 0].double().numpy()
        best = mean.max(1).values.double().numpy()
        ranked = [
            (scores, mean.gather(1, p.argmax(1, keepdim=True))[:, 0].double().numpy())
            for scores, _, p, _ in of_models
        ]
        result["ensemble accuracy"] = float(own.mean())
        result["differences"]["ensemble's probability of the same answer"] = difference(
            resampled(ranked, images), of_base
        )
        result["differences"]["ensemble's own answer"] = difference(
            resampled([(own, best)], images), of_base
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=1200, help="training images")
    parser.add_argument("--daquar", type=Path, help="folder of DAQUAR, to measure there instead")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    results = of_scenes(given) if given.daquar is None else of_daquar(given)
    write_whole(given.out, json.dumps(results, indent=1).encode())
    console = Console(width=150)
    for name, found in results.items():
        base = found["largest probability"]
        table = Table(
            title=f"{name}: {found['questions']:,} questions, accuracy "
            f"{100 * found['accuracy']:.1f} %; difference to the largest probability, x 100 "
            "(95 % interval)"
        )
        table.add_column("selector")
        for measure in MEASURES:
            table.add_column(measure, justify="right")
        table.add_row("largest probability", *(f"{100 * base[m]:.2f}" for m in MEASURES))
        for selector, rows in found["differences"].items():
            cells = ("{:+.2f} ({:+.2f}, {:+.2f})".format(*(100 * x for x in rows[m])) for m in rows)
            table.add_row(selector, *cells)
        console.print(table)


if __name__ == "__main__":
    main()
