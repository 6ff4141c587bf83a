"""Locks that are lost, and the session that holds them."""

import os
import signal
import subprocess
from errno import ECONNABORTED, EIO, ENOTCONN, ESTALE, ETIMEDOUT
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN

import pytest

from harness.locks import TTL, errors, is_free, session_of, sessions, status, wait_waiting
from harness.mount import Mount
from harness.programs import fails_with, sh
from harness.proxy import Stall
from harness.stats import stat_of
from harness.wait import wait_equal, wait_until


# A lock that is lost


def expect_lost(mnt, holder, agent, name="f"):
    """The descriptor cannot be used any more, and another one can."""
    with fails_with(EIO):
        holder.read(name)
    wait_equal(lambda: stat_of(mnt, "locks.held"), 0)
    assert errors(mnt).count("lock kv/job") == 1, errors(mnt)
    assert mnt.log.count("the lock on kv/job is lost") == 1
    with fails_with(EIO):
        holder.flock(name, LOCK_EX | LOCK_NB)
    assert (mnt / "kv/job").read_bytes() == agent.kv_get("job")


def lose(mnt, holder, name="f"):
    def failed():
        try:
            holder.read(name)
        except OSError as error:
            return error.errno == EIO
        return False

    wait_until(failed, "the holder gets EIO", timeout=40)


BREAKS = {
    "destroyed": lambda agent, here: agent.put(f"/v1/session/destroy/{session_of(agent, 'job')}"),
    "released": lambda agent, here: agent.put("/v1/kv/job", b"1", release=session_of(agent, "job")),
    "released here": lambda agent, here: os.setxattr(
        here / "kv/job", "user.consul.release", session_of(agent, "job").encode()
    ),
    "removed": lambda agent, here: agent.delete("/v1/kv/job"),
}


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
@pytest.mark.parametrize("how", BREAKS)
def test_a_lock_that_is_taken_away(held, agent, process, how, flags):
    here, there, first = held
    first.flock("f", LOCK_UN)
    holder, bystander = process(), process()
    holder.open_("f", str(here / "kv/job"), flags)
    holder.flock("f", LOCK_EX)
    bystander.open_("f", str(here / "kv/job"))
    assert holder.read("f") == bystander.read("f") == b"1"
    BREAKS[how](agent, here)
    lose(here, holder)
    if flags == os.O_RDWR:
        with fails_with(EIO):
            holder.write("f", b"2")
    if how == "removed":
        assert agent.kv_get("job") is None
        agent.kv_set("job", b"1")
        wait_equal((here / "kv/job").read_bytes, b"1")
    expect_lost(here, holder, agent)
    assert bystander.read("f") == b"1"
    holder.close("f")
    holder.open_("f", str(here / "kv/job"))
    holder.flock("f", LOCK_EX)  # after the LockDelay of a second, where a session was destroyed
    assert holder.read("f") == b"1"
    holder.write("f", b"2")
    assert agent.kv_get("job") == b"2"


def test_what_was_not_stored_when_the_lock_was_lost(held, agent):
    here, _, holder = held
    holder.write("f", b"x" * 512)
    agent.put(f"/v1/session/destroy/{session_of(agent, 'job')}")
    lose(here, holder)
    with fails_with(EIO):
        holder.close("f")
    assert agent.kv_get("job") == b"1"


@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDWR])
def test_a_write_on_its_way_when_the_lock_is_lost(mount, agent, proxy, process, flags):
    agent.kv_set("job", b"1")
    mnt, holder = mount(proxy), process()
    holder.open_("f", str(mnt / "kv/job"), flags)
    holder.flock("f", LOCK_EX)
    session = session_of(agent, "job")
    with proxy.fault(Stall(), path="/v1/txn") as fault:
        holder.begin("write", "f", b"late")
        wait_until(lambda: fault.hits, "the write is on its way")
        agent.put(f"/v1/session/destroy/{session}")
    with fails_with(EIO, ESTALE):
        holder.end()
    assert agent.kv_get("job") == b"1"
    assert "PUT /v1/txn 409 failed session check" in errors(mnt)
    lose(mnt, holder) if flags == os.O_RDWR else wait_equal(lambda: stat_of(mnt, "locks.held"), 0)
    with fails_with(EIO):
        holder.write("f", b"later")


@pytest.mark.limit(120)
def test_consul_goes_silent(mount, agent, proxy, process):
    agent.kv_set("job", b"1")
    here, there = mount(proxy, lock_ttl=TTL, timeout=3), mount(agent, lock_ttl=TTL)
    holder, waiter = process(), process()
    holder.open_("f", str(here / "kv/job"), os.O_RDONLY)
    holder.flock("f", LOCK_EX)
    assert holder.read("f") == b"1"
    with proxy.fault(Stall()):
        proxy.cut()
        waiter.open_("f", str(there / "kv/job"))
        waiter.begin("flock", "f", LOCK_EX)
        lose(here, holder)
        # By its own clock: Consul has not let go of it yet.
        assert session_of(agent, "job") and session_of(agent, "job") != status(there, "session")
        assert "lock kv/job" in errors(here)
        waiter.end()
        waiter.write("f", b"2")
    holder.close("f")
    assert agent.kv_get("job") == b"2"


@pytest.mark.limit(120)
def test_the_mount_is_killed(mount, agent, process):
    agent.kv_set("job", b"1")
    there = mount(agent, lock_ttl=TTL)
    # Not the fixture's: its daemon does not end well.
    dying = Mount(there.directory.parent / "dying", agent.http, {"lock_ttl": TTL}).start()
    try:
        holder, waiter = process(), process()
        holder.open_("f", str(dying / "kv/job"))
        holder.flock("f", LOCK_EX)
        waiter.open_("f", str(there / "kv/job"))
        waiter.begin("flock", "f", LOCK_EX)
        wait_waiting(there, 1)
    finally:
        dying.abort("the test wants it")
    waiter.end()
    assert session_of(agent, "job") == status(there, "session")


@pytest.mark.limit(120)
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_WRONLY | os.O_APPEND])
def test_the_mount_stands_still(held, agent, process, flags):
    """As when its machine sleeps: when it goes on, somebody else has the lock, and the first write must know it."""
    here, there, first = held
    first.flock("f", LOCK_UN)
    holder, waiter = process(), process()
    holder.open_("f", str(here / "kv/job"), flags)
    holder.flock("f", LOCK_EX)
    waiter.open_("f", str(there / "kv/job"))
    waiter.begin("flock", "f", LOCK_EX)
    wait_waiting(there, 1)
    here.process.send_signal(signal.SIGSTOP)
    try:
        waiter.end()
        holder.begin("write", "f", b"late")
    finally:
        here.process.send_signal(signal.SIGCONT)
    with fails_with(EIO):
        holder.end()
    assert agent.kv_get("job") == b"1"
    waiter.write("f", b"2")
    assert agent.kv_get("job") == b"2"


@pytest.mark.limit(120)
def test_a_lock_outlives_an_agent(mount, cluster, process):
    """Its session is the servers': the mount's agent may be killed and come back, and the leader change."""
    cluster.client.kv_set("job", b"1")
    here, there = mount(cluster.client, lock_ttl=30), mount(cluster.servers[0], lock_ttl=30)
    holder, waiter = process(), process()
    holder.open_("f", str(here / "kv/job"))
    holder.flock("f", LOCK_EX)
    waiter.open_("f", str(there / "kv/job"), os.O_RDONLY)
    waiter.begin("flock", "f", LOCK_EX)
    wait_waiting(there, 1)
    cluster.kill_leader()
    cluster.heal()
    assert cluster.servers[1].kv_entry("job")["Session"] == status(here, "session")
    assert holder.read("f") == b"1"
    holder.flock("f", LOCK_UN)
    waiter.end()


@pytest.mark.limit(120)
def test_a_wait_outlives_its_agent(mount, cluster, process):
    cluster.client.kv_set("job", b"1")
    here, there = mount(cluster.servers[0], lock_ttl=30), mount(cluster.client, lock_ttl=30)
    holder, waiter = process(), process()
    holder.open_("f", str(here / "kv/job"))
    holder.flock("f", LOCK_EX)
    waiter.open_("f", str(there / "kv/job"), os.O_RDONLY)
    waiter.begin("flock", "f", LOCK_EX)
    wait_waiting(there, 1)
    cluster.client.kill()
    holder.write("f", b"2")
    holder.flock("f", LOCK_UN)
    assert stat_of(there, "locks.waiting") == 1
    cluster.heal()
    waiter.end()
    assert waiter.read("f") == b"2"
    assert cluster.client.kv_entry("job")["Session"] == status(there, "session")


def test_an_agent_that_stands_still(new_agent, mount, process):
    agent = new_agent(node="n2")
    agent.kv_set("job", b"1")
    agent.kv_set("other", b"1")
    mnt = mount(agent, timeout=1, lock_ttl=30)
    one, two = process(), process()
    one.open_("f", str(mnt / "kv/job"))
    two.open_("f", str(mnt / "kv/other"))
    agent.pause()
    try:
        with fails_with(ETIMEDOUT):
            one.flock("f", LOCK_EX | LOCK_NB)
        two.begin("flock", "f", LOCK_EX)
        wait_waiting(mnt, 1)
        with fails_with(ETIMEDOUT):  # the other one still waits
            one.flock("f", LOCK_EX | LOCK_NB)
        waiter = subprocess.Popen(["flock", str(mnt / "kv/job"), "true"], cwd="/")
        wait_waiting(mnt, 2)
        waiter.send_signal(signal.SIGTERM)
        assert waiter.wait(10) == -signal.SIGTERM
        assert stat_of(mnt, "locks.waiting") == 1
    finally:
        agent.resume()
    two.end()
    assert session_of(agent, "other") == status(mnt, "session")


def test_unmounting_while_the_agent_stands_still(new_agent, mount, process):
    agent = new_agent(node="n2")
    agent.kv_set("job", b"1")
    mnt = mount(agent, timeout=20)
    sh("flock kv/job true", cwd=mnt.path)
    agent.pause()
    try:
        mnt.end()
    finally:
        agent.resume()


# Sessions


def test_no_lock_no_session(mount, agent, proxy):
    agent.kv_set("job", b"1")
    mnt = mount(proxy)
    (mnt / "kv/job").read_bytes()
    with proxy.record() as seen:
        (mnt / "kv/job").read_bytes()
        agent.kv_set("job", b"22")
        wait_equal((mnt / "kv/job").read_bytes, b"22")
    assert not seen.not_blocking
    assert sessions(agent) == [] and status(mnt, "session") is None
    mnt.end()
    assert sessions(agent) == []


def test_unmounting_releases_at_once(held, agent):
    here, there, holder = held
    here.process.terminate()  # although it is in use
    here.process.wait(20)
    assert session_of(agent, "job") is None and sessions(agent) == []
    assert is_free(there)
    there.end()
    assert sessions(agent) == []


@pytest.mark.parametrize("which", [0, 1])
def test_who_waits_when_the_mount_ends(held, process, which):
    waiter, mnt = process(), held[which]
    waiter.open_("f", str(mnt / "kv/job"), os.O_RDONLY)
    waiter.begin("flock", "f", LOCK_EX)
    wait_waiting(mnt, 1)
    mnt.process.terminate()
    with fails_with(ENOTCONN, ECONNABORTED):
        waiter.end()
    assert mnt.process.wait(20) == 0


def test_a_session_that_nobody_needs_ends(mount, agent):
    agent.kv_set("job", b"1")
    mnt = mount(agent, lock_ttl=TTL)
    sh("flock kv/job true", cwd=mnt.path)
    assert len(sessions(agent)) == 1
    wait_equal(lambda: sessions(agent), [], timeout=30)
    wait_equal(lambda: status(mnt, "session"), None)


@pytest.mark.limit(120)
def test_a_lock_that_is_held_is_renewed(held, agent, proxy_for, mount, process):
    proxy = proxy_for(agent)
    agent.kv_set("long", b"1")
    mnt, holder = mount(proxy, lock_ttl=TTL), process()
    os.listdir(mnt / "kv")  # which the mount would do by itself, as the file in it is open
    holder.open_("f", str(mnt / "kv/long"))
    holder.flock("f", LOCK_EX)
    session = session_of(agent, "long")
    with proxy.record() as seen:
        # Longer than Consul keeps a session that is not renewed, twice its TTL.
        wait_until(lambda: len(seen.matching(path=f"/v1/session/renew/{session}")) >= 8, "it is renewed", timeout=60)
    assert {r.path for r in seen.not_blocking} == {f"/v1/session/renew/{session}"}
    assert session_of(agent, "long") == session and holder.read("f") == b"1"
