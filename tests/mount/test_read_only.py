"""
A mount with -o ro: the kernel opens its files without asking, so that what it has cached costs no upcall at all.
"""

import errno
import mmap
import os
import select
import stat
import subprocess
import threading

import pytest

from harness.programs import fails_with, names, opened, sh
from harness.stats import stats
from harness.wait import wait_equal, wait_until


@pytest.fixture
def mnt(mount, agent):
    return mount(agent, ro=True)


# What it costs


@pytest.mark.parametrize("options, opens", [({"ro": True}, 0), ({}, 1)])
def test_upcalls_of_opening_and_reading_what_is_watched(mount, agent, options, opens):
    """The mount that may be written to is the proof that the counters would show it."""
    agent.kv_set("d/a", b"value")
    mnt = mount(agent, **options)

    def once():
        with opened(mnt / "kv/d/a", os.O_RDONLY) as fd:
            assert os.read(fd, 99) == b"value" and os.read(fd, 99) == b""
        return os.stat(mnt / "kv/d/a").st_size

    def lookups_of(n):
        before = stats(mnt)["upcalls.lookup"]
        for _ in range(n):
            once()
        return stats(mnt)["upcalls.lookup"] - before

    wait_until(lambda: lookups_of(20) < 20, "it is watched")
    before = stats(mnt)
    for _ in range(500):
        once()
    after = stats(mnt)
    spent = {name: after[name] - before[name] for name in after if name.startswith("upcalls.")}
    if opens:
        assert spent.pop("upcalls.open") >= 500
        wait_until(lambda: stats(mnt)["upcalls.release"] >= before["upcalls.release"] + 500, "all are closed")
        del spent["upcalls.release"]
    else:
        assert after["upcalls.open"] == 1  # "no such call", once
        assert after["upcalls.flush"] <= 1 and after["upcalls.release"] == 0
    assert max(spent.values()) < 10  # reading the counters costs a few
    assert after["http.requests"] == before["http.requests"]


def test_reading_one_file_after_the_other_asks_for_few_of_them(mount, agent):
    """The kernel gets what comes next in the directory before it is asked for; but not what nobody is on his way to."""
    for n in range(1000):
        agent.kv_set(f"tree/{n % 10}/{n}", b"needle %d\n" % n)
    mnt = mount(agent, ro=True)
    for n in range(10):  # the first of a directory each: no scan
        assert f"{n}" in os.listdir(mnt / f"kv/tree/{n}")
        (mnt / f"kv/tree/{n}/{n}").read_bytes()
    assert stats(mnt)["kernel.files_filled"] == 0
    mnt = mount(agent, ro=True)
    before = stats(mnt)
    assert len(sh("grep -r needle kv/tree", cwd=mnt.path).stdout.splitlines()) == 1000
    after = stats(mnt)
    assert after["upcalls.read"] - before["upcalls.read"] < 500
    assert after["kernel.files_filled"] > 500


def test_what_is_read_ahead_is_what_there_is(mount, agent):
    """Also of files that change while they are read, that are too large, that are empty, and beside directories."""
    values = {f"d/{n:03}": b"%d" % n * (n % 7) for n in range(200)}
    values.update({"d/100": b"x" * 200_000, "d/101/below": b"below", "d/102": bytes(range(256)) * 20})
    for key, value in values.items():
        agent.kv_set(key, value)
    mnt = mount(agent, ro=True)
    for turn in range(5):
        values["d/150"] = b"turn %d" % turn
        agent.kv_set("d/150", values["d/150"])
        seen = {path: (mnt / path).read_bytes() for path in sh("find kv/d -type f", cwd=mnt.path).stdout.split()}
        now = {f"kv/{key}": value for key, value in values.items()}
        now["kv/d/101/%value"] = now.pop("kv/d/101")
        late = seen.pop("kv/d/150")
        assert seen == {path: value for path, value in now.items() if path != "kv/d/150"}
        assert late in (b"150" * (150 % 7), *(b"turn %d" % n for n in range(turn + 1)))
        wait_equal((mnt / "kv/d/150").read_bytes, values["d/150"])


# It is as true as any mount


def test_a_change_elsewhere_is_another_file(mnt, agent):
    agent.kv_set("d/a", b"0")
    for n in range(20):
        wait_equal((mnt / "kv/d/a").read_bytes, b"%d" % n)
        with opened(mnt / "kv/d/a", os.O_RDONLY) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            agent.kv_set("d/a", b"%d" % (n + 1))
            wait_equal((mnt / "kv/d/a").read_bytes, b"%d" % (n + 1))
            assert os.read(fd, 99) == b"%d" % n and mapped[:] == b"%d" % n
            assert os.fstat(fd).st_ino != os.stat(mnt / "kv/d/a").st_ino


def test_what_is_not_watched_is_asked_for_at_each_open(mount, agent):
    mnt = mount(agent, ro=True, watches=0)
    for n in range(50):
        agent.kv_set("d/a", b"%d" % n)
        assert (mnt / "kv/d/a").read_bytes() == b"%d" % n


def test_every_reader_gets_a_whole_value(mnt, agent):
    """Values of more than a page, whose pages the kernel reads when it likes."""
    values = [bytes([n]) * 50_000 for n in range(256)]
    agent.kv_set("d/a", values[0])
    stop, seen, wrong = threading.Event(), set(), []

    def read():
        while not stop.is_set():
            value = (mnt / "kv/d/a").read_bytes()
            seen.add(value[0])
            if len(set(value)) != 1 or len(value) != 50_000:
                wrong.append(value)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for n in range(200):
            agent.kv_set("d/a", values[n])
        wait_equal((mnt / "kv/d/a").read_bytes, values[199])
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not wrong and len(seen) > 1


def test_reading_past_the_page_cache(mnt, agent):
    agent.kv_set("d/a", b"value")
    with opened(mnt / "kv/d/a", os.O_RDONLY | os.O_DIRECT) as fd:
        assert os.pread(fd, 3, 1) == b"alu" and os.pread(fd, 99, 5) == b""
        os.fsync(fd)


def test_poll(mnt, agent):
    """Descriptors of one file are all one to the mount; each is woken all the same, and none for another file."""
    agent.kv_set("d/a", b"1")
    agent.kv_set("d/b", b"1")
    fds = [os.open(mnt / "kv/d/a", os.O_RDONLY) for _ in range(50)]
    woken = []

    def wait(fd):
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        woken.extend(poll.poll(20_000))

    with opened(mnt / "kv/d/b", os.O_RDONLY) as other:
        threads = [threading.Thread(target=wait, args=(fd,)) for fd in fds]
        for thread in threads:
            thread.start()
        wait_until(lambda: stats(mnt)["upcalls.poll"] >= 50, "all poll")
        assert not woken
        agent.kv_set("d/a", b"2")
        for thread in threads:
            thread.join()
        assert sorted(fd for fd, _ in woken) == sorted(fds)
        assert select.select([], [], [other], 0) == ([], [], [])
    for fd in fds:
        os.close(fd)


def test_a_descriptor_that_polls_again_and_again(mnt, agent):
    """Nobody knows that it is the same one, nor that others are closed."""
    agent.kv_set("d/a", b"1")
    for _ in range(2):
        with opened(mnt / "kv/d/a", os.O_RDONLY) as fd:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            for _ in range(700):
                assert poll.poll(1) == []
    with opened(mnt / "kv/d/a", os.O_RDONLY) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        agent.kv_set("d/a", b"2")
        assert poll.poll(20_000)


# What is in it


def tree(root):
    found = {}
    for at, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(at, name)
            found[os.path.relpath(path, root)] = path
    return found


def test_the_tree_lists_and_reads_the_same(mount, agent):
    agent.register("web", "web-1", Port=8000, Tags=["v1"])
    agent.kv_set("app/a", b"value")
    agent.put("/v1/session/create", {"Name": "deploy"})
    other, mnt = mount(agent), mount(agent, ro=True)
    wait_until(lambda: tree(other.path).keys() == tree(mnt.path).keys(), "both see the same")
    for name, path in tree(mnt.path).items():
        if not os.path.isdir(path):
            open(path, "rb").read()
            if not name.startswith("agent/") and "/fastest" not in name:  # figures of a moment
                # What the agent registered a moment ago may still be on its way to the catalog.
                wait_until(lambda at=path, n=name: open(at, "rb").read() == (other / n).read_bytes(), name)


LEFT_OUT = ["agent/log", "agent/log.debug", "operator/snapshot", "agent/join", "agent/leave", ".consulfs/drop-caches"]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_has_no_length_before_it_is_opened_is_left_out(mount, agent, name):
    assert (mount(agent) / name).exists()
    mnt = mount(agent, ro=True)
    for attempt in (os.stat, os.listxattr, lambda path: os.open(path, os.O_RDONLY)):
        with fails_with(errno.ENOENT):
            attempt(mnt / name)
    assert os.path.basename(name) not in names((mnt / name).parent)


@pytest.mark.parametrize("name", ["status", "errors", "stats", "stats.prom", "config", "version"])
def test_what_is_made_when_it_is_looked_up(mnt, name):
    path = mnt / ".consulfs" / name
    assert name in names(mnt / ".consulfs")
    with opened(path, os.O_RDONLY) as fd:
        assert os.fstat(fd).st_size == len(os.pread(fd, 1 << 20, 0))
    assert sh(f"cat {name} {name} > /dev/null && ls -l {name}", cwd=mnt / ".consulfs").stderr == ""


def test_the_counters_are_those_of_now(mnt, agent):
    """And who has them open keeps what he had."""
    agent.kv_set("a", b"1")
    with opened(mnt / ".consulfs/stats", os.O_RDONLY) as fd:
        for n in range(10):
            before = stats(mnt)["upcalls.statfs"]
            os.statvfs(mnt.path)
            assert stats(mnt)["upcalls.statfs"] == before + 1
        assert b"upcalls.statfs 0\n" in os.read(fd, 1 << 20)


def test_what_nobody_has_open_is_not_kept(mnt):
    for _ in range(20):
        stats(mnt)
    before = stats(mnt)["inodes.now"]
    for _ in range(200):
        stats(mnt)
    wait_until(lambda: stats(mnt)["inodes.now"] <= before + 10, "the kernel forgets what was made for one look")


# What Consul denies


def test_a_denied_file_is_no_empty_one(mount, acl_agent):
    token = acl_agent.new_token('node_prefix "" { policy = "read" }')
    mnt = mount(acl_agent, ro=True, env={"CONSUL_HTTP_TOKEN": token})
    assert "self.json" in names(mnt / "agent")
    assert stat.S_IMODE(os.stat(mnt / "agent/self.json").st_mode) == 0  # which keeps out all but root
    for read in (lambda fd: os.read(fd, 99), lambda fd: os.pread(fd, 1, 0)):
        with opened(mnt / "agent/self.json", os.O_RDONLY) as fd, fails_with(errno.EACCES):
            read(fd)
    for command in ("cat self.json", "cp self.json /dev/null", "grep x self.json", "dd if=self.json"):
        done = sh(command, cwd=mnt / "agent", check=False)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr and done.stdout == ""


# It stays so


def test_remounting_makes_it_no_other(mnt, agent):
    """The kernel does not ask for that. What would be written then has nowhere to go, and no program may think so."""
    agent.kv_set("d/a", b"value")
    subprocess.run(["mount", "-i", "-o", "remount,rw", mnt.path], check=True)

    def append():
        with opened(mnt / "kv/d/a", os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, b"x")

    for attempt in (
        lambda: (mnt / "kv/d/a").write_bytes(b"x"),
        lambda: os.truncate(mnt / "kv/d/a", 0),
        lambda: (mnt / "kv/d/new").write_bytes(b"x"),
        lambda: os.unlink(mnt / "kv/d/a"),
        lambda: os.mkdir(mnt / "kv/e"),
        lambda: os.rmdir(mnt / "kv/d"),
        lambda: os.rename(mnt / "kv/d/a", mnt / "kv/d/b"),
        lambda: os.setxattr(mnt / "kv/d/a", "user.consul.flags", b"1"),
        lambda: os.removexattr(mnt / "kv/d/a", "user.consul.flags"),
        lambda: os.mknod(mnt / "kv/d/node"),
        append,
    ):
        with fails_with(errno.EROFS):
            attempt()
    assert agent.kv_get("d/a") == b"value" and agent.kv_keys() == ["d/a"]
