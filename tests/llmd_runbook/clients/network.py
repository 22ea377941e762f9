"""What lies between a client and a cluster: a server's certificate, and a proxy."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmd_sandbox.certificates import self_signed
from tests.llmd_runbook.clients.server import Server, serving


@contextmanager
def serving_tls(
    folder: Path, name: str = "127.0.0.1", asked_for: list[str | None] | None = None
) -> Iterator[tuple[Server, Path]]:
    """A server on https, and the file of the certificate to trust; `asked_for` gets the names of clients' SNI."""
    key, certificate = self_signed("a test", name)
    (folder / "key.pem").write_bytes(key)
    authority = folder / "ca.pem"
    authority.write_bytes(certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority, folder / "key.pem")
    if asked_for is not None:
        context.sni_callback = lambda _, asked, __: asked_for.append(asked)
    with serving() as server:
        server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
        server.url = server.url.replace("http:", "https:")
        yield server, authority


class ConnectProxy:
    """An HTTP proxy that only tunnels (RFC 9110, CONNECT); `asked` are the targets, in order."""

    def __init__(self, listener: socket.socket) -> None:
        self.asked: list[str] = []
        self.url = "http://{}:{}".format(*listener.getsockname())
        self._listener = listener
        self._open: list[socket.socket] = []

    def serve(self) -> None:
        """Until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def close(self) -> None:
        """End it and every tunnel."""
        for one in [self._listener, *self._open]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split()
        self.asked.append(target)
        if method != "CONNECT":
            client.sendall(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
            return
        host, port = target.rsplit(":", 1)
        server = socket.create_connection((host, int(port)))
        self._open.append(server)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxying() -> Iterator[ConnectProxy]:
    """A CONNECT proxy on a free port, gone at the end."""
    proxy = ConnectProxy(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(5)
    assert not thread.is_alive()
