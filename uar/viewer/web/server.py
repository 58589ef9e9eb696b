"""uvicorn around the page, and how it ends at Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import socket

import uvicorn
from fastapi import FastAPI

_PATIENCE = 5  # seconds that answers under way have after Ctrl-C


class Server(uvicorn.Server):
    """Serves a `create_app`; at its end, films that are still arriving are sent away at once."""

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 8000) -> None:
        # A request's line is not logged, nor anything of its films.
        config = uvicorn.Config(
            app, host=host, port=port, log_level="warning", access_log=False,
            timeout_graceful_shutdown=_PATIENCE,
        )  # fmt: skip
        logging.getLogger("uvicorn.error").addFilter(_is_no_end)
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: uploads now, answers when they are written or `_PATIENCE` is over."""
        self._app.state.queue.end_uploads()
        await super().shutdown(sockets)


def _is_no_end(record: logging.LogRecord) -> bool:
    """Whether a record is of anything but an answer that Ctrl-C has cut off."""
    kind = record.exc_info[0] if record.exc_info else None
    return not (kind and issubclass(kind, asyncio.CancelledError))
