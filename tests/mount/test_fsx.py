"""Random I/O on one file, beside a twin in memory: tests/posix/fsx.c. CONSULFS_FSX=SEED or SEED:OPERATIONS repeats a run."""

import os
import random
import subprocess

import pytest

from harness.mount import BINARY
from harness.programs import sanitized
from harness.wait import wait_equal

FSX = BINARY.parents[1] / "tests/posix/fsx"


def seed_and_operations(default):
    seed, _, operations = os.environ.get("CONSULFS_FSX", "").partition(":")
    return int(seed or random.randrange(1 << 31)), int(operations or default)


@pytest.mark.limit(3600)
@pytest.mark.parametrize("name, max_len", [("file", 200_000), ("large", 500_000)])
def test_fsx(pair, name, max_len):
    mnt, other, agent = pair
    seed, operations = seed_and_operations({"file": 100_000, "large": 3_000}[name] // (20 if sanitized() else 1))
    print(f"CONSULFS_FSX={seed}:{operations}, up to {max_len} bytes")
    done = subprocess.run(
        [FSX, mnt / f"kv/{name}", str(seed), str(operations), str(max_len)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"seed {seed}: {done.stdout[-20000:]}{done.stderr}"
    with open(mnt / f"kv/{name}", "rb") as file:
        assert file.read() == agent.kv_get(name)
    wait_equal((other / f"kv/{name}").read_bytes, agent.kv_get(name))
