"""Extended attributes of keys: indexes, flags, the session that holds the lock."""

import os

import pytest

from errno import EBUSY, EEXIST, EINVAL, ENODATA, EOPNOTSUPP, EPERM
from harness.programs import fails_with, opened, sh
from harness.wait import wait_equal

FLAGS = "user.consul.flags"


def attributes(path):
    return {name.removeprefix("user.consul."): os.getxattr(path, name).decode() for name in os.listxattr(path)}


def set_flags(agent, key, value, flags):
    agent.put(f"/v1/kv/{key}", value, flags=flags)


def flags_of(agent, key):
    return agent.kv_entry(key)["Flags"]


def test_what_there_is(mnt, agent):
    set_flags(agent, "a", b"1", 42)
    entry = agent.kv_entry("a")
    assert attributes(mnt / "kv/a") == {"create_index": str(entry["CreateIndex"]), "flags": "42", "lock_index": "0",
                                        "modify_index": str(entry["ModifyIndex"])}
    said = sh("getfattr -d kv/a", cwd=mnt.path).stdout
    assert 'user.consul.flags="42"' in said and "session" not in said
    assert os.listxattr(mnt / "kv") == [] and os.listxattr(mnt / "services") == []


def test_the_session_that_holds_the_lock(mnt, agent):
    agent.kv_set("a", b"1")
    session = agent.put("/v1/session/create", {}).json()["ID"]
    agent.put("/v1/kv/a", b"1", acquire=session)
    wait_equal(lambda: attributes(mnt / "kv/a").get("session"), session)
    assert attributes(mnt / "kv/a")["lock_index"] == "1"
    agent.put("/v1/kv/a", b"1", release=session)
    wait_equal(lambda: "session" in attributes(mnt / "kv/a"), False)


def test_flags_are_written(mnt, agent):
    agent.kv_set("a", b"value")
    path = mnt / "kv/a"
    sh(f"setfattr -n {FLAGS} -v 42 kv/a", cwd=mnt.path)
    assert flags_of(agent, "a") == 42 and agent.kv_get("a") == b"value"
    assert os.getxattr(path, FLAGS) == b"42" and path.read_bytes() == b"value"
    os.setxattr(path, FLAGS, b"0xffffffffffffffff")
    assert flags_of(agent, "a") == 2**64 - 1 and os.getxattr(path, FLAGS) == b"18446744073709551615"
    os.setxattr(path, FLAGS, b"9223372036854775808")
    assert flags_of(agent, "a") == 2**63
    sh(f"setfattr -x {FLAGS} kv/a", cwd=mnt.path)
    assert flags_of(agent, "a") == 0


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1 ", b"1x", b"18446744073709551616", b"1\0", b"0x"])
def test_flags_that_are_none(mnt, agent, value):
    set_flags(agent, "a", b"1", 7)
    with fails_with(EINVAL):
        os.setxattr(mnt / "kv/a", FLAGS, value)
    assert flags_of(agent, "a") == 7


def test_errors(mnt, agent):
    agent.kv_set("a", b"1")
    path = mnt / "kv/a"
    for name in ("user.other", "user.consul.session", "user.consul.other"):
        with fails_with(ENODATA):
            os.getxattr(path, name)
    for name in ("user.other", "user.consul.other"):
        with fails_with(EOPNOTSUPP):
            os.setxattr(path, name, b"x")
    with fails_with(EEXIST):
        os.setxattr(path, FLAGS, b"1", os.XATTR_CREATE)
    with fails_with(EOPNOTSUPP, EPERM):
        os.setxattr(mnt / "kv", "user.x", b"1")
    os.setxattr(path, FLAGS, b"1", os.XATTR_REPLACE)
    assert flags_of(agent, "a") == 1
    with fails_with(ENODATA):
        os.removexattr(path, "user.other")


def test_flags_survive(mnt, agent):
    set_flags(agent, "a", b"1", 42)
    sh("echo 2 > kv/a; echo 3 >> kv/a; mv kv/a kv/b; truncate -s 1 kv/b", cwd=mnt.path)
    assert flags_of(agent, "b") == 42 and agent.kv_get("b") == b"2"


@pytest.mark.parametrize("copy", ["cp --preserve=xattr kv/a kv/b", "cp -a kv/a kv/b", "rsync -aX kv/a kv/b",
                                  "tar cf - --xattrs -C kv a | tar xf - --xattrs --xattrs-include='user.*' -C kv/dir; mv kv/dir/a kv/b",
                                  "cp -a kv/a $OUT; rm kv/a; cp -a $OUT kv/b"])
def test_flags_are_copied(mnt, agent, tmp_path, copy):
    set_flags(agent, "a", b"v" * 5000, 42)
    os.mkdir(mnt / "kv/dir")
    done = sh(copy, cwd=mnt.path, env={**os.environ, "OUT": str(tmp_path / "a")})
    assert done.stderr == ""
    assert flags_of(agent, "b") == 42 and agent.kv_get("b") == b"v" * 5000


def test_a_locked_key_is_copied_without_its_lock(mnt, agent):
    session = agent.put("/v1/session/create", {}).json()["ID"]
    agent.put("/v1/kv/a", b"1", acquire=session)
    wait_equal(lambda: attributes(mnt / "kv/a").get("session"), session)
    sh("cp --preserve=xattr kv/a kv/b", cwd=mnt.path)
    assert "Session" not in agent.kv_entry("b") and agent.kv_entry("a")["Session"] == session


def test_flags_before_the_value(mnt, agent):
    with opened(mnt / "kv/new", os.O_RDWR | os.O_CREAT) as fd:
        os.setxattr(fd, FLAGS, b"7")
        os.write(fd, b"value")
    assert flags_of(agent, "new") == 7 and agent.kv_get("new") == b"value"


def test_flags_between_writes(mnt, agent):
    """Whether or not the watch tells of the flags before the answer to who set them."""
    agent.kv_set("a", b"1")
    for n in range(50):
        with opened(mnt / "kv/a", os.O_RDWR) as fd:
            os.pwrite(fd, b"2", 0)
            os.setxattr(fd, FLAGS, b"%d" % n)
            os.pwrite(fd, b"3", 1)
        assert flags_of(agent, "a") == n and agent.kv_get("a") == b"23"


def test_flags_between_many_writes(mnt, agent):
    """Also when the watch has told of the flags before Consul's answer to whoever set them is there."""
    agent.kv_set("a", b"0000")
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        for n in range(300):
            os.setxattr(fd, FLAGS, b"%d" % n)
            os.pwrite(fd, b"%03d" % n, 0)
    assert flags_of(agent, "a") == 299 and agent.kv_get("a") == b"2990"


def test_looking_costs_no_request(mount, agent, proxy):
    agent.kv_set("a", b"1")
    mnt = mount(proxy)
    attributes(mnt / "kv/a")
    with proxy.record() as seen:
        for _ in range(10):
            attributes(mnt / "kv/a")
            with fails_with(ENODATA):
                os.getxattr(mnt / "kv/a", "security.capability")
    assert not seen.not_blocking


# Locks by hand: ?acquire= and ?release=


def test_a_lock_is_taken_and_given_back(mnt, agent):
    set_flags(agent, "lock", b"value", 42)
    sh("""echo '{}' > sessions/mine.json
          setfattr -n user.consul.acquire -v $(basename $(readlink sessions/by-name/mine) .json) kv/lock""", cwd=mnt.path)
    session = agent.get("/v1/session/list").json()[0]["ID"]
    entry = agent.kv_entry("lock")
    assert (entry["Session"], entry["Flags"], agent.kv_get("lock")) == (session, 42, b"value")
    assert attributes(mnt / "kv/lock")["session"] == session
    other = agent.put("/v1/session/create", {}).json()["ID"]
    with fails_with(EBUSY):
        os.setxattr(mnt / "kv/lock", "user.consul.acquire", other.encode())
    with fails_with(EPERM):
        os.setxattr(mnt / "kv/lock", "user.consul.release", other.encode())
    sh(f"setfattr -n user.consul.release -v {session} kv/lock", cwd=mnt.path)
    entry = agent.kv_entry("lock")
    assert "Session" not in entry and entry["Flags"] == 42 and agent.kv_get("lock") == b"value"
    assert "session" not in attributes(mnt / "kv/lock")
    for bad in (b"nonsense", b"11111111-2222-3333-4444-555555555555"):
        with fails_with(EINVAL):
            os.setxattr(mnt / "kv/lock", "user.consul.acquire", bad)
