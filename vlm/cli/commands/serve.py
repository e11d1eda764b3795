"""`vlm serve`: a trained model for other programs, over HTTP."""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
from collections.abc import Sequence

from vlm.cli.command_parser import (
    add_checkpoint,
    add_device,
    add_prompt,
    add_trust,
    check_device,
    check_host_names,
    command_parser,
    model_name,
)
from vlm.core.extras import missing_from

KEYS = "VLM_SERVE_KEYS"
EXAMPLE = f"""\
example:
  vlm serve RUN
  curl -F image=@photo.png -F question="what color is it?" http://127.0.0.1:8000/answer

Set keys with {KEYS}=KEY[,KEY...]. If you set none and others can reach --host, a key is
generated and printed.
"""


def serve_command(arguments: Sequence[str]) -> None:
    """Load the model and serve it until the process is interrupted or terminated."""
    parser = command_parser(
        "serve", "Answer questions over HTTP, with vlm's own API and OpenAI's.", EXAMPLE
    )
    add_checkpoint(parser, exports=True)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1, local only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0 picks a free port")
    for option, use in (
        ("--allow-host", "also accept requests for this host name, such as a proxy's"),
        ("--allow-image-host", "fetch images from https addresses on this host"),
    ):
        parser.add_argument(
            option, action="append", default=[], metavar="NAME", help=f"{use}; may be repeated"
        )
    parser.add_argument(
        "--name",
        help="model name for OpenAI's clients (default: NAME/TIME of a run, or its folder's)",
    )
    parser.add_argument("--batch", type=int, default=16, help="maximum batch size (default 16)")
    parser.add_argument(
        "--waiting", type=int, default=256, help="maximum queue length (default 256)"
    )
    parser.add_argument(
        "--seconds", type=float, default=30, help="time limit for a question (default 30)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of the model on a CPU (default 1)"
    )
    add_device(parser)
    add_prompt(parser)
    add_trust(parser)
    given = parser.parse_args(arguments)
    if not 0 <= given.port < 2**16:
        parser.error(f"--port: got {given.port}; expected a number from 0 to 65535.")
    for option in ("batch", "waiting", "threads", "seconds"):
        if not 0 < (value := getattr(given, option)) < math.inf:
            parser.error(f"--{option}: got {value}; expected a positive number.")
    check_host_names(parser, "--allow-host", given.allow_host)
    check_host_names(parser, "--allow-image-host", given.allow_image_host)
    if missing := missing_from("serve"):
        sys.exit(f"vlm serve: {missing}")
    keys = tuple(filter(None, map(str.strip, os.environ.get(KEYS, "").split(","))))
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("vlm").setLevel(logging.INFO)
    try:
        from vlm.serve.listening import listen, serve

        with listen(given.host, [given.port]) as connection:  # before the model takes its time
            check_device(given.device)
            import torch

            from vlm.export.load import load
            from vlm.serve.app import application
            from vlm.serve.reader import Reader
            from vlm.serve.requests import Hosts, is_loopback
            from vlm.serve.service import Service

            torch.set_num_threads(given.threads)
            reader = Reader()  # it starts while the model loads
            try:
                vqa = load(given.checkpoint, given.device, given.trust, prompt=given.prompt)
                service = Service(vqa, reader, given.batch, given.waiting, given.seconds)
                service.warm_up()
                if not keys and not is_loopback(given.host):
                    keys = (secrets.token_urlsafe(24),)
                    print(f"Clients need this key: {keys[0]} (set {KEYS} to choose).", flush=True)
                hosts = Hosts(given.host, connection.getsockname()[1], tuple(given.allow_host))
                name = given.name or model_name(given.checkpoint)
                fetched = tuple(map(str.lower, given.allow_image_host))
                app = application(service, name, hosts, keys, fetched)
                serve(app, connection, "server", math.ceil(given.seconds))
            finally:
                reader.close()
    except (OSError, ValueError) as error:
        sys.exit(f"vlm serve: {error}")
