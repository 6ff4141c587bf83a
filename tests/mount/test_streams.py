"""agent/log and operator/snapshot: bytes that come while they are read."""

import os
import signal
import subprocess
import tarfile
import time

import pytest

from errno import EACCES, EBUSY, ECONNREFUSED, EHOSTUNREACH, EIO, ETIMEDOUT
from harness.programs import fails_with, opened, sanitized, sh
from harness.proxy import Stall, Truncate
from harness.stats import peak_memory
from harness.wait import wait_equal, wait_until


def is_backup(consul, path):
    with tarfile.open(path) as backup:
        assert "state.bin" in backup.getnames()
    done = subprocess.run([consul, "snapshot", "inspect", path], capture_output=True, text=True)
    return done.returncode == 0


@pytest.mark.parametrize("command", ["cp operator/snapshot $OUT", "cat operator/snapshot > $OUT",
                                     "dd if=operator/snapshot of=$OUT bs=777 2>/dev/null"])
def test_a_backup(mnt, agent, consul, tmp_path, command):
    agent.kv_set("key", os.urandom(100_000))
    sh(command, cwd=mnt.path, env={**os.environ, "OUT": str(tmp_path / "b.tgz")})
    assert is_backup(consul, tmp_path / "b.tgz") and (tmp_path / "b.tgz").stat().st_size > 100_000


def test_a_large_backup_is_never_whole_in_memory(new_agent, mount, consul, tmp_path):
    agent = new_agent()
    for number in range(45):
        agent.put(f"/v1/kv/{number}", os.urandom(450_000))
    mnt = mount(agent)
    os.listdir(mnt / "operator")
    before = peak_memory(mnt.process)
    sh("cp operator/snapshot $OUT", cwd=mnt.path, env={**os.environ, "OUT": str(tmp_path / "b.tgz")})
    grown = peak_memory(mnt.process) - before
    assert (tmp_path / "b.tgz").stat().st_size > 20_000_000 and is_backup(consul, tmp_path / "b.tgz")
    if not sanitized():  # these keep what is freed
        assert grown < 4096, f"{grown} KiB"


def test_a_slow_reader_gets_it_all(new_agent, mount, consul, tmp_path):
    agent = new_agent()
    for number in range(5):
        agent.put(f"/v1/kv/{number}", os.urandom(450_000))
    mnt = mount(agent)
    with opened(mnt / "operator/snapshot", os.O_RDONLY) as fd, open(tmp_path / "b.tgz", "wb") as out:
        out.write(os.read(fd, 100))
        size = wait_until(lambda: full(fd), "the window is full")
        assert size < 300_000  # what is not read yet is not fetched
        while piece := os.read(fd, 65536):
            out.write(piece)
    assert is_backup(consul, tmp_path / "b.tgz")


def full(fd):
    """The size, once it does not grow any more."""
    size = os.fstat(fd).st_size
    time.sleep(0.2)
    return size if size > 200_000 and os.fstat(fd).st_size == size else None


def test_a_backup_that_is_cut_short_is_an_error(agent, proxy, mount, tmp_path):
    agent.kv_set("key", os.urandom(300_000))
    mnt = mount(proxy)
    mnt.expect_log()
    with proxy.fault(Truncate(5000), path="/v1/snapshot"):
        done = sh("cp operator/snapshot $OUT", cwd=mnt.path, check=False, env={**os.environ, "OUT": str(tmp_path / "b")})
    assert done.returncode != 0 and "nput/output error" in done.stderr


def test_a_backup_that_stalls_ends(agent, proxy, mount):
    mnt = mount(proxy, timeout=2)
    mnt.expect_log()
    with proxy.fault(Stall(), path="/v1/snapshot"), fails_with(ETIMEDOUT, EIO):
        (mnt / "operator/snapshot").read_bytes()


# Restoring


def test_a_backup_is_restored(new_agent, mount, tmp_path):
    agent = new_agent()
    agent.kv_set("key", b"then")
    mnt = mount(agent, allow_restore=True)
    assert (mnt / "kv/key").read_text() == "then"
    env = {**os.environ, "OUT": str(tmp_path / "b.tgz")}
    sh("cp operator/snapshot $OUT", cwd=mnt.path, env=env)
    agent.kv_set("key", b"later")
    agent.kv_set("other", b"x")
    sh("cp $OUT operator/snapshot", cwd=mnt.path, env=env)
    wait_equal(lambda: (agent.kv_get("key"), agent.kv_get("other")), (b"then", None))
    wait_equal((mnt / "kv/key").read_text, "then")
    wait_equal((mnt / "kv/other").exists, False)


def test_what_is_no_backup_is_not_restored(new_agent, mount, tmp_path):
    agent = new_agent()
    agent.kv_set("key", b"value")
    mnt = mount(agent, allow_restore=True)
    done = sh("echo no backup > operator/snapshot", shell="bash", cwd=mnt.path, check=False)
    assert done.returncode != 0 and "nvalid argument" in done.stderr
    cut = (mnt / "operator/snapshot").read_bytes()[:-50]
    (tmp_path / "cut.tgz").write_bytes(cut)
    done = sh("cp $OUT operator/snapshot", cwd=mnt.path, check=False, env={**os.environ, "OUT": str(tmp_path / "cut.tgz")})
    assert done.returncode != 0 and "/v1/snapshot" in (mnt / ".consulfs/errors").read_text()
    assert agent.kv_get("key") == b"value"


def test_nothing_is_restored_unless_the_mount_allows_it(mnt, agent, tmp_path):
    agent.kv_set("key", b"value")
    sh("cp operator/snapshot $OUT", cwd=mnt.path, env={**os.environ, "OUT": str(tmp_path / "b.tgz")})
    agent.kv_set("key", b"later")
    for command in ("cp $OUT operator/snapshot", "cat $OUT > operator/snapshot", "echo x >> operator/snapshot"):
        done = sh(command, cwd=mnt.path, check=False, env={**os.environ, "OUT": str(tmp_path / "b.tgz")})
        assert done.returncode != 0
    assert agent.kv_get("key") == b"later" and "allow_restore" in (mnt / ".consulfs/errors").read_text()


def test_they_are_not_listed(mnt):
    assert "log" not in os.listdir(mnt / "agent") and "snapshot" not in os.listdir(mnt / "operator")
    for path, mode in (("agent/log", 0o400), ("agent/log.debug", 0o400), ("operator/snapshot", 0o600)):
        assert (mnt / path).stat().st_mode & 0o777 == mode


# The log


def say(agent, something):
    """Has the agent log that a key of this name was asked for."""
    agent.put("/v1/agent/service/register", {"Name": something})
    agent.put(f"/v1/agent/service/deregister/{something}")


@pytest.fixture
def follow():
    """Starts a program whose output is collected; it is ended with the test."""
    running = []

    def start(command, cwd, out):
        running.append(subprocess.Popen(["sh", "-c", f"cd {cwd} && exec {command}"], stdout=out.open("wb")))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", ["tail -f agent/log", "cat agent/log", "tail -n +1 -f agent/log.debug",
                                     "dd if=agent/log bs=4096 status=none"])
def test_a_log_is_followed(mnt, agent, follow, tmp_path, command):
    out = tmp_path / "out"
    process = follow(command, mnt.path, out)

    def has(name):
        say(agent, name)
        return name in out.read_text(errors="replace")  # it may have got half of a character

    for name in ("first-of-all", "then-another", "and-a-third"):
        wait_until(lambda: has(name), f"{command} shows {name}", 30)
    assert process.poll() is None


def test_a_reader_is_interrupted(mnt, agent, follow, tmp_path):
    process = follow("cat agent/log", mnt.path, tmp_path / "out")
    wait_until(lambda: (say(agent, "web"), (tmp_path / "out").read_text())[1], "it reads", 30)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == -signal.SIGINT


def test_a_reader_that_waits_does_not_keep_the_mount(agent, mount, follow, tmp_path):
    mnt = mount(agent)
    process = follow("cat agent/log", mnt.path, tmp_path / "out")
    wait_until(lambda: (say(agent, "web"), (tmp_path / "out").read_text())[1], "it reads", 30)
    mnt.process.send_signal(signal.SIGTERM)
    wait_until(lambda: mnt.process.poll() is not None, "the daemon ends", 20)
    assert process.wait(timeout=20) != 0


def test_too_many_at_once(mnt, agent, follow, tmp_path):
    for number in range(4):
        follow("cat agent/log", mnt.path, tmp_path / f"out-{number}")
    wait_until(lambda: (say(agent, "web"), all((tmp_path / f"out-{n}").read_text() for n in range(4)))[1],
               "they read", 30)
    with fails_with(EBUSY):
        os.open(mnt / "operator/snapshot", os.O_RDONLY)


def test_closing_makes_room(mnt, agent):
    for _ in range(20):
        (mnt / "operator/snapshot").read_bytes()


def test_what_is_refused_is_refused_by_open(acl_agent, mount):
    mnt = mount(acl_agent, env={"CONSUL_HTTP_TOKEN": acl_agent.new_token('key_prefix "" { policy = "read" }')})
    for path in ("agent/log", "operator/snapshot"):
        with fails_with(EACCES):
            os.open(mnt / path, os.O_RDONLY)


def test_an_agent_that_is_gone(new_agent, mount):
    agent = new_agent()
    mnt = mount(agent, timeout=2)
    mnt.expect_log()
    agent.kill()
    for path in ("agent/log", "operator/snapshot"):
        with fails_with(ECONNREFUSED, EHOSTUNREACH):
            os.open(mnt / path, os.O_RDONLY)


def test_who_was_interrupted_leaves_room(mnt, agent, follow, tmp_path):
    """At once, not when the agent has something to say again."""
    readers = [follow("cat agent/log", mnt.path, tmp_path / f"out-{number}") for number in range(4)]
    wait_until(lambda: (say(agent, "web"), all((tmp_path / f"out-{n}").read_text() for n in range(4)))[1],
               "they read", 30)
    for reader in readers:
        reader.send_signal(signal.SIGINT)
        assert reader.wait(timeout=20) == -signal.SIGINT
    wait_equal(lambda: len((mnt / "operator/snapshot").read_bytes()) > 0, True)
