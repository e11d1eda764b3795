"""Maps, thresholds and sets: on numbers made for it, and on a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import rest_slow, small_run
from scipy.special import expit, log_softmax

import vlm
from vlm.checkpoint.checkpoint import CheckpointError, read_checkpoint
from vlm.checkpoint.file import KEY, read_checkpoint_file, write_checkpoint
from vlm.cli.main import main
from vlm.core.calibration import Calibration, Threshold
from vlm.trust.calibrate import _candidates, fit_map
from vlm.trust.guarantee import Part, certify, p_value, set_threshold


def test_a_temperature_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(4000, 5))
    true = np.exp(log_softmax(logits / 2.5, axis=1))
    drawn = (true.cumsum(1) > rng.random((4000, 1))).argmax(1)
    right = (drawn == logits.argmax(1)).astype(float)
    scale, bias, length = fit_map("temperature", logits - logits.max(1, keepdims=True), right)
    assert 1 / scale == pytest.approx(2.5, rel=0.1)
    assert bias == length == 0


def test_a_sigmoid_and_a_length_are_found() -> None:
    rng = np.random.default_rng(0)
    log_p, tokens = -rng.exponential(1, 20_000), rng.integers(1, 9, 20_000)
    right = rng.random(20_000) < expit(0.5 * log_p + 1 + 0.3 * tokens)
    inputs = np.stack([log_p, tokens], 1)
    assert fit_map("length", inputs, right.astype(float)) == pytest.approx((0.5, 1, 0.3), abs=0.1)
    right = rng.random(20_000) < expit(0.5 * log_p + 1)
    found = fit_map("platt", inputs[:, :1], right.astype(float))
    assert found == pytest.approx((0.5, 1, 0), abs=0.1)


def test_one_class_only_leaves_a_map_that_tells_answers_apart() -> None:
    logits = np.linspace(4, 12, 500)[:, None]
    scale, bias, _ = fit_map("platt", logits, np.ones(500))
    assert expit(scale * np.array([-8, 8]) + bias) == pytest.approx([0, 1], abs=0.1)
    scale, bias, _ = fit_map("platt", logits, np.zeros(500))
    assert (expit(scale * logits + bias) < 0.1).all()


def part(scores: np.ndarray, confidence: np.ndarray, per_image: int = 1) -> Part:
    return Part(scores.astype(float), confidence, np.arange(len(scores)) // per_image)


def test_299_right_answers_are_the_least_for_one_percent() -> None:
    for n, held in ((298, None), (299, 0.0)):
        perfect = part(np.ones(n), np.linspace(0.5, 1, n))
        assert certify(perfect, perfect, 0.01, 0.05).probability == held
    assert "299 images" in certify(perfect, part(np.ones(9), np.ones(9)), 0.01, 0.05).why


def test_the_p_value_of_independent_questions_is_binomial() -> None:
    scores = np.r_[np.zeros(2), np.ones(98)]
    # P(Binomial(100, 0.05) <= 2)
    assert p_value(part(scores, np.ones(100)), 0.5, 0.05) == pytest.approx(0.118263, abs=1e-6)
    assert p_value(part(scores, np.ones(100)), 0.5, 0.02) == 1


def test_questions_of_an_image_count_once() -> None:
    # 400 right answers about 40 images say as much as 40 answers.
    assert p_value(part(np.ones(400), np.ones(400), 10), 0, 0.1) == pytest.approx(0.9**40)


@pytest.mark.parametrize("per_image", rest_slow([1, 5], 5))
def test_a_threshold_keeps_its_risk_in_95_of_100_draws(per_image: int) -> None:
    """P(wrong | confidence p) is (1 - p)^2, and questions of an image share their luck."""

    def draw(rng: np.random.Generator, images: int) -> Part:
        p = np.repeat(rng.random(images), per_image)
        right = np.repeat(rng.random(images), per_image) > (1 - p) ** 2
        return part(right, p, per_image)

    broken, found = 0, 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        threshold = certify(draw(rng, 300), draw(rng, 300), 0.1, 0.05).probability
        if threshold is not None:
            found += 1
            broken += (1 - threshold) ** 2 / 3 > 0.1  # the true risk, p being uniform
    assert found > 150  # a guarantee that answers nothing would hold too
    assert broken <= 0.05 * 300 + 2 * np.sqrt(300 * 0.05 * 0.95)


def test_a_run_that_went_on_chose_among_more_epochs(run: Path, tmp_path: Path) -> None:
    best = tmp_path / "checkpoints/best.ckpt"
    best.parent.mkdir()
    content = read_checkpoint_file((run / "checkpoints/best.ckpt").resolve())
    write_checkpoint(content, best)
    alone = _candidates(read_checkpoint(best))
    content[KEY]["about"]["training"]["trainer.max_epochs"] = 7 * alone
    write_checkpoint(content, best.with_name("last.ckpt"))
    assert _candidates(read_checkpoint(best)) == 7 * alone


def test_sets_hold_the_right_answer_of_nine_in_ten() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        p = rng.random(400)
        threshold = set_threshold(p[:200], np.arange(200) // 2)
        covered.append((p[200:] >= threshold).mean())
    assert np.mean(covered) == pytest.approx(0.905, abs=0.01)
    assert set_threshold(np.ones(5), np.arange(5)) == 0  # 5 images cannot show 90 %
    beyond = np.r_[np.full(20, -np.inf), np.ones(80)]  # nothing holds these 20
    assert set_threshold(beyond, np.arange(100)) == 0
    assert set_threshold(beyond[15:], np.arange(85)) == 1


def test_max_risk_takes_the_largest_certified_risk_below_it() -> None:
    thresholds = (Threshold(0.01, None, why="few"), Threshold(0.05, 0.8), Threshold(0.2, 0.3))
    found = Calibration("platt", 1.0, thresholds=thresholds)
    assert found.threshold(0.05).probability == 0.8
    assert found.threshold(0.19).probability == 0.8
    assert found.threshold(0.5).probability == 0.3
    with pytest.raises(ValueError, match=r"max_risk: got 0\.01.*few.*0\.05, 0\.2"):
        found.threshold(0.01)
    for wrong in (0, 1, -0.1, "5%"):
        with pytest.raises(ValueError, match="max_risk"):
            found.threshold(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"scale": float("nan")},
        {"scale": 0},
        {"method": "magic"},
        {"thresholds": [[0.05, 2.0]]},
        {"thresholds": None},
        {"extra": 1},
        {"questions": "many"},
    ],
)
def test_a_stranger_s_calibration_is_checked(change: dict[str, object]) -> None:
    good = {"method": "platt", "scale": 1.0, "thresholds": [[0.05, 0.8, 0.5, ""]]}
    assert Calibration.of({"calibration": good}) is not None
    assert Calibration.of({}) is None
    with pytest.raises(ValueError, match="calibration: got"):
        Calibration.of({"calibration": good | change})


def test_fit_calibrates_its_best_checkpoint(run: Path, data: Path, tmp_path: Path) -> None:
    stored = Calibration.of(read_checkpoint(run).about)
    assert stored is not None
    # 9 validation questions about 3 images: of these one or two are the selection part.
    assert stored.questions + stored.certified_on == 9
    assert all(t.probability is None and "not measurable" in t.why for t in stored.thresholds)
    text = (run / "test_predictions.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(line["calibrated"] is True for line in lines)
    vqa = vlm.load(run)
    answer = vqa.answer(data / "test/images/0.png", lines[0]["question"])
    assert answer.calibrated
    assert answer.probability == pytest.approx(lines[0]["probability"], abs=1e-5)
    with pytest.raises(ValueError, match="not measurable"):
        vqa.answer(data / "test/images/0.png", "is it red?", max_risk=0.05)
    # A shared model keeps it.
    assert vlm.load(vqa.save(tmp_path / "shared")).calibration == stored


def test_below_the_threshold_the_model_does_not_know(run: Path, data: Path) -> None:
    model = vlm.load(run)
    image, question = data / "test/images/0.png", "what color is it?"
    known = model.answer(image, question)
    for shift, abstains in ((-1e-6, False), (1e-6, True)):
        thresholds = [[0.05, min(1.0, known.probability + shift), 1.0, ""]]
        about = model.about["calibration"] | {"thresholds": thresholds}
        answer = vlm.VQA(model.model, {"calibration": about}).answer(image, question, max_risk=0.1)
        assert answer.abstains is abstains
        assert (answer.text == "I don't know") is abstains
        assert answer.top == known.top
    bare = vlm.VQA(model.model)
    assert not bare.answer(image, question).calibrated
    with pytest.raises(ValueError, match="vlm calibrate"):
        bare.answer(image, question, max_risk=0.1)


def test_the_command_calibrates_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*small_run(data, tmp_path), "--trainer.max_epochs=1", "--run.test=false"])
    (folder,) = (tmp_path / "easy_vqa").iterdir()
    before = read_checkpoint(folder).about["calibration"]
    capsys.readouterr()
    main(["calibrate", str(folder), f"--dataset.root={data}"])
    assert "calibrated on" in capsys.readouterr().out
    after = read_checkpoint(folder).about["calibration"]  # its checksum is right, or this warns
    assert {**after, "created": ""} == {**before, "created": ""}


def test_a_checkpoint_with_a_wrong_calibration_is_refused(run: Path, tmp_path: Path) -> None:
    vlm.load(run).save(tmp_path / "shared")
    config = tmp_path / "shared/config.json"
    content = json.loads(config.read_text())
    content["about"]["calibration"]["scale"] = "1"
    config.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="calibration: got"):
        vlm.load(tmp_path / "shared")


def test_ask_takes_a_risk_and_says_what_the_probabilities_rest_on(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ask", str(run), str(data / "test/images/0.png"), "what color is it?"]
    main(asked)
    assert "calibrated on 3 validation questions, too few to rely on (" in capsys.readouterr().err
    for risk, match in (("5%", "max_risk: got 0.05, but"), ("0.05", "max_risk: got 0.05, but")):
        with pytest.raises(SystemExit, match=match):
            main([*asked, f"--max-risk={risk}"])
    for risk in ("5", "0%", "much"):
        with pytest.raises(SystemExit) as ended:
            main([*asked, f"--max-risk={risk}"])
        assert ended.value.code == 2
        assert "expected a share such as 5%" in capsys.readouterr().err
