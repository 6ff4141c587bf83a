"""
What looking and writing cost: requests to Consul and upcalls to the daemon, counted. How long it takes is what
tests/bench measures.
"""

import os
import time

import pytest

from harness.programs import sanitized, sh
from harness.stats import peak_memory, stats
from harness.wait import wait_until

TIMES = 100

# The kernel sends these when it likes; nobody waits for them.
NOT_WAITED_FOR = {"upcalls.release", "upcalls.forget", "upcalls.announcing"}


def upcalls(mnt, run):
    """By name, those that `run` waits for. Reading the counters takes some, too, which are the same each time."""
    stats(mnt)
    first, before = stats(mnt), stats(mnt)
    run()
    after = stats(mnt)
    found = {name: after[name] - before[name] - (before[name] - first[name]) for name in after}
    return {
        name.removeprefix("upcalls."): count
        for name, count in found.items()
        if name.startswith("upcalls.") and name not in NOT_WAITED_FOR and count
    }


def wait_hot(proxy, run):
    def silent():
        with proxy.record() as seen:
            run()
        return not seen.not_blocking

    wait_until(silent, "it is answered from memory")


@pytest.fixture
def hot(mount, agent, proxy):
    """A key and a view that are watched."""
    agent.kv_set("d/key", b"value")
    agent.register("web", Port=1)
    mnt = mount(proxy)
    paths = [mnt / "kv/d/key", mnt / "services/web/passing"]
    wait_hot(proxy, lambda: [path.read_bytes() for path in paths])
    return mnt, paths


def read(path):
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 100)
    os.close(fd)


def test_stat_of_what_is_watched_is_the_kernels(hot, proxy):
    mnt, paths = hot
    with proxy.record() as seen:
        assert upcalls(mnt, lambda: [os.stat(path) for path in paths * TIMES]) == {}
    assert seen.not_blocking == []


def test_reading_what_is_watched_is_one_upcall(hot, proxy):
    """That of open, as the mount can be written to. Pages are kept, and close is not told of before it has returned."""
    mnt, paths = hot
    with proxy.record() as seen:
        assert upcalls(mnt, lambda: [read(path) for path in paths * TIMES]) == {"open": 2 * TIMES}
    assert seen.not_blocking == []


def test_reading_from_an_open_file_is_the_kernels(hot):
    mnt, paths = hot
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            assert upcalls(mnt, lambda: [os.pread(file.fileno(), 100, 0) for _ in range(TIMES)]) == {}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("key", ["key", "a/key", "a/b/c/d/e/key", "настройки/größe"])
def test_first_look_at_a_key_is_one_request(mount, agent, proxy, large, key):
    """Also where the whole store is too large to be asked for, and after caches were dropped."""
    agent.kv_set(key, b"value")
    for n in range(16 if large else 0):
        agent.kv_set(f"large/{n}", b"x" * 200_000)
    mnt = mount(proxy)
    for _ in range(2):
        with proxy.record() as seen:
            assert (mnt / "kv" / key).read_bytes() == b"value"
            time.sleep(1.5)  # nor is more asked for later, by itself
        assert len(seen.matching(path="/v1/kv/*", blocking=False)) == 1
        (mnt / ".consulfs/drop-caches").write_text("1")


def test_a_look_is_one_request_each_time_that_nothing_is_known(mount, agent, proxy):
    """That kv/ is looked up all the time does not mean that somebody has it watched."""
    agent.kv_set("key", b"value")
    mnt = mount(proxy)
    looks = 0
    with proxy.record() as seen:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            (mnt / ".consulfs/drop-caches").write_text("1")
            assert (mnt / "kv/key").read_bytes() == b"value"
            looks += 1
            time.sleep(0.02)
    assert len(seen.matching(path="/v1/kv/*", blocking=False)) == looks


def test_first_listing_of_a_directory_is_one_request(mount, agent, proxy):
    for n in range(16):
        agent.kv_set(f"large/{n}", b"x" * 200_000)
        agent.kv_set(f"small/{n}", b"value")
    mnt = mount(proxy)
    with proxy.record() as seen:
        assert len(sh("ls -l kv/small; tail -n +1 kv/small/*", cwd=mnt.path).stdout.splitlines()) > 16
    assert len(seen.matching(path="/v1/kv/*", blocking=False)) == 1


def test_a_large_directory_is_never_parsed_as_a_whole(new_agent, mount):
    """What jansson makes of 50,000 keys would be 50 MB for a moment."""
    agent, count = new_agent(), 5_000 if sanitized() else 50_000
    agent.kv_set_all((f"dir/{n:07}" for n in range(count)), "dmFsdWUgb2Yga2V5IGluIGEgbGFyZ2UgZGlyZWN0b3J5")
    mnt = mount(agent)
    os.listdir(mnt / "kv")
    before = peak_memory(mnt.process)
    assert len(os.listdir(mnt / "kv/dir")) == count
    if not sanitized():  # what is freed stays
        assert (peak_memory(mnt.process) - before) * 1024 / count < 900


def test_whole_tree_is_no_more_requests_than_directories(mount, agent, proxy):
    for n in range(200):
        agent.kv_set(f"tree/{n % 10}/{n}", b"needle %d\n" % n)
    mnt = mount(proxy)
    with proxy.record() as seen:
        assert len(sh("grep -r needle kv/tree", cwd=mnt.path).stdout.splitlines()) == 200
    assert len(seen.matching(path="/v1/kv/*", blocking=False)) <= 11


@pytest.mark.parametrize("listed", [False, True])
def test_first_look_at_a_service_is_one_request(mount, agent, proxy, listed):
    for name in ("web", "other"):
        agent.register(name, Port=1)
    mnt = mount(proxy)
    if listed:
        wait_hot(proxy, lambda: os.listdir(mnt / "services"))
    with proxy.record() as seen:
        assert (mnt / "services/web/passing").read_text()
        assert (mnt / "services/web/tags").read_text() is not None and (mnt / "services/web").is_dir()
    assert [request.path for request in seen.not_blocking] == ["/v1/health/service/web"]
    with proxy.record() as seen:
        for name in ("none", "none"):
            assert not (mnt / "services" / name).exists()
    expected = [] if listed else ["/v1/health/service/none", "/v1/catalog/services"]
    assert [request.path for request in seen.not_blocking] == expected


def test_listing_services_is_one_request(mount, agent, proxy):
    agent.register("web", Port=1)
    mnt = mount(proxy)
    with proxy.record() as seen:
        assert sorted(os.listdir(mnt / "services")) == ["consul", "web"]
    assert len(seen.matching(path="/v1/catalog/services", blocking=False)) == 1
    assert len(seen.matching(path="/v1/health/*", blocking=False)) == 0


def test_writing_a_key_is_one_request(hot, proxy):
    mnt, (key, _) = hot
    with proxy.record() as seen:
        for n in range(TIMES):
            sh(f"echo {n} > kv/d/key", cwd=mnt.path)
    assert len([r for r in seen.not_blocking if r.method == "PUT"]) == TIMES
    # Once, a moment after the first look, a directory that somebody may hold is listed for his inotify watches.
    assert [str(r) for r in seen.not_blocking if r.method != "PUT"] in ([], ["GET /v1/kv/?recurse="])
    assert key.read_bytes() == b"%d\n" % (TIMES - 1)


def test_many_services_take_no_more_connections_than_allowed(mount, agent, proxy):
    """Consul allows 200 for all programs of a host; the default is 64 for a mount."""
    names = [f"s{n}" for n in range(100)]
    for name in names:
        agent.put("/v1/agent/service/register", {"Name": name, "ID": name})
    wait_until(lambda: len(agent.get("/v1/catalog/services").json()) == 101, "all are in the catalog")
    mnt = mount(proxy)
    most = 0
    for _ in range(3):
        for name in names:
            (mnt / "services" / name / "passing").read_bytes()
            most = max(most, proxy.connections)
    assert most <= 64
