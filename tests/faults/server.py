"""Ctrl-C while films are still arriving at `uar serve`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.hostile_bundles import sealed, whole_parts

HEAD = (
    "POST /api/report HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1000000\r\n"
    "Content-Type: application/octet-stream\r\n\r\n"
)


def measure_end(uploads: int) -> str:
    """Measure a row: uploads, exit status, seconds to the last answer, CPU seconds to the end."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        path = Path(folder) / "model.uar"
        path.write_bytes(sealed(whole_parts()))
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        program = "from uar.command import main; main()"
        arguments = ["serve", "--bundle", path, "--device", "cpu", "--port", str(port)]
        server = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL
        )
        _wait_for(port, server)
        answers: list[float] = []
        clients = [threading.Thread(target=_upload, args=(port, answers)) for _ in range(uploads)]
        for client in clients:
            client.start()
        time.sleep(3)  # all of them have begun
        before = sum(psutil.Process(server.pid).cpu_times()[:2])
        begun = time.monotonic()
        server.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(server.pid, 0)
        for client in clients:
            client.join()
    server.returncode = os.waitstatus_to_exitcode(status)
    answered = f"{max(answers) - begun:.2f}" if answers else "-"
    spent = usage.ru_utime + usage.ru_stime - before
    return f"| {uploads} | {server.returncode} | {answered} | {spent:.2f} |"


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise SystemExit("uar serve does not start")


def _upload(port: int, answers: list[float]) -> None:
    """Send five bytes a second until there is an answer."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(0.2)
        client.sendall(HEAD.format(port=port).encode())
        while True:
            client.sendall(b"x")
            try:
                if client.recv(12) != b"HTTP/1.1 408":
                    raise SystemExit("an upload got another answer")
                answers.append(time.monotonic())
                return
            except TimeoutError:
                continue
