"""The arguments of a request to /ask over plain HTTP: Gradio has no sentence for missing ones."""

from __future__ import annotations

from typing import Any

IN_ORDER, BY_NAME = "/gradio_api/call/ask", "/gradio_api/call/v2/ask"
REQUIRED = ("image", "question")
ARGUMENTS = (*REQUIRED, "choices", "method", "models")


def check_arguments(path: str, sent: dict[str, Any]) -> None:
    """Check which arguments are there; requests to other paths pass.

    Args:
        path: of the request.
        sent: its JSON.

    Raises:
        ValueError: missing or unknown arguments, or another number of them.
    """
    if path == BY_NAME:
        if missing := [name for name in REQUIRED if name not in sent]:
            raise ValueError(f"{', '.join(missing)}: got none; expected a value.")
        if unknown := [name for name in sent if name not in ARGUMENTS]:
            raise ValueError(
                f"got the unknown argument {unknown[0]!r:.80}; expected {', '.join(ARGUMENTS)}."
            )
    elif path == IN_ORDER:
        data = sent.get("data")
        if not isinstance(data, list) or len(data) != len(ARGUMENTS):
            found = f"{len(data)} values" if isinstance(data, list) else f"{data!r:.80}"
            raise ValueError(
                f"data: got {found}; expected a list of {len(ARGUMENTS)}: {', '.join(ARGUMENTS)}."
            )
