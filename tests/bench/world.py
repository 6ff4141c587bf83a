"""What is measured runs here: agents, mounts, slower networks, other file systems. All of it ends with the world."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import requests

from harness.agent import Agent, consul_binary
from harness.mount import Mount, is_mounted
from harness.wait import wait_until
from measure import PROGRAMS, say

# Who waits for these? Nobody: the kernel sends them when it likes.
NOT_WAITED_FOR = {"upcalls.release", "upcalls.forget", "upcalls.announcing"}


class World:
    """Everything in it has ended when the `with` block of it, or of a part() of it, has."""

    def __init__(self, quick=False):
        self.quick = quick
        self.consul = consul_binary()
        self._stack = contextlib.ExitStack()
        self._number = 0

    def __enter__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="consulfs-bench."))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        return self

    def __exit__(self, *_):
        self._stack.close()

    @contextlib.contextmanager
    def part(self):
        outer, self._stack = self._stack, contextlib.ExitStack()
        try:
            yield self
        finally:
            self._stack, inner = outer, self._stack
            inner.close()

    def place(self, name):
        self._number += 1
        return self.directory / f"{name}-{self._number}"

    def started(self, group):
        """An agent, or agents together, which are killed at the end."""
        self._stack.callback(group.kill)
        group.start()
        return group.wait_ready()

    def agent(self, **config):
        # 200 clients that keep their connections are as many as Consul allows for one address, and we are there, too.
        config.setdefault("limits", {"http_max_conns_per_client": 5000})
        config.setdefault("log_level", "err")
        # Not in dev mode, in which answers are indented and twice as long. Its log of changes is in memory, too.
        return self.started(Agent(self.consul, self.place("agent"), dev=False, data_dir=str(self.tmpfs()), **config))

    def mount(self, address, **options):
        mount = Mount(self.place("mount"), getattr(address, "http", address), options)
        self._stack.callback(_unmount, mount)
        return mount.start()

    def tmpfs(self):
        path = Path(tempfile.mkdtemp(prefix="consulfs-bench.", dir="/dev/shm"))
        self._stack.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    def floor(self, *arguments):
        """The least FUSE server, mounted."""
        path = self.place("floor")
        path.mkdir()
        command = ["setpriv", "--pdeathsig", "TERM", PROGRAMS / "floor", *arguments, path]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._stack.callback(_end_floor, process, path)
        wait_until(lambda: is_mounted(path), "the least FUSE server mounts")
        return path

    def delayed(self, address, milliseconds):
        """The address of the same agent, that much farther away."""
        return f"127.0.0.1:{self._helper('delay', address, milliseconds)[0]}"

    def instances(self, count, milliseconds):
        """The ports of servers that answer so much later."""
        return self._helper("health", count, milliseconds)

    def _helper(self, name, *arguments):
        command = [PROGRAMS / name, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._stack.callback(_end, process)
        count = arguments[0] if name == "health" else 1
        return [int(process.stdout.readline()) for _ in range(count)]


def _end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def _end_floor(process, path):
    subprocess.run(["fusermount3", "-u", "-z", path], stderr=subprocess.DEVNULL)
    process.kill()
    process.wait()


def _unmount(mount):
    if mount.process is None:
        return
    try:
        mount.end()
    except AssertionError as failure:
        say(f"consulfs at its end: {failure}")
        mount.abort("it did not end")


# Data


def load(agent, keys):
    """Keys and their bytes, as many in a transaction as one may have."""
    items = list(keys.items())
    with requests.Session() as session:
        for at in range(0, len(items), 64):
            operations = [
                {"KV": {"Verb": "set", "Key": key, "Value": base64.b64encode(value).decode()}}
                for key, value in items[at : at + 64]
            ]
            _transact(session, agent, operations)


def load_services(agent, services, instances, nodes=20):
    """`instances` in all, passing, spread over the services and over nodes that have no agent."""
    with requests.Session() as session:
        for n in range(nodes):
            body = {"Node": f"host{n:03}", "Address": f"10.9.0.{n + 1}"}
            session.put(f"http://{agent.http}/v1/catalog/register", data=json.dumps(body)).raise_for_status()
        for at in range(0, instances, 64):
            operations = [
                {
                    "Service": {
                        "Verb": "set",
                        "Node": f"host{n % nodes:03}",
                        "Service": {"ID": f"i{n}", "Service": f"svc{n % services:04}", "Port": 1024 + n % 60000},
                    }
                }
                for n in range(at, min(at + 64, instances))
            ]
            _transact(session, agent, operations)


def _transact(session, agent, operations):
    answer = session.put(f"http://{agent.http}/v1/txn", data=json.dumps(operations))
    if not answer.ok:
        raise RuntimeError(f"{answer.status_code} {answer.text}")


# What a mount says of itself, and what the kernel says of it


class Counters:
    """
    with Counters(mount) as c: …            then c["http.bytes_received"], c.requests, c.upcalls
    What it costs to read the counters is not counted.
    """

    def __init__(self, mount):
        self._path = mount / ".consulfs/stats"
        self._before = self._changed = {}

    def read(self):
        fd = os.open(self._path, os.O_RDONLY)
        try:
            text = os.read(fd, 1 << 16).decode()
        finally:
            os.close(fd)
        return {name: int(value) for name, value in (line.split() for line in text.splitlines())}

    def __enter__(self):
        self.read()
        one = self.read()
        self._before = self.read()
        self._cost = {name: self._before[name] - one[name] for name in one if name.startswith("upcalls.")}
        return self

    def __exit__(self, *_):
        after = self.read()
        self._changed = {n: after[n] - self._before.get(n, 0) - self._cost.get(n, 0) for n in after}

    def __getitem__(self, name):
        return self._changed[name]

    @property
    def requests(self):
        """Without blocking queries."""
        return self["http.requests"]

    @property
    def blocking(self):
        return self["http.blocking_queries"]

    @property
    def waited_for(self):
        """Upcalls that somebody waits for, by name."""
        return {
            name.removeprefix("upcalls."): count
            for name, count in self._changed.items()
            if name.startswith("upcalls.") and name not in NOT_WAITED_FOR and count > 0
        }

    @property
    def upcalls(self):
        return sum(self.waited_for.values())


def drop_caches(mount):
    (mount / ".consulfs/drop-caches").write_text("1\n")


def resident(mount):
    """The daemon's memory, in bytes."""
    for line in Path(f"/proc/{mount.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def cpu_ns(mount):
    """What all threads of the daemon have used."""
    tasks = Path(f"/proc/{mount.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def connections(mount, port):
    """To this port, of the daemon."""
    own = set()
    for fd in Path(f"/proc/{mount.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            own.add(os.readlink(fd))
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[2].split(":")[1], 16) == port and words[3] == "01" and f"socket:[{words[9]}]" in own:
            found += 1
    return found


class KeepAlive:
    """One connection, one request at a time, as little as Python can put around it."""

    def __init__(self, address):
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, target):
        self._socket.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = self._socket.recv(1 << 20)
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = head.lower().partition(b"content-length:")[2]
        while len(body) < int(length.split(b"\r\n")[0]) if length else not body.endswith(b"\r\n0\r\n\r\n"):
            body += self._socket.recv(1 << 20)
        return body  # in chunks where Consul sent it so

    def close(self):
        self._socket.close()
