"""Words of questions: how they are split and counted, and which say what a question is about.

Nothing here needs torch: an exported model reads questions by it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from unicodedata import normalize

import regex

PAD, UNKNOWN = 0, 1
"""Ids of padding and of unknown words in a `WordTokenizer`."""

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those
    i me my you your he him his she her it its we us our they them their
    what which who whom whose when where why how
    is are was were be been being am do does did have has had
    can could will would shall should may might must
    isn't aren't wasn't weren't don't doesn't didn't hasn't haven't can't couldn't won't wouldn't
    what's who's where's how's it's that's there's he's she's i'm you're they're
    not no any some all each every both one ones other
    and or but if than as so too very just also
    in on at of to for from with by about into over under
    there here
    """.split()  # noqa: SIM905  a list would take a line a word
)
"""English words that do not say what a question is about: articles, pronouns, question words,
auxiliary verbs, quantifiers, conjunctions, prepositions."""

# Unicode's properties for finding words (UAX 29), which `regex` has. The `\b` of its WORD flag
# fails on "'open'" and on a word that ends in a mark before an apostrophe.
MARK = r"\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}"
LETTER = r"\p{WB=ALetter}\p{WB=Hebrew_Letter}\p{WB=Numeric}_"
_WORD = regex.compile(
    rf"[{LETTER}][{LETTER}{MARK}]*+(?:'[{LETTER}][{LETTER}{MARK}]*+)*+"
    rf"|\p{{WB=Katakana}}[\p{{WB=Katakana}}{MARK}]*+"
    rf"|[\p{{L}}\p{{N}}][{MARK}]*+"
)


def split_words(question: str) -> list[str]:
    """Lower-cased words of a question by Unicode's rules, without punctuation.

    A letter keeps its marks, in all scripts. In text without spaces between words (Thai, Lao,
    Khmer, Burmese, Chinese, and kanji and hiragana of Japanese), each letter is a word, as Unicode
    prescribes without a dictionary. Dictionaries change between versions, and with them the ids
    that a checkpoint was trained with. Unlike in Unicode's rules, a full stop or comma always ends
    a word: "13.5" is "13" and "5".

    >>> split_words("What colour isn't  the bird's-eye?")
    ['what', 'colour', "isn't", 'the', "bird's", 'eye']
    >>> split_words("दिन क्या है?"), split_words("สีอะไร")
    (['दिन', 'क्या', 'है'], ['สี', 'อ', 'ะ', 'ไ', 'ร'])
    """
    # Phones type curly apostrophes: "isn't" is the same word with either.
    # An accent is one character or a mark of its own: composed, both are the same word.
    return _WORD.findall(normalize("NFC", question).lower().replace("\u2019", "'"))


def count_words(questions: Iterable[str], min_count: int = 1) -> list[str]:
    """The words of the training questions, most frequent first, ties in alphabetical order.

    Args:
        questions: the training questions.
        min_count: smallest number of occurrences; rarer words are unknown.
    """
    split = lru_cache(maxsize=1 << 16)(split_words)  # choices repeat from question to question
    counts = Counter(word for question in questions for word in split(question))
    return [w for w, n in sorted(counts.items(), key=lambda x: (-x[1], x[0])) if n >= min_count]


def split_contractions(question: str, known: Container[str]) -> list[str]:
    """`split_words` as GloVe's authors split, unless a word is known as it is: "isn't" is "is n't"
    and "bird's" is "bird 's".

    >>> split_contractions("Isn't the bird's eye o'clock?", {"o'clock"})
    ['is', "n't", 'the', 'bird', "'s", 'eye', "o'clock"]
    """
    words: list[str] = []
    for word in split_words(question):
        if word in known or "'" not in word:
            words.append(word)
        elif word.endswith("n't"):
            words += [word[:-3], "n't"]
        else:
            stem, _, ending = word.rpartition("'")
            words += [stem, "'" + ending]
    return words


def misses(question: str, unknown: Sequence[str]) -> bool:
    """Whether a question is beyond a model that has never seen its words `unknown`: no word is
    known, or unknown content words outnumber the known ones or are more than a third of all words.

    Content words are all but English function words. In other languages function words count as
    content, and the third decides.
    """
    words = split_words(question)
    unknown = split_words(" ".join(unknown))
    never = set(unknown)  # a question may have thousands
    known = [word for word in words if word not in never]
    missed = sum(word not in FUNCTION_WORDS for word in unknown)
    content = sum(word not in FUNCTION_WORDS for word in known)
    return not known or missed > content or 3 * missed > len(words)
