"""Small writes of many programs at a time share transactions: each as if it had gone by itself."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.programs import fails_with
from harness.stats import stats
from harness.wait import wait_equal

WRITERS = 40


def store(path, data):
    """As a shell's > does. What close() says is part of it."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def at_once(run, arguments):
    """What run(argument) returned, or its errno, for each: by a thread each."""

    def outcome(argument):
        try:
            return run(argument)
        except OSError as error:
            return error.errno

    with ThreadPoolExecutor(WRITERS) as threads:
        return list(threads.map(outcome, arguments))


def test_each_is_stored_and_they_share_requests(mount, agent):
    names = [f"d/{n}" for n in range(WRITERS)]
    agent.kv_set_all(names)
    mnt = mount(agent)
    os.listdir(mnt / "kv/d")
    before = stats(mnt)

    def write_and_look(name):
        for turn in range(20):
            value = f"{name} in turn {turn}\n".encode() * (turn % 3 * 20 + 1)
            store(mnt / "kv" / name, value)
            assert (mnt / "kv" / name).read_bytes() == value
        return value

    last = at_once(write_and_look, names)
    after = stats(mnt)
    assert [agent.kv_get(name) for name in names] == last
    assert after["http.writes_together"] > before["http.writes_together"]
    assert after["http.requests"] - before["http.requests"] < 20 * WRITERS
    other = mount(agent)
    wait_equal(lambda: [(other / "kv" / name).read_bytes() for name in names], last)


def test_one_key_has_one_of_the_values(mount, agent):
    agent.kv_set_all(["d/one", "d/other"])
    mnt = mount(agent)
    for turn in range(10):
        values = [b"%d of turn %d" % (n, turn) for n in range(WRITERS)]
        assert at_once(lambda value: store(mnt / "kv/d/one", value), values) == [None] * WRITERS
        stored = agent.kv_get("d/one")
        assert stored in values and (mnt / "kv/d/one").read_bytes() == stored
        index = agent.kv_entry("d/one")["ModifyIndex"]
        assert int(os.getxattr(mnt / "kv/d/one", "user.consul.modify_index")) == index


def test_who_is_refused_is_so_alone(mount, acl_agent):
    names = [f"{top}/{n}" for n in range(WRITERS // 2) for top in ("app", "secret")]
    acl_agent.kv_set_all(names)
    token = acl_agent.new_token('key_prefix "" { policy = "read" } key_prefix "app/" { policy = "write" }')
    mnt = mount(acl_agent, env={"CONSUL_HTTP_TOKEN": token})
    os.listdir(mnt / "kv/app")
    expected = [None if name.startswith("app") else errno.EACCES for name in names]
    for turn in range(10):
        assert at_once(lambda name: store(mnt / "kv" / name, b"%d" % turn), names) == expected
    assert stats(mnt)["http.writes_together"] > 0
    assert {acl_agent.kv_get(name) for name in names} == {b"9", b""}
    assert "Permission denied" in (mnt / ".consulfs/errors").read_text()


@pytest.mark.parametrize("limit", [1000, 100_000])
def test_together_they_are_no_larger_than_the_agent_takes(mount, new_agent, limit):
    agent = new_agent(limits={"kv_max_value_size": limit, "txn_max_req_len": limit})
    names = [f"d/{n}" for n in range(WRITERS)]
    for name in names:
        agent.kv_set(name, b"")
    mnt = mount(agent)
    for turn in range(10):
        values = {name: os.urandom(limit // 2 if turn % 2 else 300) for name in names}
        assert at_once(lambda name: store(mnt / "kv" / name, values[name]), names) == [None] * WRITERS
        assert {name: agent.kv_get(name) for name in names} == values
    assert not (mnt / ".consulfs/errors").read_text()


def test_where_the_agent_does_not_answer_each_hears_of_it(mount, new_agent):
    agent = new_agent()
    names = [f"d/{n}" for n in range(WRITERS)]
    agent.kv_set_all(names)
    mnt = mount(agent, timeout=3)
    for name in names:
        assert (mnt / "kv" / name).read_bytes() == b""
    store(mnt / "kv" / names[0], b"v")
    agent.pause()
    failed = at_once(lambda name: store(mnt / "kv" / name, b"lost"), names)
    agent.resume()
    assert set(failed) <= {errno.ETIMEDOUT, errno.EHOSTUNREACH}

    def all_new():  # what is lost may still be stored by an agent that had it before it stopped
        done = at_once(lambda name: store(mnt / "kv" / name, b"new"), names)
        return set(done), {agent.kv_get(name) for name in names}

    wait_equal(all_new, ({None}, {b"new"}))
    agent.kill()
    with fails_with(errno.ECONNREFUSED, errno.EHOSTUNREACH):
        store(mnt / "kv" / names[0], b"v")
    assert set(at_once(lambda name: store(mnt / "kv" / name, b"lost"), names)) <= {errno.ECONNREFUSED, errno.EHOSTUNREACH}
