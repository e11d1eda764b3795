"""The socket and the process of a server, from its first line to a quiet end."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import webbrowser
from collections.abc import Iterable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_SECONDS = 30
"""For a connection without requests. Clients keep theirs for 5 s: to close one just as it is used
again would be an error to them."""


def serve(
    app: ASGIApp, connection: socket.socket, name: str, grace: int, inbrowser: bool = False
) -> None:
    """Serve an application until the process is interrupted or terminated.

    Args:
        app: the application.
        connection: a socket of `listen`.
        name: what the first line calls the server, such as "demo".
        grace: seconds that requests which have begun may take then.
        inbrowser: whether to open the address in the browser.

    Raises:
        SystemExit: with code 0 once a termination has been served to its end.
    """
    # uvicorn ends well at a signal and then passes it on; asyncio, before uvicorn is up, makes an
    # interruption a cancellation.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt, asyncio.CancelledError), connection:
        # Each open page holds a connection; shutdown does not wait for them. uvicorn would prefer
        # httptools, where it is installed; but only h11 limits the size of headers.
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=grace,
        )
        Server(config, name, inbrowser).run(sockets=[connection])


class Server(uvicorn.Server):
    """Print the address once uvicorn handles interruptions: an earlier one could be lost.

    Gradio's own server gives up on a machine that is too busy to answer it at once.
    """

    def __init__(self, config: uvicorn.Config, name: str, inbrowser: bool) -> None:
        super().__init__(config)
        self.name, self.inbrowser = name, inbrowser

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"The {self.name} is at {address} (Ctrl+C ends it).", flush=True)
        if self.inbrowser:
            webbrowser.open(address)


def listen(host: str, ports: Iterable[int]) -> socket.socket:
    """A listening socket on the first port that is free; 0 is any.

    Raises:
        OSError: all are taken, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in (tried := list(ports)):
        try:
            made = socket.create_server((host, number), family=family, backlog=1024)
        except OSError as caught:
            error = str(caught.strerror).partition(" (while ")[0]  # which names the address again
        else:
            # asyncio sets this for sockets that name TCP as their protocol, which this one does
            # not. Without it an answer's body waits 40 ms for its headers to be acknowledged.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
    raise OSError(f"port: cannot listen on {host}:{tried[0]} ({error}); choose another --port.")
