"""
Programs on one agent's mount, seen through another's. Then three servers, of which the leader is killed while a server's
mount and a client agent's mount are written and read: what was reported as stored is there, what was there never looks
gone, and a lost majority is an error.
"""

import concurrent.futures
import contextlib
import errno
import itertools
import os
import threading
from errno import ENOENT

import pytest

from harness.place import Place
from harness.wait import wait_equal, wait_until

KEYS = {f"k{n}" for n in range(5)}


class Worker(threading.Thread):
    """Does step(n) for n = 0, 1, … until it is stopped; an AssertionError ends it, an OSError is counted by its errno."""

    def __init__(self, step):
        super().__init__(daemon=True)
        self.step = step
        self.done = []  # the n whose step succeeded
        self.errors = []
        self.failure = None
        self._stop_it = threading.Event()
        self.start()

    def run(self):
        n = 0
        while not self._stop_it.is_set():
            try:
                self.step(n)
                self.done.append(n)
            except OSError as error:
                self.errors.append(error.errno)
            except AssertionError as failure:
                self.failure = failure
                return
            n += 1

    def makes_progress(self):
        """A step that begins from now on succeeds."""
        before = len(self.done)

        def went_on():
            return self.failure or len(self.done) > before + 1

        try:
            wait_until(went_on, "a step succeeds", 45)
        except AssertionError as error:
            raise AssertionError(f"{error}; {[errno.errorcode[code] for code in self.errors[-5:]]}") from None

    def stop(self):
        self._stop_it.set()
        self.join(timeout=60)
        assert not self.is_alive(), "a step hangs"
        if self.failure:
            raise self.failure


def write(path, data, flags):
    """One write; whether it is stored is what write() and close() say."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags)
    try:
        assert os.write(fd, data) == len(data)
    finally:
        os.close(fd)


class Load:
    """On one mount: a writer of a key for each step, an appender to one key, and a reader of what does not change."""

    def __init__(self, mnt, name):
        self.mnt, self.name = mnt, name
        self.writer = Worker(lambda n: write(mnt / f"kv/written/{name}-{n}", b"%d" % n, os.O_EXCL))
        self.appender = Worker(lambda n: write(mnt / "kv/appended", f"{name} {n}\n".encode(), os.O_APPEND))
        self.reader = Worker(self.read)
        self.workers = (self.writer, self.appender, self.reader)

    def read(self, _):
        self.list_and_read()
        assert "web" in os.listdir(self.mnt / "services")
        assert {"s1", "s2", "s3", "c1"} <= set(os.listdir(self.mnt / "nodes"))

    def list_and_read(self):
        assert set(os.listdir(self.mnt / "kv/kept")) == KEYS
        for key in KEYS:
            with self.is_there():
                assert (self.mnt / "kv/kept" / key).read_bytes() == key.encode()

    @contextlib.contextmanager
    def is_there(self):
        try:
            yield
        except OSError as error:
            assert error.errno != ENOENT, f"{error.filename} looked absent"
            raise

    def stop(self):
        for worker in self.workers:
            worker.stop()

    def check(self, agent):
        """Everything that was reported as stored is there, and each line was appended whole."""
        missing = [n for n in self.writer.done if agent.kv_get(f"written/{self.name}-{n}") != b"%d" % n]
        assert not missing, f"written and reported as stored by {self.name}, but lost"
        lines = agent.kv_get("appended").decode().splitlines()
        mine = {line for line in lines if line.startswith(f"{self.name} ")}
        assert {f"{self.name} {n}" for n in self.appender.done} <= mine


@pytest.fixture
def prepared(cluster):
    for key in KEYS:
        cluster.client.kv_set(f"kept/{key}", key.encode())
    cluster.client.kv_set("written/", b"")
    cluster.client.kv_set("appended", b"")
    cluster.client.register("web", Port=80)
    return cluster


def survivor(cluster):
    """A server that is not the leader: its mount stays."""
    leader = cluster.leader
    return next(server for server in cluster.servers if server is not leader)


PROGRAMS = """
set -e
mkdir conf; printf 'port = 80\\n' > conf/app; sed -i s/80/8080/ conf/app; echo 'name = web' >> conf/app
cp -a conf copy; rsync -rc --delete copy/ conf/; tar -cf tar copy; tar -xf tar; rm tar; mv copy moved; diff -r conf moved
git init -q repo; cd repo; cp ../conf/app .; git add app; git commit -qm first; git gc -q; git fsck --no-progress; cd ..
rm -rf moved; find conf -name '*.bak' -delete
"""


def test_programs_on_a_server_are_seen_on_a_client(cluster, mount, tmp_path):
    """And the other way round: each sees the other's work as a disk of its own would have it."""
    place = Place(cluster.client, mount(survivor(cluster)), mount(cluster.client), tmp_path / "home")
    place.run(PROGRAMS)
    stored = place.stored()
    assert stored["conf/app"] == stored["repo/app"] == b"port = 8080\nname = web\n"
    place.holds(stored)
    place.run("set -e; cd $there; git -C repo fsck --no-progress; git clone -q repo $home/clone; cmp repo/app conf/app")
    place.run("rm -r $there/conf")
    wait_equal(lambda: os.listdir(place.kv), ["repo"])
    place.holds({key: value for key, value in stored.items() if not key.startswith("conf/")})


def test_the_leader_is_killed_under_load(prepared, mount):
    cluster, mounts = prepared, {}
    for name, agent in (("server", survivor(prepared)), ("client", prepared.client)):
        mounts[name] = mount(agent, timeout=20, stale=0)
        mounts[name].expect_log()
    loads = [Load(mnt, name) for name, mnt in mounts.items()]
    try:
        for load in loads:
            for worker in load.workers:
                worker.makes_progress()
        killed = cluster.kill_leader()
        for load in loads:
            for worker in load.workers:
                worker.makes_progress()
        assert cluster.leader is not killed
    finally:
        for load in loads:
            load.stop()
    for load in loads:
        load.check(cluster.client)
        assert load.writer.done and load.appender.done and load.reader.done


def test_a_lost_majority_is_an_error(prepared, mount):
    last = survivor(prepared)
    mounts = [mount(agent, timeout=3, stale=0) for agent in (last, prepared.client)]
    for mnt in mounts:
        mnt.expect_log()
        assert set(os.listdir(mnt / "kv/kept")) == KEYS
    for server in prepared.servers:
        if server is not last:
            server.kill()
    def lost(mnt):
        # What was known may be shown until the loss is noticed, but never as less than it was.
        wait_until(lambda: fails(lambda: os.listdir(mnt / "kv/kept"), KEYS), "a listing fails", 45)

    def refused(mnt, attempt):
        assert fails(lambda: attempt(mnt))

    attempts = (
        lambda mnt: (mnt / "kv/kept/k0").read_bytes(),
        lambda mnt: (mnt / "kv/kept/absent").read_bytes(),
        lambda mnt: os.listdir(mnt / "services"),
        lambda mnt: (mnt / "kv/kept/k0").write_bytes(b"x"),
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:  # each takes as long as the mount may try
        for _ in pool.map(lost, mounts):
            pass
        for _ in pool.map(refused, *zip(*itertools.product(mounts, attempts))):
            pass
    prepared.heal()
    for mnt in mounts:
        wait_equal(lambda m=mnt: set(os.listdir(m / "kv/kept")), KEYS, timeout=45)


def fails(attempt, known=None):
    """With an error that does not say that there is nothing; else it must show what is known."""
    try:
        got = attempt()
    except OSError as error:
        assert error.errno != ENOENT, f"{error.filename} looked absent"
        return True
    assert known is not None and set(got) == known
    return False
