"""Each measure matches values worked out by hand or by another method."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vlm.datasets.errors import DataError
from vlm.image import ConvNet, ImageTransform
from vlm.studies.forgetting.cka import cka, gram, hsic
from vlm.studies.forgetting.heads import HeadError, Probe, agreement
from vlm.studies.forgetting.images import folder_images, split
from vlm.studies.forgetting.measure import interpolate
from vlm.studies.forgetting.similarity import (
    nearest,
    neighbour_changes,
    paraphrase_share,
    similarities,
    similarity_kept,
)
from vlm.studies.forgetting.texts import read_sentences


def test_hsic_is_the_mean_over_all_quadruples() -> None:
    """The estimate of Song et al. equals the U-statistic computed term by term."""
    x, y = torch.randn(7, 3).double(), torch.randn(7, 5).double()
    a, b = x @ x.mT, y @ y.mT
    terms = [
        a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q]) for i, j, q, r in permutations(range(7), 4)
    ]
    assert hsic(a, b) == pytest.approx(float(torch.stack(terms).mean()))
    assert hsic(gram(x), gram(y)) == pytest.approx(hsic(a, b), rel=1e-4)  # centring changes nothing


def test_cka_of_the_same_of_a_rotation_and_of_nothing_in_common() -> None:
    batches = torch.randn(5, 11, 7)
    rotation = torch.linalg.qr(torch.randn(7, 7)).Q
    own = [gram(x) for x in batches]
    assert cka(own, own) == pytest.approx(1, abs=1e-12)
    moved = [gram(3 * x @ rotation + 17) for x in batches]
    assert cka(own, moved) == pytest.approx(1, abs=1e-4)
    stretched = [gram(x * torch.tensor([1, 1, 1, 1, 1, 1, 19.0])) for x in batches]
    assert 0.2 < cka(own, stretched) < 0.8


def test_cka_of_unrelated_features_is_about_zero_however_many_there_are() -> None:
    """The biased form would be near 1 here, with 300 features and 31 examples."""
    one, other = torch.randn(2, 13, 31, 300)
    assert abs(cka([gram(x) for x in one], [gram(x) for x in other])) < 0.1


def test_cka_of_a_layer_that_is_the_same_for_all_is_no_number() -> None:
    flat = [torch.zeros(5, 5).double()]
    assert math.isnan(cka(flat, [gram(torch.randn(5, 3))]))
    same = [gram(torch.full((8, 50), 0.1))]  # whose mean is not quite 0.1
    assert math.isnan(cka(same, same))
    assert math.isnan(cka(same, [gram(torch.randn(8, 3))]))


def test_interpolation_is_exact_at_its_ends() -> None:
    before = {"w": torch.randn(3, 5), "n": torch.tensor(2)}
    after = {"w": torch.randn(3, 5) * 1e6, "n": torch.tensor(7)}
    for alpha, end in ((0.0, before), (1.0, after)):
        assert all(torch.equal(v, end[n]) for n, v in interpolate(before, after, alpha).items())
    quarter = interpolate(before, after, 0.25)
    torch.testing.assert_close(quarter["w"], 0.75 * before["w"] + 0.25 * after["w"])
    assert quarter["n"] == 2
    with pytest.raises(ValueError, match=r"alpha: got 1\.5; expected 0"):
        interpolate(before, after, 1.5)


def test_agreement_by_hand() -> None:
    before = torch.tensor([[3.0, 2, 1], [3.0, 2, 1]]).log()
    after = torch.tensor([[3.0, 2, 1], [1.0, 2, 3]]).log()
    found = agreement(before, after)
    assert list(found.same) == [1, 0]
    assert found.share == 0.5
    assert found.top == pytest.approx((1 + 1 / 2) / 2)  # only two of the three classes are compared
    wanted = (3 / 6 * math.log(3) + 1 / 6 * math.log(1 / 3)) / 2
    assert found.divergence == pytest.approx(wanted, rel=1e-5)
    same = agreement(before, before)
    assert (same.share, same.top, same.divergence) == (1, 1, 0)


def test_neighbours_by_hand() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 1.5, 1.7])
    vectors = torch.stack((angles.cos(), angles.sin()), 1) * torch.rand(5, 1).add(1)
    before = nearest(vectors, 2)
    assert before.tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    changes = neighbour_changes("abcde", before, before.flip(1).clone().fill_(0))
    assert [change.kept for change in changes] == [0, 0.5, 0.5, 0, 0]
    assert changes[3].before == ["e", "c"]


def test_similarity_is_kept_by_a_rotation_and_not_by_chance() -> None:
    vectors = torch.randn(23, 7)
    rotated = vectors @ torch.linalg.qr(torch.randn(7, 7)).Q
    assert similarity_kept(similarities(vectors), similarities(rotated)) > 0.9999
    assert abs(similarity_kept(similarities(vectors), similarities(torch.randn(23, 7)))) < 0.3


def test_paraphrases_by_hand() -> None:
    angles = torch.tensor([0.0, 0.1, 1.0, 1.6, 1.7, 3.0])
    alike = similarities(torch.stack((angles.cos(), angles.sin()), 1))
    # 2 and 3 are a pair, but 4 is nearer to 3; 5's nearest is 4, its own pair.
    assert paraphrase_share(alike) == pytest.approx(4 / 6)


def test_photos_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for number in range(13):
        folder = tmp_path / "deeper" if number % 2 else tmp_path
        Image.new("RGB", (5, 7), (number, 0, 0)).save(folder / f"{number:02}.png")
    (tmp_path / "notes.txt").write_text("no image")
    photos = folder_images(tmp_path, 100)
    transform = ImageTransform((3, 5))
    batches = [photos.load(names, transform) for names in split(photos.names, 8)]
    assert [len(batch) for batch in batches] == [7, 6]
    assert sorted(torch.cat(batches)[:, 0, 0, 0].tolist()) == list(range(13))
    few = folder_images(tmp_path, 9)
    assert len(set(few.names)) == 9
    assert few.names[0] == photos.names[0]
    assert few.names[-1] == photos.names[-1]
    assert "of 13 at equal distances" in few.about


def test_no_batch_is_too_small_for_the_estimate() -> None:
    for items in range(8, 60):
        for size in range(8, 30):
            sizes = [len(part) for part in split([str(i) for i in range(items)], size)]
            assert sum(sizes) == items
            assert 4 <= min(sizes) <= max(sizes) <= size


def test_photos_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--photos: .*nowhere is no folder"):
        folder_images(tmp_path / "nowhere", 100)
    Image.new("RGB", (5, 7)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match=r"--photos: got 1 image .* expected 8 or more"):
        folder_images(tmp_path, 100)


def test_sentences(tmp_path: Path) -> None:
    shipped = read_sentences(None)
    assert shipped.pairs
    assert len(shipped.texts) == 128
    assert len(shipped.words) > 300
    path = tmp_path / "mine.txt"
    path.write_text("".join(f"sentence {n}\n\n" for n in range(8)))
    own = read_sentences(path)
    assert not own.pairs
    assert own.words == ["sentence", *map(str, range(8))]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("one\ntwo\n", "got 2 sentences; expected 8"),
        ("a\tb\nc\n", "lines of 1 and 2 texts"),
        ("same\n" * 8, "'same' is empty or repeated"),
        ("\xff".encode("latin-1"), "cannot be read"),
    ],
)
def test_sentences_that_cannot_be_used(tmp_path: Path, text: str | bytes, wanted: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=wanted):
        read_sentences(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_sentences(tmp_path / "nowhere.txt")


def test_a_probe_reads_the_pooled_features(tmp_path: Path) -> None:
    encoder = ConvNet(16, (3, 5)).eval()
    weight, bias = torch.randn(7, encoder.dim), torch.randn(7)
    save_file({"weight": weight, "bias": bias}, tmp_path / "probe.safetensors")
    probe = Probe(tmp_path / "probe.safetensors")
    probe.check(encoder)
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(
        probe.logits(encoder, images), encoder(images).pooled @ weight.mT + bias
    )
    with pytest.raises(HeadError, match=r"weights for features 8 wide; ConvNet gives 3"):
        probe.check(ConvNet(16, (3,)))


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ({"weight": (7, 3)}, r"expected weight \(classes, width\) and bias"),
        ({"weight": (7, 3), "bias": (5,)}, r"expected weight \(classes, width\) and bias"),
        ({"weight": (1, 3), "bias": (1,)}, "1 class; expected two or more"),
    ],
)
def test_probes_that_are_none(tmp_path: Path, shapes: dict, wanted: str) -> None:
    path = tmp_path / "probe.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(HeadError, match=wanted):
        Probe(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(HeadError, match="cannot be read"):
        Probe(path)
