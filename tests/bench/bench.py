"""The benchmark; `run` starts it. One function for each group of rows, in the order of the table."""

import argparse
import faulthandler
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mount"))

import rows_changes  # noqa: E402  (the harness is on the path only now)
import rows_files  # noqa: E402
import rows_fleet  # noqa: E402
import rows_kv  # noqa: E402
import rows_services  # noqa: E402
from measure import Row, say, table  # noqa: E402
from world import World  # noqa: E402

GROUPS = {
    "hot": rows_files.rows_hot,
    "first": rows_kv.rows_first,
    "grep": rows_kv.rows_grep,
    "large-store": rows_kv.rows_large_store,
    "heavy-store": rows_kv.rows_heavy_store,
    "large-directory": rows_kv.rows_large_directory,
    "catalog": rows_services.rows_catalog,
    "write": rows_kv.rows_write,
    "fastest": rows_services.rows_fastest,
    "change": rows_changes.rows_change,
    "hot-prefix": rows_changes.rows_hot_prefix,
    "slow-agent": rows_files.rows_slow_agent,
    "fleet": rows_fleet.rows_fleet,
}


def machine(world):
    def first_line(*command):
        try:
            return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0].strip()
        except (OSError, subprocess.CalledProcessError, IndexError):
            return "?"

    release = ".".join(platform.release().split(".")[:2])
    fuse = first_line("pkg-config", "--modversion", "fuse3")
    consul = first_line(world.consul, "version").removeprefix("Consul v")
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, Linux {release}, libfuse {'.'.join(fuse.split('.')[:2])}, Consul {consul}; "
        f"{time.strftime('%Y-%m-%d')}; load at the start {load:.1f}"
    )


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run")
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="these groups alone")
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds")
    parser.add_argument("--fleet", action="store_true", help="also 50 mounts on a cluster of 8 agents")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument("--list", action="store_true", help="names the groups")
    arguments = parser.parse_args()
    if arguments.list:
        for name, function in GROUPS.items():
            print(f"{name:16} {function.__doc__}")
        return 0

    faulthandler.enable()
    # Whatever ends us, what we have started is ended first.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))

    def wanted(name):
        if arguments.only:
            return name in arguments.only
        return name != "fleet" or arguments.fleet

    rows, failed, began = [], 0, time.monotonic()
    with World(arguments.quick) as world:
        about = machine(world)
        for name, function in GROUPS.items():
            if not wanted(name):
                continue
            say(f"[{time.monotonic() - began:4.0f} s] {name}: {function.__doc__}")
            try:
                with world.part():
                    for row in function(world):
                        rows.append(row)
                        say(f"         {row.what}: {row.cells.get('consulfs', '')}; {row.result}")
            except Exception as error:  # noqa: BLE001  what else there is to measure is measured all the same
                say(f"         failed: {type(error).__name__}: {error}")
                rows.append(Row(f"{name}: could not be measured", result=f"{type(error).__name__}"))
                failed += 1
                if os.environ.get("BENCH_TRACE"):
                    raise
    print(about)
    print()
    print(table(rows, arguments.markdown))
    say(f"took {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


sys.exit(main())
