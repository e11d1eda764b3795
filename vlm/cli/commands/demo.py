"""`vlm demo`: the page with trained models, on this machine."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vlm.cli.command_parser import (
    HUB,
    add_device,
    add_prompt,
    add_trust,
    check_device,
    check_host_names,
    command_parser,
    model_name,
)
from vlm.pretrained.availability import check_hub

if TYPE_CHECKING:
    from vlm.adapters.image_text_to_text import ImageTextToText
    from vlm.inference import VQA

RUNS = Path("runs")
AUTH = "VLM_DEMO_AUTH"
PORTS = range(7860, 7960)
GRACE_SECONDS = 3


def demo(arguments: Sequence[str]) -> None:
    """Load the models and serve the page until it is interrupted."""
    parser = command_parser(
        "demo",
        "Ask trained models about images in the browser; two or more are compared.",
        "examples:\n  vlm demo RUN\n  vlm demo hf:dandelin/vilt-b32-finetuned-vqa",
    )
    parser.add_argument(
        "checkpoint",
        nargs="*",
        help="a run's folder, a .ckpt file made by `vlm fit`, a folder made by `vlm share`, or "
        "hf:NAME of a model on the hub, scenes or easy_vqa; without any, the newest run under "
        "runs/, or those two if there is no run",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: this machine only")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="accept requests for this host name too, such as that of a reverse proxy; may be "
        "repeated",
    )
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        help=f"login for visitors; the environment variable {AUTH} keeps it out of the process "
        "list. Without either, a password is generated and printed if others can reach --host",
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="let everybody in without a password, also inside a page of huggingface.co",
    )
    parser.add_argument(
        "--space", type=Path, metavar="DIR", help="write a Space of Hugging Face, and serve nothing"
    )
    parser.add_argument("--port", type=int, help="default: the first free port from 7860")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_device(parser)
    add_prompt(parser)
    add_trust(parser)
    given = parser.parse_args(arguments)
    if given.port is not None and not 0 <= given.port < 2**16:
        parser.error(f"--port: got {given.port}; expected a number from 0 to 65535.")
    auth = given.auth or os.environ.get(AUTH)
    if auth is not None and not all(auth.partition(":")):
        parser.error(f"--auth: expected USER:PASSWORD, also in {AUTH}.")
    if auth is not None and given.public:
        parser.error(f"--public: got a password too, by --auth or {AUTH}; expected one of both.")
    check_host_names(parser, "--allow-host", given.allow_host)
    if find_spec("gradio") is None:
        sys.exit("vlm demo: gradio is not installed; run `pip install 'vlm-vqa[demo]'`.")
    try:
        # Before torch is imported, which takes longer than to find out.
        for name in given.checkpoint:
            if name.startswith(HUB):
                check_hub(name.removeprefix(HUB))
        check_device(given.device)
        if given.space is not None:
            from vlm.demo.space import write_space

            models = load_models(given.checkpoint or own_models(), trust=given.trust)
            if packages := write_space(models, given.space):
                print(
                    f"The models have parts of {', '.join(packages)}: put this code into "
                    f"{given.space}, or name its package in requirements.txt."
                )
            print(f"{given.space}: upload it with `hf upload --repo-type=space USER/NAME DIR`.")
            return
        from vlm.serve.reader import Reader

        reader = Reader()  # it starts while the models load
        names = given.checkpoint or own_models()
        models = load_models(names, given.device, given.trust, given.prompt)
        # Gradio makes a folder for uploads; ours are in memory, so it is removed before the first.
        with tempfile.TemporaryDirectory(prefix="vlm-demo-") as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder
            os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
            from vlm.demo.asker import Asker
            from vlm.demo.page import build_page
            from vlm.demo.server import application
            from vlm.demo.uploads import Uploads
            from vlm.serve.listening import listen, serve
            from vlm.serve.requests import Hosts, is_loopback

            if not (auth or given.public or is_loopback(given.host)):
                auth = f"vlm:{secrets.token_urlsafe(12)}"
                print(
                    f"Visitors log in with this user and password: {auth!r} (--auth sets others).",
                    flush=True,
                )
            uploads = Uploads()
            page = build_page(Asker(models, reader), uploads)
            connection = listen(given.host, PORTS if given.port is None else [given.port])
            hosts = Hosts(given.host, connection.getsockname()[1], tuple(given.allow_host))
            app = application(page, uploads, hosts, auth, given.public)
        try:
            serve(app, connection, "demo", GRACE_SECONDS, given.open)
        finally:
            reader.close()  # without waiting for an image that is being read
    except (OSError, ValueError) as error:
        sys.exit(f"vlm demo: {error}")


def own_models() -> list[str]:
    """The folder of the run under `runs/` whose checkpoint is the newest; the bundled models if
    there is none."""
    from vlm.checkpoint.checkpoint import BEST
    from vlm.core.bundled import bundled_models

    found = [path for path in RUNS.glob(f"*/*/{BEST}") if path.is_file()]
    if not found:
        return bundled_models()
    return [str(max(found, key=lambda path: path.stat().st_mtime).parents[1])]


def load_models(
    names: Sequence[str], device: str = "cpu", trust: bool = False, prompt: str | None = None
) -> dict[str, VQA | ImageTextToText]:
    """Models, of checkpoints, run folders or the hub (after `hf:`), by the names that the demo
    shows. Only image-text-to-text models read the `prompt`.

    Raises:
        CheckpointError: a checkpoint that cannot be read.
        OSError: a model of the hub that is not to be had.
        ValueError: a model of the hub of another kind.
    """
    from vlm.checkpoint.publishing import published, read_record
    from vlm.inference import load_any

    models: dict[str, VQA | ImageTextToText] = {}
    for name in names:
        vqa = load_any(name, device, trust, prompt=prompt)
        if results := read_record(name, vqa.about).results:
            vqa.about["results"] = published(results)
        label = model_name(name)
        while label in models:
            label += " (again)"
        models[label] = vqa
    return models
