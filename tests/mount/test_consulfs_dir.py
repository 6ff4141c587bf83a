""".consulfs/: the mount itself."""

import errno
import os
import re
import subprocess

from harness.mount import BINARY
from harness.programs import fails_with, sh
from harness.wait import wait_until

FILES = {"status", "errors", "stats", "config", "version", "drop-caches"}


def test_top_level(mnt):
    names = os.listdir(mnt.path)
    assert {"kv", "services", "nodes", "checks", "status"} <= set(names)
    assert ".consulfs" not in names
    assert FILES <= set(os.listdir(mnt / ".consulfs"))


def test_top_level_cannot_be_changed(mnt):
    for attempt in (
        lambda: os.mkdir(mnt / "new"),
        lambda: (mnt / "new").write_text("x"),
        lambda: os.rmdir(mnt / "kv"),
        lambda: os.rename(mnt / "kv", mnt / "keys"),
        lambda: os.unlink(mnt / ".consulfs/errors"),
        lambda: (mnt / ".consulfs/stats").write_text("0"),
    ):
        with fails_with(errno.EPERM, errno.EACCES, errno.ENOTEMPTY, errno.EBUSY):
            attempt()


def test_every_listed_name_is_there(mnt):
    """Lookup and listing come from the same table."""
    assert subprocess.run(["find", ".", "-ls"], cwd=mnt.path, stdout=subprocess.DEVNULL).returncode == 0


def test_version(mnt):
    version = (mnt / ".consulfs/version").read_text().strip()
    assert version in subprocess.run([BINARY, "-V"], capture_output=True, text=True).stdout


def test_status(mnt, agent):
    text = (mnt / ".consulfs/status").read_text()
    assert agent.http in text
    assert agent.get("/v1/status/leader").json() in text
    assert "connected" in text and "disconnected" not in text


def stats(mnt):
    lines = (mnt / ".consulfs/stats").read_text().splitlines()
    assert lines and all(re.fullmatch(r"[a-z][a-z0-9_.]* \d+", line) for line in lines)
    return {name: int(value) for name, value in (line.split() for line in lines)}


def test_stats(mnt, agent):
    before = stats(mnt)
    agent.kv_set("a", b"value")
    assert (mnt / "kv/a").read_bytes() == b"value"
    after = stats(mnt)
    assert before.keys() == after.keys()
    assert sum(after.values()) > sum(before.values())


def test_config(mount, agent):
    mnt = mount(agent, timeout=7, watches=12, env={"CONSUL_HTTP_TOKEN": "5ec7e7", "CONSUL_HTTP_AUTH": "user:pa55"})
    text = (mnt / ".consulfs/config").read_text()
    assert re.search(r"\btimeout\W+7\b", text) and re.search(r"\bwatches\W+12\b", text)
    assert "5ec7e7" not in text and "pa55" not in text


def refuse(mnt, name):
    with fails_with(errno.EINVAL):
        (mnt / f"services/{name}.json").write_text('{"Bogus": 1}')


def test_errors(mnt):
    assert (mnt / ".consulfs/errors").read_text() == ""
    refuse(mnt, "web")
    text = (mnt / ".consulfs/errors").read_text()
    assert text.count("\n") == 1
    assert "/v1/agent/service/register" in text and "400" in text and 'unknown field "Bogus"' in text


def test_errors_keeps_the_last_hundred(mnt):
    for n in range(105):
        refuse(mnt, f"web-{n}")
    lines = (mnt / ".consulfs/errors").read_text().splitlines()
    assert len(lines) == 100


def test_drop_caches(mount, agent, proxy):
    agent.kv_set("a", b"value")
    mnt = mount(proxy)

    def read_without_a_request():
        with proxy.record() as seen:
            assert (mnt / "kv/a").read_bytes() == b"value"
        return not seen

    wait_until(read_without_a_request, "it is watched")
    (mnt / ".consulfs/drop-caches").write_text("1\n")
    with proxy.record() as seen:
        assert (mnt / "kv/a").read_bytes() == b"value"
    assert seen.matching(path="/v1/kv/*")
    with fails_with(errno.EINVAL):
        (mnt / ".consulfs/drop-caches").write_text("x\n")


def test_drop_caches_leaves_nothing_that_nobody_uses(mount, agent):
    for n in range(100):
        agent.kv_set(f"many/{n}", b"v")
    mnt = mount(agent, watches=0)
    sh("ls -l kv/many", cwd=mnt.path)
    with open(mnt / "kv/many/7", "rb") as held:
        assert stats(mnt)["inodes.now"] > 100
        (mnt / ".consulfs/drop-caches").write_text("1\n")
        wait_until(lambda: stats(mnt)["inodes.now"] < 20, "the kernel forgot the others")
        assert held.read() == b"v"
    assert (mnt / "kv/many/8").read_bytes() == b"v"
