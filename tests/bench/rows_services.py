"""Services: many of them, and the fastest instance of one."""

import json
import os
import socket
import time

import requests

from measure import Row, count_text, hammer, median, rounds, spread, time_text
from rows_kv import _cat, _counts, _run, _timed
from world import Counters, KeepAlive, connections, drop_caches, load_services


def rows_catalog(world):
    """5,000 services with 20,000 instances"""
    services, instances = (500, 2000) if world.quick else (5000, 20000)
    agent = world.agent()
    load_services(agent, services, instances)
    mount = world.mount(agent)
    client = KeepAlive(agent.http)
    one = "svc0017"

    def cat(path):
        assert _cat(path)

    for what, read, target, process, cli in (
        (
            f"ls services, {services:,} services of {instances:,} instances",
            lambda: os.listdir(mount / "services"),
            "/v1/catalog/services",
            "/v1/catalog/services",
            ("catalog", "services"),
        ),
        (
            "cat services/X/passing among them",
            lambda: cat(mount / f"services/{one}/passing"),
            f"/v1/health/service/{one}?passing",
            f"/v1/health/service/{one}?passing",
            None,
        ),
    ):
        counted = {"cold": [], "hot": []}

        def own(how):
            if how == "cold":
                drop_caches(mount)
            with Counters(mount) as counters:
                took = _timed(read)
            counted[how].append((counters.requests, counters.upcalls))
            return took

        ways = {
            "cold": lambda: own("cold"),
            "first_hot": lambda: _timed(read),
            "hot": lambda: own("hot"),
            "c": lambda: hammer("get", target, address=agent.http, operations=3)["p50"],
            "curl": lambda: _timed(_run, "curl", "-sf", f"http://{agent.http}{process}"),
        }
        if cli:
            ways["cli"] = lambda: _timed(_run, world.consul, *cli, f"-http-addr={agent.http}")
        found = rounds(3 if world.quick else 7, ways)
        for how, most in (("cold", 1), ("hot", 0)):
            asked = [n for n, _ in counted[how]]
            yield Row(
                f"{what}, {how}",
                target="≤ 1 request" if most else "no request",
                met=max(asked) <= most,
                result=f"{median(found[how]) / median(found['c']):.2f} × a GET by C",
                requests=_counts(asked),
                upcalls=f"{median([n for _, n in counted[how]]):.0f}",
                cells={
                    "consulfs": spread(found[how]),
                    **{way: spread(found[way]) for way in ("c", "curl", "cli") if way in found},
                },
            )
    client.close()

    # Who reads hundreds of them must not be cut off by Consul, nor take its other clients' connections.
    most = 0
    for n in range(0, min(services, 400)):
        path = mount / f"services/svc{n:04}/passing"
        for _ in range(3):
            cat(path)
        if n % 20 == 0:
            most = max(most, connections(mount, agent.port))
    reading = hammer("read", *[mount / f"services/svc{n:04}/passing" for n in range(400)], clients=64, operations=20)
    most = max(most, connections(mount, agent.port))
    yield Row(
        "400 services read again and again by 64 clients: connections to Consul",
        target="≤ 64",
        met=most <= 64,
        result=f"{most} at most",
        cells={"consulfs": f"{time_text(reading['p50'])} a read"},
    )


def rows_fastest(world):
    """services/X/fastest with 1, 10 and 200 instances"""
    agent = world.agent()
    fastest_ms, others_ms = 5, 60
    quick_port = world.instances(1, fastest_ms)[0]
    slow_ports = world.instances(199, others_ms)
    client = KeepAlive(agent.http)
    for count in (1, 10, 200):
        name = f"web{count}"
        _register(agent, name, [quick_port, *slow_ports[: count - 1]])
        counted = []

        def raced(known):
            # A mount of its own: who was the fastest is kept for some seconds, whatever else is forgotten.
            with world.part():
                mount = world.mount(agent)
                _cat(mount / f"services/{name if known else 'consul'}/passing")
                with Counters(mount) as counters:
                    began = time.perf_counter_ns()
                    answer = _cat(mount / f"services/{name}/fastest")
                    took = time.perf_counter_ns() - began
            assert answer == b"127.0.0.1:%d\n" % quick_port, answer
            if not known:
                counted.append(counters.requests)
            return took

        found = rounds(
            5 if world.quick else 11,
            {
                "consulfs": lambda: raced(False),
                "known": lambda: raced(True),
                "trip": lambda: _timed(_head, quick_port),
                "instances": lambda at=f"/v1/health/service/{name}": _timed(client.get, at),
            },
        )
        added, if_known = (median(found[way]) - median(found["trip"]) for way in ("consulfs", "known"))
        yield Row(
            f"services/X/fastest, {count} instance{'s' if count > 1 else ''}, cold",
            target="≤ the fastest's round trip + 1 ms",
            met=added <= 1e6,
            result=f"+ {added / 1e6:.2f} ms (round trip {time_text(median(found['trip']))}; to ask Consul which "
            f"there are takes a C client {time_text(median(found['instances']))}; + {if_known / 1e6:.2f} ms where that "
            "is known)",
            requests=f"{_counts(counted)} and {count} HEAD",
            cells={"consulfs": spread(found["consulfs"]), "c": spread(found["trip"])},
        )
    mount = world.mount(agent)
    path = mount / "services/web10/fastest"
    _cat(path)
    hammer("read", path, operations=1000)
    with Counters(mount) as counters:
        found = hammer("read", path, seconds=0.5)
    floor = world.floor()
    hammer("read", floor / "0", operations=100)
    both = rounds(
        5,
        {
            "consulfs": lambda: hammer("read", path, seconds=0.2)["p50"],
            "floor": lambda: hammer("read", floor / "0", seconds=0.2)["p50"],
        },
    )
    ratio = median([own / least for own, least in zip(both["consulfs"], both["floor"])])
    yield Row(
        "services/X/fastest, hot",
        target="as any watched file (≤ 1.2 × least FUSE)",
        met=ratio <= 1.2,
        result=f"{ratio:.2f} × least FUSE",
        requests=count_text(counters.requests / found["operations"]),
        upcalls=", ".join(
            f"{count_text(n / found['operations'])} {k}"
            for k, n in counters.waited_for.items()
            if n / found["operations"] > 0.005
        ),
        cells={way: spread(times) for way, times in both.items()},
    )


def _register(agent, name, ports):
    with requests.Session() as session:
        for n, port in enumerate(ports):
            url = f"http://127.0.0.1:{port}/health"
            body = {
                "Node": "external",
                "Address": "127.0.0.1",
                "Service": {"ID": f"{name}-{n}", "Service": name, "Port": port},
                "Check": {
                    "CheckID": f"{name}-{n}",
                    "Name": "health",
                    "ServiceID": f"{name}-{n}",
                    "Status": "passing",
                    "Output": f"HTTP GET {url}: 200 OK Output: ok",
                },
            }
            session.put(f"http://{agent.http}/v1/catalog/register", data=json.dumps(body)).raise_for_status()


def _head(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
