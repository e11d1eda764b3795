"""The data sets that `vlm download` gets: addresses, sizes, digests, and where these are from.

An address stands here only if a source that is kept in public names it together with the content's
SHA-256. The digest is what makes a download safe: whatever a server or a mirror sends, only the
file that this source saw is taken.
"""

from __future__ import annotations

from typing import NamedTuple


class File(NamedTuple):
    """A file of a data set.

    Attributes:
        url: its address; its last part is the file's name.
        sha256: digest of the content, in hexadecimal.
        size: in bytes; None where the source names none.
        strip: folder of an archive that the set's own folder stands for, such as "CLEVR_v1.0".
        images: whether it holds images, which `--no-images` leaves out.
    """

    url: str
    sha256: str
    size: int | None = None
    strip: str = ""
    images: bool = False


class Known(NamedTuple):
    """A data set that can be downloaded.

    Attributes:
        terms: under which terms, in a sentence with their address.
        verified: what names addresses and digests.
        files: its files, all to be fetched.
    """

    terms: str
    verified: str
    files: tuple[File, ...]


_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_COCO = "http://images.cocodataset.org/zips"
_TEXT_VQA = "https://dl.fbaipublicfiles.com/textvqa"
_VQA_TERMS = (
    "Questions and answers: the terms of https://visualqa.org/terms.html (CC BY 4.0). Images: "
    "https://cocodataset.org/#termsofuse; they belong to their owners and are used under the terms "
    "of Flickr, https://www.flickr.com/creativecommons."
)
_VQA_VERIFIED = (
    "questions and answers: parlai/tasks/vqa_v{}/build.py of github.com/facebookresearch/ParlAI at "
    "0570c9f; images: tensorflow_datasets/url_checksums/coco.txt of github.com/tensorflow/datasets "
    "at 333639b"
)
_COCO_2014 = (
    File(
        f"{_COCO}/train2014.zip",
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        13_510_573_713,
        images=True,
    ),
    File(
        f"{_COCO}/val2014.zip",
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        6_645_013_297,
        images=True,
    ),
    File(
        f"{_COCO}/test2015.zip",
        "1a2aa896b81140a850a78fa8bff07d455698d2abf364ff05721763458a8101ca",
        13_270_587_935,
        images=True,
    ),
)

KNOWN: dict[str, Known] = {
    "vqa_v2": Known(
        _VQA_TERMS,
        _VQA_VERIFIED.format(2),
        (
            File(
                f"{_VQA}/v2_Questions_Train_mscoco.zip",
                "05a64b6e2582d06d7585f5429674a9a33851878be1bff9f8668cdcf792df611e",
            ),
            File(
                f"{_VQA}/v2_Questions_Val_mscoco.zip",
                "e71f6c5c3e97a51d050f28243e262b28cd0c48d11a6b4632d769d30d3f93222a",
            ),
            File(
                f"{_VQA}/v2_Questions_Test_mscoco.zip",
                "982e2e687a86514b78ea83af356d151976c5e3fb4168a29ca543610574082ad7",
            ),
            File(
                f"{_VQA}/v2_Annotations_Train_mscoco.zip",
                "fb101bcefe91422c543c2bb6d70af11eb3119d0ff745ae283d09acdf66250853",
            ),
            File(
                f"{_VQA}/v2_Annotations_Val_mscoco.zip",
                "0caae7c8d1dafd852727f5ac046bc1efca9b72026bd6ffa34fc489f3a7b3291e",
            ),
            *_COCO_2014,
        ),
    ),
    "vqa_v1": Known(
        _VQA_TERMS,
        _VQA_VERIFIED.format(1),
        (
            File(
                f"{_VQA}/Questions_Train_mscoco.zip",
                "c3b2bb6155528eeae95e0a914af394d6f0d98f8f2b51012c44b27778e1a96707",
            ),
            File(
                f"{_VQA}/Questions_Val_mscoco.zip",
                "e8839be5de2d711989bf0adc82e6717d1ce307d27c9b1dfb0abf413b79a5d4d0",
            ),
            File(
                f"{_VQA}/Questions_Test_mscoco.zip",
                "bd080c297fc863bf8258caa4864d3b5afab29373375a6637f8546338291e28c0",
            ),
            File(
                f"{_VQA}/Annotations_Train_mscoco.zip",
                "a5f5f97c162a4ad44896be08bac6deaa258aa3fec281afcc84fe85ae44cb1ebc",
            ),
            File(
                f"{_VQA}/Annotations_Val_mscoco.zip",
                "29377c35186d90aeab3e61bdad890f51215d1f88b700bd22ef19004d73bf284f",
            ),
            *_COCO_2014,
        ),
    ),
    "clevr": Known(
        "CC BY 4.0, LICENSE.txt of the archive; https://cs.stanford.edu/people/jcjohns/clevr/.",
        "tensorflow_datasets/url_checksums/clevr.txt of github.com/tensorflow/datasets at 333639b",
        (
            File(
                "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
                "5cd61cf1096ed20944df93c9adb31e74d189b8459a94f54ba00090e5c59936d1",
                19_021_600_724,
                strip="CLEVR_v1.0",
            ),
        ),
    ),
    "text_vqa": Known(
        "CC BY 4.0, https://textvqa.org/dataset; the images are those of OpenImages.",
        "datasets/textvqa/dataset_infos.json of github.com/huggingface/datasets at 040102f",
        (
            File(
                f"{_TEXT_VQA}/data/TextVQA_0.5.1_train.json",
                "95f5c407db56cba56a177799dcd685a7cc0ec7c0d851b59910acf7786d31b68a",
                21_634_937,
            ),
            File(
                f"{_TEXT_VQA}/data/TextVQA_0.5.1_val.json",
                "4ceb5aadc1a41719d0a3e4dfdf06838bcfee1db569a9a65ee67d31c99893081d",
                3_116_162,
            ),
            File(
                f"{_TEXT_VQA}/data/TextVQA_0.5.1_test.json",
                "d8d4b738101087bac5a6182d22d9aef3772e08e77827e6cf6116808910b75db2",
                2_770_520,
            ),
            File(
                f"{_TEXT_VQA}/images/train_val_images.zip",
                "ecf35005640d0708eae185aab1c0a10f89b2db7420b29185a1ed92a8f4290498",
                7_072_297_970,
                images=True,
            ),
            File(
                f"{_TEXT_VQA}/images/test_images.zip",
                "1276b908994c444c46484fb21e9e15fcda1be9c675f6ad727489e52eea68cbcd",
                970_296_721,
                images=True,
            ),
        ),
    ),
}
"""By the name of the configuration in `configs/datasets/`."""
