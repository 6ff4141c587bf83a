"""What POSIX says of kv/: what it calls atomic is so for every host, and a program cannot tell that it is not a disk."""

import concurrent.futures
import contextlib
import ctypes
import errno
import mmap
import os
import subprocess
import sys
import threading

import pytest

from harness.programs import fails_with, names, opened, sanitized, sh
from harness.proxy import Stall
from harness.wait import wait_equal, wait_until

NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
LIMIT = 512 * 1024
LARGE = 500_000  # more than a transaction takes

libc = ctypes.CDLL(None, use_errno=True)


def called(result):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def rename(old, new, flags):
    called(libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def allocate(fd, mode, offset, length):
    called(libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def together(*jobs):
    """Runs them at the same time; the first failure is raised."""
    start = threading.Barrier(len(jobs))

    def run(job):
        start.wait()
        return job()

    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]


# One winner


def test_one_of_many_creators_wins(pair):
    mounts, agent = pair[:2], pair[2]
    for key in range(5):

        def create(number):
            try:
                fd = os.open(mounts[number % 2] / f"kv/lock-{key}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                return None
            os.write(fd, b"%d" % number)
            os.close(fd)
            return number

        won = [n for n in together(*(lambda n=n: create(n) for n in range(8))) if n is not None]
        assert len(won) == 1
        assert agent.kv_get(f"lock-{key}") == b"%d" % won[0]


def test_one_of_many_mkdirs_wins(pair):
    mounts = pair[:2]

    def make(number):
        with contextlib.suppress(FileExistsError):
            os.mkdir(mounts[number % 2] / "kv/dir")
            return 1
        return 0

    assert sum(together(*(lambda n=n: make(n) for n in range(8)))) == 1


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_noclobber(pair, shell):
    scripts = [(mnt, f"set -o noclobber; echo {n} > kv/lock") for n, mnt in enumerate(pair[:2] * 2)]
    done = together(*(lambda m=m, s=s: sh(s, shell=shell, check=False, cwd=m.path) for m, s in scripts))
    assert sorted(d.returncode == 0 for d in done) == [False, False, False, True]
    winner = next(n for n, d in enumerate(done) if d.returncode == 0)
    assert pair[2].kv_get("lock") == b"%d\n" % winner


@pytest.mark.parametrize("size", [5, LARGE])
def test_one_of_many_renames_of_a_file_wins(pair, size):
    """Each is told the truth, and what was renamed is there once; what could not be replaced is as it was."""
    first, second, agent = pair
    for turn in range(3):
        (first / "kv/a").write_bytes(b"x" * size)
        targets = [(mnt, f"to-{turn}-{n}") for n, mnt in enumerate((first, second) * 2)]
        agent.kv_set(targets[0][1], b"there")
        agent.kv_set(targets[1][1], b"there")
        wait_equal(lambda: (second / "kv/a").stat().st_size, size)

        def move(mnt, name):
            try:
                os.rename(mnt / "kv/a", mnt / "kv" / name)
                return name
            except FileNotFoundError:
                return None

        won = [n for n in together(*(lambda m=m, t=t: move(m, t) for m, t in targets)) if n]
        assert len(won) == 1
        left = {key: agent.kv_get(key) for key in agent.kv_keys() if key.startswith(f"to-{turn}-") or key == "a"}
        assert left == {targets[0][1]: b"there", targets[1][1]: b"there", won[0]: b"x" * size}


def test_a_key_that_is_removed_while_its_directory_moves(mount, agent, proxy):
    """It does not come back."""
    mnt = mount(proxy)
    agent.kv_set("d/a", b"value")
    agent.kv_set("d/b", b"value")
    assert names(mnt / "kv/d") == ["a", "b"]
    with proxy.fault(Stall(), path="/v1/txn", method="PUT") as fault:
        thread = threading.Thread(target=lambda: os.rename(mnt / "kv/d", mnt / "kv/e"))
        thread.start()
        wait_until(lambda: fault.hits, "the transaction is on its way")
        agent.client.kv.delete("d/a")
    thread.join()
    assert agent.kv_keys() == ["e/b"]


def test_what_replaces_a_large_value_at_once_is_not_taken_for_it(mount, agent, proxy):
    mnt = mount(proxy, watches=0)
    agent.kv_set("a", b"old")
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        os.write(fd, b"x" * 512 * 900)
        with proxy.fault(Stall(), path="/v1/kv/a", method="GET") as fault:
            thread = threading.Thread(target=os.fsync, args=(fd,))
            thread.start()
            wait_until(lambda: fault.hits, "it asks for the ModifyIndex")
            agent.kv_set("a", b"theirs")
        thread.join()
        os.pwrite(fd, b"y" * 512, 0)
        with fails_with(errno.ESTALE):
            os.fsync(fd)
    assert agent.kv_get("a") == b"theirs"


# Appending

APPENDER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for line in range(int(sys.argv[3])):
    text = b"%s %d\\n" % (sys.argv[2].encode(), line)
    assert os.write(fd, text) == len(text)
os.close(fd)
"""


def test_eight_appenders(pair):
    lines = 25 if sanitized() else 100
    print(f"{lines} lines each")
    log = [pair[n % 2] / "kv/log" for n in range(8)]
    processes = [
        subprocess.Popen([sys.executable, "-c", APPENDER, path, str(n), str(lines)]) for n, path in enumerate(log)
    ]
    assert [process.wait() for process in processes] == [0] * 8
    got = pair[2].kv_get("log").decode().splitlines()
    assert sorted(got) == sorted(f"{n} {line}" for n in range(8) for line in range(lines))
    for n in range(8):  # and each one's are in order
        assert [line for line in got if line.startswith(f"{n} ")] == [f"{n} {line}" for line in range(lines)]


def test_appending_to_what_does_not_fit_a_transaction(pair):
    first, second, agent = pair
    (first / "kv/log").write_bytes(b"x" * LARGE)
    wait_equal(lambda: (second / "kv/log").stat().st_size, LARGE)

    def append(mnt, text):
        for _ in range(5):
            with opened(mnt / "kv/log", os.O_WRONLY | os.O_APPEND) as fd:
                os.write(fd, text)

    together(lambda: append(first, b"a"), lambda: append(second, b"b"))
    got = agent.kv_get("log")
    assert got[:LARGE] == b"x" * LARGE and sorted(got[LARGE:]) == sorted(b"aaaaabbbbb")


def test_appending_after_truncating_on_open(mnt, agent):
    """Once what was there is replaced, such a descriptor is one of those that append."""
    with opened(mnt / "kv/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND) as fd:
        os.write(fd, b"one\n")
        sh("echo two >> kv/log", cwd=mnt.path)
        os.write(fd, b"three\n")
    assert agent.kv_get("log") == b"one\ntwo\nthree\n"


# Whole values


@pytest.mark.limit(180)
def test_ten_readers_never_see_a_part_or_a_mix(pair):
    writer, reader, _ = pair
    turns = 8 if sanitized() else 40
    print(f"{turns} values")
    (writer / "kv/a").write_bytes(b"0" * LARGE)
    wait_equal(lambda: (reader / "kv/a").stat().st_size, LARGE)
    done = threading.Event()

    def read():
        seen = set()
        while not done.is_set():
            value = (reader / "kv/a").read_bytes()
            assert len(value) == LARGE and value == value[:1] * LARGE
            seen.add(value[:1])
        return seen

    def write():
        try:
            for turn in range(turns):
                with opened(writer / "kv/a", os.O_WRONLY | os.O_TRUNC) as fd:
                    for size in (102_400, 102_400, LARGE - 204_800):
                        os.write(fd, b"%d" % (turn % 10) * size)
        finally:
            done.set()

    _, *seen = together(write, *[read] * 10)
    assert len(set.union(*seen)) > 1


def test_a_child_that_ends_does_not_store_a_part(mnt, agent):
    with opened(mnt / "kv/a", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, b"x" * 512)
        os.set_inheritable(fd, True)
        subprocess.run(["true"], close_fds=False, check=True)
        assert agent.kv_get("a") is None
        os.write(fd, b"y" * 512)
    assert agent.kv_get("a") == b"x" * 512 + b"y" * 512


def test_a_child_that_wrote_has_done_so_when_it_has_ended(mnt, agent):
    with opened(mnt / "kv/a", os.O_WRONLY | os.O_CREAT) as fd:
        subprocess.run(["head", "-c", "1024", "/dev/zero"], stdout=fd, check=True)
        assert (mnt / "kv/a").read_bytes() == agent.kv_get("a") == bytes(1024)


# Read-modify-write


def test_two_descriptors_of_one_process(mnt, agent):
    agent.kv_set("a", b"0123456789")
    with opened(mnt / "kv/a", os.O_RDWR) as one, opened(mnt / "kv/a", os.O_RDWR) as two:
        os.pwrite(one, b"A", 0)
        assert os.pread(two, 10, 0) == b"A123456789"
        os.pwrite(two, b"B", 1)
        os.fsync(two)
        os.pwrite(one, b"C", 2)
    assert agent.kv_get("a") == b"ABC3456789"


def test_truncate_by_name_has_no_conflict(pair):
    """It has read nothing, so that it is never too late."""
    first, second, agent = pair
    agent.kv_set("a", b"")
    wait_equal(lambda: (first / "kv/a").exists() and (second / "kv/a").exists(), True)

    def cut(mnt, size):
        for _ in range(10):
            os.truncate(mnt / "kv/a", size)

    together(lambda: cut(first, 3), lambda: cut(second, 5))
    assert agent.kv_get("a") in (b"\0" * 3, b"\0" * 5)


def test_a_thread_sees_what_another_one_writes(mnt):
    with opened(mnt / "kv/a", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"x" * 512)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(os.fstat, fd).result().st_size == 512
            assert pool.submit(os.stat, mnt / "kv/a").result().st_size == 512
            assert pool.submit(os.lseek, fd, 0, os.SEEK_END).result() == 512


def test_a_descriptor_that_was_inherited(mnt, agent):
    """Each writes behind what the others have written."""
    sh("(echo one; sh -c 'echo two'; stat -L -c %s /dev/fd/1) > kv/a", cwd=mnt.path)
    assert agent.kv_get("a") == b"one\ntwo\n8\n"


# Open files whose names change


def test_writing_after_a_rename(mnt, agent):
    agent.kv_set("a", b"value")
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        os.rename(mnt / "kv/a", mnt / "kv/b")
        os.pwrite(fd, b"V", 0)
    assert agent.kv_keys() == ["b"] and agent.kv_get("b") == b"Value"


def test_writing_after_a_rename_of_the_directory(mnt, agent):
    for key in ("d/a", "d/e/b", "d/e"):
        agent.kv_set(key, b"value")
    with contextlib.ExitStack() as stack:
        fds = [stack.enter_context(opened(mnt / "kv/d" / n, os.O_RDWR)) for n in ("a", "e/b", "e/%value")]
        os.rename(mnt / "kv/d", mnt / "kv/new")
        for fd in fds:
            os.pwrite(fd, b"V", 0)
    assert {key: agent.kv_get(key) for key in agent.kv_keys()} == dict.fromkeys(["new/a", "new/e", "new/e/b"], b"Value")


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND])
@pytest.mark.parametrize("how", ["unlink", "rename over"])
def test_a_file_without_a_name(mnt, agent, flags, how):
    """Reading and writing go on; nothing of it comes back to Consul."""
    agent.kv_set("a", b"old")
    agent.kv_set("other", b"new")
    with opened(mnt / "kv/a", flags) as fd:
        if how == "unlink":
            os.unlink(mnt / "kv/a")
        else:
            os.rename(mnt / "kv/other", mnt / "kv/a")
        os.write(fd, b"written\n")
        if flags == os.O_RDWR:
            assert os.pread(fd, 100, 0) == b"written\n"
        assert os.fstat(fd).st_nlink == 0
        os.fsync(fd)
    assert agent.kv_get("a") == (None if how == "unlink" else b"new")


def test_unlinked_elsewhere(pair):
    first, second, agent = pair
    agent.kv_set("a", b"value")
    wait_equal(lambda: (first / "kv/a").exists() and (second / "kv/a").exists(), True)
    with opened(first / "kv/a", os.O_RDONLY) as reader, fails_with(errno.ESTALE), opened(first / "kv/a", os.O_RDWR) as fd:
        os.unlink(second / "kv/a")
        assert os.read(reader, 100) == b"value"
        os.pwrite(fd, b"V", 0)
    assert agent.kv_keys() == []


# rename


def test_rename_keeps_what_it_must(mnt, agent):
    agent.put("/v1/kv/a", b"value", flags=7)
    number = os.stat(mnt / "kv/a").st_ino
    os.rename(mnt / "kv/a", mnt / "kv/b")
    assert os.stat(mnt / "kv/b").st_ino == number and agent.kv_entry("b")["Flags"] == 7


def test_rename_onto_an_empty_directory(mnt, agent):
    os.mkdir(mnt / "kv/empty")
    agent.kv_set("d/a", b"value")
    wait_until((mnt / "kv/d/a").exists, "it is seen")
    os.rename(mnt / "kv/d", mnt / "kv/empty")
    assert agent.kv_keys() == ["empty/", "empty/a"]


def test_errors_of_rename(mnt, agent, tmp_path):
    for key in ("file", "other", "d/", "d/a", "full/b", "marked/", "value", "value/"):
        agent.kv_set(key, b"x" if key[-1] != "/" else b"")
    (tmp_path / "outside").write_bytes(b"")
    kv, before = mnt / "kv", agent.kv_keys()
    for old, new, flags, code in [
        ("d", "full", 0, errno.ENOTEMPTY),
        ("d", "value", 0, errno.ENOTEMPTY),
        ("full", "d", 0, errno.ENOTEMPTY),
        ("d", "file", 0, errno.ENOTDIR),
        ("file", "d", 0, errno.EISDIR),
        ("d", "d/e", 0, errno.EINVAL),
        ("d/a", "d", 0, errno.ENOTEMPTY),
        ("absent", "new", 0, errno.ENOENT),
        ("file", "absent/new", 0, errno.ENOENT),
        ("file", "other/new", 0, errno.ENOTDIR),
        ("file", "x" * 256, 0, errno.ENAMETOOLONG),
        ("file", "a%2Fb", 0, errno.EINVAL),
        ("file", "other", NOREPLACE, errno.EEXIST),
        ("d", "marked", NOREPLACE, errno.EEXIST),
        ("file", "absent", EXCHANGE, errno.ENOENT),
        ("d", "d/a", EXCHANGE, errno.EINVAL),
        ("file", "other", EXCHANGE | NOREPLACE, errno.EINVAL),
        ("file", "../status/leader", 0, errno.EXDEV),
        ("file", "../status/leader", EXCHANGE, errno.EINVAL),
        ("file", tmp_path / "outside", 0, errno.EXDEV),
    ]:
        with fails_with(code):
            rename(kv / old, kv / new, flags)
        assert agent.kv_keys() == before, f"{old} {new} {flags}"


@pytest.mark.parametrize("keys, fits", [(21, True), (22, False)])
def test_rename_of_a_directory_as_far_as_it_is_atomic(mnt, agent, keys, fits):
    agent.put("/v1/txn", [{"KV": {"Verb": "set", "Key": f"d/{n:02}", "Value": ""}} for n in range(keys)])
    if fits:
        os.rename(mnt / "kv/d", mnt / "kv/new")
    else:
        with fails_with(errno.EXDEV):
            os.rename(mnt / "kv/d", mnt / "kv/new")
        sh("mv kv/d kv/new", cwd=mnt.path)
    assert sorted(os.listdir(mnt / "kv/new")) == [f"{n:02}" for n in range(keys)] and names(mnt / "kv") == ["new"]


@pytest.fixture
def large_store(mnt, agent):
    """Too large for one watch, in the root and in `big/`."""
    for n in range(3):
        agent.put(f"/v1/kv/big/{n}", b"x" * 400_000)
    return mnt


def test_rename_and_exchange_of_directories_in_a_large_store(large_store, agent):
    kv = large_store / "kv"
    agent.put("/v1/kv/big/d", b"value", flags=3)
    for key in ("big/d/a", "big/d/e/b", "other/c"):
        agent.kv_set(key, key.encode())
    os.rename(kv / "big/d", kv / "big/new")
    assert agent.kv_keys() == [*(f"big/{n}" for n in range(3)), "big/new", "big/new/a", "big/new/e/b", "other/c"]
    assert agent.kv_entry("big/new")["Flags"] == 3 and (kv / "big/new/e/b").read_text() == "big/d/e/b"
    rename(kv / "big/new", kv / "other", EXCHANGE)
    assert agent.kv_keys() == [*(f"big/{n}" for n in range(3)), "big/new/c", "other", "other/a", "other/e/b"]
    assert agent.kv_get("other") == b"value"


@pytest.mark.parametrize("key, value", [("big/d/", b"of the marker"), ("big/d", b"of the directory"), ("big/d/x", b"")])
def test_rmdir_in_a_large_store_keeps_what_holds_a_value(large_store, agent, key, value):
    directory = large_store / "kv/big/d"
    directory.mkdir()
    assert os.listdir(directory) == []
    agent.kv_set(key, value)
    wait_until(lambda: os.listdir(directory), "it is seen")
    with fails_with(errno.ENOTEMPTY):
        directory.rmdir()
    assert agent.kv_get(key) == value
    agent.delete(f"/v1/kv/{key}")
    agent.kv_set("big/d/", b"")
    wait_until(lambda: not os.listdir(directory), "that it is gone is seen")
    directory.rmdir()
    assert not [at for at in agent.kv_keys() if at.startswith("big/d")]


def test_rename_of_a_directory_races_with_what_is_written_there(pair):
    """All of it or nothing: what is created meanwhile is in the old directory or the new one, nothing is lost."""
    first, second, agent = pair
    for n in range(5):
        agent.kv_set(f"d/{n}", b"")
    wait_equal(lambda: len(names(first / "kv/d")) == len(names(second / "kv/d")) == 5, True)
    made = []

    def create():
        for n in range(5, 25):
            with contextlib.suppress(FileNotFoundError):
                os.close(os.open(second / f"kv/d/{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                made.append(n)

    together(create, lambda: os.rename(first / "kv/d", first / "kv/e"))
    keys = agent.kv_keys()
    assert {int(key[2:]) for key in keys} == {*range(5), *made} and len(keys) == 5 + len(made)
    assert {f"e/{n}" for n in range(5)} <= set(keys)


# RENAME_EXCHANGE


def test_exchange_of_files(mnt, agent):
    agent.put("/v1/kv/a", b"value of a", flags=1)
    agent.put("/v1/kv/d/b", b"b", flags=2)
    numbers = [os.stat(mnt / "kv" / name).st_ino for name in ("a", "d/b")]
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        rename(mnt / "kv/a", mnt / "kv/d/b", EXCHANGE)
        assert [os.stat(mnt / "kv" / name).st_ino for name in ("d/b", "a")] == numbers
        assert (mnt / "kv/a").read_bytes() == b"b" and (mnt / "kv/d/b").read_bytes() == b"value of a"
        os.pwrite(fd, b"V", 0)  # goes where the file is now
    assert [(agent.kv_get(key), agent.kv_entry(key)["Flags"]) for key in ("a", "d/b")] == [(b"b", 2), (b"Value of a", 1)]


@pytest.mark.parametrize(
    "before, old, new, after",
    [
        ({"d/a": 1, "d/b": 2, "e/": 0, "e/b": 3}, "d", "e", {"e/a": 1, "e/b": 2, "d/": 0, "d/b": 3}),
        ({"f": 1, "d/a": 2, "d/": 0}, "f", "d", {"d": 1, "f/a": 2, "f/": 0}),
        ({"d/a": 2, "f": 1}, "d", "f", {"f/a": 2, "d": 1}),
        ({"p": 1, "p/a": 2, "q/b": 3}, "p", "q", {"q": 1, "q/a": 2, "p/b": 3}),
        ({"p": 1, "p/a": 2, "q": 4, "q/b": 3}, "p", "q", {"q": 1, "q/a": 2, "p": 4, "p/b": 3}),
        ({"p": 1, "p/a": 2}, "p/%value", "p/a", {"p": 2, "p/a": 1}),
    ],
)
def test_exchange_of_directories(mnt, agent, before, old, new, after):
    for key, value in before.items():
        agent.kv_set(key, b"%d" % value if value else b"")
    rename(mnt / "kv" / old, mnt / "kv" / new, EXCHANGE)
    expected = {key: b"%d" % value if value else b"" for key, value in after.items()}
    assert {key: agent.kv_get(key) for key in agent.kv_keys()} == expected
    seen = {os.path.relpath(os.path.join(at, f), mnt / "kv") for at, _, files in os.walk(mnt / "kv") for f in files}
    prefixes = {key for key in expected if any(other.startswith(key + "/") for other in expected)}
    assert seen == {f"{key}/%value" if key in prefixes else key for key in expected if not key.endswith("/")}


def test_exchange_is_atomic(pair):
    first, second, agent = pair
    agent.kv_set("a", b"1")
    agent.kv_set("b", b"2")
    wait_equal(lambda: (first / "kv/b").exists() and (second / "kv/b").exists(), True)

    def swap(mnt):
        for _ in range(5):
            rename(mnt / "kv/a", mnt / "kv/b", EXCHANGE)

    together(lambda: swap(first), lambda: swap(second))
    assert (agent.kv_get("a"), agent.kv_get("b")) == (b"1", b"2")  # ten of them


def test_exchange_of_what_does_not_fit(mnt, agent):
    for name in ("a", "b"):
        (mnt / "kv" / name).write_bytes(name.encode() * 300_000)
    with fails_with(errno.EXDEV):
        rename(mnt / "kv/a", mnt / "kv/b", EXCHANGE)
    assert agent.kv_get("a") == b"a" * 300_000 and agent.kv_get("b") == b"b" * 300_000


@pytest.mark.parametrize("flags", [0, EXCHANGE])
def test_what_is_below_a_moved_directory_is_at_its_new_version(mount, agent, proxy, flags):
    """Nobody looks it up again, and what is written next is compared with it. The watch's answer comes later."""
    for key in ("d", "d/a", "d/deep/b", "d/deep/", "e"):
        if key != "e" or flags:
            agent.kv_set(key, b"marker" if key == "d/deep/" else b"value")
    with proxy.fault(Stall(), path="/v1/kv/*", blocking=True):
        mnt = mount(proxy)
        names = ("%value", "a", "deep/b", "deep/%empty")
        for name in names:
            assert os.stat(mnt / "kv/d" / name).st_size > 0
        rename(mnt / "kv/d", mnt / "kv/e", flags)
        versions = [os.getxattr(mnt / "kv/e" / name, "user.consul.modify_index").decode() for name in names]
        keys = ("e", "e/a", "e/deep/b", "e/deep/")
        assert versions == [str(agent.kv_entry(key)["ModifyIndex"]) for key in keys]


@pytest.mark.parametrize(
    "old, new, flags, moved",
    [
        ("x/f", "y/new", 0, "y/new"),
        ("x/f", "y/f", EXCHANGE, "y/f"),
        ("x/d", "y/new", 0, "y/new/f"),
        ("x/d", "y/e", EXCHANGE, "y/e/f"),
    ],
)
def test_what_was_moved_follows_changes_of_its_new_place(mount, agent, old, new, flags, moved):
    """The store is too large for one watch: the two directories have their own."""
    for n in range(4):
        agent.put(f"/v1/kv/large/{n}", b"x" * 500_000)
    for key in ("x/f", "x/d/f", "x/stays", "y/f", "y/e/f", "y/stays"):
        agent.kv_set(key, b"value")
    mnt = mount(agent)
    for key in ("x/f", "x/d/f", "y/f", "y/e/f"):
        assert (mnt / "kv" / key).read_bytes() == b"value"
    rename(mnt / "kv" / old, mnt / "kv" / new, flags)
    assert os.stat(mnt / "kv" / moved).st_size == 5
    agent.kv_set(moved, b"another value")
    wait_equal(lambda: os.stat(mnt / "kv" / moved).st_size, 13)


# What programs ask of a file


@pytest.mark.parametrize(
    "mode, offset, length, expected",
    [
        (0, 0, 10, b"value\0\0\0\0\0"),
        (0, 0, 3, b"value"),
        (KEEP_SIZE, 0, 1000, b"value"),
        (PUNCH_HOLE | KEEP_SIZE, 1, 2, b"v\0\0ue"),
        (PUNCH_HOLE | KEEP_SIZE, 3, LIMIT, b"val\0\0"),
        (ZERO_RANGE, 3, 4, b"val\0\0\0\0"),
        (ZERO_RANGE | KEEP_SIZE, 3, 4, b"val\0\0"),
    ],
)
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_fallocate(mnt, agent, flags, mode, offset, length, expected):
    agent.kv_set("a", b"value")
    with opened(mnt / "kv/a", flags) as fd:
        allocate(fd, mode, offset, length)
        assert os.fstat(fd).st_size == len(expected)
    assert agent.kv_get("a") == expected


def test_fallocate_of_too_much(mnt, agent):
    agent.kv_set("a", b"value")
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        for mode in (0, KEEP_SIZE, ZERO_RANGE):
            with fails_with(errno.EFBIG):
                allocate(fd, mode, 0, LIMIT + 1)
        with fails_with(errno.EOPNOTSUPP):
            allocate(fd, 8, 0, 4096)  # FALLOC_FL_COLLAPSE_RANGE
    assert agent.kv_get("a") == b"value"
    with opened(mnt / "kv/a", os.O_RDONLY) as fd, fails_with(errno.EBADF):
        allocate(fd, 0, 0, 10)


def test_fsync_means_stored(mnt, agent):
    with opened(mnt / "kv/a", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, b"x" * 1024)
        assert agent.kv_get("a") is None
        os.fsync(fd)
        assert agent.kv_get("a") == b"x" * 1024
        os.ftruncate(fd, 2)
        os.fdatasync(fd)
        assert agent.kv_get("a") == b"xx"


def test_data_and_holes(mnt):
    (mnt / "kv/a").write_bytes(b"\0" * 10_000)
    with opened(mnt / "kv/a", os.O_RDONLY) as fd:
        assert os.lseek(fd, 5, os.SEEK_DATA) == 5 and os.lseek(fd, 5, os.SEEK_HOLE) == 10_000
        with fails_with(errno.ENXIO):
            os.lseek(fd, 10_000, os.SEEK_DATA)


@pytest.mark.parametrize("size", [0, 5, 4096, LARGE])
def test_copying_in_the_kernel(mnt, agent, tmp_path, size):
    value = os.urandom(size)
    (mnt / "kv/a").write_bytes(value)
    with opened(mnt / "kv/a", os.O_RDONLY) as source, opened(mnt / "kv/b", os.O_RDWR | os.O_CREAT) as target:
        while os.copy_file_range(source, target, LIMIT):
            pass
    with opened(mnt / "kv/a", os.O_RDONLY) as source, opened(tmp_path / "out", os.O_RDWR | os.O_CREAT) as target:
        while os.sendfile(target, source, None, LIMIT):
            pass
    assert agent.kv_get("b") == value and (tmp_path / "out").read_bytes() == value


def test_mapping(mnt):
    value = os.urandom(10_000)
    (mnt / "kv/a").write_bytes(value)
    with opened(mnt / "kv/a", os.O_RDONLY) as fd:
        for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
            with mmap.mmap(fd, 0, flags, mmap.PROT_READ) as mapped:
                assert mapped[:] == value
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            mapped[0:3] = b"own"
            assert mapped[3:] == value[3:]
        # Pages that programs write to would have to be stored behind their back.
        with fails_with(errno.ENODEV):
            mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    assert (mnt / "kv/a").read_bytes() == value


def test_a_mapping_of_what_was_not_stored_is_forgotten(mnt, agent):
    agent.kv_set("a", b"old")
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        os.pwrite(fd, b"x" * 512, 0)
        with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
            assert mapped[:] == b"x" * 512
            agent.kv_set("a", b"new")
            with fails_with(errno.ESTALE):
                os.fsync(fd)
    wait_equal(lambda: (mnt / "kv/a").read_bytes(), b"new")


def test_programs(mnt, agent, tmp_path):
    (tmp_path / "sparse").write_bytes(b"x" + b"\0" * 100_000 + b"y")
    (mnt / "kv/old").write_bytes(b"")
    wait_until(lambda: sh("touch kv/new && find kv -newer kv/old -name new", cwd=mnt.path).stdout or
               sh("rm kv/new", cwd=mnt.path).stdout, "a file that is newer")
    sh(f"cp --sparse=always {tmp_path}/sparse kv/sparse && cmp kv/sparse {tmp_path}/sparse", cwd=mnt.path)
    sh(f"cp --sparse=always kv/sparse {tmp_path}/again && cmp kv/sparse {tmp_path}/again", cwd=mnt.path)
    sh("test -r kv/old -a -w kv/old -a ! -x kv/old && stat -f kv && df kv", cwd=mnt.path)
    assert os.access(mnt / "kv/old", os.R_OK) and not os.access(mnt / "kv/absent", os.F_OK)
    assert os.statvfs(mnt / "kv").f_namemax == 255


def test_errors(mnt, agent):
    agent.kv_set("file", b"")
    agent.kv_set("d/a", b"")
    kv = mnt / "kv"
    for code, attempt in [
        (errno.EISDIR, lambda: os.open(kv / "d", os.O_WRONLY)),
        (errno.EISDIR, lambda: os.open(kv / "d", os.O_CREAT | os.O_WRONLY)),
        (errno.EEXIST, lambda: os.open(kv / "d", os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        (errno.EISDIR, lambda: os.unlink(kv / "d")),
        (errno.EISDIR, lambda: os.truncate(kv / "d", 0)),
        (errno.ENOTDIR, lambda: os.rmdir(kv / "file")),
        (errno.ENOTDIR, lambda: os.open(kv / "file/x", os.O_CREAT | os.O_WRONLY)),
        (errno.ENOTDIR, lambda: os.mkdir(kv / "file/x")),
        (errno.ENOENT, lambda: os.mkdir(kv / "absent/x")),
        (errno.ENAMETOOLONG, lambda: os.mkdir(kv / ("x" * 256))),
        (errno.ENAMETOOLONG, lambda: os.stat(kv / ("x" * 256))),
        (errno.EPERM, lambda: os.link(kv / "file", kv / "link")),
        (errno.EINVAL, lambda: os.truncate(kv / "file", -1)),
    ]:
        with fails_with(code):
            attempt()
    assert agent.kv_keys() == ["d/a", "file"]


def test_rmdir_of_a_directory_that_only_has_a_value(mnt, agent):
    agent.kv_set("a", b"value")
    agent.kv_set("a/", b"")
    with fails_with(errno.ENOTEMPTY):
        os.rmdir(mnt / "kv/a")
    assert agent.kv_keys() == ["a", "a/"]


def test_a_large_file_replaces_only_what_is_known(mount, agent, proxy):
    """If the rename fails, what was there has to come back: it is compared when it is replaced."""
    agent.put("/v1/kv/a", b"x" * LARGE)
    agent.kv_set("b", b"there")
    mnt = mount(proxy)
    before = agent.get("/v1/kv/b").json()[0]["ModifyIndex"]
    with proxy.record() as seen:
        os.rename(mnt / "kv/a", mnt / "kv/b")
    assert [put.query["cas"] for put in seen.matching(method="PUT", path="/v1/kv/b")] == [str(before)]
    assert list(agent.kv_keys()) == ["b"]
    assert agent.kv_get("b") == b"x" * LARGE


def test_rmdir_is_no_unlink_of_a_value_that_was_taken_away_before(mnt, agent):
    agent.kv_set("a", b"value")
    agent.kv_set("a/", b"")
    with fails_with(errno.ESTALE), opened(mnt / "kv/a/%value", os.O_RDWR) as fd:
        agent.client.kv.delete("a")
        wait_equal(lambda: (mnt / "kv/a/%value").exists(), False)
        os.rmdir(mnt / "kv/a")
        os.pwrite(fd, b"V", 0)
    assert agent.kv_keys() == []


def test_the_same_bytes_again_are_a_conflict_all_the_same(mnt, agent):
    agent.kv_set("a", b"value")
    with fails_with(errno.ESTALE), opened(mnt / "kv/a", os.O_RDWR) as fd:
        agent.kv_set("a", b"another")
        agent.kv_set("a", b"value")
        os.pwrite(fd, b"V", 0)
    assert agent.kv_get("a") == b"value"


def test_what_is_written_while_a_file_is_opened_for_the_first_time(mount, agent):
    """The first open brings the kernel what is there; that is not to cover what somebody else here writes meanwhile."""
    count = 150
    for n in range(count):
        agent.kv_set(f"d/k{n}", b"old" * 1000)
    mnt = mount(agent)
    names(mnt / "kv/d")
    changes = [
        lambda path: path.write_bytes(b"new"),
        lambda path: os.truncate(path, 5),
        lambda path: subprocess.run(["dd", f"of={path}", "conv=notrunc", "status=none"], input=b"NEW", check=True),
    ]
    results = [b"new", b"oldol", b"NEW" + b"old" * 999]
    for n in range(count):
        path = mnt / "kv/d" / f"k{n}"
        barrier = threading.Barrier(3)

        def look():
            barrier.wait()
            path.read_bytes()

        def change():
            barrier.wait()
            changes[n % 3](path)

        threads = [threading.Thread(target=do) for do in (look, change, look)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert path.read_bytes() == results[n % 3] == agent.kv_get(f"d/k{n}"), n
