r"""VQA accuracy of one question, equal to the official evaluator's, and its variants of other sets.

Source: the evaluator of github.com/GT-Vision-Lab/VQA (`PythonEvaluationTools/vqaEvaluation`),
written anew from a description of its behaviour; the words in the tables are the evaluator's. Both
versions in use are here: "2021" (commit a013f00, the current one) and "2016" (the one most
repositories carry). Scores are fractions in [0, 1]; the evaluator prints percent, rounded to two
decimals.

Standard library only: importing this module does not load torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, get_args

Rules = Literal["2021", "2016"]

# An answer counts in full once this many of the other annotators gave it.
_ENOUGH: Final = 3
# VQA v2 has some 10^5 distinct answers, most of them seen once: the cache keeps the common ones.
_CACHED_ANSWERS: Final = 2**16

_MARKS: Final = frozenset(';/[]"{}()=+\\_-><@`,?!')
_THOUSANDS: Final = re.compile(r"\d,\d")
_FULL_STOP: Final = re.compile(r"\.(?!\d)")
# The evaluator passes `re.UNICODE`, which is 32, where `re.sub` expects a count.
_MOST_FULL_STOPS: Final = 32

_ARTICLES: Final = frozenset({"a", "an", "the"})
_NUMBERS: Final = {"none": "0", "zero": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
}
# The evaluator also lists forms of "I" with a capital: words are lower-cased, so none ever matches.
_CONTRACTED: Final = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""
# The table's keys are the forms that lack one apostrophe. One entry runs the other way.
_CONTRACTIONS: Final = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


def vqa_accuracy(prediction: str, answers: Sequence[str], rules: Rules = "2021") -> float:
    """Accuracy of `prediction` by the official rules, from the annotators who agree with it.

    Under "2021", if the annotators differ after stripping, `normalize_answer` is applied to all
    sides. If they are unanimous it is not, so "2" is wrong if all ten wrote "two". Under "2016" the
    prediction is always normalised, while only the punctuation of the annotators' answers is
    removed, and only if they differ: an annotator's "Dog", "two" or "the cat" never matches.

    As in the evaluator, composed and decomposed accents differ. vlm composes all text that it
    reads; pass answers of other programs through `vlm.text.clean_text` first.

    With a single answer, accuracy is plain agreement, 1.0 or 0.0 (the leave-one-out formula would
    leave nobody to agree with). One annotator is unanimous: under "2021" only stripping is applied.

    Args:
        prediction: the model's answer, as decoded; it may be empty.
        answers: the annotators' raw answers, at least one (VQA v2 has ten).
        rules: year of the evaluator, "2021" or "2016".

    Returns:
        Accuracy in [0, 1]; with ten answers one of 0, 0.3, 0.6, 0.9, 1.

    Raises:
        TypeError: `prediction` or an answer is no string, or `answers` is no sequence.
        ValueError: `answers` is empty or `rules` is unknown.
    """
    _check(prediction, answers)
    if rules == "2021":
        cleaned = [_clean(answer) for answer in answers]
        result = _clean(prediction)
        if len(set(cleaned)) > 1:
            cleaned = [_normalize(answer) for answer in cleaned]
            result = _normalize(result)
        count = cleaned.count(result)
    elif rules == "2016":
        written = list(answers)
        if len(set(written)) > 1:
            written = [_punctuation(answer) for answer in written]
        count = written.count(_normalize(_clean(prediction)))
    else:
        raise ValueError(
            f"rules is {rules!r}, but must be one of {', '.join(map(repr, get_args(Rules)))}: "
            "pass the year of the official evaluator to agree with"
        )
    return soft_score(count, len(answers))


def direct_answer_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """A-OKVQA's accuracy: min(1, annotators who gave exactly this answer / 3), without
    normalisation.

    Source: `evaluation/eval_predictions.py` of github.com/allenai/aokvqa. No annotator is left out
    in turn, so three of ten give 1, while VQA accuracy gives 0.9.

    Args:
        prediction: the model's answer.
        answers: the annotators' answers, at least one.

    Raises:
        TypeError, ValueError: as for `vqa_accuracy`.
    """
    _check(prediction, answers)
    return min(1.0, sum(answer == prediction for answer in answers) / 3)


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VizWiz's accuracy: VQA accuracy with a normalised prediction and unchanged annotators'
    answers.

    Source: the evaluator of https://vizwiz.org/tasks-and-datasets/vqa/. It differs from both years
    of `vqa_accuracy`: an annotator's "two" or "t-shirt" is never matched, whoever agrees.

    Args:
        prediction: the model's answer.
        answers: the annotators' answers, at least one.

    Raises:
        TypeError, ValueError: as for `vqa_accuracy`.
    """
    _check(prediction, answers)
    return soft_score(list(answers).count(normalize_answer(prediction)), len(answers))


def soft_score(count: int, total: int) -> float:
    """Score of an answer that `count` of `total` annotators gave, leaving out one annotator in
    turn.

    It is the mean over the annotators of min(1, matches among the others / 3). Of ten annotators 0,
    1, 2, 3 and 4 or more give 0, 0.3, 0.6, 0.9 and 1. A lone annotator's answer scores 1.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: `total` is below 1, or `count` is not in 0..total.
    """
    if total < 1:
        raise ValueError(f"total is {total}, but a score needs at least one annotator")
    if not 0 <= count <= total:
        raise ValueError(f"count is {count}, but of {total} annotators 0 to {total} can agree")
    if total == 1:
        return float(count)
    # The `count` who gave the answer see one match fewer than the others. Thirds are divided last,
    # so that 0.3 comes out as exactly 0.3.
    thirds = count * min(_ENOUGH, count - 1) + (total - count) * min(_ENOUGH, count)
    return thirds / (_ENOUGH * total)


def normalize_answer(text: str) -> str:
    """Normalise `text` as the official evaluator does before it compares answers.

    In this order: remove line ends, tabs and outer spaces; remove punctuation or replace it by a
    space; convert to lower case; replace number words up to ten by digits; remove articles; restore
    missing apostrophes. The oddities are the evaluator's, such as "somebody'd" to "somebodyd".

    Raises:
        TypeError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {text!r}, but must be a string: convert it with str()")
    return _normalize(_clean(text))


def _check(prediction: str, answers: Sequence[str]) -> None:
    if not isinstance(prediction, str):
        raise TypeError(
            f"prediction is {prediction!r}, but must be a string: "
            "decode the predicted class to its answer first"
        )
    if isinstance(answers, str) or not hasattr(answers, "__len__"):
        raise TypeError(
            f"answers is {answers!r}, but must be a sequence of strings: "
            "put a single answer in a list of one"
        )
    if len(answers) == 0:
        raise ValueError(
            "answers is empty, but accuracy needs at least one annotator's answer: "
            "leave questions without answers (a test split) out"
        )
    for answer in answers:
        if not isinstance(answer, str):
            raise TypeError(
                f"answers contains {answer!r}, but must hold strings: "
                "pass the 'answer' text of each annotation"
            )


def _clean(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(_CACHED_ANSWERS)
def _normalize(cleaned: str) -> str:
    return _words(_punctuation(cleaned))


@lru_cache(_CACHED_ANSWERS)
def _punctuation(text: str) -> str:
    """Marks removed where the text has them beside a space or has "1,000", else turned to space."""
    removed = text
    thousands = _THOUSANDS.search(text) is not None
    for mark in _MARKS.intersection(text):
        # Decided on the text as it came, so the order of the marks does not matter.
        beside_space = f"{mark} " in text or f" {mark}" in text
        removed = removed.replace(mark, "" if thousands or beside_space else " ")
    # A digit after the stop keeps it (".5"); one before does not ("5."), as in the evaluator, whose
    # look-behind is misspelt.
    return _FULL_STOP.sub("", removed, count=_MOST_FULL_STOPS)


def _words(text: str) -> str:
    """Lower case, digits for number words, no articles, apostrophes restored."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
