"""flock, fcntl and lockf: Consul's lock on the key, so that they hold on all mounts."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from errno import EACCES, EAGAIN, EDEADLK, ENOLCK, ESTALE
from fcntl import F_RDLCK, F_WRLCK, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN

import pytest

from harness.locks import TTL, errors, is_free, session_of, sessions, status, wait_waiting
from harness.programs import fails_with, opened, sh
from harness.stats import stat_of
from harness.wait import wait_equal, wait_until


# Who has it, and who does not


def test_one_mount_at_a_time(held, agent):
    here, there, holder = held
    session = session_of(agent, "job")
    assert session and session == os.getxattr(here / "kv/job", "user.consul.session").decode()
    assert session == status(here, "session")
    wait_equal(lambda: os.getxattr(there / "kv/job", "user.consul.session").decode(), session)
    (found,) = sessions(agent)
    assert (found["ID"], found["Behavior"], found["TTL"]) == (session, "release", f"{TTL}s")
    assert found["Name"].endswith(f":{here.path}")
    for mnt in (here, there):
        assert not is_free(mnt)
    assert (status(here, "locks_held"), status(there, "locks_held")) == ("1", "0")
    holder.flock("f", LOCK_UN)
    assert session_of(agent, "job") is None and "user.consul.session" not in os.listxattr(here / "kv/job")
    assert is_free(there) and is_free(here)
    assert agent.kv_get("job") == b"1"


def test_the_value_and_flags_stay(mount, agent):
    agent.put("/v1/kv/job", b"\0value\xff", flags=2**64 - 1)
    mnt = mount(agent)
    sh("flock kv/job true", cwd=mnt.path)
    entry = agent.kv_entry("job")
    assert agent.kv_get("job") == b"\0value\xff" and entry["LockIndex"] == 1
    assert os.getxattr(mnt / "kv/job", "user.consul.flags") == str(2**64 - 1).encode()


@pytest.mark.parametrize("key", ["new", "dir/new", "sp ace", "ümlaut", "dir/%empty/x"])
def test_a_key_that_is_not_there_yet(mount, agent, key):
    here, there = mount(agent), mount(agent)
    os.makedirs((here / f"kv/{key}").parent, exist_ok=True)
    sh(f"flock 'kv/{key}' sh -c '! flock -n \"$0/kv/{key}\" true' {there.path}", cwd=here.path)
    assert agent.kv_get(key.replace("%empty", "")) == b""
    sh(f"flock -n 'kv/{key}' true", cwd=there.path)


def test_a_file_that_is_only_locked_is_there_at_once(mount, agent):
    mnt = mount(agent)
    with opened(mnt / "kv/lock", os.O_RDONLY | os.O_CREAT):
        assert agent.kv_get("lock") == b""
    agent.kv_set("lock", b"1")

    def read():
        with opened(mnt / "kv/lock", os.O_RDONLY | os.O_CREAT) as fd:
            return os.pread(fd, 9, 0)

    wait_equal(read, b"1")


def test_locks_of_two_keys_are_two(held, agent):
    here, there, _ = held
    agent.kv_set("other", b"")
    assert is_free(here, "other") and is_free(there, "other") and not is_free(there)
    assert len(sessions(agent)) == 2


def test_two_descriptors_of_one_process(held):
    here, _, holder = held
    holder.open_("g", str(here / "kv/job"), os.O_RDONLY)
    with fails_with(EAGAIN):
        holder.flock("g", LOCK_EX | LOCK_NB)
    holder.flock("f", LOCK_UN)
    holder.flock("g", LOCK_EX | LOCK_NB)


def test_a_duplicate_holds_it_too(held):
    _, there, holder = held
    assert not is_free(there)
    sh("exec 9>kv/job; flock -n 9 && exit 3; exit 0", shell="bash", cwd=there.path)
    holder.close("f")
    wait_until(lambda: is_free(there), "the lock is free")
    script = "exec 9>kv/job; flock -n 9 || exit 1; (flock -n $0/kv/job true) && exit 2; (exec 9>&-); flock -n $0/kv/job true && exit 3; exit 0"
    assert sh(f"bash -c '{script}' {held[0].path}", cwd=there.path).returncode == 0


def test_taking_it_twice_asks_once(mount, agent, proxy, process):
    agent.kv_set("job", b"1")
    mnt, one = mount(proxy), process()
    one.open_("f", str(mnt / "kv/job"))
    one.flock("f", LOCK_EX)
    with proxy.record() as seen:
        one.flock("f", LOCK_EX)
        one.flock("f", LOCK_SH)
        one.lockf("f", LOCK_EX)
        one.lockf("f", LOCK_UN)
    assert not seen.matching(path="/v1/txn")


def test_what_one_lock_costs(mount, agent, proxy, process):
    agent.kv_set("job", b"1")
    mnt, one = mount(proxy), process()
    one.open_("f", str(mnt / "kv/job"))
    one.flock("f", LOCK_EX)
    one.flock("f", LOCK_UN)
    with proxy.record() as seen:
        for _ in range(5):
            one.flock("f", LOCK_EX)
            one.flock("f", LOCK_UN)
    # Nobody else had it in between, so there is nothing to catch up with.
    assert len(seen.matching(path="/v1/txn")) == 10 and not seen.matching(method="GET", blocking=False)


# Nothing is lost under a lock

_COUNT = {
    "flock": "fcntl.flock(fd, fcntl.LOCK_EX)|fcntl.flock(fd, fcntl.LOCK_UN)",
    "lockf": "fcntl.lockf(fd, fcntl.LOCK_EX)|fcntl.lockf(fd, fcntl.LOCK_UN)",
}


def count_script(how, times):
    """Adds to a counter by one descriptor that stays open."""
    take, give = _COUNT[how].split("|")
    return f"""
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for _ in range({times}):
    {take}
    n = int(os.pread(fd, 20, 0))
    os.pwrite(fd, b"%d" % (n + 1), 0)
    {give}
"""


def run_all(commands):
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/") for command in commands]
    for one in processes:
        said = one.communicate(timeout=80)[1]
        assert one.returncode == 0, said


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_a_counter_on_two_mounts(mount, agent, how):
    agent.kv_set("counter", b"0")
    mounts = [mount(agent), mount(agent)]
    script = count_script(how, 10)
    run_all([sys.executable, "-c", script, str(mnt / "kv/counter")] for mnt in mounts for _ in range(4))
    assert agent.kv_get("counter") == b"80"
    for mnt in mounts:
        wait_equal((mnt / "kv/counter").read_bytes, b"80")


SHELL_COUNT = """for i in 1 2 3 4 5; do flock kv/lock sh -c 'n=$(cat kv/counter); echo $((n+1)) > kv/counter' || exit 1; done"""


def test_what_is_beside_the_lock_is_as_new_as_the_lock(mount, agent):
    agent.kv_set("counter", b"0")
    agent.kv_set("lock", b"")
    mounts = [mount(agent), mount(agent)]
    run_all(["sh", "-c", f"cd {mnt.path} && {SHELL_COUNT}"] for mnt in mounts for _ in range(3))
    assert agent.kv_get("counter") == b"30\n"


@pytest.mark.limit(180)
def test_a_counter_on_a_cluster(mount, cluster):
    cluster.client.kv_set("counter", b"0")
    cluster.client.kv_set("lock", b"")
    mounts = [mount(cluster.client), mount(cluster.servers[0])]
    run_all(["sh", "-c", f"cd {mnt.path} && {SHELL_COUNT}"] for mnt in mounts for _ in range(2))
    assert cluster.client.kv_get("counter") == b"20\n"
    script = count_script("flock", 5)
    cluster.client.kv_set("counter", b"0")
    run_all([sys.executable, "-c", script, str(mnt / "kv/counter")] for mnt in mounts for _ in range(2))
    assert cluster.client.kv_get("counter") == b"20"


def test_who_has_the_lock_sees_the_file_as_it_is(held, agent, process):
    here, there, holder = held
    reader, writer = process(), process()
    reader.open_("f", str(there / "kv/job"), os.O_RDONLY)
    writer.open_("f", str(there / "kv/job"))
    assert reader.read("f") == writer.read("f") == b"1"
    holder.write("f", b"longer than before")
    holder.flock("f", LOCK_UN)
    for one in (reader, writer):
        one.flock("f", LOCK_EX)
        assert one.read("f") == b"longer than before"
        assert one.number("f") == os.stat(there / "kv/job").st_ino
        one.flock("f", LOCK_UN)
    writer.flock("f", LOCK_EX)
    writer.write("f", b"L")
    writer.flock("f", LOCK_UN)
    assert agent.kv_get("job") == b"Longer than before"


def test_what_was_written_is_stored_before_the_lock_ends(held, agent):
    _, there, holder = held
    holder.write("f", b"x" * 512)  # a full buffer: more may follow
    assert agent.kv_get("job") == b"1"
    holder.flock("f", LOCK_UN)
    assert agent.kv_get("job") == b"x" * 512


def test_another_writer_of_this_mount_goes_on(mount, agent, process):
    agent.kv_set("job", b"1")
    mnt, writer, one = mount(agent), process(), process()
    writer.open_("f", str(mnt / "kv/job"))
    assert writer.read("f") == b"1"
    one.open_("f", str(mnt / "kv/job"), os.O_RDONLY)
    one.flock("f", LOCK_EX)
    writer.write("f", b"2")  # advisory, and nobody changed the value
    one.flock("f", LOCK_UN)
    writer.write("f", b"3")
    writer.close("f")
    assert agent.kv_get("job") == b"3"


def test_a_lock_elsewhere_is_no_change(mount, agent, process):
    agent.kv_set("job", b"1")
    here, there, writer = mount(agent), mount(agent), process()
    writer.open_("f", str(here / "kv/job"))
    assert writer.read("f") == b"1"
    sh("flock kv/job true", cwd=there.path)
    writer.write("f", b"2")
    assert agent.kv_get("job") == b"2"


def test_who_changes_it_without_the_lock_is_noticed(held, agent):
    here, _, holder = held
    assert holder.read("f") == b"1"
    agent.put("/v1/kv/job", b"theirs")
    with fails_with(ESTALE):
        holder.write("f", b"2")
    assert agent.kv_get("job") == b"theirs"


# Waiting


def test_waiting_is_no_polling(mount, agent, proxy, process):
    agent.kv_set("job", b"1")
    holder, waiter = process(), process()
    here, there = mount(agent), mount(proxy)
    os.listdir(there / "kv")  # from then on all is watched, not what the first look was at
    holder.open_("f", str(here / "kv/job"))
    holder.flock("f", LOCK_EX)
    waiter.open_("f", str(there / "kv/job"), os.O_RDONLY)
    with proxy.record() as seen:
        waiter.begin("flock", "f", LOCK_EX)
        wait_until(lambda: seen.matching(path="/v1/kv/job", blocking=True), "it waits by a blocking query")
        before = len(seen)
        for _ in range(200):  # much else happens, and nobody asks about the lock
            agent.kv_set("other", os.urandom(8))
        wait_equal((there / "kv/other").read_bytes, agent.kv_get("other"))
        assert len(seen.matching(path="/v1/kv/job")) <= 2
        assert not [r for r in seen[before:] if r.path in ("/v1/txn", "/v1/kv/job")]
        holder.flock("f", LOCK_UN)
        waiter.end()
    # The query that found it locked, that which waited, and the transaction.
    assert len(seen.matching(path="/v1/kv/job")) <= 3 and len(seen.matching(path="/v1/txn")) <= 2


def test_many_waiters_of_one_mount_wait_once(held, proxy_for, mount, agent, process):
    here, _, holder = held
    proxy = proxy_for(agent)
    there = mount(proxy)
    os.listdir(there / "kv")  # from then on all is watched, not what the first look was at
    waiters = [process() for _ in range(5)]
    with proxy.record() as seen:
        for one in waiters:
            one.open_("f", str(there / "kv/job"), os.O_RDONLY)
            one.begin("flock", "f", LOCK_EX)
            wait_waiting(there, waiters.index(one) + 1)
        wait_until(lambda: seen.matching(path="/v1/kv/job", blocking=True), "one waits in Consul")
        assert len(seen.matching(path="/v1/kv/job", blocking=True)) == 1
        holder.flock("f", LOCK_UN)
        for one in waiters:  # first come, first served
            one.end()
            one.flock("f", LOCK_UN)
    assert len(seen.matching(path="/v1/kv/job", blocking=True)) <= 3


HAMMER = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
while True:
    fcntl.flock(fd, fcntl.LOCK_EX)
    sys.stdout.write(".")
    sys.stdout.flush()
    time.sleep(0.02)  # its work, so that the others always wait already
    fcntl.flock(fd, fcntl.LOCK_UN)
"""


def test_a_busy_mount_does_not_keep_it_for_itself(mount, agent, process):
    agent.kv_set("job", b"1")
    here, there = mount(agent), mount(agent)
    command = [sys.executable, "-c", HAMMER, str(here / "kv/job")]
    hammers = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/") for _ in range(4)]
    try:
        for one in hammers:
            assert one.stdout.read(1) == b"."
        waiter = process()
        waiter.open_("f", str(there / "kv/job"), os.O_RDONLY)
        for _ in range(2):
            waiter.flock("f", LOCK_EX)
            waiter.flock("f", LOCK_UN)
    finally:
        for one in hammers:
            one.kill()
            one.communicate()


@pytest.mark.parametrize("which", [0, 1])
def test_a_signal_ends_the_wait(held, which):
    mnt = held[which]
    waiter = subprocess.Popen(["flock", str(mnt / "kv/job"), "true"])
    wait_waiting(mnt, 1)
    waiter.send_signal(signal.SIGINT)
    assert waiter.wait(10) == -signal.SIGINT
    wait_waiting(mnt, 0)
    waiter = subprocess.Popen(["flock", str(mnt / "kv/job"), "true"])
    wait_waiting(mnt, 1)
    waiter.kill()
    assert waiter.wait(10) == -signal.SIGKILL
    wait_waiting(mnt, 0)


def test_the_query_of_who_gave_up_is_given_up(held, proxy_for, mount, agent):
    proxy = proxy_for(agent)
    there = mount(proxy)
    os.listdir(there / "kv")
    with proxy.record() as seen:
        waiter = subprocess.Popen(["flock", str(there / "kv/job"), "true"])
        wait_until(lambda: seen.matching(path="/v1/kv/job", blocking=True), "it waits")
        connections = proxy.connections
        waiter.send_signal(signal.SIGTERM)
        waiter.wait(10)
        wait_until(lambda: proxy.connections < connections, "its connection is closed")


def test_those_who_give_up_again_and_again_share_a_query(held, proxy_for, mount, agent):
    """The agent goes on with each that was given up, and holds a connection for it: 200 are all that a host has."""
    proxy = proxy_for(agent)
    there = mount(proxy)
    os.listdir(there / "kv")
    with proxy.record() as seen:
        for _ in range(40):
            assert sh("flock -w 0.1 kv/job true", cwd=there.path, check=False).returncode == 1
    queries = seen.matching(path="/v1/kv/job", blocking=True)
    assert 10 < len(queries) <= 20
    held[2].flock("f", LOCK_UN)
    assert sh("flock -w 10 kv/job true", cwd=there.path, check=False).returncode == 0, "one that goes on is of use"


def test_a_timeout_of_flocks(held):
    done = sh("flock -w 0.2 kv/job true", cwd=held[1].path, check=False)
    assert done.returncode == 1


def test_waits_do_not_starve_the_others(mount, agent, proxy, process):
    mnt, there = mount(proxy, watches=4), mount(agent)
    holder = process()
    waiters = []
    for n in range(12):
        agent.kv_set(f"k{n}", b"1")
    for n in range(12):
        holder.open_(f"f{n}", str(there / f"kv/k{n}"))
        holder.flock(f"f{n}", LOCK_EX)
    for n in range(12):
        waiters.append(process())
        waiters[n].open_("f", str(mnt / f"kv/k{n}"), os.O_RDONLY)
        waiters[n].begin("flock", "f", LOCK_EX)
    wait_waiting(mnt, 12)
    (mnt / "kv/written").write_bytes(b"1")
    assert agent.kv_get("written") == b"1"
    agent.kv_set("seen", b"1")
    wait_equal((mnt / "kv/seen").read_bytes, b"1")
    for n in (11, 0, 6):  # those that have no query of theirs get their turn
        holder.flock(f"f{n}", LOCK_UN)
        waiters[n].end()
    assert proxy.connections <= 6


def test_lock_delay(held, mount, agent, process):
    """Another client's session ended with its node: for its LockDelay nobody gets the lock."""
    here, there, holder = held
    session = agent.put("/v1/session/create", {"LockDelay": "2s"}).json()["ID"]
    agent.put("/v1/kv/delayed", b"1", acquire=session)
    waiter = process()
    wait_equal((there / "kv/delayed").read_bytes, b"1")
    waiter.open_("f", str(there / "kv/delayed"), os.O_RDONLY)
    agent.put(f"/v1/session/destroy/{session}")
    wait_equal(lambda: session_of(agent, "delayed"), None)
    with fails_with(EAGAIN):
        waiter.flock("f", LOCK_EX | LOCK_NB)
    waiter.flock("f", LOCK_EX)
    assert session_of(agent, "delayed") == status(there, "session")


# POSIX locks


def test_ranges(mount, agent, process):
    agent.kv_set("f", b"0123456789")
    mnt, there = mount(agent), mount(agent)
    a, b, c = process(), process(), process()
    for one in (a, b):
        one.open_("f", str(mnt / "kv/f"))
    c.open_("f", str(there / "kv/f"))
    a.lockf("f", LOCK_EX, 5, 0)
    b.lockf("f", LOCK_EX | LOCK_NB, 5, 5)
    with fails_with(EAGAIN, EACCES):
        b.lockf("f", LOCK_EX | LOCK_NB, 1, 4)
    assert b.getlk("f") == (F_WRLCK, 0, 5, a.pid) and a.getlk("f", F_RDLCK) == (F_WRLCK, 5, 5, b.pid)
    with fails_with(EAGAIN, EACCES):  # elsewhere any range is all of it
        c.lockf("f", LOCK_EX | LOCK_NB, 1, 100)
    wait_equal(lambda: c.getlk("f", F_WRLCK, 50, 1), (F_WRLCK, 0, 0, 0))
    a.lockf("f", LOCK_UN, 1, 2)  # splits
    b.lockf("f", LOCK_EX | LOCK_NB, 1, 2)
    b.lockf("f", LOCK_UN)
    a.lockf("f", LOCK_UN, 2, 0)
    with fails_with(EAGAIN, EACCES):
        c.lockf("f", LOCK_EX | LOCK_NB)
    a.lockf("f", LOCK_UN, 2, 3)
    c.lockf("f", LOCK_EX | LOCK_NB)
    assert session_of(agent, "f") == status(there, "session")


def test_flock_and_posix_do_not_see_each_other_here(held, process):
    here, there, _ = held
    other, elsewhere = process(), process()
    other.open_("f", str(here / "kv/job"))
    other.lockf("f", LOCK_EX | LOCK_NB)
    elsewhere.open_("f", str(there / "kv/job"))
    with fails_with(EAGAIN, EACCES):
        elsewhere.lockf("f", LOCK_EX | LOCK_NB)


def test_shared_locks(mount, agent, process):
    agent.kv_set("f", b"1")
    mnt, there = mount(agent), mount(agent)
    a, b, c = process(), process(), process()
    for one in (a, b):
        one.open_("f", str(mnt / "kv/f"), os.O_RDONLY)
        one.flock("f", LOCK_SH | LOCK_NB)
        one.lockf("f", LOCK_SH | LOCK_NB)
    c.open_("f", str(there / "kv/f"), os.O_RDONLY)
    for how in ("flock", "lockf"):
        with fails_with(EAGAIN, EACCES):
            getattr(c, how)("f", LOCK_SH | LOCK_NB)  # Consul knows exclusive ones only
    with fails_with(EAGAIN):
        a.flock("f", LOCK_EX | LOCK_NB)
    b.flock("f", LOCK_UN)
    a.flock("f", LOCK_EX | LOCK_NB)  # upgraded
    a.flock("f", LOCK_SH)  # downgraded
    b.flock("f", LOCK_SH | LOCK_NB)


def test_a_deadlock_of_two_processes(mount, agent, process):
    agent.kv_set("f", b"0123456789")
    mnt = mount(agent)
    a, b = process(), process()
    for one in (a, b):
        one.open_("f", str(mnt / "kv/f"))
    a.lockf("f", LOCK_EX, 1, 0)
    b.lockf("f", LOCK_EX, 1, 1)
    a.begin("lockf", "f", LOCK_EX, 1, 1)
    wait_waiting(mnt, 1)
    with fails_with(EDEADLK):
        b.lockf("f", LOCK_EX, 1, 0)
    b.lockf("f", LOCK_UN)
    a.end()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
@pytest.mark.parametrize("how", ["flock", "lockf"])
@pytest.mark.parametrize("end", ["close", "kill"])
def test_closing_and_dying_release(mount, agent, process, flags, how, end):
    agent.kv_set("f", b"1")
    mnt = mount(agent)
    one = process()
    one.open_("f", str(mnt / "kv/f"), flags)
    getattr(one, how)("f", LOCK_EX if flags == os.O_RDWR or how == "flock" else LOCK_SH)
    assert session_of(agent, "f")
    if end == "close":
        one.close("f")
    else:
        one.kill()
    wait_equal(lambda: session_of(agent, "f"), None)
    assert stat_of(mnt, "locks.held") == 0


def test_a_database_is_read(mount, agent, tmp_path):
    """SQLite takes a shared POSIX lock on some bytes far behind the end."""
    database = sqlite3.connect(tmp_path / "db")
    with database:
        database.execute("create table t (n)")
        database.executemany("insert into t values (?)", [(n,) for n in range(1000)])
    database.close()
    mnt = mount(agent)
    shutil.copy(tmp_path / "db", mnt / "kv/db")
    with contextlib.closing(sqlite3.connect(f"file:{mnt.path}/kv/db?mode=ro", uri=True)) as database:
        assert database.execute("select sum(n) from t").fetchone() == (499500,)
    wait_equal(lambda: session_of(agent, "db"), None)
    assert stat_of(mnt, "upcalls.lock") > 0


# Files that are no keys


def test_other_files_are_locked_here_only(mount, agent, proxy, process):
    mnt = mount(proxy)
    a, b = process(), process()
    for one in (a, b):
        one.open_("f", str(mnt / "status/leader"), os.O_RDONLY)
    with proxy.record() as seen:
        a.flock("f", LOCK_EX)
        with fails_with(EAGAIN):
            b.flock("f", LOCK_EX | LOCK_NB)
        b.begin("flock", "f", LOCK_EX)
        wait_waiting(mnt, 1)
        a.kill()
        b.end()
    assert not seen.matching(method="PUT") and sessions(agent) == []
    sh("flock kv true", cwd=mnt.path)  # a directory: the kernel's own affair


def test_the_holder_removes_the_key(held, agent):
    here, there, holder = held
    os.unlink(here / "kv/job")
    assert agent.kv_get("job") is None
    assert holder.read("f") == b"1"  # as of any file that is unlinked and open
    wait_until(lambda: is_free(there), "the name can be locked anew")
    holder.flock("f", LOCK_UN)
    assert "lock" not in errors(here) and "lost" not in here.log


def test_the_holder_renames_the_key(held, agent):
    here, there, holder = held
    os.rename(here / "kv/job", here / "kv/done")
    holder.flock("f", LOCK_UN)
    assert "Session" not in agent.kv_entry("done")
    holder.flock("f", LOCK_EX)
    assert session_of(agent, "done") == status(here, "session")
    wait_until(lambda: (there / "kv/done").exists(), "the other mount sees it")
    assert not is_free(there, "done")


# Who may not


def test_read_only(mount, agent, process):
    agent.kv_set("job", b"1")
    mnt, one, two = mount(agent, ro=True), process(), process()
    for each in (one, two):
        each.open_("f", str(mnt / "kv/job"), os.O_RDONLY)
        each.flock("f", LOCK_SH)
        each.lockf("f", LOCK_SH)
    with fails_with(ENOLCK):
        one.flock("f", LOCK_EX | LOCK_NB)
    assert "read-only" in errors(mnt)
    one.flock("f", LOCK_UN)
    assert sessions(agent) == []


def test_without_session_write(mount, acl_agent, process):
    acl_agent.kv_set("job", b"1")
    token = acl_agent.new_token('key_prefix "" { policy = "write" } node_prefix "" { policy = "read" }')
    mnt, one = mount(acl_agent, env={"CONSUL_HTTP_TOKEN": token}), process()
    one.open_("f", str(mnt / "kv/job"))
    for how in (LOCK_EX, LOCK_EX | LOCK_NB):
        with fails_with(EACCES):
            one.flock("f", how)
    assert "/v1/session/create 403" in errors(mnt)
    assert one.read("f") == b"1"


def test_without_key_write(mount, acl_agent, process):
    acl_agent.kv_set("job", b"1")
    token = acl_agent.new_token('key_prefix "" { policy = "read" } session_prefix "" { policy = "write" } '
                                'node_prefix "" { policy = "read" }')
    mnt, one = mount(acl_agent, env={"CONSUL_HTTP_TOKEN": token}), process()
    one.open_("f", str(mnt / "kv/job"), os.O_RDONLY)
    with fails_with(EACCES):
        one.flock("f", LOCK_EX)
    assert "/v1/txn 409" in errors(mnt)


def test_a_value_too_large_for_a_transaction(mount, agent, process):
    agent.put("/v1/kv/large", b"x" * 500000)
    mnt, one = mount(agent), process()
    one.open_("f", str(mnt / "kv/large"))
    for how in (LOCK_EX, LOCK_EX | LOCK_NB):
        with fails_with(ENOLCK):
            one.flock("f", how)
    assert "too large for a transaction" in errors(mnt)
    assert agent.kv_get("large") == b"x" * 500000


def test_a_value_that_grew_too_large_under_its_lock(held, agent):
    here, there, holder = held
    agent.put("/v1/kv/job", b"x" * 500000)
    holder.flock("f", LOCK_UN)
    wait_equal(lambda: session_of(agent, "job"), None)
    assert agent.kv_get("job") == b"x" * 500000
    agent.put("/v1/kv/job", b"1")
    wait_until(lambda: is_free(there) and is_free(here), "both can lock it again")


# Datacenters


@pytest.mark.parametrize("options, directory", [({}, "datacenters/dc2/kv"), ({"datacenter": "dc2"}, "kv")])
def test_another_datacenter(mount, two_datacenters, process, options, directory):
    near, far = two_datacenters.near, two_datacenters.far
    far.kv_set("job", b"1")
    here, there = mount(near, **options), mount(far)
    one, two = process(), process()
    one.open_("f", str(here / directory / "job"))
    one.flock("f", LOCK_EX)
    session = session_of(far, "job")
    assert session and [s["ID"] for s in sessions(far)] == [session] and sessions(near) == []
    two.open_("f", str(there / "kv/job"))
    with fails_with(EAGAIN):
        two.flock("f", LOCK_EX | LOCK_NB)
    two.begin("flock", "f", LOCK_EX)
    wait_waiting(there, 1)
    one.write("f", b"2")
    one.flock("f", LOCK_UN)
    two.end()
    assert two.read("f") == b"2"
    one.close("f")
    here.end()
    assert session not in [s["ID"] for s in sessions(far)]
