"""Keys: the first look, whole directories, writing."""

import os
import subprocess
import time

from measure import (
    Row,
    count_text,
    hammer,
    median,
    python_client,
    rate_text,
    rounds,
    spread,
    time_text,
)
from harness.wait import wait_until
from world import Counters, KeepAlive, connections, cpu_ns, drop_caches, load, resident


def _timed(function, *arguments):
    began = time.perf_counter_ns()
    function(*arguments)
    return time.perf_counter_ns() - began


def _run(*command):
    with open(os.devnull, "wb") as nothing:
        subprocess.run(list(map(str, command)), stdout=nothing, check=True)


def _cat(path):
    fd = os.open(path, os.O_RDONLY)
    data = os.read(fd, 1 << 17)
    os.close(fd)
    return data


# By depth.
FIRST = {1: "key", 6: "a/b/c/d/e/key"}
# Makes a store that is too large for one blocking query to be about.
MANY = {f"many/{n}": b"x" * 1000 for n in range(2000)}


def rows_first(world):
    """the first cat of a key"""
    agent = world.agent()
    floor = world.floor()
    load(agent, {key: b"value" for key in FIRST.values()})
    load(agent, {f"few/{n}": b"x" * 100 for n in range(100)})
    yield from _first(world, agent, floor, "of 100 keys")
    load(agent, MANY)
    yield from _first(world, agent, floor, "of 2 MB")


def _first(world, agent, floor, store):
    for milliseconds in (0, 20):
        address = world.delayed(agent.http, milliseconds) if milliseconds else agent.http
        mount = world.mount(address)
        client = KeepAlive(address)
        for depth, key in FIRST.items():
            requests, upcalls = [], []

            def cold():
                drop_caches(mount)
                with Counters(mount) as counters:
                    took = _timed(_cat, mount / "kv" / key)
                requests.append(counters.requests)
                upcalls.append(counters.waited_for)
                return took

            found = rounds(
                5 if world.quick else 12 if milliseconds else 40,
                {
                    "consulfs": cold,
                    "c": lambda: _timed(client.get, f"/v1/kv/{key}"),
                    "trip": lambda: _timed(os.stat, floor / "asked"),
                    "python": (lambda: python_client(address, key, operations=10)["p50"], 3),
                    "curl": (lambda: _timed(_run, "curl", "-sf", f"http://{address}/v1/kv/{key}"), 7),
                    "cli": (lambda: _timed(_run, world.consul, "kv", "get", f"-http-addr={address}", key), 5),
                },
            )
            limit = median(found["c"]) + 4 * median(found["trip"])
            took = median(found["consulfs"])
            typical = max(upcalls, key=upcalls.count)
            yield Row(
                f"first cat of a key at depth {depth}, a store {store}" + (", agent 20 ms away" if milliseconds else ""),
                target="1 request; ≤ GET + 4 FUSE round trips",
                met=took <= limit and set(requests) == {1},
                result=f"{took / limit:.2f} × that ({time_text(limit)}; a trip {time_text(median(found['trip']))})",
                requests=_counts(requests),
                upcalls=", ".join(f"{n} {name}" for name, n in typical.items()),
                cells={way: spread(found[way]) for way in ("consulfs", "c", "python", "curl", "cli")},
            )
        client.close()


def _each(upcalls, operations):
    """For each operation; what is not of them (the first look, one lookup) is too little to show."""
    return ", ".join(f"{count_text(n / operations)} {name}" for name, n in upcalls.items() if n / operations > 0.05)


def _counts(values):
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}..{high}, {count_text(median(values))} mostly"


def rows_grep(world):
    """grep -r over 1,000 keys in 10 directories"""
    agent = world.agent()
    count = 1000
    keys = {f"tree/{n % 10}/{n}": b"line one\nneedle %d\n" % n + b"x" * 200 for n in range(count)}
    load(agent, keys)
    listed = world.place("keys")
    listed.write_text("".join(f"/v1/kv/{key}\n" for key in keys))
    part = world.place("keys")
    part.write_text("".join(f"/v1/kv/{key}\n" for key in list(keys)[:50]))
    some = list(keys)[7]
    tmpfs = world.tmpfs()
    for key, value in keys.items():
        path = tmpfs / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    for milliseconds, store in ((0, ""), (0, " of 2 MB more"), (20, " of 2 MB more")):
        if store and not milliseconds:  # it stays
            load(agent, MANY)
        address = world.delayed(agent.http, milliseconds) if milliseconds else agent.http
        mount = world.mount(address)
        requests, upcalls, read_only = [], [], []

        def cold():
            drop_caches(mount)
            with Counters(mount) as counters:
                took = _timed(_run, "grep", "-r", "needle", mount / "kv/tree")
            requests.append(counters.requests)
            upcalls.append(counters.upcalls)
            return took

        def hot():
            return _timed(_run, "grep", "-r", "needle", mount / "kv/tree")

        def cold_read_only():
            """Nothing can be dropped by writing to such a mount."""
            fresh = world.mount(address, ro=True)
            with Counters(fresh) as counters:
                took = _timed(_run, "grep", "-r", "needle", fresh / "kv/tree")
            read_only.append((counters.requests, counters.upcalls))
            fresh.end()
            return took

        def client():
            if milliseconds:
                return hammer("get", address=address, file=part, once=True)["wall"] * count / 50
            return hammer("get", address=address, file=listed, once=True)["wall"]

        found = rounds(
            3 if milliseconds or world.quick else 7,
            {
                "consulfs": cold,
                "hot": hot,
                **({} if store else {"ro": cold_read_only}),
                "tmpfs": lambda: _timed(_run, "grep", "-r", "needle", tmpfs / "tree"),
                "c": client,
                "python": lambda: python_client(address, some, operations=30)["p50"] * count,
                "curl": lambda: median(
                    [_timed(_run, "curl", "-sf", f"http://{address}/v1/kv/{some}") for _ in range(5)]
                )
                * count,
                "cli": lambda: median(
                    [_timed(_run, world.consul, "kv", "get", f"-http-addr={address}", some) for _ in range(3)]
                )
                * count,
            },
        )
        faster = median([c / own for c, own in zip(found["c"], found["consulfs"])])
        took = median(found["consulfs"])
        where = (f", in a store{store}" if store else "") + (", agent 20 ms away" if milliseconds else "")
        target = "≤ 11 requests, ≤ 1 s" if milliseconds else "≤ 11 requests, ≥ 5 × as fast as GETs by C"
        yield Row(
            f"grep -r, 1,000 keys in 10 directories, cold{where}",
            target=target,
            met=max(requests) <= 11 and (took <= 1e9 if milliseconds else faster >= 5),
            result=f"{faster:.1f} × as fast; again, hot: {time_text(median(found['hot']))}",
            requests=_counts(requests),
            upcalls=f"{median(upcalls):.0f}",
            cells={way: spread(found[way]) for way in ("consulfs", "tmpfs", "c", "python", "curl", "cli")},
        )
        if read_only:
            faster = median([c / own for c, own in zip(found["c"], found["ro"])])
            yield Row(
                f"the same, -o ro{where}",
                target=target,
                met=max(n for n, _ in read_only) <= 11 and faster >= 5,
                result=f"{faster:.1f} × as fast",
                requests=_counts([n for n, _ in read_only]),
                upcalls=f"{median([n for _, n in read_only]):.0f}",
                cells={"consulfs": spread(found["ro"]), **{way: spread(found[way]) for way in ("tmpfs", "c")}},
            )


def rows_large_store(world):
    """single keys of a directory of 20,000"""
    agent = world.agent()
    load(agent, {f"big/key{n:05}": b"v" * 100 for n in range(20000)})
    mount = world.mount(agent)
    client = KeepAlive(agent.http)
    requests, last = {"first": [], "second": []}, 20000

    def cold(which):
        nonlocal last
        last -= 1
        if which == "first":
            drop_caches(mount)
        with Counters(mount) as counters:
            took = _timed(_cat, mount / f"kv/big/key{last:05}")
        requests[which].append(counters.requests)
        return took

    found = rounds(
        5 if world.quick else 15,
        {
            "first": lambda: cold("first"),
            "second": lambda: cold("second"),
            "c": lambda: _timed(client.get, f"/v1/kv/big/key{last:05}"),
        },
    )
    client.close()
    for which in ("first", "second"):
        yield Row(
            f"{which} cat of a key among 20,000 in one directory, cold",
            target="1 request",
            met=set(requests[which]) == {1},
            result=f"{median(found[which]) / median(found['c']):.1f} × a GET by C",
            requests=_counts(requests[which]),
            cells={"consulfs": spread(found[which]), "c": spread(found["c"])},
        )

    drop_caches(mount)
    _cat(mount / f"kv/big/key{last:05}")
    took = []
    with Counters(mount) as counters:
        for part in range(5 if world.quick else 12):
            keys = [mount / f"kv/big/key{n:05}" for n in range(part * 1000, part * 1000 + 1000)]
            took.append(_timed(lambda: [_cat(key) for key in keys]) / len(keys))
    grown = took[-1] / took[0]
    yield Row(
        f"each of {len(took)},000 of these once",
        target="1 request each; the last as fast as the first (≤ 1.5 ×)",
        met=counters.requests <= 1.01 * 1000 * len(took) and grown <= 1.5,
        result=f"the last thousand {grown:.2f} × the first ({time_text(took[0])} each)",
        requests=count_text(counters.requests / 1000 / len(took)),
        cells={"consulfs": spread(took), "c": spread(found["c"])},
    )


def rows_heavy_store(world):
    """what is looked at beside 100,000 keys of 1 kB"""
    count = 40000 if world.quick else 100000
    agent = world.agent()
    load(agent, {f"vault/logical/{n % 50:02}/{n // 50 % 40:02}/{n:06}": b"v" * 1000 for n in range(count)})
    load(agent, {f"config/{n}": b"%d" % n for n in range(20)})
    mount = world.mount(agent)
    client = KeepAlive(agent.http)
    names = "?keys&separator=%2F"
    kv = mount / "kv"
    # What is looked at, what was listed before (nothing: all was forgotten), and what a client would ask for.
    looks = (
        ("ls kv", None, lambda: _run("ls", kv), [f"/v1/kv/{names}"]),
        ("ls -l kv/vault, after ls kv", kv, lambda: _run("ls", "-l", kv / "vault"), [f"/v1/kv/vault/{names}"]),
        (
            "cat kv/config/7, after ls kv",
            kv,
            lambda: _cat(kv / "config/7"),
            [f"/v1/kv/config/{names}", "/v1/kv/config/?recurse"],
        ),
        ("first cat kv/config/7", None, lambda: _cat(kv / "config/7"), ["/v1/kv/config?recurse"]),
    )
    for what, after, look, targets in looks:
        requests, received = [], []

        def own():
            drop_caches(mount)
            if after:
                os.listdir(after)
            with Counters(mount) as counters:
                took = _timed(look)
            requests.append(counters.requests)
            received.append(counters["http.bytes_received"])
            return took

        found = rounds(
            3 if world.quick else 7, {"consulfs": own, "c": lambda: sum(_timed(client.get, target) for target in targets)}
        )
        yield Row(
            f"{what}, beside {count:,} keys of 1 kB",
            target=f"≤ {len(targets)} request{'s' if len(targets) > 1 else ''}, bytes as for what is shown (≤ 8 kB)",
            met=max(requests) <= len(targets) and max(received) <= 8000,
            result=f"{max(received)} bytes; {median(found['consulfs']) / median(found['c']):.1f} × the same by C",
            requests=_counts(requests),
            cells={way: spread(found[way]) for way in ("consulfs", "c")},
        )
    client.close()


def rows_large_directory(world):
    """ls -l of 20,000 and 100,000 keys, and the mount after that, idle"""
    for count, limit_s, most in ((20000, 1, 3),) if world.quick else ((20000, 1, 3), (100000, 6, None)):
        with world.part():
            yield from _large_directory(world, count, limit_s, most)


def _large_directory(world, count, limit_s, most):
    agent = world.agent()
    name_len, value_len = len("big/key000000"), 20
    load(agent, {f"big/key{n:06}": b"v" * value_len for n in range(count)})
    load(agent, {"beside/a": b"1"})
    tmpfs = world.tmpfs()
    for n in range(count):
        (tmpfs / f"key{n:06}").write_bytes(b"v" * value_len)
    mount = world.mount(agent)
    requests, upcalls = [], []
    os.stat(mount / "kv")

    def move_time():
        path = mount / "kv/beside"
        return median([_timed(os.rename, path / a, path / b) for a, b in (("a", "b"), ("b", "a")) * 100])

    moved = move_time()
    empty = resident(mount)
    full = []

    def cold():
        drop_caches(mount)
        with Counters(mount) as counters:
            took = _timed(_run, "ls", "-l", mount / "kv/big")
        requests.append(counters.requests)
        upcalls.append(counters.waited_for)
        full.append(resident(mount))
        return took

    first = cold()
    # Before anything else that could grow: what one look costs, and what is left of it.
    one_look = full[0] - empty
    drop_caches(mount)
    left = _settled(lambda: resident(mount)) - empty

    found = rounds(
        1 if world.quick else 3,
        {
            "consulfs": cold,
            "hot": lambda: _timed(_run, "ls", "-l", mount / "kv/big"),
            "tmpfs": lambda: _timed(_run, "ls", "-l", tmpfs),
            "c": lambda: hammer("get", "/v1/kv/big/?recurse", address=agent.http, operations=1)["p50"],
            "python": lambda: python_client(agent.http, "big/", operations=1)["p50"],
            "curl": lambda: _timed(_run, "curl", "-sf", f"http://{agent.http}/v1/kv/big/?recurse"),
            "cli": lambda: _timed(_run, world.consul, "kv", "get", f"-http-addr={agent.http}", "-recurse", "big/"),
        },
    )
    found["consulfs"].insert(0, first)
    took = median(found["consulfs"])
    text = f"{count:,}"
    yield Row(
        f"ls -l of {text} keys in one directory, cold",
        target=(f"≤ {most} requests, " if most else "") + f"≤ {limit_s} s",
        met=(most is None or max(requests) <= most) and took <= limit_s * 1e9,
        result=f"{took / median(found['tmpfs']):.1f} × tmpfs; again, hot: {time_text(median(found['hot']))}",
        requests=_counts(requests),
        upcalls=", ".join(f"{n} {name}" for name, n in upcalls[-1].items()),
        cells={way: spread(found[way]) for way in ("consulfs", "tmpfs", "c", "python", "curl", "cli")},
    )
    each = one_look / count - name_len - value_len
    yield Row(
        f"memory after that, {text} keys",
        target="≤ 400 B a key beyond name and value",
        met=each <= 400,
        result=f"{each:.0f} B a key beyond {name_len} + {value_len}",
        cells={"consulfs": f"{one_look / 1e6:.1f} MB"},
    )
    yield Row(
        f"memory after drop-caches, {text} keys",
        target="given back",
        met=left <= 0.1 * one_look + 4e6,
        result=f"{100 * (one_look - left) / max(one_look, 1):.0f} % given back",
        cells={"consulfs": f"{left / 1e6:.1f} MB left"},
    )
    yield from _idle(world, agent, mount, text)
    _run("ls", "-l", mount / "kv/big")
    time.sleep(1)
    beside = move_time()
    yield Row(
        f"mv of a key elsewhere, {text} keys known to the kernel",
        target="≤ 1.5 × as if these were not",
        met=beside <= 1.5 * moved,
        result=f"{beside / moved:.2f} × ({time_text(moved)})",
        cells={"consulfs": time_text(beside)},
    )


def _settled(read):
    """What it is when it has not fallen for two seconds: memory is given back once a second at most."""
    least, since = read(), time.monotonic()
    while time.monotonic() - since < 2:
        time.sleep(0.1)
        value = read()
        if value < least:
            least, since = value, time.monotonic()
    return least


def _idle(world, agent, mount, text):
    _run("ls", "-l", mount / "kv/big")
    for n in range(0, 2000, 10):
        _cat(mount / f"kv/big/key{n:06}")
    time.sleep(2)
    seconds = 3 if world.quick else 8
    with Counters(mount) as counters:
        before = cpu_ns(mount)
        time.sleep(seconds)
        used = cpu_ns(mount) - before
    open_now = connections(mount, agent.port)
    yield Row(
        f"idle over {text} keys, {seconds} s",
        target="no CPU, no request but blocking ones, ≤ 64 connections",
        met=used < 1e6 * seconds and counters.requests == 0 and open_now <= 64,
        result=f"{used / 1e6:.2f} ms of CPU, {open_now} connections, {counters.blocking} blocking queries",
        requests=str(counters.requests),
        upcalls=str(counters.upcalls),
        cells={"consulfs": f"{used / seconds / 1e7:.3f} % CPU"},
    )


def rows_write(world):
    """echo v > key, 1 and 16 writers"""
    agent = world.agent()
    floor = world.floor()
    for milliseconds in (0, 20):
        address = world.delayed(agent.http, milliseconds) if milliseconds else agent.http
        mount = world.mount(address)
        for clients in (1, 16) if milliseconds == 0 else (1, 16, 200):
            yield _write(world, agent, mount, address, milliseconds, clients, floor)


def _write(world, agent, mount, address, milliseconds, clients, floor):
    names = [f"w{clients}/{n}" for n in range(clients)]
    load(agent, {name: b"0" for name in names})
    paths = [mount / "kv" / name for name in names]
    seconds = 0.3 if world.quick else 0.6
    wait_until(paths[-1].exists, "what was loaded is there")  # a watched directory hears of it a moment later
    hammer("write", *paths, clients=clients, operations=3)
    counted = []

    def own():
        with Counters(mount) as counters:
            found = hammer("write", *paths, clients=clients, seconds=seconds)
        counted.append((counters.requests / found["operations"], counters.waited_for, found["operations"]))
        return found

    url = f"http://{address}/v1/kv/{names[0]}"
    few = 3 if clients == 1 else 1
    cli = f"{world.consul} kv put -http-addr={address} {names[0]} v"
    found = rounds(
        3 if world.quick else 5,
        {
            "consulfs": own,
            "c": lambda: hammer(
                "put", *[f"/v1/kv/{name}" for name in names], clients=clients, seconds=seconds, address=address
            ),
            "trip": lambda: hammer("stat", floor / "asked", operations=500),
            # A process each, of which 200 take seconds.
            "curl": (lambda: hammer("run", f"curl -sf -X PUT -d v {url}", clients=clients, operations=1), few),
            "cli": (lambda: hammer("run", cli, clients=clients, operations=1), few),
        },
    )
    trip = median([f["p50"] for f in found["trip"]])
    requests = median([c[0] for c in counted])
    _, upcalls, operations = counted[-1]
    if clients == 1:
        limits = [1.3 * c["p50"] + 3 * trip for c in found["c"]]
        ratio = median([own["p50"] / limit for own, limit in zip(found["consulfs"], limits)])
        result = f"{ratio:.2f} × that ({time_text(median(limits))})"
        target, text = "1 request; ≤ 1.3 × PUT + 3 FUSE round trips", lambda f: spread([x["p50"] for x in f])
    else:
        rates = {way: [x["operations"] / x["wall"] * 1e9 for x in f] for way, f in found.items()}
        ratio = median([c / own for own, c in zip(rates["consulfs"], rates["c"])])
        result = f"{1 / ratio:.2f} × the rate of PUTs by C"
        # What one writer may add, these may, too: nothing of ours is in the way of the others.
        target = "1 request; ≥ the rate of PUTs / 1.3"
        ratio /= 1.3
        text = lambda f: spread([x["operations"] / x["wall"] * 1e9 for x in f], rate_text)  # noqa: E731
    writers = "1 writer" if clients == 1 else f"{clients} writers"
    return Row(
        f"echo v > key, {writers}" + (", agent 20 ms away" if milliseconds else ""),
        target=target,
        met=ratio <= 1 and requests <= 1.005,
        result=result,
        requests=count_text(requests),
        upcalls=_each(upcalls, operations),
        cells={way: text(found[way]) for way in ("consulfs", "c", "curl", "cli")},
    )
