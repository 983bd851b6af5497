"""A server on a free port of the loopback interface, in a thread, for a context's duration."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Every request goes to `serve`, which answers by `reply`."""

    protocol_version = "HTTP/1.1"
    wbufsize = 2**16  # head and body in one packet: two would wait 40 ms for each other

    def serve(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def reply(self, status: int, body: Any, headers: Mapping[str, str] | None = None, cut: int | None = None) -> None:
        """Bytes or text as they are, other values as JSON; after `cut` bytes of the body the connection breaks off."""
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[:cut])
                self.wfile.flush()
                self.close_connection |= cut is not None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5, clients that connect together wait a second


@contextmanager
def serving_with(handler: type[Handler]) -> Iterator[str]:
    """Serve with a handler; gives the address."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
