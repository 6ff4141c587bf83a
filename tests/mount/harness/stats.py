"""What a mount counts: .consulfs/stats."""

import re
from pathlib import Path


def stats(mnt):
    lines = (mnt / ".consulfs/stats").read_text().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def stat_of(mnt, name):
    return stats(mnt)[name]


def peak_memory(process):
    """In KiB, since it began."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])
