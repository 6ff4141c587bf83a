"""What going through a directory costs: upcalls and requests, which do not grow with the number of its files."""

import base64
import mmap
import os

import pytest

from harness.programs import names, sanitized, sh
from harness.stats import stats

FEW = 12  # for the way to the directory, and for reading the counters


def store(agent, prefix, n, value):
    for begin in range(0, n, 64):
        ops = [{"KV": {"Verb": "set", "Key": f"{prefix}/key{i:05}", "Value": base64.b64encode(value).decode()}}
               for i in range(begin, min(begin + 64, n))]
        agent.put("/v1/txn", ops)


def cost_of(mnt, command):
    before = stats(mnt)
    assert sh(command, cwd=mnt.path, timeout=60).stderr == ""
    after = stats(mnt)
    return {name: after[name] - before[name] for name in after if name.startswith(("upcalls.", "http.requests"))}


# A directory that is shown with all the store, and one that is too large for that.
SIZES = pytest.mark.parametrize("n, value", [(1000, b"value\n"), (1500, b"v" * 999 + b"\n")], ids=["small", "large"])

# By how many upcalls of each kind a file costs, when the kernel knows nothing of it yet.
COMMANDS = [
    ("ls -l kv/d", {}),
    ("find kv/d -type f -size +0", {}),
    ("du -a kv/d", {}),
    ("grep -r nothing-has-this kv/d || test $? = 1", {"open": 1, "release": 1}),
    ("cat kv/d/*", {"open": 1, "release": 1}),
    # tar looks at the time of the last access again, which a first read() from a mount that can be written to changes.
    ("tar cf - kv/d | cat", {"open": 1, "release": 1, "getattr": 1}),
]


@SIZES
@pytest.mark.parametrize("command, per_file", COMMANDS)
def test_a_listing_brings_what_is_in_it(mount, agent, command, per_file, n, value):
    store(agent, "d", n, value)
    mnt = mount(agent)
    spent = cost_of(mnt, command)
    assert spent.pop("http.requests") <= FEW
    assert spent.pop("upcalls.readdir") < n / 50
    spent.pop("upcalls.release")  # which nobody waits for
    # A slow binary may still be looking at what came when it is listed: of the first it has the kernel ask once more.
    if sanitized():
        assert spent.pop("upcalls.getattr", 0) <= per_file.get("getattr", 0) * n + FEW + n // 3
    for name, count in spent.items():
        assert count <= per_file.get(name.removeprefix("upcalls."), 0) * n + FEW, name
    assert cost_of(mnt, command)["http.requests"] <= FEW


@SIZES
@pytest.mark.parametrize("command", [command for command, _ in COMMANDS])
def test_and_read_only_only_the_bytes_are_asked_for(mount, agent, command, n, value):
    store(agent, "d", n, value)
    mnt = mount(agent, ro=True)
    spent = cost_of(mnt, command)
    assert spent.pop("http.requests") <= FEW
    assert spent.pop("upcalls.readdir") < n / 50
    assert spent.pop("upcalls.read") <= n + FEW
    assert max(spent.values()) <= FEW


# Pages: none, a part of one, one, more than one, as much as the first open brings, and more than that.
LENGTHS = [0, 1, 4095, 4096, 4097, 10000, 131072, 131073, 300000]


def test_the_first_open_brings_the_bytes(mount, agent):
    values = {f"k{n}": os.urandom(n) for n in LENGTHS}
    for key, value in values.items():
        agent.kv_set(key, value)
    mnt = mount(agent)
    names(mnt / "kv")
    for key, value in values.items():
        own = stats(mnt)
        before = stats(mnt)
        assert (mnt / "kv" / key).read_bytes() == value
        after = stats(mnt)
        filled = 0 < len(value) <= 131072
        assert after["kernel.files_filled"] - before["kernel.files_filled"] == filled, key
        reads = after["upcalls.read"] - before["upcalls.read"] - (before["upcalls.read"] - own["upcalls.read"])
        assert (reads == 0) if len(value) <= 131072 else (reads >= 1), key
        with open(mnt / "kv" / key, "rb") as file:
            assert mmap_of(file) == value


def mmap_of(file):
    length = os.fstat(file.fileno()).st_size
    if length == 0:
        return b""
    with mmap.mmap(file.fileno(), length, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapped:
        return mapped[:]


def test_reading_a_second_time_costs_nothing_read_only(mount, agent):
    store(agent, "d", 500, b"value\n")
    mnt = mount(agent, ro=True)
    cost_of(mnt, "tar cf - kv/d | cat")
    spent = cost_of(mnt, "grep -r nothing-has-this kv/d || test $? = 1")
    assert spent.pop("upcalls.readdir") <= FEW and max(spent.values()) <= FEW


def test_a_large_directory_costs_no_request_a_file(mount, agent, proxy):
    store(agent, "d", 1500, b"v" * 999 + b"\n")
    mnt = mount(proxy)
    assert len(names(mnt / "kv/d")) == 1500
    with proxy.record() as seen:
        sh("grep -r nothing-has-this kv/d || test $? = 1", cwd=mnt.path, timeout=60)
    assert len(seen) <= FEW


def test_what_no_file_can_have_is_asked_for_once(mount, agent):
    """ls takes "it has none" for an answer about the file, and "no such thing here" for one about the file system."""
    store(agent, "d", 200, b"value\n")
    mnt = mount(agent)
    assert cost_of(mnt, "ls -l kv/d")["upcalls.xattr"] <= FEW
    for name in ("security.selinux", "system.posix_acl_access"):
        with pytest.raises(OSError, match="not supported"):
            os.getxattr(mnt / "kv/d/key00000", name)
    with pytest.raises(OSError, match="No data"):
        os.getxattr(mnt / "kv/d/key00000", "user.absent")
