"""Serving one page to the person at this computer: 127.0.0.1 only, until interrupted."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

LOOPBACK = "127.0.0.1"
_CLOSING_S = 2
"""How long open connections may take to end after an interrupt."""


class PageError(Exception):
    """A page that cannot be served; says why and what would help."""


def serve(
    page: Callable[[], None],
    title: str,
    say: Callable[[str], None],
    *,
    port: int = 0,
    browser: bool = True,
    routes: Callable[[FastAPI], None] | None = None,
) -> None:
    """Serve `page` at http://127.0.0.1:port/ and say its address; returns on an interrupt or SIGTERM.

    page: builds the elements, once per tab that opens it. port: 0 takes a free one. browser: open the page
    in the person's browser. routes: adds HTTP routes (pictures), which come before the page's own.
    Runs in the main thread, one page per process. Raises PageError where the port is taken.
    """
    listener = _listen(port)
    address = f"http://{LOOPBACK}:{listener.getsockname()[1]}/"

    @asynccontextmanager
    async def started(_: FastAPI) -> AsyncIterator[None]:
        say(f"{title}: {address} (Ctrl+C ends it)")
        if browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        yield

    app = FastAPI(lifespan=started, openapi_url=None)
    # another site's script must not reach this page under a name of its own that leads here
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    if routes is not None:
        routes(app)
    ui.run_with(app, root=page, title=title, dark=True, show_welcome_message=False)
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_CLOSING_S)
    try:
        uvicorn.Server(settings).run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # the one way to end a page
    finally:
        listener.close()
    say(f"{title}: closed")


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen()  # from here on nobody who comes is turned away
    except (OSError, OverflowError) as error:
        listener.close()
        raise PageError(
            f"port {port} of {LOOPBACK} cannot be used ({error}): choose another --port, or leave it out for "
            "a free one"
        ) from error
    return listener
