"""What changes elsewhere: how soon it is here, and what that takes."""

import concurrent.futures
import time

from measure import Row, hammer, median, program, rounds, time_text
from rows_kv import _cat
from world import Counters, load


def rows_change(world):
    """a change made elsewhere, until it is readable here"""
    agent = world.agent()
    keys, seconds = 10, 2 if world.quick else 5
    load(agent, {f"app/{n}": b"0" for n in range(keys)})
    load(agent, {f"static/{n}": b"x" * 100 for n in range(1000)})
    mount = world.mount(agent)
    hammer("read", *[mount / f"kv/app/{n}" for n in range(keys)], operations=100)
    common = ("-r", 100, "-k", keys, "-s", seconds)
    counted = []

    def own():
        with Counters(mount) as counters:
            found = program("propagate", *common, agent.http, "app/", mount / "kv/app", strict=False)
        counted.append(counters)
        return found

    found = rounds(
        1 if world.quick else 3,
        {"consulfs": own, "c": lambda: program("propagate", *common, agent.http, "app/")},
    )
    p50, p99 = (median([f[p] for f in found["consulfs"]]) for p in ("p50", "p99"))

    def cell(way):
        return ", ".join(f"{p} {time_text(median([f[p] for f in found[way]]))}" for p in ("p50", "p99"))

    last = counted[-1]
    errors = sum(f["errors"] for f in found["consulfs"])
    yield Row(
        "change elsewhere, 100 a second, until readable here",
        target="p50 ≤ 5 ms, p99 ≤ 50 ms",
        met=p50 <= 5e6 and p99 <= 50e6 and errors == 0,
        result=f"p50 {time_text(p50)}, p99 {time_text(p99)}{_failed(errors)}",
        requests=f"{last.requests} and {last.blocking} blocking for {100 * seconds} changes",
        upcalls=f"{last.upcalls}",
        cells={"consulfs": cell("consulfs"), "c": cell("c") + " (blocking query)"},
    )


def rows_hot_prefix(world):
    """a prefix rewritten 200 times a second beside a quiet one"""
    agent = world.agent()
    keys, rate, seconds, size = 10, 200, 2 if world.quick else 6, 100
    quiet = 500 if world.quick else 5000
    load(agent, {f"hot/{n}": b"0" for n in range(keys)})
    load(agent, {f"quiet/{n}": b"%d " % n + b"x" * 200 for n in range(quiet)})
    mount = world.mount(agent)
    still = [mount / f"kv/quiet/{n}" for n in range(0, quiet, quiet // 50)]
    hammer("read", *still, *[mount / f"kv/hot/{n}" for n in range(keys)], operations=300)
    time.sleep(1)

    def both():
        with concurrent.futures.ThreadPoolExecutor(1) as pool, Counters(mount) as counters:
            beside = pool.submit(hammer, "read", *still, seconds=seconds, pause=5000)
            how = ("-r", rate, "-k", keys, "-s", seconds, "-v", size)
            found = program("propagate", *how, agent.http, "hot/", mount / "kv/hot", strict=False)
            found["quiet"] = beside.result()
        return found, counters

    found, counters = both()
    correct = all(_cat(path).split()[0] == path.name.encode() for path in still)
    entry = len(agent.request("GET", "/v1/kv/hot/0").content)
    changed = rate * seconds * entry
    fetched = counters["http.bytes_received"]
    demoted = {name: n for name, n in counters.read().items() if "demot" in name and n}
    yield Row(
        f"prefix of {keys} keys rewritten {rate} times a second beside {quiet:,} quiet ones",
        target="bytes fetched < 3 × changed, or demoted; readers correct",
        met=correct and found["errors"] == 0 and (fetched < 3 * changed or bool(demoted)),
        result=f"{fetched / changed:.2f} × changed ({fetched / 1e6:.2f} of {changed / 1e6:.2f} MB)"
        + "".join(f", {name} {n}" for name, n in demoted.items())
        + _failed(found["errors"])
        + ("" if correct else ", a quiet key has not its value"),
        requests=f"{counters.requests} and {counters.blocking} blocking",
        upcalls=str(counters.upcalls),
        cells={
            "consulfs": f"hot p50 {time_text(found['p50'])}, p99 {time_text(found['p99'])} old; "
            f"a quiet read {time_text(found['quiet']['p50'])}"
        },
    )


def _failed(errors):
    """What `propagate` has said on the standard error: opens that failed, values that went back."""
    return f"; {errors} reads failed or went back" if errors else ""
