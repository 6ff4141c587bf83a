"""Small HTTP servers that stand for the instances of a service: they answer health checks, and note who asked."""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HealthServer:
    """
    Consul's own checks are GETs, which are answered 200 at once. `delay` and `status` are for HEAD, with which the
    mount asks, and may change at any time. A `certificate` is a PEM file that holds its key too, and makes it HTTPS.
    """

    def __init__(self, certificate=None, headers=None):
        self.delay = 0.0
        self.status = 200
        self.headers = headers or {}
        self.requests = []  # (method, path, headers), as they came
        self.heads_answered = 0
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.host, self.port = self._server.server_address
        self.url = f"http://{self.host}:{self.port}/health"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake belongs to the thread of the connection, not to the one that accepts.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.url = f"https://{self.host}:{self.port}/health"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    @property
    def heads(self):
        """The HEAD requests that came, as (path, headers)."""
        return [(path, headers) for method, path, headers in self.requests if method == "HEAD"]

    def close(self):
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.requests.append((self.command, self.path, dict(self.headers)))
                self._answer(200)

            def do_HEAD(self):
                owner.requests.append((self.command, self.path, dict(self.headers)))
                owner._closing.wait(owner.delay)
                self._answer(owner.status)
                owner.heads_answered += 1

            def _answer(self, status):
                try:
                    self.send_response(status)
                    for name, value in owner.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # whoever asked did not wait

            def log_message(self, *_):
                pass

        return Handler
