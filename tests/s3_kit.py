"""An S3 service over the wire, on a free port of this machine, which fails when it is told to."""

from __future__ import annotations

import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

SECRET = "the-secret-of-the-tests"
#: Any of these changes what is stored.
CHANGES = ("PUT", "POST", "DELETE")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'?' if self.query else ''}{self.query}"


@dataclass
class Server:
    """``fault`` says of each request: "" serve it; ``500``, ``403`` or ``503 SlowDown``: refuse it; ``drop``: break the
    connection with half of the body read; ``deaf``: do it, then break the connection.
    """

    fault: Callable[[Request], str] = lambda _: ""
    requests: list[Request] = field(default_factory=list)
    #: Bytes of objects that were sent, by path.
    sent: Counter[str] = field(default_factory=Counter)
    endpoint: str = ""

    def __post_init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Any:
        request = Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
        self.requests.append(request)
        fault = self.fault(request)
        if fault[:3].isdigit():
            code = fault[4:] or {"500": "InternalError", "403": "AccessDenied"}[fault]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{fault[:3]} {code}", [("Content-Type", "application/xml")])
            if request.method == "HEAD":  # clients take the body of an answer to it for one to the next request
                return []
            return [f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()]
        if fault == "drop":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
        elif fault == "deaf":
            list(self._app(environ, lambda *_: None))
        if fault:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("injected")
        if request.method != "GET":
            return self._app(environ, start_response)
        body = b"".join(self._app(environ, start_response))
        self.sent[request.path] += len(body)
        return [body]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Without the client's own patience, which would make every injected fault take seconds."""
        config = {"retries": {"max_attempts": 0}}
        return {"endpoint_url": self.endpoint, "key": "tests", "secret": SECRET, "config_kwargs": config}

    @cached_property
    def client(self) -> s3fs.S3FileSystem:
        """Shares nothing with those under test."""
        return s3fs.S3FileSystem(**self.options, skip_instance_cache=True, use_listings_cache=False)

    def log(self, *methods: str) -> list[str]:
        return [str(r) for r in self.requests if not methods or r.method in methods]


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[Server]:
    server = Server()
    http = make_server("127.0.0.1", 0, server, threaded=True, request_handler=_Quiet)
    server.endpoint = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()


class Bucket:
    """A bucket of its own for each test."""

    def __init__(self, server: Server):
        self.server, self.options, self.fs = server, server.options, server.client
        self.name = f"test-{uuid.uuid4().hex[:12]}"
        self.fs.mkdir(self.name)

    def uri(self, name: str) -> str:
        return f"s3://{self.name}/{name}"

    def objects(self, folder: str) -> dict[str, bytes]:
        """Every object below ``folder`` and its bytes."""
        root = f"{self.name}/{folder}"
        return {path[len(root) + 1 :]: self.fs.cat_file(path) for path in self.fs.find(root)}

    def uploads(self) -> list[dict[str, Any]]:
        """Multipart uploads that were begun and neither completed nor aborted."""
        return self.fs.call_s3("list_multipart_uploads", Bucket=self.name).get("Uploads", [])

    def put(self, folder: Path, name: str) -> str:
        """Upload every file below ``folder`` to ``name``; its URI."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.fs.pipe_file(f"{self.name}/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return self.uri(name)
