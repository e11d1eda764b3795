"""How Scenes asks: each form of question in several languages and several wordings.

A table for each language, with a line for each of `questions.TEMPLATES`, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vlm.datasets.generated.questions import NOT_THERE, TEMPLATES, YES_NO, Asked


class Wording(NamedTuple):
    """One form of question; {} or {0}, {1} ... stand for its words.

    Attributes:
        text: the question.
        paraphrase: the same question in other words.
        equivalent: another question that has the same answer; None if there is none.
        contradiction: a question that is answered yes where this one is answered no, and no where
            yes; None for questions without these answers.
    """

    text: str
    paraphrase: str
    equivalent: str | None = None
    contradiction: str | None = None


class Language(NamedTuple):
    """A language.

    Attributes:
        wordings: a line for each template.
        words: what the words and answers of the templates are called.
    """

    wordings: Sequence[Wording]
    words: Mapping[str, str]

    def translated(self, word: str) -> str:
        return self.words.get(word, word)


ENGLISH = (
    Wording("What shape is the {} object?", "Which shape does the {} object have?"),
    Wording("Is there a {} that is {}?", "Can you see a {} that is {}?",
            "Is the {1} object a {0}?", "Is the {1} object not a {0}?"),
    Wording("How many {} are there?", "What is the number of {}?"),
    Wording("Are there more {} than {}?", "Is the number of {} greater than the number of {}?",
            "Are there fewer {1} than {0}?", "Are there more {1} than {0}?"),
    Wording("Is the {} object on the left or on the right?",
            "On which side is the {} object, left or right?"),
    Wording("Is the {} object at the top or at the bottom?",
            "In which half is the {} object, top or bottom?"),
    Wording("Is the {} object left of the {} object?",
            "Does the {} object lie to the left of the {} object?",
            "Is the {1} object right of the {0} object?",
            "Is the {1} object left of the {0} object?"),
    Wording("Is the {} object above the {} object?",
            "Does the {} object lie higher than the {} object?",
            "Is the {1} object below the {0} object?",
            "Is the {1} object above the {0} object?"),
    Wording("Is the {} object the closest to the {} object?",
            "Is the {} object the nearest to the {} object?",
            "Is no object closer to the {1} object than the {0} object?",
            "Is another object closer to the {1} object than the {0} object?"),
    Wording("Is the {} object the furthest from the {} object?",
            "Is the {} object the most distant from the {} object?",
            "Is no object further from the {1} object than the {0} object?",
            "Is another object further from the {1} object than the {0} object?"),
    Wording("How many other objects have the shape of the {} object?",
            "How many other objects are shaped like the {} object?"),
    Wording("What shape is the object closest to the {} object?",
            "Which shape does the object nearest to the {} object have?"),
    Wording("Is the {} object a {} and the {} object a {}?",
            "Is it true that the {} object is a {} and the {} object is a {}?",
            "Is the {2} object a {3} and the {0} object a {1}?",
            "Is the {0} object not a {1} or the {2} object not a {3}?"),
    Wording("Is the {} object a {} or the {} object a {}?",
            "Is it true that the {} object is a {} or the {} object is a {}?",
            "Is the {2} object a {3} or the {0} object a {1}?",
            "Is the {0} object not a {1} and the {2} object not a {3}?"),
    Wording("Is the {} object not a {}?", "Is the {} object something other than a {}?",
            "Is it false that the {} object is a {}?", "Is the {} object a {}?"),
)  # fmt: skip

GERMAN = (  # "rote" + "s": ein rotes Objekt; + "n": dem roten Objekt
    Wording("Welche Form hat das {} Objekt?", "Was für eine Form hat das {} Objekt?"),
    Wording("Gibt es ein {1}s Objekt, das ein {0} ist?",
            "Ist ein {1}s Objekt zu sehen, das ein {0} ist?",
            "Ist das {1} Objekt ein {0}?", "Ist das {1} Objekt kein {0}?"),
    Wording("Wie viele {} gibt es?", "Wie viele {} sind zu sehen?"),
    Wording("Gibt es mehr {} als {}?", "Ist die Anzahl der {} größer als die Anzahl der {}?",
            "Gibt es weniger {1} als {0}?", "Gibt es mehr {1} als {0}?"),
    Wording("Ist das {} Objekt links oder rechts?",
            "Auf welcher Seite ist das {} Objekt, links oder rechts?"),
    Wording("Ist das {} Objekt oben oder unten?",
            "In welcher Hälfte ist das {} Objekt, oben oder unten?"),
    Wording("Ist das {} Objekt links von dem {}n Objekt?",
            "Liegt das {} Objekt links von dem {}n Objekt?",
            "Ist das {1} Objekt rechts von dem {0}n Objekt?",
            "Ist das {1} Objekt links von dem {0}n Objekt?"),
    Wording("Ist das {} Objekt weiter oben als das {} Objekt?",
            "Liegt das {} Objekt höher als das {} Objekt?",
            "Ist das {1} Objekt weiter unten als das {0} Objekt?",
            "Ist das {1} Objekt weiter oben als das {0} Objekt?"),
    Wording("Ist das {} Objekt dem {}n Objekt am nächsten?",
            "Liegt das {} Objekt dem {}n Objekt am nächsten?",
            "Ist kein Objekt dem {1}n Objekt näher als das {0} Objekt?",
            "Ist ein anderes Objekt dem {1}n Objekt näher als das {0} Objekt?"),
    Wording("Ist das {} Objekt am weitesten von dem {}n Objekt entfernt?",
            "Liegt das {} Objekt am weitesten von dem {}n Objekt entfernt?",
            "Ist kein Objekt weiter von dem {1}n Objekt entfernt als das {0} Objekt?",
            "Ist ein anderes Objekt weiter von dem {1}n Objekt entfernt als das {0} Objekt?"),
    Wording("Wie viele andere Objekte haben die Form des {}n Objekts?",
            "Wie viele andere Objekte haben dieselbe Form wie das {} Objekt?"),
    Wording("Welche Form hat das Objekt, das dem {}n Objekt am nächsten ist?",
            "Was für eine Form hat das Objekt, das dem {}n Objekt am nächsten ist?"),
    Wording("Ist das {} Objekt ein {} und das {} Objekt ein {}?",
            "Stimmt es, dass das {} Objekt ein {} und das {} Objekt ein {} ist?",
            "Ist das {2} Objekt ein {3} und das {0} Objekt ein {1}?",
            "Ist das {0} Objekt kein {1} oder das {2} Objekt kein {3}?"),
    Wording("Ist das {} Objekt ein {} oder das {} Objekt ein {}?",
            "Stimmt es, dass das {} Objekt ein {} oder das {} Objekt ein {} ist?",
            "Ist das {2} Objekt ein {3} oder das {0} Objekt ein {1}?",
            "Ist das {0} Objekt kein {1} und das {2} Objekt kein {3}?"),
    Wording("Ist das {} Objekt kein {}?", "Ist das {} Objekt etwas anderes als ein {}?",
            "Ist es falsch, dass das {} Objekt ein {} ist?", "Ist das {} Objekt ein {}?"),
)  # fmt: skip
GERMAN_WORDS = {
    "red": "rote", "orange": "orangefarbene", "yellow": "gelbe", "green": "grüne",
    "cyan": "türkise", "blue": "blaue", "pink": "rosafarbene", "brown": "braune", "gray": "graue",
    "white": "weiße",
    "circle": "Kreis", "square": "Quadrat", "triangle": "Dreieck",
    "circles": "Kreise", "squares": "Quadrate", "triangles": "Dreiecke",
    "yes": "ja", "no": "nein", "left": "links", "right": "rechts", "top": "oben",
    "bottom": "unten", NOT_THERE: "nicht da",
}  # fmt: skip

SPANISH = (
    Wording("¿Qué forma tiene el objeto {}?", "¿Cuál es la forma del objeto {}?"),
    Wording("¿Hay un {} que sea {}?", "¿Se ve un {} que sea {}?",
            "¿Es el objeto {1} un {0}?", "¿El objeto {1} no es un {0}?"),
    Wording("¿Cuántos {} hay?", "¿Cuál es el número de {}?"),
    Wording("¿Hay más {} que {}?", "¿Es el número de {} mayor que el número de {}?",
            "¿Hay menos {1} que {0}?", "¿Hay más {1} que {0}?"),
    Wording("¿Está el objeto {} a la izquierda o a la derecha?",
            "¿En qué lado está el objeto {}, izquierda o derecha?"),
    Wording("¿Está el objeto {} arriba o abajo?",
            "¿En qué mitad está el objeto {}, arriba o abajo?"),
    Wording("¿Está el objeto {} a la izquierda del objeto {}?",
            "¿Se encuentra el objeto {} a la izquierda del objeto {}?",
            "¿Está el objeto {1} a la derecha del objeto {0}?",
            "¿Está el objeto {1} a la izquierda del objeto {0}?"),
    Wording("¿Está el objeto {} más arriba que el objeto {}?",
            "¿Se encuentra el objeto {} más arriba que el objeto {}?",
            "¿Está el objeto {1} más abajo que el objeto {0}?",
            "¿Está el objeto {1} más arriba que el objeto {0}?"),
    Wording("¿Es el objeto {} el más cercano al objeto {}?",
            "¿Es el objeto {} el más próximo al objeto {}?",
            "¿Ningún objeto está más cerca del objeto {1} que el objeto {0}?",
            "¿Hay otro objeto más cerca del objeto {1} que el objeto {0}?"),
    Wording("¿Es el objeto {} el más lejano del objeto {}?",
            "¿Es el objeto {} el más alejado del objeto {}?",
            "¿Ningún objeto está más lejos del objeto {1} que el objeto {0}?",
            "¿Hay otro objeto más lejos del objeto {1} que el objeto {0}?"),
    Wording("¿Cuántos otros objetos tienen la forma del objeto {}?",
            "¿Cuántos otros objetos tienen la misma forma que el objeto {}?"),
    Wording("¿Qué forma tiene el objeto más cercano al objeto {}?",
            "¿Cuál es la forma del objeto más cercano al objeto {}?"),
    Wording("¿Es el objeto {} un {} y el objeto {} un {}?",
            "¿Es cierto que el objeto {} es un {} y el objeto {} es un {}?",
            "¿Es el objeto {2} un {3} y el objeto {0} un {1}?",
            "¿El objeto {0} no es un {1} o el objeto {2} no es un {3}?"),
    Wording("¿Es el objeto {} un {} o el objeto {} un {}?",
            "¿Es cierto que el objeto {} es un {} o el objeto {} es un {}?",
            "¿Es el objeto {2} un {3} o el objeto {0} un {1}?",
            "¿El objeto {0} no es un {1} y el objeto {2} no es un {3}?"),
    Wording("¿El objeto {} no es un {}?", "¿Es el objeto {} algo distinto de un {}?",
            "¿Es falso que el objeto {} sea un {}?", "¿Es el objeto {} un {}?"),
)  # fmt: skip
SPANISH_WORDS = {
    "red": "rojo", "orange": "naranja", "yellow": "amarillo", "green": "verde", "cyan": "cian",
    "blue": "azul", "pink": "rosa", "brown": "marrón", "gray": "gris", "white": "blanco",
    "circle": "círculo", "square": "cuadrado", "triangle": "triángulo",
    "circles": "círculos", "squares": "cuadrados", "triangles": "triángulos",
    "yes": "sí", "no": "no", "left": "izquierda", "right": "derecha", "top": "arriba",
    "bottom": "abajo", NOT_THERE: "no está",
}  # fmt: skip

LANGUAGES = {
    "en": Language(ENGLISH, {}),
    "de": Language(GERMAN, GERMAN_WORDS),
    "es": Language(SPANISH, SPANISH_WORDS),
}


def rows(questions: Sequence[Asked], language: Language, pairs: bool) -> list[dict[str, Any]]:
    """Rows of a question table, in a language; if `pairs`, followed by one for each other wording
    of each question."""
    wording_of = {
        template.text: wording
        for template, wording in zip(TEMPLATES, language.wordings, strict=True)
    }
    plain = [
        _row(each, wording_of[each.template.text].text, each.answer, language) for each in questions
    ]
    if not pairs:
        return plain
    return plain + [
        _row(each, text, answer, language) | {"pair": place, "relation": relation}
        for place, each in enumerate(questions)
        for relation, text, answer in _others(wording_of[each.template.text], each.answer)
    ]


def _others(wording: Wording, answer: str) -> Iterator[tuple[str, str, str]]:
    """Relation, text and answer of the other wordings."""
    yield "paraphrase", wording.paraphrase, answer
    if wording.equivalent:
        yield "equivalent", wording.equivalent, answer
    if wording.contradiction and answer in YES_NO:  # or it has the same wrong premise
        yield "contradiction", wording.contradiction, YES_NO[1 - YES_NO.index(answer)]


def _row(asked: Asked, text: str, answer: str, language: Language) -> dict[str, Any]:
    return {
        "question": text.format(*map(language.translated, asked.words)),
        "answer": language.translated(answer),
        "answer_type": NOT_THERE if answer == NOT_THERE else asked.template.ability,
        "question_type": asked.template.text,
        "choices": [language.translated(each) for each in asked.answers],
    }
