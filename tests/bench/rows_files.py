"""What has been read before: the kernel's cache and the one upcall of an open."""

from measure import Row, count_text, hammer, median, python_client, rate_text, rounds, spread
from world import Counters, load

KEYS = 10
VALUE = b"x" * 100


def _paths(directory, names):
    return [directory / str(name) for name in names]


def _fill(directory):
    for path in _paths(directory, range(KEYS)):
        path.write_bytes(VALUE)
    return directory


def _settle(directory):
    """Until nothing of it is asked for any more."""
    hammer("read", *_paths(directory, range(KEYS)), operations=200)


def _cell(found, clients):
    """One client: how long an operation takes. Many: how many are done a second."""
    if clients == 1:
        return spread([f["p50"] for f in found])
    return spread([_rate(f) for f in found], rate_text)


def _rate(found):
    return found["operations"] / found["wall"] * 1e9


def _ratio(found, way, other, clients):
    """How many times as long `way` takes, in each round; the median of that."""
    pairs = list(zip(found[way], found[other]))
    if clients == 1:
        return median([a["p50"] / b["p50"] for a, b in pairs])
    return median([_rate(b) / _rate(a) for a, b in pairs])


def _upcalls(mount, run):
    """Those that are waited for, an operation; and requests in all."""
    with Counters(mount) as counters:
        found = run()
    each = {name: count / found["operations"] for name, count in counters.waited_for.items()}
    text = ", ".join(f"{count_text(n)} {name}" for name, n in each.items() if n >= 0.005) or "0"
    return sum(each.values()), text, counters.requests


def rows_hot(world):
    """open, read, close and stat of a watched file"""
    agent = world.agent()
    load(agent, {f"hot/{n}": VALUE for n in range(KEYS)})
    ro, rw = world.mount(agent, ro=True), world.mount(agent)
    tmpfs, asks, asks_not = _fill(world.tmpfs()), world.floor(), world.floor("-n")
    for directory in (ro / "kv/hot", rw / "kv/hot", asks, asks_not):
        _settle(directory)
    seconds = 0.1 if world.quick else 0.25

    def files(what, directory, clients):
        return lambda: hammer(what, *_paths(directory, range(KEYS)), clients=clients, seconds=seconds)

    def asking(address, clients):
        """Those that ask Consul each time. What takes a process, and with it seconds, takes part less often."""
        few = {1: 3, 16: 2, 200: 1}[clients]
        each = {1: 5, 16: 2, 200: 1}[clients]
        url = f"http://{address}/v1/kv/hot/0?raw"
        curl, cli = f"curl -sf -o /dev/null {url}", f"{world.consul} kv get -http-addr={address} hot/0"
        targets = [f"/v1/kv/hot/{n}" for n in range(KEYS)]
        return {
            "c": lambda: hammer("get", *targets, clients=clients, seconds=seconds, address=address),
            "python": (lambda: python_client(address, "hot/0", clients, seconds=seconds), few),
            "curl": (lambda: hammer("run", curl, clients=clients, operations=each), few),
            "cli": (lambda: hammer("run", cli, clients=clients, operations=each), few),
        }

    clients_of = (1,) if world.quick else (1, 16, 200)
    many = {1: 9, 16: 5, 200: 4}
    for clients in clients_of:
        found = rounds(
            3 if world.quick else many[clients],
            {
                "ro": files("read", ro / "kv/hot", clients),
                "tmpfs": files("read", tmpfs, clients),
                "asks_not": files("read", asks_not, clients),
                "rw": files("read", rw / "kv/hot", clients),
                "asks": files("read", asks, clients),
                **asking(agent.http, clients),
            },
        )
        others = {way: _cell(found[way], clients) for way in ("c", "python", "curl", "cli")}
        tmpfs_cell = _cell(found["tmpfs"], clients)

        each, text, requests = _upcalls(ro, files("read", ro / "kv/hot", clients))
        ratio = _ratio(found, "ro", "tmpfs", clients)
        yield Row(
            f"open+read+close, watched, -o ro, {_clients(clients)}",
            target="≤ 2 × tmpfs, no upcall",
            met=ratio <= 2 and each < 0.005,
            result=f"{ratio:.2f} × tmpfs, {_ratio(found, 'ro', 'asks_not', clients):.2f} × least FUSE",
            requests=str(requests),
            upcalls=text,
            cells={
                "consulfs": _cell(found["ro"], clients),
                "tmpfs": tmpfs_cell,
                "floor": _cell(found["asks_not"], clients),
                **others,
            },
        )

        each, text, requests = _upcalls(rw, files("read", rw / "kv/hot", clients))
        ratio = _ratio(found, "rw", "asks", clients)
        yield Row(
            f"open+read+close, watched, {_clients(clients)}",
            target="≤ 1.2 × least FUSE, 1 upcall",
            met=ratio <= 1.2 and abs(each - 1) < 0.005,
            result=f"{ratio:.2f} × least FUSE",
            requests=str(requests),
            upcalls=text,
            cells={
                "consulfs": _cell(found["rw"], clients),
                "tmpfs": tmpfs_cell,
                "floor": _cell(found["asks"], clients),
                **others,
            },
        )

    # The same beside an agent that is 20 ms away: who has it already does not notice.
    far = world.delayed(agent.http, 20)
    far_mount = world.mount(far, ro=True)
    _settle(far_mount / "kv/hot")
    for clients in clients_of:
        found = rounds(3, {"ro": files("read", far_mount / "kv/hot", clients), **asking(far, clients)})
        each, text, requests = _upcalls(far_mount, files("read", far_mount / "kv/hot", clients))
        yield Row(
            f"the same, -o ro, agent 20 ms away, {_clients(clients)}",
            result=f"C client: {_ratio(found, 'c', 'ro', clients):.0f} ×",
            requests=str(requests),
            upcalls=text,
            cells={
                "consulfs": _cell(found["ro"], clients),
                **{way: _cell(found[way], clients) for way in ("c", "python", "curl", "cli")},
            },
        )

    for clients in clients_of:
        found = rounds(
            3 if world.quick else many[clients],
            {
                "consulfs": files("stat", rw / "kv/hot", clients),
                "tmpfs": files("stat", tmpfs, clients),
                "floor": files("stat", asks, clients),
            },
        )
        each, text, requests = _upcalls(rw, files("stat", rw / "kv/hot", clients))
        ratio = _ratio(found, "consulfs", "tmpfs", clients)
        yield Row(
            f"stat, watched, {_clients(clients)}",
            target="≤ 1.5 × tmpfs, no upcall",
            met=ratio <= 1.5 and each < 0.005,
            result=f"{ratio:.2f} × tmpfs",
            requests=str(requests),
            upcalls=text,
            cells={way: _cell(found[way], clients) for way in ("consulfs", "tmpfs", "floor")},
        )


def rows_slow_agent(world):
    """200 clients, half of them waiting for an agent 100 ms away"""
    agent = world.agent()
    load(agent, {f"hot/{n}": VALUE for n in range(KEYS)})
    cold_count = 2000
    # More than one blocking query should bring, so that each of these is asked for by itself.
    load(agent, {f"cold/{n}/key": b"x" * 1000 for n in range(cold_count)})
    far = world.delayed(agent.http, 100)
    seconds = 1 if world.quick else 3

    def hot_clients(mount):
        return hammer("read", *_paths(mount / "kv/hot", range(KEYS)), clients=100, seconds=seconds, pause=20000)

    def alone():
        return hot_clients(shared)

    def mixed():
        """On a mount of its own: one whose watches have been ended again and again begins no more of them."""
        import concurrent.futures

        with world.part():
            mount = world.mount(far)
            cold = [mount / f"kv/cold/{n}/key" for n in range(cold_count)]
            _settle(mount / "kv/hot")
            with concurrent.futures.ThreadPoolExecutor() as pool, Counters(mount) as counters:
                beside = pool.submit(hammer, "read", *cold, clients=100, seconds=seconds)
                found = hot_clients(mount)
                found["cold"] = beside.result()
            found["requests"] = counters.requests
        return found

    shared = world.mount(far)
    _settle(shared / "kv/hot")
    found = rounds(2 if world.quick else 4, {"alone": alone, "mixed": mixed})
    alone, beside = ([f["p99"] for f in found[way]] for way in ("alone", "mixed"))
    cold_p50 = median([f["cold"]["p50"] for f in found["mixed"]])
    cold_p99 = median([f["cold"]["p99"] for f in found["mixed"]])
    ratio = median([b / a for a, b in zip(alone, beside)])
    yield Row(
        "200 clients, 100 hot and 100 cold, agent 100 ms away: hot p99",
        target="as without the cold ones",
        # As near as two processors can tell that 100 more processes share.
        met=median(beside) < max(1.5 * median(alone), median(alone) + 2e6),
        result=f"{ratio:.2f} × alone ({spread(alone)}); cold p50 {spread([cold_p50])}, p99 {spread([cold_p99])}",
        requests=f"{median([f['requests'] for f in found['mixed']]):.0f}",
        cells={"consulfs": spread(beside)},
    )


def _clients(count):
    return "1 client" if count == 1 else f"{count} clients"
