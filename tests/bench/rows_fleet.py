"""Fifty mounts on five client agents of three servers, beside as many consul-templates."""

import asyncio
import contextlib
import datetime
import re
import subprocess
import threading
import time

from harness.agent import Agent
from harness.groups import Cluster, Group
from harness.wait import wait_until
from measure import Row, say
from rows_kv import _cat
from world import Counters, load, load_services

MOUNTS, CLIENTS, KEYS, SERVICES = 50, 5, 20, 5
# Bytes a second by which the servers' own heartbeats, which are counted too, differ from one window to the next.
HEARTBEATS = 300
HOSTS = 10000  # what the cost of one mount is extrapolated to


class Fleet(Group):
    def __init__(self, consul, directory):
        self.cluster = Cluster(consul, directory)
        joined = [server.lan for server in self.cluster.servers]
        self.clients = [self.cluster.client] + [
            Agent(consul, directory, node=f"c{n}", dev=False, server=False, retry_join=joined)
            for n in range(2, CLIENTS + 1)
        ]
        super().__init__([*self.cluster.servers, *self.clients])
        for agent in self.agents:
            agent.settings["log_level"] = "err"
            # One blocking query for each file takes more connections than an agent allows by itself.
            agent.settings["limits"] = {"http_max_conns_per_client": 5000}


def rows_fleet(world):
    """50 mounts on 5 client agents of 3 servers"""
    fleet = world.started(Fleet(world.consul, world.place("fleet")))
    leader = fleet.cluster.leader
    load(leader, {f"app/{n}": b"value %d" % n for n in range(KEYS)})
    load_services(leader, SERVICES, SERVICES * 4, nodes=4)
    files = [f"kv/app/{n}" for n in range(KEYS)] + [f"services/svc{n:04}/passing" for n in range(SERVICES)]
    urls = [f"/v1/kv/app/{n}?stale" for n in range(KEYS)]
    urls += [f"/v1/health/service/svc{n:04}?passing&stale" for n in range(SERVICES)]

    found = {}
    with world.part():
        mounts = [world.mount(fleet.clients[n % CLIENTS]) for n in range(MOUNTS)]
        for mount in mounts:
            for _ in range(3):
                for name in files:
                    _cat(mount / name)
        with Counters(mounts[0]) as counters:
            found["consulfs"] = _watched(fleet, leader, lambda: [_cat(m / f) for m in mounts for f in files[:KEYS]])
    with _templates([(agent, urls) for agent in (fleet.clients[n % CLIENTS] for n in range(MOUNTS))]):
        found["template"] = _watched(fleet, leader, None)

    for state, text in (("idle", "idle"), ("changing", "one change a second")):
        own, other = found["consulfs"][state], found["template"][state]
        each = own["all"] / MOUNTS, own["all bytes"] / MOUNTS
        yield Row(
            f"50 mounts of {len(files)} files on 5 agents of 3 servers, {text}",
            target="queries and bytes at the servers ≤ one blocking query a file",
            # Which server a client agent asks is chance; what the leader has of it, too.
            met=own["all"] <= 1.1 * other["all"] and own["all bytes"] <= 1.1 * other["all bytes"] + HEARTBEATS,
            result=f"{HOSTS:,} such hosts: {each[0] * HOSTS:.0f} queries/s and {each[1] * HOSTS / 1e6:.1f} MB/s "
            "at all servers",
            requests=f"one mount in all of it: {counters.requests} and {counters.blocking} blocking",
            cells={"consulfs": _cell(own), "c": _cell(other) + " (one blocking query a file, stale)"},
        )


def _cell(figures):
    return (
        f"leader {figures['leader']:.1f} queries/s, {figures['bytes'] / 1e3:.1f} kB/s; "
        f"all servers {figures['all']:.1f} queries/s, {figures['all bytes'] / 1e3:.1f} kB/s"
    )


def _watched(fleet, leader, use):
    """What the servers do while nothing changes, and while one key changes each second."""
    time.sleep(3)
    idle = _window(fleet, leader)
    ended = threading.Event()

    def change():
        n = 0
        while not ended.wait(1):
            n += 1
            # A value that was never there: the same again would be no change.
            fleet.clients[0].put(f"/v1/kv/app/{n % KEYS}", b"changed %d" % time.time_ns())

    def look():
        while use and not ended.wait(0.5):
            use()  # a mount that nobody looks at need not know

    threads = [threading.Thread(target=change), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    try:
        return {"idle": idle, "changing": _window(fleet, leader)}
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _window(fleet, leader):
    """Queries a second, from the servers' own metrics, which are of whole intervals of 10 s; bytes from the kernel."""
    began, first = time.monotonic(), {server: _bytes(server) for server in fleet.cluster.servers}
    start = datetime.datetime.now(datetime.timezone.utc)
    rates = {}
    for server in fleet.cluster.servers:

        def of_this_window(server=server):
            metrics = server.get("/v1/agent/metrics").json()
            stamp = datetime.datetime.strptime(metrics["Timestamp"][:19], "%Y-%m-%d %H:%M:%S")
            time.sleep(0.2)
            return metrics if stamp.replace(tzinfo=datetime.timezone.utc) >= start else None

        metrics = wait_until(of_this_window, "an interval of metrics", 40)
        rates[server] = sum(c["Count"] for c in metrics["Counters"] if c["Name"].endswith("rpc.query")) / 10
    took = time.monotonic() - began
    gone = {server: (_bytes(server) - before) / took for server, before in first.items()}
    return {
        "leader": rates[leader],
        "all": sum(rates.values()),
        "bytes": gone[leader],
        "all bytes": sum(gone.values()),
    }


def _bytes(server):
    """That have gone over its RPC port, in both directions: the servers' heartbeats are among them."""
    command = ["ss", "-tinH", "state", "established", "src", f"{server.host}:{server.server_port}"]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return sum(int(n) for n in re.findall(r"bytes_(?:sent|received):(\d+)", text))


@contextlib.contextmanager
def _templates(clients):
    """A blocking query for each of the URLs of each client, all of them answered once before this is entered."""
    loop = asyncio.new_event_loop()
    answered = [0]

    async def watch(agent, url):
        reader, writer = await asyncio.open_connection(agent.host, agent.port)
        index, first = 0, True
        try:
            while True:
                writer.write(f"GET {url}&index={index}&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                index = re.search(r"x-consul-index: (\d+)", head)[1]
                length = re.search(r"content-length: (\d+)", head)
                if length:
                    await reader.readexactly(int(length[1]))
                else:
                    size = 1
                    while size:
                        size = int(await reader.readline(), 16)
                        await reader.readexactly(size + 2)
                if first:
                    answered[0] += 1
                    first = False
        except asyncio.IncompleteReadError:
            say("an agent has closed the connection of a blocking query")
        finally:
            writer.close()

    async def watch_all():
        await asyncio.gather(*(watch(agent, url) for agent, urls in clients for url in urls))

    task = loop.create_task(watch_all())

    def run():
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: answered[0] == sum(len(urls) for _, urls in clients), "each has been answered once", 60)
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
