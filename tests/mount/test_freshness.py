"""What changes in Consul is seen at once, and when nothing changes nothing is asked."""

import contextlib
import concurrent.futures
import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness.programs import fails_with, opened, sh
from harness.proxy import Drop, Stall, Withhold
from harness.stats import stat_of
from harness.wait import wait_equal, wait_until


def wait_watched(proxy, read):
    """Reads until that takes no request any more: from then on a change must be told to the mount."""

    def silent():
        with proxy.record() as seen:
            read()
        return not seen.not_blocking

    wait_until(silent, "reads are answered from memory")


def seen_after(change, read):
    """How many seconds after the change was done a read shows it."""
    before = read()
    change()
    began = time.monotonic()
    wait_until(lambda: read() != before, "the change is seen")
    return time.monotonic() - began


def nearly_all(times, limit):
    """The machine may be busy for a moment; a mechanism that polls would be late again and again."""
    times.sort()
    assert times[-3] < limit, f"seconds: {', '.join(f'{t:.3f}' for t in times)}"


# Changes are seen


def test_value_changes(mount, agent, proxy):
    agent.kv_set("d/a", b"0")
    mnt = mount(proxy)
    wait_watched(proxy, (mnt / "kv/d/a").read_bytes)
    times = []
    for n in range(1, 21):
        times.append(seen_after(lambda n=n: agent.kv_set("d/a", b"%d" % n), (mnt / "kv/d/a").read_bytes))
    nearly_all(times, 0.1)


def test_size_changes(mount, agent, proxy):
    agent.kv_set("a", b"")
    mnt = mount(proxy)

    def size():
        return os.stat(mnt / "kv/a").st_size

    wait_watched(proxy, size)
    nearly_all([seen_after(lambda n=n: agent.kv_set("a", b"x" * n), size) for n in range(1, 11)], 0.1)


def test_names_change(mount, agent, proxy):
    agent.kv_set("d/a", b"")
    mnt = mount(proxy)

    def names():
        return sorted(os.listdir(mnt / "kv/d"))

    wait_watched(proxy, names)
    times = []
    for n in range(5):
        times.append(seen_after(lambda n=n: agent.kv_set(f"d/b{n}", b""), names))
        times.append(seen_after(lambda n=n: agent.client.kv.delete(f"d/b{n}"), names))
    nearly_all(times, 0.1)


def test_what_a_listing_no_longer_shows_is_not_found(mnt, agent):
    """The kernel forgets a name a moment after the listing: whoever lists is kept waiting so long."""
    found = 0
    agent.kv_set("d/stays", b"")
    for _ in range(100):
        agent.kv_set("d/file", b"x")
        agent.kv_set("d/dir/file", b"x")
        wait_until(lambda: {"file", "dir"} <= set(os.listdir(mnt / "kv/d")), "both are listed")
        for key, name in (("d/dir/file", "dir"), ("d/file", "file")):
            assert (mnt / "kv/d" / name).exists()
            agent.delete(f"/v1/kv/{key}")
            while name in os.listdir(mnt / "kv/d"):  # as fast as can be: 1 of 13 was found before
                pass
            found += (mnt / "kv/d" / name).exists()
    assert found <= 3


@pytest.mark.parametrize("value", [None, b"newer"])
def test_what_an_unwatched_listing_shows_otherwise_is_told(mount, agent, value):
    """Its names are trusted for a moment, but not against a listing that is newer."""
    agent.kv_set("d/a", b"old")
    agent.kv_set("d/b", b"stays")
    mnt = mount(agent, watches=0)
    directory = mnt / "kv/d"

    def seen():
        return {entry.name: entry.stat().st_size for entry in os.scandir(directory)}

    assert seen() == {"a": 3, "b": 5}
    told = stat_of(mnt, "kernel.notified")
    agent.kv_set("d/a", value) if value else agent.delete("/v1/kv/d/a")
    os.listdir(directory)
    wait_until(lambda: stat_of(mnt, "kernel.notified") > told, "the kernel is told")
    if value:
        assert (directory / "a").read_bytes() == value
    else:
        with fails_with(errno.ENOENT):
            (directory / "a").stat()


def test_written_to_what_has_become_the_value_of_a_directory(mount, agent):
    """The descriptor's file is a/%value by now, and nothing tells the mount of what it writes there itself."""
    agent.kv_set("a", b"old")
    mnt = mount(agent, watches=0)
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        agent.kv_set("a/k", b"x")
        wait_until(lambda: [entry.stat().st_size for entry in os.scandir(mnt / "kv/a")] == [3, 1], "a is a directory")
        os.pwrite(fd, b"newer", 0)
        assert (mnt / "kv/a/%value").read_bytes() == b"newer"


def test_renamed_while_its_old_name_is_let_go(mount, agent, proxy):
    """What watched that ends with the last key, and the kernel takes no word of a name while it renames it."""
    agent.kv_set("one", b"value")
    mnt = mount(proxy)
    wait_watched(proxy, (mnt / "kv/one").read_bytes)
    ended = stat_of(mnt, "watches.ended")
    with proxy.fault(Withhold(), path="/v1/txn", method="PUT"):
        thread = threading.Thread(target=lambda: os.rename(mnt / "kv/one", mnt / "kv/two"))
        thread.start()
        wait_until(lambda: stat_of(mnt, "watches.ended") > ended, "the rename is known before its answer has come")
    thread.join()
    with opened(mnt / "kv/two", os.O_PATH):  # the kernel does not drop the name either
        assert (mnt / "kv/two").stat().st_size == len(b"value")
        agent.kv_set("two", b"another value")
        wait_equal(lambda: (mnt / "kv/two").stat().st_size, len(b"another value"))


def test_absent_name_appears(mount, agent, proxy):
    """Absence is cached too, and must end."""
    agent.kv_set("d/a", b"")
    mnt = mount(proxy)

    def there():
        return os.path.exists(mnt / "kv/d/new")

    os.listdir(mnt / "kv/d")
    wait_watched(proxy, there)
    times = []
    for _ in range(5):
        times.append(seen_after(lambda: agent.kv_set("d/new", b""), there))
        times.append(seen_after(lambda: agent.client.kv.delete("d/new"), there))
    nearly_all(times, 0.1)


def test_health_changes(mount, agent, proxy):
    agent.register("web", Port=1)
    mnt = mount(proxy)
    passing = (mnt / "services/web/passing").read_text
    wait_watched(proxy, passing)
    times = []
    for status in ("critical", "passing") * 5:
        times.append(seen_after(lambda s=status: agent.set_status("web", "web", s), passing))
    nearly_all(times, 0.1)


def test_services_come_and_go(mount, agent, proxy):
    mnt = mount(proxy)

    def names():
        return sorted(os.listdir(mnt / "services"))

    wait_watched(proxy, names)
    times = []
    for n in range(5):
        times.append(seen_after(lambda n=n: agent.register(f"web-{n}"), names))
    nearly_all(times, 0.1)


def test_written_through_another_mount(mount, agent):
    one, other = mount(agent), mount(agent)
    for n in range(20):
        (one / "kv/a").write_bytes(b"%d" % n)
        wait_equal(lambda n=n: (other / "kv/a").read_bytes(), b"%d" % n, timeout=1)


def test_own_writes_are_read_back_at_once(mnt, agent):
    for n in range(200):
        (mnt / "kv/a").write_bytes(b"%d" % n)
        assert (mnt / "kv/a").read_bytes() == b"%d" % n
        assert os.stat(mnt / "kv/a").st_size == len(str(n))
    os.unlink(mnt / "kv/a")
    assert not os.path.exists(mnt / "kv/a")


def test_own_writes_never_go_back(mnt):
    """An answer to a watch that was under way must not undo what has been written since."""
    for n in range(100):
        name = mnt / f"kv/d/{n % 3}"
        if n < 3:
            os.makedirs(mnt / "kv/d", exist_ok=True)
        name.write_bytes(b"%d" % n)
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            assert name.read_bytes() == b"%d" % n


# An open descriptor keeps the version that it opened


def test_open_descriptor_keeps_the_whole_old_value(mount, agent, proxy):
    old, new = b"old!" * 25_000, b"the new one"
    agent.kv_set("a", old)
    mnt = mount(proxy)
    wait_watched(proxy, (mnt / "kv/a").read_bytes)
    with opened(mnt / "kv/a", os.O_RDONLY) as fd:
        start = os.read(fd, 10)
        agent.kv_set("a", new)
        wait_equal((mnt / "kv/a").read_bytes, new)
        assert start + os.read(fd, 1 << 20) == old
        assert os.fstat(fd).st_size == len(old)
        assert os.pread(fd, 4, 99_996) == b"old!"


def test_open_descriptor_of_a_removed_key(mnt, agent):
    agent.kv_set("a", b"value")
    with opened(mnt / "kv/a", os.O_RDONLY) as fd:
        agent.client.kv.delete("a")
        wait_equal(lambda: os.path.exists(mnt / "kv/a"), False)
        assert os.read(fd, 100) == b"value"


def test_the_value_of_a_directory_without_a_name(mnt, agent):
    agent.kv_set("a/", b"old")
    agent.kv_set("a//b", b"")
    value = mnt / "kv/a/%empty/%value"
    wait_equal(lambda: value.exists() and value.read_bytes(), b"old")
    agent.kv_set("a/", b"new")
    wait_equal(value.read_bytes, b"new")
    agent.client.kv.delete("a/")
    wait_equal(value.exists, False)


def test_open_view_keeps_its_version(mnt, agent):
    agent.register("web", Port=1, Address="10.0.0.1")
    with opened(mnt / "services/web/all", os.O_RDONLY) as fd:
        agent.register("web", Port=22222, Address="10.0.0.2")
        wait_equal((mnt / "services/web/all").read_text, "10.0.0.2:22222\n")
        assert os.read(fd, 100) == b"10.0.0.1:1\n"


def test_a_new_version_is_a_new_inode(mnt, agent):
    """By which tail -F, and whoever maps the file, know that it was replaced."""
    agent.kv_set("a", b"old")
    before = os.stat(mnt / "kv/a").st_ino
    assert os.stat(mnt / "kv/a").st_ino == before
    agent.kv_set("a", b"new")
    wait_equal((mnt / "kv/a").read_bytes, b"new")
    assert os.stat(mnt / "kv/a").st_ino != before


def test_inotify_tells_of_a_remote_change(mount, agent, proxy):
    agent.kv_set("a", b"old")
    mnt = mount(proxy)
    wait_watched(proxy, (mnt / "kv/a").read_bytes)
    command = ["inotifywait", "-e", "delete_self", "-t", "5", mnt / "kv/a"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as watcher:
        for line in watcher.stderr:
            if "established" in line:
                break
        agent.kv_set("a", b"new")
        assert watcher.wait() == 0


# Nothing changes, nothing is asked


@pytest.mark.parametrize("loss", ["drop-caches", "break"])
def test_who_works_in_a_directory_keeps_it(mount, agent, proxy, loss):
    """When nothing is known for certain any more, the kernel is to ask again, but not to forget where somebody is."""
    agent.kv_set("d/e/a", b"1")
    mnt = mount(proxy)
    os.listdir(mnt / "kv")  # which the mount would do by itself, in order to know whether somebody is in it
    wait_watched(proxy, lambda: (mnt / "kv/d/e/a").read_bytes())
    before, here = os.getcwd(), os.fspath(mnt / "kv/d/e")

    def notified():
        return stat_of(mnt, "kernel.notified")

    os.chdir(here)
    try:
        count = notified()
        with contextlib.ExitStack() as stack:
            if loss == "break":
                stack.enter_context(proxy.fault(Drop()))
                proxy.cut()
                mnt.expect_log()
            else:
                (mnt / ".consulfs/drop-caches").write_text("1\n")
            wait_until(lambda: notified() >= count + 3, "the kernel is told of d, e and a")
            assert os.getcwd() == here
        wait_equal(lambda: Path("a").read_bytes(), b"1")
        assert os.getcwd() == here
    finally:
        os.chdir(before)


def test_idle_mount_sends_nothing_but_blocking_queries(mount, agent, proxy):
    agent.kv_set("app/a", b"value")
    agent.kv_set("app/d/b", b"value")
    agent.register("web", Port=1)
    mnt = mount(proxy)
    script = (
        "cat kv/app/a kv/app/d/b services/web/passing services/web.json nodes/n1/address "
        "&& stat kv/app/a services/web && ls -l kv kv/app services services/web nodes checks/passing"
    )

    def use():
        sh(script, cwd=mnt.path)
        assert not os.path.exists(mnt / "kv/app/absent")

    wait_watched(proxy, use)
    rounds = 0
    with proxy.record() as seen:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            use()
            rounds += 1
    assert seen.not_blocking == []
    assert len(seen) < 20, "blocking queries wait for minutes"
    assert rounds > 50


def test_mount_that_nobody_uses_sends_nothing(mount, agent, proxy):
    mount(proxy)
    with proxy.record() as seen:
        time.sleep(2)
    assert seen.not_blocking == []


# Identical requests under way are one


def test_identical_requests_are_one(mount, agent, proxy):
    agent.register("web", Port=1)
    mnt = mount(proxy)
    # Different files, which are views of the same answer; the kernel itself makes one lookup of one name.
    names = ["passing", "warning", "critical", "all", "tags", "web.json"]
    os.listdir(mnt / "services")
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool, proxy.record() as seen:
        with proxy.fault(Stall(), path="/v1/health/service/web", blocking=False) as fault:
            reads = [pool.submit((mnt / "services/web" / name).read_text) for name in names]
            wait_until(lambda: fault.hits, "the request is under way")
            assert not any(read.done() for read in reads)
        assert all(read.result() is not None for read in reads)
    assert len(seen.matching(path="/v1/health/service/web", blocking=False)) == 1


def test_absent_key_is_asked_for_once(mount, agent, proxy):
    agent.kv_set("d/a", b"")
    mnt = mount(proxy)
    os.listdir(mnt / "kv/d")

    def miss():
        for _ in range(10):
            with fails_with(errno.ENOENT):
                os.stat(mnt / "kv/d/absent")

    wait_watched(proxy, miss)


def test_refused_write_does_not_end_the_watch_of_a_large_store(mnt, agent):
    """A large answer is not fetched again at once; what happens in that pause must not make it last for ever."""
    for n in range(2):
        agent.kv_set(f"big/{n}", b"x" * 300_000)
    agent.kv_set("key", b"0")
    for n in range(8):
        fd = os.open(mnt / "kv/key", os.O_RDWR)
        try:
            os.read(fd, 10)
            agent.kv_set("key", b"theirs")
            time.sleep(n * 0.004)
            with contextlib.suppress(OSError):
                os.pwrite(fd, b"ours", 0)
            with contextlib.suppress(OSError):
                (mnt / "kv/key").read_bytes()
        finally:
            os.close(fd)
        agent.kv_set("key", b"%d" % n)
        wait_equal((mnt / "kv/key").read_bytes, b"%d" % n)


# A lock file (O_EXCL) excludes: who has it reads what its former owner wrote, though no watch has told of it


COUNT_UNDER_A_LOCK_FILE = """
import os, sys
mnt, turns = sys.argv[1], int(sys.argv[2])
for _ in range(turns):
    while True:
        try:
            os.close(os.open(f"{mnt}/kv/lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            pass
    with open(f"{mnt}/kv/count") as file:
        n = int(file.read())
    with open(f"{mnt}/kv/count", "w") as file:
        file.write(f"{n + 1}\\n")
    os.unlink(f"{mnt}/kv/lock")
"""


def test_lock_file(mount, agent):
    agent.kv_set("count", b"0\n")
    mounts = [mount(agent), mount(agent)]
    command = ["/usr/bin/python3", "-c", COUNT_UNDER_A_LOCK_FILE]
    counting = [subprocess.Popen([*command, str(mnt.path), "100"]) for mnt in mounts for _ in range(2)]
    for process in counting:
        assert process.wait(timeout=60) == 0
    assert agent.kv_get("count") == b"400\n"


def test_exclusive_creation_costs_no_request_more(mount, agent, proxy):
    agent.kv_set("d/a", b"1")
    mnt = mount(proxy)
    wait_watched(proxy, (mnt / "kv/d/a").read_bytes)
    with proxy.record() as seen:
        for n in range(20):
            os.close(os.open(mnt / f"kv/d/{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            assert (mnt / "kv/d/a").read_bytes() == b"1"
    assert len(seen.not_blocking) == 20, seen.not_blocking


def test_what_is_open_can_be_opened_again(mount, agent):
    """
    By its descriptor; it is the old value then. Whether the change was told first, or found by who looked the name up.
    """
    mnt = mount(agent)
    for n in range(30):
        path = mnt / f"kv/d/{n}"
        agent.kv_set(f"d/{n}", b"1")
        wait_equal(path.read_bytes, b"1")
        with opened(path, os.O_RDONLY) as fd:
            agent.kv_set(f"d/{n}", b"2")
            wait_equal(path.read_bytes, b"2")
            for _ in range(3):
                with open(f"/proc/self/fd/{fd}", "rb") as again:
                    assert again.read() == b"1"


def test_opening_what_changes_all_the_time_never_fails(mnt, agent):
    """A reader that is sent to look again finds a version that may be the last but one by the time that it opens it."""
    agent.kv_set("hot", b"0")
    (mnt / "kv/hot").read_bytes()
    stop, failures = threading.Event(), []

    def read():
        last = 0
        while not stop.is_set():
            try:
                now = int((mnt / "kv/hot").read_bytes())
            except OSError as failure:
                failures.append(failure)
                return
            if now < last:
                failures.append(f"{now} after {last}")
            last = now

    def write():
        for n in range(1, 400):
            agent.kv_set("hot", b"%d" % n)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    try:
        write()
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not failures
