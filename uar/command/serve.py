"""A web page on this machine that writes draft reports of films."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Annotated

import typer

import uar
from uar.command.options import BUNDLE, BundlePath, Device

log = logging.getLogger(__name__)


def serve(
    bundle: BundlePath = BUNDLE,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="UAR_TOKEN", help="Token that every request must carry."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Open a page on 127.0.0.1 that writes draft reports of films. Research use only."""
    reporter = uar.load(bundle, device)
    from uar.viewer.web.app import create_app
    from uar.viewer.web.server import Server

    server = Server(create_app(reporter, host, token=token), host, port)
    log.info(f"serve: http://{host}:{port}/ (Ctrl-C ends it). Research use only.")
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
        server.run()
