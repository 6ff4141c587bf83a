"""Running what measures, and saying what it found."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = Path(os.environ.get("BENCH_PROGRAMS", "build/tests/bench")).absolute()
HERE = Path(__file__).resolve().parent

# The columns of the table that are other ways to the same data.
WAYS = {
    "consulfs": "consulfs",
    "tmpfs": "tmpfs",
    "floor": "least FUSE",
    "c": "C, keep-alive",
    "python": "python3-consul",
    "curl": "curl process",
    "cli": "consul process",
}


@dataclass
class Row:
    what: str
    target: str = ""
    met: bool | None = None
    result: str = ""  # what the target is about, as measured
    requests: str = ""
    upcalls: str = ""
    cells: dict = field(default_factory=dict)


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def program(name, *arguments, timeout=120, strict=True):
    """What one of our programs has measured. It must have done something, and if `strict` without an error."""
    command = [str(PROGRAMS / name), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout, text=True, check=True)
    found = json.loads(done.stdout)
    if (found["errors"] and strict) or not found["operations"]:
        raise RuntimeError(f"{' '.join(command)}: {found}")
    return found


def hammer(what, *targets, clients=1, operations=None, seconds=None, address=None, pause=None, file=None, once=False):
    arguments = ["-c", clients]
    for option, value in (("-n", operations), ("-s", seconds), ("-a", address), ("-p", pause), ("-f", file)):
        if value is not None:
            arguments += [option, value]
    return program("hammer", *arguments, *(["-1"] if once else []), what, *targets)


def python_client(agent, key, clients=1, operations=None, seconds=None):
    """python3-consul in as many processes."""
    host, port = agent.split(":")
    command = [sys.executable, HERE / "python_client.py", host, port, key, clients, operations or 0, seconds or 0]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, timeout=120, text=True, check=True)
    return json.loads(done.stdout)


# Figures are in nanoseconds, as clocks give them.


def rounds(count, ways):
    """
    Each way once, then all of them again: what disturbs the machine for a while disturbs all. Returns what each has
    found, by name. A way can say how many rounds it takes part in: (function, rounds).
    """
    found = {name: [] for name in ways}
    for n in range(count):
        for name, way in ways.items():
            function, limit = way if isinstance(way, tuple) else (way, count)
            if n < limit:
                found[name].append(function())
    return found


def percentile(values, percent):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


def median(values):
    return statistics.median(values)


def time_text(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{_short(ns / size)} {unit}"
    return f"{ns:.0f} ns"


def rate_text(per_second):
    for unit, size in (("M/s", 1e6), ("k/s", 1e3)):
        if per_second >= size:
            return f"{_short(per_second / size)} {unit}"
    return f"{_short(per_second)} /s"


def _short(number):
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def spread(values, text=time_text):
    """The median, and in brackets where eight of ten were, if there are that many to say it of."""
    if not values:
        return ""
    if len(values) < 3:
        return text(median(values))
    return f"{text(median(values))} [{text(percentile(values, 10))}..{text(percentile(values, 90))}]"


def count_text(number):
    """A count that is whole, unless it is not."""
    return f"{number:.0f}" if abs(number - round(number)) < 0.005 else f"{number:.2f}"


# The table


def table(rows, markdown):
    ways = [way for way in WAYS if any(way in row.cells for row in rows)]
    head = ["what", *(WAYS[way] for way in ways), "requests", "upcalls", "result", "target", "met"]
    lines = [
        [
            row.what,
            *(row.cells.get(way, "") for way in ways),
            row.requests,
            row.upcalls,
            row.result,
            row.target,
            {True: "yes", False: "NO", None: ""}[row.met],
        ]
        for row in rows
    ]
    if markdown:
        written = ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]]
        return "\n".join(line.replace("  ", " ") for line in written)
    widths = [max(len(line[n]) for line in [head, *lines]) for n in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in [head, *lines])
