"""What is asked about a scene, by the ability that it takes.

A template offers all its questions about a scene, each with its answer. First the answer is drawn,
each as likely, then one of the questions that have it. So the picture alone says nothing about the
answer; and since all colours and shapes are treated alike, neither do the words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, permutations, product
from typing import NamedTuple

from vlm.datasets.generated.drawing import Draws, Thing

SHAPES = ("circle", "square", "triangle")
MARGIN = 3
"""Pixels between "left" and "right": what is closer is not asked about."""
YES_NO = ("yes", "no")
NOT_THERE = "not there"
"""Answer to a question about an object that is not in the picture, and the type of its answer."""

Offers = Iterator[tuple[str, tuple[str, ...]]]
"""Answers, each with the words that make the question."""


class Scene(NamedTuple):
    """Objects of different colours.

    Attributes:
        things: the objects.
        shapes: those that may be asked about with a colour, by the colour.
        size: of the picture, in pixels.
    """

    things: Sequence[Thing]
    shapes: Mapping[str, Sequence[str]]
    size: int

    def extreme(self, thing: Thing, nearest: bool) -> Thing | None:
        """The object nearest to another, or the furthest from it; None if two are almost so."""
        others = [other for other in self.things if other is not thing]
        others.sort(key=thing.squared_distance, reverse=not nearest)
        first, second = (thing.squared_distance(other) for other in others[:2])
        return others[0] if 4 * max(first, second) >= 5 * min(first, second) else None


class Template(NamedTuple):
    """A form of question.

    Attributes:
        ability: what it takes to answer it.
        text: the question, with a {} for each word.
        answers: the possible ones.
        offers: the questions about a scene.
        times: how often it is asked about each scene.
    """

    ability: str
    text: str
    answers: tuple[str, ...]
    offers: Callable[[Scene], Offers]
    times: int = 1

    def by_answer(self, scene: Scene) -> dict[str, list[tuple[str, ...]]]:
        found: dict[str, list[tuple[str, ...]]] = {answer: [] for answer in self.answers}
        for answer, words in self.offers(scene):
            found[answer].append(words)
        return found


class Asked(NamedTuple):
    """A question about a scene.

    Attributes:
        template: its form.
        words: what fills the form.
        answer: the right one, or `NOT_THERE`.
        answers: the possible ones.
    """

    template: Template
    words: tuple[str, ...]
    answer: str
    answers: tuple[str, ...]


def asked(
    scene: Scene,
    streams: Mapping[str, Draws],
    favoured: int | None = None,
    absent: bool = False,
) -> list[Asked] | None:
    """Questions by each template; None about a scene that cannot have each of the answers.

    Args:
        scene: a scene.
        streams: random choices for each ability that is asked about. Adding one does not
            change the choices of the others, if it has a question with each answer about every
            scene.
        favoured: None for answers that are equally likely; else eight in ten answers are one that
            depends on the template and on this number.
        absent: whether to ask about objects that are not there too (`NOT_THERE`).
    """
    offers = []
    for number, template in enumerate(TEMPLATES):
        if template.ability in streams:
            offers.append((number, template, template.by_answer(scene)))
            if not all(offers[-1][2].values()):
                return None
    found = []
    for number, template, words_of in offers:
        answers = template.answers
        if absent and "the {} object" in template.text:
            answers = (*answers, NOT_THERE)
            words_of = words_of | {NOT_THERE: _of_absent_objects(scene, words_of.values())}
        likely = answers if favoured is None else _mostly(answers, number + favoured)
        draws, asked_before = streams[template.ability], set[tuple[str, ...]]()
        for _ in range(template.times):
            answer = draws.one(likely)
            new = [words for words in words_of[answer] if words not in asked_before]
            words = draws.one(new or words_of[answer])
            asked_before.add(words)
            found.append(Asked(template, words, answer, answers))
    return found


def _mostly(answers: Sequence[str], number: int) -> list[str]:
    """Ten answers, of which eight are the same."""
    most = answers[number % len(answers)]
    others = [answer for answer in answers if answer != most]
    return 8 * [most] + 2 // len(others) * others


def _of_absent_objects(
    scene: Scene, offered: Iterable[Sequence[tuple[str, ...]]]
) -> list[tuple[str, ...]]:
    """The questions with one of their colours replaced by one that no object has."""
    there = {thing.color for thing in scene.things}
    absent = [color for color in scene.shapes if color not in there]
    changed = {
        (*words[:place], color, *words[place + 1 :]): None
        for several in offered
        for words in several
        for place, word in enumerate(words)
        if word in there
        for color in absent
    }
    return list(changed)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _counts(scene: Scene) -> Counter[str]:
    return Counter(thing.shape for thing in scene.things)


def _shape(scene: Scene) -> Offers:
    for thing in scene.things:
        if thing.shape in scene.shapes[thing.color]:
            yield thing.shape, (thing.color,)


def _exist(scene: Scene) -> Offers:
    for thing in scene.things:
        for shape in scene.shapes[thing.color]:
            yield _yes(thing.shape == shape), (shape, thing.color)


def _compare(scene: Scene) -> Offers:
    counts = _counts(scene)
    for one, other in permutations(SHAPES, 2):
        if counts[one] != counts[other]:
            yield _yes(counts[one] > counts[other]), (f"{one}s", f"{other}s")


def _count(scene: Scene) -> Offers:
    for shape, count in _counts(scene).items():
        yield str(count), (f"{shape}s",)


def _same(scene: Scene) -> Offers:
    counts = _counts(scene)
    for thing in scene.things:
        yield str(counts[thing.shape] - 1), (thing.color,)


def _position(axis: str, low: str, high: str) -> Callable[[Scene], Offers]:
    def offers(scene: Scene) -> Offers:
        for thing in scene.things:
            beyond = 2 * getattr(thing, axis) - (scene.size - 1)
            if abs(beyond) >= MARGIN:
                yield high if beyond > 0 else low, (thing.color,)

    return offers


def _before(axis: str) -> Callable[[Scene], Offers]:
    def offers(scene: Scene) -> Offers:
        for one, other in permutations(scene.things, 2):
            beyond = getattr(other, axis) - getattr(one, axis)
            if abs(beyond) >= MARGIN:
                yield _yes(beyond > 0), (one.color, other.color)

    return offers


def _extreme(nearest: bool) -> Callable[[Scene], Offers]:
    def offers(scene: Scene) -> Offers:
        for thing in scene.things:
            if found := scene.extreme(thing, nearest):
                for other in scene.things:
                    if other is not thing:
                        yield _yes(other is found), (other.color, thing.color)

    return offers


def _two_hop(scene: Scene) -> Offers:
    for thing in scene.things:
        if found := scene.extreme(thing, nearest=True):
            yield found.shape, (thing.color,)


def _logic(either: bool) -> Callable[[Scene], Offers]:
    """Of the questions with "and" none is about two mistakes, and of those with "or" none about
    two truths: both parts have to be looked at."""

    def offers(scene: Scene) -> Offers:
        # Of the pairs of objects these few do, for their order is random.
        for one, other in pairwise((*scene.things, scene.things[0])):
            for first, second in product(scene.shapes[one.color], scene.shapes[other.color]):
                true = (one.shape == first) + (other.shape == second)
                if first != second and true != (2 if either else 0):
                    yield _yes(true >= (1 if either else 2)), (
                        one.color, first, other.color, second
                    )  # fmt: skip

    return offers


def _not(scene: Scene) -> Offers:
    for answer, (shape, color) in _exist(scene):
        yield _yes(answer == "no"), (color, shape)


TEMPLATES = (
    Template("attribute", "What shape is the {} object?", SHAPES, _shape, times=4),
    Template("exist", "Is there a {} that is {}?", YES_NO, _exist, times=2),
    Template("count", "How many {} are there?", ("1", "2", "3"), _count, times=2),
    Template("compare", "Are there more {} than {}?", YES_NO, _compare, times=2),
    Template("position", "Is the {} object on the left or on the right?", ("left", "right"),
             _position("x", "left", "right"), times=2),
    Template("position", "Is the {} object at the top or at the bottom?", ("top", "bottom"),
             _position("y", "top", "bottom"), times=2),
    Template("left of", "Is the {} object left of the {} object?", YES_NO, _before("x"), times=4),
    Template("above", "Is the {} object above the {} object?", YES_NO, _before("y"), times=4),
    Template("closest", "Is the {} object the closest to the {} object?", YES_NO, _extreme(True),
             times=2),
    Template("furthest", "Is the {} object the furthest from the {} object?", YES_NO,
             _extreme(False), times=2),
    Template("same as", "How many other objects have the shape of the {} object?", ("0", "1", "2"),
             _same, times=2),
    Template("two-hop", "What shape is the object closest to the {} object?", SHAPES, _two_hop,
             times=2),
    Template("logic", "Is the {} object a {} and the {} object a {}?", YES_NO, _logic(False)),
    Template("logic", "Is the {} object a {} or the {} object a {}?", YES_NO, _logic(True)),
    Template("logic", "Is the {} object not a {}?", YES_NO, _not),
)  # fmt: skip
