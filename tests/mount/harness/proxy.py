"""An HTTP/1.1 proxy between a mount and an agent, which counts requests and misbehaves on demand.

    proxy = Proxy(agent.host, agent.port)
    with proxy.record() as seen:                          # every request that arrives within the block
        ...
    with proxy.fault(Stall(), path="/v1/kv/*") as fault:  # until the end of the block; fault.hits counts
        ...

It runs an asyncio loop in a thread of its own. Each client connection has one connection to the agent, so keep-alive,
connection limits and disconnects are the agent's own.
"""

import asyncio
import contextlib
import fnmatch
import socket
import struct
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

# Keys travel in the request line, and Consul allows them up to Go's limit on headers, 1 MiB.
HEAD_MAX = 4 << 20


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # as sent, still percent-encoded
    query: dict
    headers: dict  # by lower-case name
    body: bytes
    when: float = field(default_factory=time.monotonic)

    @property
    def blocking(self):
        """A blocking query, which may wait for minutes, as against one that is answered at once."""
        return self.query.get("index", "0") not in ("", "0") or "hash" in self.query

    def matches(self, path="*", method=None, blocking=None, asking=None):
        """`asking`: the name of a query parameter that it has."""
        return (
            fnmatch.fnmatchcase(self.path, path)
            and method in (None, self.method)
            and blocking in (None, self.blocking)
            and (asking is None or asking in self.query)
        )

    def __str__(self):
        query = urllib.parse.urlencode(self.query)
        return f"{self.method} {self.path}" + (f"?{query}" if query else "")


class Recording(list):
    """Requests in the order in which they arrived."""

    def matching(self, **conditions):
        return Recording(r for r in self if r.matches(**conditions))

    @property
    def not_blocking(self):
        return self.matching(blocking=False)

    def __repr__(self):
        return "[" + ", ".join(map(str, self)) + "]"


@dataclass
class Delay:
    """Passes the request on after so many seconds."""

    seconds: float


@dataclass
class Stall:
    """Holds the request back until the fault ends, then passes it on."""


@dataclass
class Withhold:
    """Passes the request on; the agent's answer is held back until the fault ends."""


@dataclass
class Answer:
    """Answers by itself."""

    status: int
    body: bytes = b""
    headers: dict = field(default_factory=dict)


@dataclass
class Truncate:
    """Passes on the agent's answer up to so many bytes of its body, then closes the connection."""

    after: int


@dataclass
class Drop:
    """Closes the connection without an answer."""


@dataclass
class Reset:
    """Resets the connection (RST) without an answer."""


@dataclass
class Endless:
    """Answers 200 and a body that never ends."""


class _Fault:
    """One fault in force: what it does, to which requests, and how many it has caught."""

    def __init__(self, kind, conditions, times):
        self.kind = kind
        self.conditions = conditions
        self.left = times
        self.hits = 0
        self.ended = asyncio.Event()

    def catches(self, request):
        if self.left == 0 or not request.matches(**self.conditions):
            return False
        if self.left is not None:
            self.left -= 1
        self.hits += 1
        return True


class Proxy:
    def __init__(self, host, port):
        self._target = (host, port)
        self._lock = threading.Lock()  # guards _recordings and _faults, which the tests' thread changes
        self._recordings = []
        self._faults = []
        self._clients = set()  # the loop's thread only
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_MAX, backlog=1024))
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def http(self):
        return f"127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def record(self):
        recording = Recording()
        with self._lock:
            self._recordings.append(recording)
        try:
            yield recording
        finally:
            with self._lock:
                # By identity: two recordings may hold equal requests.
                self._recordings = [r for r in self._recordings if r is not recording]

    @contextlib.contextmanager
    def fault(self, kind, times=None, **conditions):
        """Applies to requests that arrive from now on; `cut` makes those under way come back. The newest one wins."""
        fault = _Fault(kind, conditions, times)
        with self._lock:
            self._faults.insert(0, fault)
        try:
            yield fault
        finally:
            with self._lock:
                self._faults.remove(fault)
            self._loop.call_soon_threadsafe(fault.ended.set)

    def cut(self):
        """Resets every connection that is open now."""

        async def reset_all():
            for writer in list(self._clients):
                _reset(writer)

        self._call(reset_all())

    @property
    def connections(self):
        return len(self._clients)

    def close(self):
        async def shut_down():
            self._server.close()
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._call(shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)

    # From here on everything runs in the loop's thread.

    def _arrived(self, request):
        """Records the request; returns the fault that it meets, if any."""
        with self._lock:
            for recording in self._recordings:
                recording.append(request)
            return next((f for f in self._faults if f.catches(request)), None)

    async def _serve(self, reader, writer):
        self._clients.add(writer)
        agent = None
        try:
            head = await _read_head(reader)
            while head:
                request = await _read_request(head, reader, writer)
                # The next request's head is awaited already now, to notice a client that goes away while it waits.
                next_head = asyncio.create_task(_read_head(reader))
                if agent is None:
                    agent = await asyncio.open_connection(*self._target, limit=HEAD_MAX)
                answer = asyncio.create_task(_answer(request, head, self._arrived(request), agent, writer))
                try:
                    await asyncio.wait({answer, next_head}, return_when=asyncio.FIRST_COMPLETED)
                    if next_head.done() and not next_head.result():
                        break
                    if not await answer:
                        break
                    head = await next_head
                finally:
                    answer.cancel()
                    next_head.cancel()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # Either side going away ends the connection; so does close().
        finally:
            self._clients.discard(writer)
            writer.close()
            if agent:
                agent[1].close()


async def _answer(request, head, fault, agent, client):
    """Returns whether the client's connection can carry another request."""
    kind = fault.kind if fault else None
    truncate_after = None
    match kind:
        case Delay(seconds):
            await asyncio.sleep(seconds)
        case Stall():
            await fault.ended.wait()
        case Truncate(after):
            truncate_after = after
        case Drop():
            return False
        case Reset():
            _reset(client)
            return False
        case Answer(status, body, headers):
            fields = {"Content-Type": "application/json", "Content-Length": len(body), **headers}
            lines = [f"HTTP/1.1 {status} Faulty"] + [f"{name}: {value}" for name, value in fields.items()]
            client.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if request.method == "HEAD" else body))
            await client.drain()
            return True
        case Endless():
            client.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                client.write(b"10000\r\n" + b"[" * 0x10000 + b"\r\n")
                await client.drain()

    agent_reader, agent_writer = agent
    agent_writer.write(head + request.body)
    response = await _read_head(agent_reader)
    while response and response.startswith(b"HTTP/1.1 1"):  # 100 Continue, which the client has from us already
        response = await _read_head(agent_reader)
    if not response:
        return False
    if isinstance(kind, Withhold):
        await fault.ended.wait()
    client.write(response)

    passed = 0
    async for piece in _response_body(agent_reader, request, response):
        if truncate_after is not None and passed + len(piece) > truncate_after:
            client.write(piece[: truncate_after - passed])
            await client.drain()
            return False
        passed += len(piece)
        client.write(piece)
        await client.drain()
    fields = _fields(response)
    return fields.get("connection", "").lower() != "close"


async def _read_head(reader):
    """The lines up to and including the empty one; None at the connection's end."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError):
        return None


async def _read_request(head, reader, writer):
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    fields = _fields(head)
    if "expect" in fields:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if "content-length" in fields or "transfer-encoding" in fields:
        body = b"".join([piece async for piece in _body(reader, fields)])
    url = urllib.parse.urlsplit(target)
    return Request(method, url.path, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True)), fields, body)


def _fields(head):
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _response_body(reader, request, head):
    status = int(head.split(b" ", 2)[1])
    if request.method == "HEAD" or status in (204, 304):
        return
    async for piece in _body(reader, _fields(head)):
        yield piece


async def _body(reader, fields):
    """The body as it is on the wire, chunks with their sizes."""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        size = None
        while size != 0:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
    elif "content-length" in fields:
        left = int(fields["content-length"])
        while left > 0:
            piece = await reader.read(min(left, 1 << 16))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece
    else:
        while piece := await reader.read(1 << 16):
            yield piece


def _reset(writer):
    linger_none = struct.pack("ii", 1, 0)  # closing discards what is unsent and sends RST
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
    writer.transport.abort()
