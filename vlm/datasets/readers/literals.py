"""Lists and objects written as text: as JSON, or as Python and numpy print them."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from typing import Any

_CALL = re.compile(
    r"(?:np\.|numpy\.)?(?:array|Counter|OrderedDict|defaultdict|frozenset)\(|c\(['\"]"
)
_BARE = re.compile(r"(?:(?:np|numpy)\.\w+)|array|Counter|OrderedDict|defaultdict|frozenset|Decimal")
_UNDIVIDED = re.compile(r"(?:['\"]|\d\.?)\s+(?:['\"]|\d)")
"""Two values without a comma, as numpy prints them."""
_NO_LITERAL = (
    ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError
)  # fmt: skip
_VALUES = (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)


def content_of(text: str) -> Any:
    """The list or object that a text spells out, or else the text itself.

    A column of lists in a data frame becomes such texts in a CSV file. Tuples and sets of texts
    count as lists; `(3, 4)` and `[sic` are texts.

    >>> content_of("['yes', 'no']"), content_of("['yes' 'no']"), content_of('{"yes": 2}')
    (['yes', 'no'], ['yes', 'no'], {'yes': 2})

    Raises:
        ValueError: the text looks like a list or an object but cannot be read.
    """
    stripped = text.strip()
    ends = stripped[:1] + stripped[-1:]
    if ends not in ("[]", "{}", "()") and not _CALL.match(stripped):
        return text
    for parse in (json.loads, _literal):
        try:
            found = parse(stripped)
        except _NO_LITERAL:
            continue
        if isinstance(found, (list, dict)):
            return found
        if found and all(isinstance(item, str) for item in found):
            return sorted(found) if isinstance(found, (set, frozenset)) else list(found)
    if ends == "()" or not re.search(r"['\",:(]", stripped[1:-1]):
        return text
    raise ValueError(
        f"got {text[:80]!r}, which looks like a list or an object but cannot be read as one; "
        f'expected JSON, such as ["yes", "no"] or {{"yes": 2, "no": 1}}'
    )


def _literal(text: str) -> Any:
    """A Python literal, or the content of a numpy array or the like. Nothing is run."""
    if _UNDIVIDED.search(text):
        text = _divided(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes, which a text may have
        tree = ast.parse(text, mode="eval")
    found = ast.literal_eval(_Bare().visit(tree))
    return found if isinstance(found, (list, dict, tuple, set)) else ()


class _Bare(ast.NodeTransformer):
    """Replaces `np.str_('a')`, `array(['a'], dtype=object)`, `Counter({'a': 2})` by its content."""

    def visit_Call(self, node: ast.Call) -> Any:
        bare = node.args and _BARE.fullmatch(ast.unparse(node.func))
        return self.visit(node.args[-1]) if bare else node

    def visit_Name(self, node: ast.Name) -> Any:
        return ast.Constant(None) if node.id in ("nan", "NaN", "NaT", "null") else node


def _divided(text: str) -> str:
    """The text with commas between values; Python would join two adjacent texts."""
    parts: list[str] = []
    before = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
            continue
        value = token.type in _VALUES
        parts += [","] * (value and before) + [token.string]
        before = value
    return " ".join(parts)
