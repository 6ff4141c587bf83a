"""An agent that is stopped, killed, slow or mad costs an error at most: no hang, no crash, no wrong answer."""

import errno
import os
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness.mount import is_mounted
from harness.programs import fails_with, opened, sh
from harness.proxy import Answer, Delay, Drop, Endless, Reset, Stall, Truncate
from harness.wait import wait_equal, wait_until

NO_ANSWER = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ECONNREFUSED)


def took(action):
    began = time.monotonic()
    action()
    return time.monotonic() - began


def in_the_mount(pid, thread=None):
    """Whether a thread waits for an answer of the file system."""
    return "request_wait_answer" in Path(f"/proc/{pid}/task/{thread or pid}/wchan").read_text()


def start_blocked(command, **arguments):
    """Starts a program; returns it when it is waiting for the file system."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **arguments)
    wait_until(lambda: in_the_mount(process.pid), f"{command} waits for the file system")
    return process


@pytest.fixture
def own_agent(new_agent):
    agent = new_agent()
    agent.kv_set("hot/a", b"hot")
    agent.kv_set("cold/a", b"cold")
    return agent


def warm(mnt):
    assert (mnt / "kv/hot/a").read_bytes() == b"hot"
    assert os.listdir(mnt / "kv/hot") == ["a"]


# Stopped: connections stay open, nothing is answered


def test_cold_read_times_out(mount, own_agent):
    mnt = mount(own_agent, timeout=2, watches=0)
    mnt.expect_log()
    own_agent.pause()

    def read():
        with fails_with(errno.ETIMEDOUT):
            (mnt / "kv/cold/a").read_bytes()

    assert 1.8 < took(read) < 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupt_ends_a_read_at_once(mount, own_agent, number):
    mnt = mount(own_agent, timeout=30, watches=0)
    own_agent.pause()
    process = start_blocked(["cat", mnt / "kv/cold/a"])
    process.send_signal(number)
    assert took(process.wait) < 0.5
    assert process.returncode == -number


def test_interrupted_system_call(mount, own_agent):
    """A handled signal ends the call, and the program goes on. Python runs the handler after EINTR only."""
    mnt = mount(own_agent, timeout=30, watches=0)
    own_agent.pause()

    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Interrupted):
            os.stat(mnt / "kv/cold/a")
    finally:
        signal.signal(signal.SIGALRM, before)


def test_hot_files_stay_readable(mount, own_agent):
    mnt = mount(own_agent, timeout=2)
    mnt.expect_log()
    warm(mnt)
    own_agent.pause()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        assert took(lambda: warm(mnt)) < 0.5
    own_agent.resume()
    own_agent.kv_set("hot/a", b"changed")
    wait_equal((mnt / "kv/hot/a").read_bytes, b"changed")


def test_unmounting_works(mount, own_agent):
    mnt = mount(own_agent, timeout=30)
    mnt.expect_log()
    warm(mnt)
    own_agent.pause()
    assert took(mnt.end) < 3


def test_sigterm_ends_those_who_wait(mount, own_agent):
    mnt = mount(own_agent, timeout=30, watches=0)
    mnt.expect_log()
    own_agent.pause()
    process = start_blocked(["cat", mnt / "kv/cold/a"])
    mnt.process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 1
    assert mnt.process.wait(timeout=5) == 0
    assert not is_mounted(mnt.path)


def test_200_blocked_readers_do_not_slow_a_cached_file(mount, own_agent):
    mnt = mount(own_agent, timeout=20, watches=8)
    mnt.expect_log()
    warm(mnt)

    def read_hot():
        with opened(mnt / "kv/hot/a", os.O_RDONLY) as fd:
            assert os.read(fd, 10) == b"hot"

    def typical():
        return statistics.median(took(read_hot) for _ in range(500))

    before = typical()
    own_agent.pause()
    threads = []

    def read_cold(n):
        with fails_with(*NO_ANSWER):
            os.stat(mnt / f"services/cold-{n}")  # keys would be answered from what is known of all

    for n in range(200):
        threads.append(threading.Thread(target=read_cold, args=(n,)))
        threads[-1].start()
    wait_until(
        lambda: sum(in_the_mount(os.getpid(), thread.native_id) for thread in threads) == 200,
        "200 readers are blocked",
    )
    during = typical()
    own_agent.kill()
    for thread in threads:
        thread.join()
    assert during < 3 * before + 0.0005, f"{before * 1e6:.0f} µs before, {during * 1e6:.0f} µs with 200 blocked"


def test_write_times_out(mount, own_agent):
    mnt = mount(own_agent, timeout=2)
    mnt.expect_log()
    warm(mnt)
    own_agent.pause()
    with fails_with(errno.ETIMEDOUT):
        (mnt / "kv/hot/a").write_bytes(b"new")
    assert sh("echo v > kv/hot/a", check=False, cwd=mnt.path).returncode != 0


# Killed, and come back


def test_stale_forever(mount, own_agent):
    """What was known stays readable, and .consulfs/status and the log say that it is old."""
    mnt = mount(own_agent, timeout=2)
    mnt.expect_log()
    warm(mnt)
    own_agent.kill()
    wait_until(lambda: "disconnected" in (mnt / ".consulfs/status").read_text(), "the mount notices")
    warm(mnt)
    with fails_with(*NO_ANSWER):
        (mnt / "kv/unknown/a").read_bytes()
    assert "stale" in mnt.log
    assert len(mnt.log.splitlines()) < 5, "one line says it"


def test_stale_0_knows_at_once_that_a_frozen_agent_is_gone(mount, own_agent):
    """No connection breaks: the first request that is not answered tells, not the blocking queries' own time-out."""
    mnt = mount(own_agent, timeout=1, stale=0)
    mnt.expect_log()
    warm(mnt)
    own_agent.pause()
    with fails_with(*NO_ANSWER):
        os.stat(mnt / "services/cold")

    def refused():
        try:
            (mnt / "kv/hot/a").read_bytes()
        except OSError as error:
            return error.errno in NO_ANSWER
        return False

    wait_until(refused, "what is old is refused", timeout=3)


def test_stale_0_is_strict(mount, own_agent):
    mnt = mount(own_agent, timeout=2, stale=0)
    mnt.expect_log()
    warm(mnt)
    own_agent.kill()

    def refused():
        try:
            (mnt / "kv/hot/a").read_bytes()
        except OSError as error:
            assert error.errno in NO_ANSWER
            return True
        return False

    wait_until(refused, "what is old is refused", timeout=4)
    with fails_with(*NO_ANSWER):
        os.listdir(mnt / "kv/hot")


def test_stale_for_a_while(mount, own_agent):
    mnt = mount(own_agent, timeout=2, stale=3)
    mnt.expect_log()
    warm(mnt)
    own_agent.kill()
    wait_until(lambda: "disconnected" in (mnt / ".consulfs/status").read_text(), "the mount notices")
    warm(mnt)

    def refused():
        try:
            warm(mnt)
        except OSError as error:
            assert error.errno in NO_ANSWER
            return True
        return False

    assert 1 < took(lambda: wait_until(refused, "what is too old is refused", timeout=10)) < 6


def test_agent_restarts_with_its_data(mount, new_agent):
    agent = new_agent(dev=False)
    agent.kv_set("hot/a", b"hot")
    mnt = mount(agent, timeout=5)
    mnt.expect_log()
    warm(mnt)
    agent.kill()
    agent.start()
    agent.wait_ready()
    agent.kv_set("hot/a", b"after")
    agent.kv_set("hot/b", b"new")
    wait_equal((mnt / "kv/hot/a").read_bytes, b"after", timeout=10)
    wait_equal(lambda: sorted(os.listdir(mnt / "kv/hot")), ["a", "b"])
    (mnt / "kv/hot/a").write_bytes(b"written")
    assert agent.kv_get("hot/a") == b"written"


def test_agent_restarts_with_nothing(mount, own_agent):
    """The index goes backwards, and keeping ours would wait for ever."""
    for n in range(20):
        own_agent.kv_set("hot/b", b"%d" % n)
    own_agent.client.kv.delete("hot/b")
    mnt = mount(own_agent, timeout=5)
    mnt.expect_log()
    warm(mnt)
    own_agent.kill()
    own_agent.start()
    own_agent.wait_ready()
    wait_equal(lambda: os.listdir(mnt / "kv"), [], timeout=10)
    own_agent.kv_set("hot/c", b"new")
    wait_equal(lambda: os.listdir(mnt / "kv/hot"), ["c"])


def test_no_leader_does_not_look_like_a_deletion(mount, new_agent):
    servers = [new_agent(ready=False, node="s1", dev=False, bootstrap_expect=3)]
    for n in (2, 3):
        servers.append(
            new_agent(ready=False, node=f"s{n}", dev=False, bootstrap_expect=3, retry_join=[servers[0].lan])
        )
    for server in servers:
        server.wait_ready()
    servers[0].kv_set("hot/a", b"hot")
    mnt = mount(servers[0], timeout=3)
    mnt.expect_log()
    warm(mnt)
    names = sorted(os.listdir(mnt / "services") + os.listdir(mnt / "nodes"))
    for server in servers[1:]:
        server.kill()
    wait_until(lambda: servers[0].get("/v1/status/leader").json() == "", "there is no leader", timeout=20)
    warm(mnt)
    assert sorted(os.listdir(mnt / "services") + os.listdir(mnt / "nodes")) == names
    with fails_with(errno.EIO, *NO_ANSWER):
        (mnt / "kv/hot/a").write_bytes(b"x")
    for server in servers[1:]:
        server.start()
    wait_until(lambda: servers[0].get("/v1/status/leader").json(), "there is a leader again", timeout=20)
    warm(mnt)


# Answers that make no sense

PATHS = {
    "kv/d/a": "/v1/kv/*",
    "kv": "/v1/kv/*",
    "services": "/v1/catalog/services",
    "services/web/passing": "/v1/[ch]*",
    "nodes": "/v1/catalog/nodes",
    "nodes/n1/address": "/v1/[ch]*",
    "checks/any": "/v1/health/state/*",
    "checks/summary": "/v1/health/state/*",
}
NO_JSON = [b"", b"not json", b'{"unfinished": ', b"\xff\xfe", b"[" * 100_000, b"<html>"]
NOT_WHAT_WAS_ASKED = [b"7", b'"text"', b"true", b"[7]", b"[[]]", b'[{"Key": 7, "Node": 7, "CheckID": 7}]']


def use(path):
    return sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize("body", NO_JSON + NOT_WHAT_WAS_ASKED, ids=lambda body: body[:16].decode("latin-1"))
def test_nonsense(mount, agent, proxy, body):
    agent.kv_set("d/a", b"value")
    agent.register("web", Port=1)
    healthy = mount(agent)
    mnt = mount(proxy, timeout=3)
    mnt.expect_log()
    for path, pattern in PATHS.items():
        with proxy.fault(Answer(200, body, {"X-Consul-Index": 10}), path=pattern), fails_with(errno.EIO):
            use(mnt / path)
    for path in PATHS:
        wait_equal(lambda path=path: use(mnt / path), use(healthy / path), timeout=10)


@pytest.mark.parametrize(
    "kind", [Answer(200, b"nonsense"), Answer(500, b"a reason"), Drop(), Reset(), Truncate(20)], ids=str
)
def test_an_error_never_replaces_what_is_known(mount, agent, proxy, kind):
    agent.kv_set("hot/a", b"hot")
    agent.register("web", Port=1)
    mnt = mount(proxy, timeout=3)
    mnt.expect_log()
    warm(mnt)
    services = sorted(os.listdir(mnt / "services"))
    assert services == ["consul", "web"]
    with proxy.fault(kind) as fault:
        proxy.cut()
        wait_until(lambda: fault.hits >= 2, "the watches meet the fault")
        warm(mnt)
        assert sorted(os.listdir(mnt / "services")) == services
    agent.kv_set("hot/a", b"changed")
    wait_equal((mnt / "kv/hot/a").read_bytes, b"changed", timeout=10)


def test_failing_watches_do_not_spin(mount, agent, proxy):
    agent.kv_set("hot/a", b"hot")
    mnt = mount(proxy, timeout=3)
    mnt.expect_log()
    warm(mnt)
    with proxy.fault(Answer(500, b"a reason")), proxy.record() as seen:
        proxy.cut()
        time.sleep(3)
    assert len(seen) < 40


@pytest.mark.parametrize(
    "kind",
    [
        Answer(429, b"rate limit exceeded"),
        Answer(503, b"leader only"),
        Answer(500, b"No cluster leader"),
        Reset(),
        Drop(),
        Truncate(20),
    ],
    ids=str,
)
def test_one_failure_is_not_noticed(mount, agent, proxy, kind):
    """Reads are repeated while their time allows."""
    agent.kv_set("d/a", b"value")
    mnt = mount(proxy, timeout=5)
    mnt.expect_log()
    with proxy.fault(kind, path="/v1/kv/*", times=1) as fault:
        assert (mnt / "kv/d/a").read_bytes() == b"value"
        assert fault.hits == 1


@pytest.mark.parametrize(
    "kind, codes",
    [
        (Answer(429, b"rate limit exceeded"), [errno.EAGAIN]),
        (Answer(503, b"leader only"), [errno.EAGAIN]),
        (Answer(500, b"No cluster leader"), [errno.EIO]),
        (Answer(500, b"something else"), [errno.EIO]),
        (Answer(401, b"ACL support disabled"), [errno.EOPNOTSUPP]),
        (Answer(403, b"Permission denied"), [errno.EACCES]),
        (Answer(405, b""), [errno.EOPNOTSUPP]),
        (Answer(410, b""), [errno.EOPNOTSUPP]),
        (Answer(400, b"Bad request"), [errno.EINVAL]),
        (Answer(500, b"rpc error making call: Permission denied"), [errno.EACCES, errno.EIO]),
        (Answer(500, b"No path to datacenter"), [errno.EHOSTUNREACH]),
        (Reset(), [errno.EIO, errno.EAGAIN, errno.ECONNRESET, *NO_ANSWER]),
        (Drop(), [errno.EIO, errno.EAGAIN, errno.ECONNRESET, *NO_ANSWER]),
        (Truncate(20), [errno.EIO, errno.EAGAIN, errno.ECONNRESET, *NO_ANSWER]),
    ],
    ids=str,
)
def test_lasting_failure(mount, agent, proxy, kind, codes):
    agent.kv_set("d/a", b"value")
    mnt = mount(proxy, timeout=2)
    mnt.expect_log()
    with proxy.fault(kind):
        for read in ((mnt / "kv/d/a").read_bytes, lambda: os.listdir(mnt / "services")):
            with fails_with(*codes):
                assert took(read) < 5
    wait_equal((mnt / "kv/d/a").read_bytes, b"value")


def test_redirects_are_not_followed(mount, agent, proxy):
    """Consul redirects a//b to a/b: following would read, or remove, another key."""
    agent.kv_set("a", b"value")
    agent.kv_set("other", b"another's")
    mnt = mount(proxy, timeout=2)
    mnt.expect_log()
    with proxy.record() as seen, proxy.fault(Answer(301, b"", {"Location": "/v1/kv/other"}), path="/v1/kv/*"):
        with fails_with(errno.EIO):
            (mnt / "kv/a").read_bytes()
    assert not seen.matching(path="/v1/kv/other*")


def test_answer_without_end(mount, agent, proxy):
    """There is a limit to what is kept, which is met long before the time is up."""
    mnt = mount(proxy, timeout=30)
    mnt.expect_log()
    with proxy.fault(Endless()):
        for use_it in ((mnt / "kv/a").read_bytes, lambda: os.listdir(mnt / "services")):
            with fails_with(errno.EIO, errno.EFBIG, errno.EOVERFLOW):
                use_it()
    agent.kv_set("a", b"value")
    wait_equal((mnt / "kv/a").read_bytes, b"value")


# Slow


def fill(agent):
    """A store too large for one watch on all of it: each directory is a resource of its own."""
    for n in range(4):
        agent.kv_set(f"big/{n}", b"x" * 360_000)


def test_slow_answers_do_not_add_up(mount, agent, proxy):
    """Ten directories at once take as long as one."""
    for n in range(10):
        agent.kv_set(f"d{n}/a", b"value")
    mnt = mount(proxy, timeout=10)
    with proxy.fault(Delay(0.5)):
        script = " & ".join(f"cat kv/d{n}/a" for n in range(10)) + " & wait"
        assert took(lambda: sh(script, cwd=mnt.path)) < 3


def test_one_stalled_directory_holds_nobody_else(mount, agent, proxy):
    agent.kv_set("hot/a", b"hot")
    agent.kv_set("stuck/a", b"value")
    fill(agent)
    mnt = mount(proxy, timeout=20, watches=0)
    with proxy.fault(Stall(), path="/v1/kv/stuck*") as fault:
        process = start_blocked(["cat", mnt / "kv/stuck/a"])
        wait_until(lambda: fault.hits, "it waits for the stalled answer")
        for _ in range(10):
            assert took(lambda: warm(mnt)) < 1
    assert process.wait(timeout=5) == 0


def test_changes_are_told_while_a_directory_is_stalled(mount, agent, proxy):
    """A notification waits for its directory's lock; that must not hold back those of other directories."""
    agent.kv_set("hot/a", b"hot")
    agent.kv_set("stuck/a", b"value")
    fill(agent)
    mnt = mount(proxy, timeout=20)
    warm(mnt)
    with proxy.fault(Stall(), path="/v1/kv/stuck*"):
        process = start_blocked(["cat", mnt / "kv/stuck/absent"])
        agent.kv_set("stuck/a", b"changed")
        agent.kv_set("hot/a", b"changed")
        wait_equal((mnt / "kv/hot/a").read_bytes, b"changed", timeout=1)
        process.kill()
        process.wait()


def test_write_whose_answer_is_lost(mount, agent, proxy):
    """It may have been done, so it is not done again; the writer learns that it is not known."""
    agent.kv_set("log", b"one\n")
    mnt = mount(proxy, timeout=3)
    mnt.expect_log()
    with proxy.fault(Truncate(0), method="PUT"):
        with pytest.raises(OSError), opened(mnt / "kv/log", os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, b"two\n")
    assert agent.kv_get("log") in (b"one\n", b"one\ntwo\n")
