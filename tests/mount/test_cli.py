"""The command line: options, how it starts, how it ends."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.mount import BINARY, clean_environment, is_mounted
from harness.programs import fails_with, sh
from harness.proxy import Stall
from harness.wait import wait_equal, wait_until

ACL = {"enabled": True, "default_policy": "deny", "tokens": {"master": "5ec7e700-0000-4000-8000-000000000001"}}
TOKEN = ACL["tokens"]["master"]


def consulfs(*args, env=None):
    """Runs it to its end, which for a mount in the background is when that is usable."""
    command = [BINARY, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=clean_environment(**(env or {})))


def one_line(text):
    return text.endswith("\n") and text.count("\n") == 1


@pytest.fixture
def empty_dir(tmp_path):
    """Where a test may mount, or expect that nothing is mounted."""
    path = tmp_path / "empty"
    path.mkdir()
    yield path
    if is_mounted(path):
        sh(f"fusermount3 -u -z {path}")


@pytest.fixture
def closed_port(new_agent):
    """The address of an agent that does not run, until the test starts it."""
    return new_agent(start=False)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option):
    done = consulfs(option)
    assert done.returncode == 0
    assert "ADDRESS" in done.stdout and "MOUNTPOINT" in done.stdout
    assert all(option in done.stdout for option in ("token_file", "timeout", "stale", "delay_connect", "watches"))


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option):
    done = consulfs(option)
    assert done.returncode == 0
    assert re.search(r"consulfs \S*\d", done.stdout)


@pytest.mark.parametrize(
    "args, named",
    [
        (["--bogus"], "bogus"),
        (["-o", "bogus=1"], "bogus"),
        (["-o", "timeout=soon"], "timeout"),
        (["-o", "timeout=-1"], "timeout"),
        (["-o", "watches=many"], "watches"),
        (["-o", "stale=sometimes"], "stale"),
        (["-o", "uid=nobody-of-that-name"], "uid"),
        (["-o", "umask=999"], "umask"),
        (["-o", "token_file=/nonexistent/token"], "/nonexistent/token"),
        (["http://127.0.0.1:1:1"], "127.0.0.1:1:1"),
        (["ftp://127.0.0.1"], "ftp"),
    ],
)
def test_bad_options(empty_dir, args, named):
    done = consulfs(*args, empty_dir)
    assert done.returncode == 2
    assert named in done.stderr
    assert not is_mounted(empty_dir)


def test_no_mount_point():
    assert consulfs().returncode == 2


def test_too_many_arguments(agent, empty_dir):
    assert consulfs(agent.http, empty_dir, empty_dir).returncode == 2


def test_mount_point_that_is_not_there(agent, tmp_path):
    done = consulfs(agent.http, tmp_path / "missing")
    assert done.returncode != 0
    assert "missing" in done.stderr


@pytest.mark.parametrize("mode", [["-f"], []])
def test_agent_that_does_not_answer(closed_port, empty_dir, mode):
    done = consulfs(*mode, closed_port.http, empty_dir)
    assert done.returncode not in (0, 2)
    assert one_line(done.stderr) and closed_port.http in done.stderr
    assert not is_mounted(empty_dir)


def test_delay_connect(mount, closed_port):
    mnt = mount(closed_port, delay_connect=True, timeout=2)
    assert "kv" in os.listdir(mnt.path)
    with fails_with(errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ETIMEDOUT):
        (mnt / "kv/a").read_bytes()
    closed_port.start()
    closed_port.wait_ready()
    closed_port.kv_set("a", b"there")
    wait_equal(lambda: (mnt / "kv/a").read_bytes(), b"there", timeout=10)


def test_background(agent, empty_dir):
    """It returns when the mount is usable, not before; and lets go of the terminal."""
    agent.kv_set("a", b"value")
    done = consulfs(agent.http, empty_dir)
    assert done.returncode == 0, done.stderr
    assert (empty_dir / "kv/a").read_bytes() == b"value"
    sh(f"fusermount3 -u {empty_dir}")
    wait_until(lambda: not daemons_of(empty_dir), "the daemon has ended")


def daemons_of(mount_point):
    """The processes that have this mount point among their arguments."""
    command_lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            command_lines.append((process / "cmdline").read_bytes().split(b"\0"))
    return [line for line in command_lines if os.fsencode(mount_point) in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(mount, agent, number):
    agent.kv_set("a", b"")
    mnt = mount(agent)
    assert os.listdir(mnt / "kv") == ["a"]
    mnt.process.send_signal(number)
    assert mnt.process.wait(timeout=10) == 0
    assert not is_mounted(mnt.path)


def test_debug(mount, agent):
    agent.kv_set("a", b"value")
    mnt = mount(agent, args=["-d"])
    mnt.expect_log("error: -")  # libfuse's trace of every reply
    quiet = len(mnt.log)
    assert (mnt / "kv/a").read_bytes() == b"value"
    assert len(mnt.log) > quiet


def test_nothing_is_said_when_all_is_well(mount, agent):
    agent.kv_set("a", b"value")
    mnt = mount(agent)
    assert (mnt / "kv/a").read_bytes() == b"value"
    with fails_with(errno.ENOENT):
        (mnt / "kv/b").read_bytes()
    assert not re.search("warn|err", mnt.log, re.IGNORECASE)


# Which Consul


def test_address_from_the_environment(mount, agent):
    agent.kv_set("a", b"value")
    assert (mount(env={"CONSUL_HTTP_ADDR": agent.http}) / "kv/a").read_bytes() == b"value"
    assert (mount(env={"CONSUL_HTTP_ADDR": f"http://{agent.http}"}) / "kv/a").read_bytes() == b"value"


def test_address_argument_wins(mount, agent):
    agent.kv_set("a", b"value")
    assert (mount(f"http://{agent.http}", env={"CONSUL_HTTP_ADDR": "127.0.0.1:1"}) / "kv/a").read_bytes() == b"value"


def test_unix_socket(mount, new_agent, tmp_path):
    socket = tmp_path / "http"
    agent = new_agent(start=False)
    agent.settings["addresses"] = {"http": f"{agent.host} unix://{socket}"}
    agent.start().wait_ready()
    agent.kv_set("a", b"value")
    assert (mount(f"unix://{socket}") / "kv/a").read_bytes() == b"value"


def test_datacenter(mount, new_agent):
    one = new_agent(node="one")
    two = new_agent(node="two", datacenter="dc2", retry_join_wan=[one.wan])
    wait_until(lambda: len(two.client.catalog.datacenters()) == 2, "both know both")
    one.kv_set("where", b"dc1")
    two.kv_set("where", b"dc2")
    mnt = mount(one, datacenter="dc2")
    assert (mnt / "kv/where").read_bytes() == b"dc2"
    assert os.listdir(mnt / "nodes") == ["two"]
    (mnt / "kv/written").write_bytes(b"over there")
    assert two.kv_get("written") == b"over there" and one.kv_get("written") is None


# Tokens


def test_token_file(mount, new_agent, tmp_path):
    agent = new_agent(token=TOKEN, acl=ACL)
    agent.kv_set("a", b"value")
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    mnt = mount(agent, token_file=token_file, args=["-d"])
    mnt.expect_log("error: -")  # libfuse's trace of every reply
    assert (mnt / "kv/a").read_bytes() == b"value"
    for name in ("config", "status", "stats", "errors"):
        assert TOKEN not in (mnt / ".consulfs" / name).read_text()
    assert TOKEN not in mnt.log


def test_token_from_the_environment(mount, new_agent, tmp_path):
    agent = new_agent(token=TOKEN, acl=ACL)
    agent.kv_set("a", b"value")
    token_file = tmp_path / "token"
    token_file.write_text(f"\n {TOKEN} \n")
    for variables in (
        {"CONSUL_HTTP_TOKEN": TOKEN},
        {"CONSUL_HTTP_TOKEN_FILE": token_file, "CONSUL_HTTP_TOKEN": "the file wins"},
    ):
        assert (mount(agent, env=variables) / "kv/a").read_bytes() == b"value"


def test_without_the_token(mount, new_agent):
    agent = new_agent(token=TOKEN, acl=ACL)
    agent.kv_set("a", b"value")
    mnt = mount(agent)
    # Consul hides what a list may not show, so that it looks absent; a single key it denies.
    with fails_with(errno.EACCES, errno.ENOENT):
        (mnt / "kv/a").read_bytes()


# What the mount looks like


def test_root(mount, agent):
    agent.kv_set("app/a", b"in it")
    agent.kv_set("application", b"beside it")
    mnt = mount(agent, root="kv/app")
    assert os.listdir(mnt.path) == ["a"]
    assert (mnt / "a").read_bytes() == b"in it"
    (mnt / "b").write_bytes(b"new")
    os.mkdir(mnt / "d")
    assert agent.kv_keys() == ["app/a", "app/b", "app/d/", "application"]
    assert (mnt / ".consulfs/version").exists()


def test_read_only(mount, agent):
    agent.kv_set("a", b"value")
    mnt = mount(agent, ro=True)
    assert (mnt / "kv/a").read_bytes() == b"value"
    for attempt in (
        lambda: (mnt / "kv/a").write_bytes(b"x"),
        lambda: (mnt / "kv/new").write_bytes(b"x"),
        lambda: os.unlink(mnt / "kv/a"),
        lambda: os.mkdir(mnt / "kv/d"),
        lambda: os.rename(mnt / "kv/a", mnt / "kv/b"),
    ):
        with fails_with(errno.EROFS):
            attempt()
    assert agent.kv_keys() == ["a"]
    agent.kv_set("a", b"changed")
    wait_equal(lambda: (mnt / "kv/a").read_bytes(), b"changed")


def test_uid_gid_umask(mount, agent):
    agent.kv_set("d/a", b"value")
    mnt = mount(agent, uid=1234, gid=2345, umask="027")
    for path, mode in (("kv/d/a", 0o640), ("kv/d", 0o750), ("services", 0o750)):
        stat = os.stat(mnt / path)
        assert (stat.st_uid, stat.st_gid) == (1234, 2345)
        assert stat.st_mode & 0o777 == mode, path


def test_owner_is_who_mounts(mnt, agent):
    agent.kv_set("a", b"value")
    stat = os.stat(mnt / "kv/a")
    assert (stat.st_uid, stat.st_gid) == (os.getuid(), os.getgid())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("allow_other", [False, True])
def test_allow_other(mount, agent, tmp_path, allow_other):
    agent.kv_set("a", b"value")
    mnt = mount(agent, **({"allow_other": True} if allow_other else {}))
    # pytest keeps its directories to their owner, but the mount's directory is the working directory here.
    done = sh("setpriv --reuid nobody --clear-groups cat kv/a", check=False, cwd=mnt.path)
    assert (done.stdout == "value") == allow_other
    assert (done.returncode == 0) == allow_other


def test_timeout_is_for_one_operation(mount, proxy, agent):
    agent.kv_set("a", b"value")
    mnt = mount(proxy, timeout=1)
    with proxy.fault(Stall(), path="/v1/kv/*"):
        began = time.monotonic()
        with fails_with(errno.ETIMEDOUT):
            (mnt / "kv/a").read_bytes()
        assert 0.9 < time.monotonic() - began < 3
