"""Requests as bytes on a socket, for what no client would send."""

from __future__ import annotations

import socket
from typing import Final

from tests.serve.servers import PATIENCE_S, Server

PATH: Final = "/v1/audio/translations"


def head(server: Server, *headers: str) -> bytes:
    """The head of a request whose body is still to come."""
    lines = [f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *headers]
    return "\r\n".join([*lines, "Content-Type: multipart/form-data; boundary=x", "", ""]).encode()


def answer(connection: socket.socket) -> str:
    """The first bytes that come back, as text."""
    connection.settimeout(PATIENCE_S)
    return connection.recv(4096).decode()
