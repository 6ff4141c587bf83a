"""
Changes made elsewhere raise the events that a change made here would: inotify and poll.

That nothing more is raised than should be is seen by a fence: a change of another key of the same directory, whose
events come behind all those before.
"""

import contextlib
import itertools
import os
import random
import select
import subprocess
import threading
import time

import pytest
from harness.inotify import Inotify
from harness.programs import names, opened, sh
from harness.proxy import Delay, Stall
from harness.stats import stats
from harness.wait import wait_equal, wait_until


def written(name):
    return [f"{name}: MODIFY", f"{name}: CLOSE_WRITE"]


def created(name):
    return [f"{name}: CREATE", *written(name)]


class Directory:
    """A directory of kv/ that is watched; `agent` changes what is in it, elsewhere."""

    fences = itertools.count(1)  # of all of them: two may watch the same directory

    def __init__(self, mnt, agent, name="d"):
        self.agent, self.name = agent, name
        self.path = mnt / "kv" / name
        self.inotify = Inotify()

    def __enter__(self):
        self.set("fence", b"")
        wait_until(self.path.exists, "the directory is there")
        self.inotify.watch(self.path)
        self.events()  # its blocking query is out: what changes from now on is told in that order
        return self

    def __exit__(self, *_):
        self.inotify.__exit__()

    def set(self, name, value):
        self.agent.kv_set(f"{self.name}/{name}", value)

    def delete(self, name):
        self.agent.delete(f"/v1/kv/{self.name}/{name}")

    def events(self):
        """What was raised since the last call. Of what changes at once directories come last: hence two fences."""
        events = []
        for _ in range(2):
            fence = f"fence-{next(self.fences)}"
            self.set(fence, b"1")
            events += self.inotify.until(f"{self.name}/{fence}: CLOSE_WRITE")
        return [event for event in events if "/fence" not in event]

    def names(self):
        return [name for name in names(self.path) if not name.startswith("fence")]


# The directory's watchers


def test_what_shows_it_becomes_another(mount, agent):
    """The first look was at it; once somebody looks at something else, all that there is tells of changes."""
    agent.kv_set("other", b"1")
    mnt = mount(agent)
    with Directory(mnt, agent) as d:
        for n in range(60):
            d.set(f"key{n}", b"1")
            if n == 30:
                assert (mnt / "kv/other").read_bytes() == b"1"
        assert d.events() == [event for n in range(60) for event in created(f"d/key{n}")]


def test_value_changes(mnt, agent):
    with Directory(mnt, agent) as d:
        d.set("a", b"1")
        assert d.events() == created("d/a")
        for value in (b"2", b"longer", b"", b"x" * 100_000, b"y"):
            d.set("a", value)
            assert d.events() == written("d/a")
            assert (d.path / "a").read_bytes() == value
            assert os.stat(d.path / "a").st_size == len(value)


def test_a_reader_that_is_told_sees_the_new_value(mnt, agent):
    """At the moment of the event the name shows what the event is about, or newer."""
    with Directory(mnt, agent) as d:
        d.set("a", b"0")
        d.inotify.until("d/a: CLOSE_WRITE")
        for n in range(1, 100):
            (d.path / "a").read_bytes()  # the kernel has it
            d.set("a", b"%d" % n)
            d.inotify.until("d/a: CLOSE_WRITE")
            assert (d.path / "a").read_bytes() == b"%d" % n


def test_key_is_created_and_deleted(mnt, agent):
    with Directory(mnt, agent) as d:
        d.set("new", b"1")
        d.set("empty", b"")
        assert d.events() == [*created("d/new"), "d/empty: CREATE", "d/empty: CLOSE_WRITE"]
        assert d.names() == ["empty", "new"]
        d.delete("new")
        d.delete("empty")
        assert d.events() == ["d/new: DELETE", "d/empty: DELETE"]
        assert d.names() == []


def test_deleted_whether_it_was_looked_at_or_not(mnt, agent):
    with Directory(mnt, agent) as d:
        for name in ("seen", "unseen"):
            d.set(name, b"1")
        d.events()
        (d.path / "seen").read_bytes()
        sh("echo 1 > .consulfs/drop-caches", cwd=mnt.path)
        (d.path / "seen").read_bytes()
        for name in ("seen", "unseen"):
            d.delete(name)
        assert d.events() == ["d/seen: DELETE", "d/unseen: DELETE"]


def test_directories_come_and_go(mnt, agent):
    with Directory(mnt, agent) as d:
        d.set("sub/a/b", b"1")
        assert d.events() == ["d/sub: CREATE|ISDIR"]
        d.set("sub/c", b"1")
        assert d.events() == []
        d.delete("sub/c")
        d.delete("sub/a/b")
        assert d.events() == ["d/sub: DELETE|ISDIR"]


def test_a_key_becomes_a_directory_and_a_file_again(mnt, agent):
    with Directory(mnt, agent) as d:
        d.set("x", b"1")
        d.events()
        d.set("x/y", b"1")
        assert d.events() == ["d/x: DELETE", "d/x: CREATE|ISDIR"]
        assert (d.path / "x/%value").read_bytes() == b"1"
        d.delete("x/y")
        assert d.events() == ["d/x: DELETE|ISDIR", "d/x: CREATE", "d/x: MODIFY", "d/x: CLOSE_WRITE"]
        assert (d.path / "x").read_bytes() == b"1"


def test_value_of_a_key_that_is_a_prefix_too(mnt, agent):
    with Directory(mnt, agent) as d:
        d.set("x", b"1")
        d.set("x/y", b"1")
        d.events()
        d.inotify.watch(d.path / "x")
        d.set("x", b"2")
        assert d.inotify.until("x/%value: CLOSE_WRITE") == written("x/%value")


def test_watched_directory_that_vanishes_and_comes_back(mnt, agent):
    with Directory(mnt, agent) as d:
        d.set("sub/a", b"1")
        d.events()
        d.inotify.watch(d.path / "sub")
        d.delete("sub/a")
        d.inotify.until("sub/a: DELETE")
        d.events()
        d.set("sub/a", b"2")
        seen = d.inotify.until("sub/a: CLOSE_WRITE")
        assert [event for event in seen if event.startswith("sub/")] == created("sub/a")
        assert (d.path / "sub/a").read_bytes() == b"2"


def test_strange_names(mnt, agent):
    with Directory(mnt, agent) as d:
        for key, name in (("a b", "a b"), ("%2F", "%252F"), ("ü", "ü"), ("n\nl", "n\nl"), ("..", "%2E%2E")):
            d.set(key, b"1")
            assert d.events() == created(f"d/{name}")
            agent.put("/v1/txn", [{"KV": {"Verb": "delete", "Key": f"d/{key}"}}])
            assert d.events() == [f"d/{name}: DELETE"]
        d.set("/x", b"1")
        assert d.events() == ["d/%empty: CREATE|ISDIR"]


def test_the_top_of_kv(mnt, agent):
    with Inotify() as inotify:
        inotify.watch(mnt / "kv")
        names(mnt / "kv")
        agent.kv_set("a", b"1")
        assert inotify.until("kv/a: CLOSE_WRITE") == created("kv/a")


def test_nothing_is_raised_for_what_did_not_change(mnt, agent):
    with Directory(mnt, agent) as d:
        d.set("a", b"1")
        d.events()
        with Inotify().watch(d.path / "a") as own:
            number = os.stat(d.path / "a").st_ino
            before = os.getxattr(d.path / "a", "user.consul.modify_index")
            d.set("a", b"1")
            assert agent.request("PUT", "/v1/kv/d/a", params={"flags": 42}, data=b"1").text.strip() == "true"
            session = agent.put("/v1/session/create", {"TTL": "60s"}).json()["ID"]
            assert agent.request("PUT", "/v1/kv/d/a", params={"acquire": session}, data=b"1").text.strip() == "true"
            assert agent.request("PUT", "/v1/kv/d/a", params={"release": session}, data=b"1").text.strip() == "true"
            assert d.events() == []
            # What did change is seen all the same, and the file is the one that is watched.
            assert os.getxattr(d.path / "a", "user.consul.flags") != b"42"
            assert os.getxattr(d.path / "a", "user.consul.modify_index") != before
            assert os.stat(d.path / "a").st_ino == number
            d.set("a", b"2")
            assert own.until("a: DELETE_SELF") == ["a: DELETE_SELF"]


def test_other_directories_hear_nothing(mnt, agent):
    with Directory(mnt, agent) as d:
        agent.kv_set("other/a", b"1")
        agent.kv_set("d2/a", b"1")
        assert d.events() == []


# The file's own watchers


def test_file_that_is_watched_itself_is_replaced(mnt, agent):
    """As by a careful editor's rename: the watch is on the old value, whose file is no more."""
    agent.kv_set("d/a", b"1")
    with Inotify() as inotify:
        for n in range(2, 20):
            inotify.watch(mnt / "kv/d/a")
            with opened(mnt / "kv/d/a", os.O_RDONLY) as fd:
                agent.kv_set("d/a", b"%d" % n)
                wait_equal((mnt / "kv/d/a").read_bytes, b"%d" % n)
                assert os.read(fd, 99) == b"%d" % (n - 1)
            assert "a: DELETE_SELF" in inotify.until("a: IGNORED")


def drop_dentries():
    """All that nobody uses, of every file system: names, and inodes that only they held."""
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("2")


@pytest.mark.parametrize("options", [{}, {"ro": True}])
def test_file_that_is_watched_itself_though_the_kernel_has_dropped_its_name(mount, agent, options):
    """It keeps the inode for the watcher's sake; there is no name any more under which it could be deleted."""
    mnt = mount(agent, **options)
    agent.kv_set("d/a", b"1")
    agent.kv_set("d/b", b"1")
    with Inotify().watch(mnt / "kv/d/a") as inotify:
        assert (mnt / "kv/d/b").read_bytes() == b"1"
        drop_dentries()
        agent.kv_set("d/a", b"2")
        assert "a: DELETE_SELF" in inotify.until("a: IGNORED")
        assert (mnt / "kv/d/a").read_bytes() == b"2"


def test_file_that_is_watched_itself_is_found_changed_by_a_reader_first(mnt, agent):
    """Whoever opens it between the change and its being told gets the new file, and the kernel drops the old one."""
    agent.kv_set("d/a", b"0")
    stop = threading.Event()

    def read():
        while not stop.is_set():
            (mnt / "kv/d/a").read_bytes()

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        with Inotify() as inotify:
            for n in range(1, 30):
                inotify.watch(mnt / "kv/d/a")
                agent.kv_set("d/a", b"%d" % n)
                assert "a: DELETE_SELF" in inotify.until("a: IGNORED")
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def test_file_that_is_watched_itself_is_deleted(mnt, agent):
    agent.kv_set("d/a", b"1")
    with Inotify().watch(mnt / "kv/d/a") as inotify:
        agent.delete("/v1/kv/d/a")
        assert "a: DELETE_SELF" in inotify.until("a: IGNORED")


# What is done here is told by the kernel, and once


def test_own_changes_are_raised_once(mnt, agent):
    with Directory(mnt, agent) as d:
        for n in range(50):
            with opened(d.path / "own", os.O_WRONLY | os.O_CREAT) as fd:
                os.pwrite(fd, b"%d" % n, 0)
            d.set("theirs", b"%d" % n)
        events = d.events()
        assert events.count("d/own: CREATE") == 1
        assert events.count("d/own: MODIFY") == 50
        assert events.count("d/own: CLOSE_WRITE") == 50
        assert events.count("d/theirs: CREATE") == 1
        os.unlink(d.path / "own")
        os.mkdir(d.path / "sub")
        os.rmdir(d.path / "sub")
        os.rename(d.path / "theirs", d.path / "moved")
        assert d.events() == [
            "d/own: DELETE",
            "d/sub: CREATE|ISDIR",
            "d/sub: DELETE|ISDIR",
            "d/theirs: MOVED_FROM",
            "d/moved: MOVED_TO",
        ]


def test_many_own_changes_at_once(mount, agent):
    """Blocking queries can bring our own changes before their own answers."""
    mnt = mount(agent)
    with Directory(mnt, agent) as d:

        def work(n):
            for i in range(20):
                with opened(d.path / f"{n}", os.O_WRONLY | os.O_CREAT) as fd:
                    os.write(fd, b"%d" % i)
                os.unlink(d.path / f"{n}")

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = d.events()
        for n in range(8):
            for what in ("CREATE", "MODIFY", "CLOSE_WRITE", "DELETE"):
                assert events.count(f"d/{n}: {what}") == 20, f"{n}: {what}"


def test_two_mounts(mount, agent):
    """What one does, the other's watchers hear; each once."""
    a, b = mount(agent), mount(agent)
    with Directory(a, agent) as here, Directory(b, agent, "d") as there:
        here.events(), there.events()
        (a / "kv/d/x").write_bytes(b"1")
        os.rename(a / "kv/d/x", a / "kv/d/y")
        assert there.inotify.until("d/y: CLOSE_WRITE")[-3:] == created("d/y")
        own = ["d/x: CREATE", "d/x: MODIFY", "d/x: CLOSE_WRITE", "d/x: MOVED_FROM", "d/y: MOVED_TO"]
        seen = here.inotify.until("d/y: MOVED_TO")
        assert [event for event in seen if "fence" not in event] == own


# A directory that goes with what this mount has removed from it

GOES = {
    "rm kv/d/sub/key": "d/sub: DELETE|ISDIR",
    "mv kv/d/sub/key kv/moved": "d/sub: DELETE|ISDIR",
    "rm -r kv/d/sub": "d/sub: DELETE|ISDIR",  # raised by the kernel, too, for the directory itself
    "rm services/web/one@ext.json": "services/web: DELETE|ISDIR",
    "rm nodes/ext/services/one.json": "services/web: DELETE|ISDIR",
    "rm -r services/web": "services/web: DELETE|ISDIR",
}


@pytest.mark.parametrize("command", GOES)
def test_a_directory_that_is_emptied_here(mnt, agent, command):
    agent.kv_set("d/sub/key", b"")
    service = {"Service": "web", "ID": "one"}
    agent.put("/v1/catalog/register", {"Node": "ext", "Address": "192.0.2.1", "Service": service})
    wait_equal(lambda: names(mnt / "kv/d"), ["sub"])
    wait_equal(lambda: names(mnt / "services"), ["consul", "web"])
    with Inotify().watch(mnt / "kv/d").watch(mnt / "services") as inotify:
        sh(command, cwd=mnt.path)
        assert inotify.until(GOES[command]) == [GOES[command]]
        wait_until(lambda: stats(mnt)["inotify.queued"] == 0, "all is announced")
        agent.put("/v1/catalog/register", {"Node": "ext", "Address": "192.0.2.1", "Service": {"Service": "fence"}})
        assert inotify.until("services/fence: CREATE|ISDIR") == ["services/fence: CREATE|ISDIR"]


def test_who_empties_a_directory_may_remove_it_too(mnt, agent):
    """Its watchers are told by the kernel, then, and not before he does; or that it is gone, when he is over."""
    agent.kv_set("d/sub/key", b"")
    wait_equal(lambda: names(mnt / "kv/d"), ["sub"])
    with Inotify().watch(mnt / "kv/d") as inotify:
        os.unlink(mnt / "kv/d/sub/key")
        agent.kv_set("d/fence", b"1")
        assert inotify.until("d/fence: CLOSE_WRITE") == created("d/fence")
        os.rmdir(mnt / "kv/d/sub")
        assert inotify.until("d/sub: DELETE|ISDIR") == ["d/sub: DELETE|ISDIR"]
        wait_until(lambda: stats(mnt)["inotify.queued"] == 0, "all is announced")
        agent.kv_set("d/fence", b"2")
        assert inotify.until("d/fence: CLOSE_WRITE") == written("d/fence")


# Beyond kv/


def test_service_directory(mnt, agent):
    agent.register("web", "web-1", port=8001)
    wait_equal(lambda: "web-1.json" in names(mnt / "services/web"), True)
    with Inotify().watch(mnt / "services/web") as inotify:
        agent.set_status("web", "web-1", "critical")
        events = inotify.until("web/passing: CLOSE_WRITE")
        assert "web/passing: MODIFY" in events
        assert (mnt / "services/web/passing").read_text() == ""
        agent.register("web", "web-2", port=8002)
        events += inotify.until("web/web-2.json: CLOSE_WRITE")
        assert "web/web-2.json: CREATE" in events
        assert not [event for event in events if event.startswith("web/tags")]
        agent.put("/v1/agent/service/deregister/web-2")
        inotify.until("web/web-2.json: DELETE")


def test_services(mnt, agent):
    names(mnt / "services")
    with Inotify().watch(mnt / "services") as inotify:
        agent.register("db", "db-1")
        inotify.until("services/db: CREATE|ISDIR")
        agent.put("/v1/agent/service/deregister/db-1")
        inotify.until("services/db: DELETE|ISDIR")


class Mirror:
    """The names in a directory, kept by its events alone."""

    def __init__(self, inotify, directory):
        self.directory = directory
        self.inotify = inotify.watch(directory)
        self.names, self.events = set(names(directory)), []

    def is_true(self):
        with contextlib.suppress(AssertionError):
            self.inotify.until("nothing", timeout=0.3)
        for event in self.inotify.seen:
            place, _, what = event.partition(": ")
            name, what = place.partition("/")[2], set(what.split("|"))
            if name and what & {"CREATE", "MOVED_TO"}:
                self.names.add(name)
            elif name and what & {"DELETE", "MOVED_FROM"}:
                self.names.discard(name)
        self.events += self.inotify.seen
        self.inotify.seen.clear()
        return self.names == set(names(self.directory))


def wait_mirror(mirror, done):
    """What is asked for from time to time only may take a minute."""
    try:
        wait_until(mirror.is_true, "", timeout=70)
    except AssertionError:
        there = names(mirror.directory)
        pytest.fail(f"{sorted(mirror.names)} instead of {there}, after {done} and the events {mirror.events}")


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("store", ["small", "large", "heavy"])
def test_a_mirror_kept_by_events(mount, agent, proxy, store, seed):
    """
    Whatever happens in the directory, here and elsewhere, who adds what is created and takes away what is deleted knows
    in the end what is in it; also where one watch can't show all of it, and what shows it is another again and again.
    Not of what was made here and removed elsewhere before any answer had it, nor of what was removed here and made
    elsewhere before one lacked it: where only names are asked for, that leaves no trace.
    """
    pick = random.Random(seed)
    for n in range(8 if store == "large" else 0):
        agent.kv_set(f"d/large{n}", b"x" * 250_000)
    agent.kv_set("d/here", b"")
    slow = Delay(0.012 if store == "heavy" else 0)
    with proxy.fault(slow, path="/v1/kv/*", asking="keys"), Inotify() as inotify:
        mnt = mount(proxy)
        if seed % 2:
            names(mnt / "kv")
        d = mnt / "kv/d"
        names(d)
        mirror = Mirror(inotify, d)
        time.sleep(1.5)  # who watches is heard of after a moment
        assert mirror.is_true()
        done, made_here, removed_here = [], set(), set()
        for n in range(30):
            name, value = pick.choice(["a", "a!", "b", "c", "d"]), b"%d" % n
            other = pick.choice(["a", "a!", "b", "c", "d"])
            what, do = pick.choice(
                [
                    ("set elsewhere", lambda: agent.kv_set(f"d/{name}", value)),
                    ("set elsewhere", lambda: agent.kv_set(f"d/{name}", value)),
                    ("set below, elsewhere", lambda: agent.kv_set(f"d/{name}/x", value)),
                    ("delete elsewhere", lambda: agent.delete(f"/v1/kv/d/{name}")),
                    ("delete below, elsewhere", lambda: agent.delete(f"/v1/kv/d/{name}/", recurse="")),
                    ("write", lambda: (d / name).write_bytes(value)),
                    ("unlink", lambda: os.unlink(d / name)),
                    ("unlink below", lambda: sh(f"rm -f {name}/*", cwd=d, check=False)),
                    ("remove all", lambda: sh(f"rm -rf {name}", cwd=d, check=False)),
                    ("mkdir", lambda: os.mkdir(d / name)),
                    (f"rename to {other}", lambda: os.rename(d / name, d / other)),
                    ("look", lambda: (d / name).exists()),
                ]
            )
            if "delete" in what and name in made_here:
                continue
            if "set" in what and name in removed_here and store != "small":
                wait_mirror(mirror, done)
                removed_here.clear()
            if what in ("write", "mkdir") or "rename" in what:
                made_here |= {name, other}
            if "unlink" in what or "remove" in what or "rename" in what:
                removed_here.add(name)
            done.append(f"{what}: {name}")
            with contextlib.suppress(OSError):
                do()
            if pick.random() < 0.3:
                time.sleep(0.05)
            if pick.random() < 0.1:
                wait_mirror(mirror, done)
                made_here.clear()
                removed_here.clear()
        wait_mirror(mirror, done)


# Who watches need not read


def test_service_that_was_never_listed(mnt, agent):
    """Somebody only holds the directory: it is listed for him after a moment."""
    agent.register("web", "web-1", port=8001)
    wait_until((mnt / "services/web").exists, "the service is there")
    with Inotify().watch(mnt / "services/web") as inotify:
        wait_until(lambda: stats(mnt)["watches.now"] >= 1, "what shows the directory is watched")
        time.sleep(2)  # the moment; nothing outside tells that it is over
        agent.set_status("web", "web-1", "critical")
        inotify.until("web/passing: CLOSE_WRITE")


def test_prefix_of_a_large_store_that_was_never_listed(mount, agent):
    """What is watched is a key in it that is read, which tells of no other."""
    for n in range(8):
        agent.kv_set(f"large/{n}", b"x" * 250_000)
    mnt = mount(agent)
    (mnt / "kv/large/2").read_bytes()
    (mnt / "kv/large/3").read_bytes()
    with Inotify().watch(mnt / "kv/large") as inotify:
        time.sleep(2)  # as above
        agent.delete("/v1/kv/large/5")
        inotify.until("large/5: DELETE")
        agent.kv_set("large/new/below", b"1")
        inotify.until("large/new: CREATE|ISDIR")
        agent.kv_set("large/file", b"value")
        events = inotify.until("large/file: CLOSE_WRITE")
        assert "large/file: CREATE" in events
        assert (mnt / "kv/large/file").read_bytes() == b"value", "of which the event could tell the name only"
        (mnt / "kv/large/own").write_bytes(b"own")
        agent.delete("/v1/kv/large/file")
        events = inotify.until("large/file: DELETE")
        assert [event for event in events if "/own" in event] == created("large/own")


def test_names_that_the_server_takes_long_for(mount, agent, proxy):
    """At each change that would be too much: they are asked for from time to time."""
    agent.kv_set("old", b"value")
    with proxy.fault(Delay(0.015), path="/v1/kv/", asking="keys"):
        mnt = mount(proxy)
        kv = mnt / "kv"
        with Inotify().watch(kv) as inotify, Inotify().watch(kv) as others, Inotify().watch(kv) as gone:
            wait_until(lambda: stats(mnt)["watches.names"], "the names are watched")
            for n in range(30):
                if stats(mnt)["watches.demotions"]:
                    break
                agent.kv_set(f"watched{n}", b"value")
                inotify.until(f"kv/watched{n}: CLOSE_WRITE")
            assert not stats(mnt)["watches.names"]
            agent.kv_set("new", b"value")
            agent.kv_set("directory/below", b"value")
            agent.delete("/v1/kv/old")
            inotify.until("kv/new: CLOSE_WRITE", timeout=60)
            others.until("kv/directory: CREATE|ISDIR", timeout=60)
            gone.until("kv/old: DELETE", timeout=60)


def test_held_directories_stay_up_to_date_when_all_is_forgotten(mnt, agent):
    """As when a watch has been idle for long, or another one needs its place."""
    agent.kv_set("d/a", b"1")
    agent.register("web", "web-1", port=8001)
    wait_equal(lambda: "web-1.json" in names(mnt / "services/web"), True)
    with Inotify().watch(mnt / "services/web").watch(mnt / "kv/d") as inotify:
        for n in range(3):
            ended = stats(mnt)["watches.ended"]
            (mnt / ".consulfs/drop-caches").write_text("1")
            assert stats(mnt)["watches.ended"] >= ended + 2
            wait_until(lambda: stats(mnt)["watches.now"] >= 2, "what is held is watched again")
            agent.kv_set("d/a", b"%d" % (2 + n))
            inotify.until("d/a: CLOSE_WRITE")
            agent.set_status("web", "web-1", ("critical", "passing")[n % 2])
            inotify.until("web/passing: CLOSE_WRITE")


def test_what_nobody_holds_is_not_kept_up_to_date(mount, agent, proxy):
    agent.register("web", "web-1", port=8001)
    mnt = mount(proxy)
    wait_equal(lambda: "web-1.json" in names(mnt / "services/web"), True)
    with Directory(mnt, agent), proxy.record() as seen:
        for n in range(1, 4):  # what is held and what is not are looked at one after the other
            (mnt / ".consulfs/drop-caches").write_text("1")
            wait_until(lambda n=n: len(seen.matching(path="/v1/kv/*", blocking=True)) >= n, "kv/ is watched again")
        assert not seen.matching(path="/v1/health/*")


@pytest.mark.parametrize("reads", [False, True])
def test_what_changes_too_often_to_be_watched(mount, agent, reads):
    """The prefix is demoted. Nobody reads in it, but it is looked at from time to time for who watches."""
    mnt = mount(agent)
    with Directory(mnt, agent) as d:
        for n in range(10):
            d.set(f"key{n}", b"x" * 6000)
        d.events()
        done = 0
        while stats(mnt)["watches.demotions"] == 0:
            assert done < 100, "what changes all the time is watched whole"
            done += 1
            d.set("key0", b"%d" % done)
            d.inotify.until("d/key0: CLOSE_WRITE")
        for change, last, events in (
            (lambda: d.set("new", b"1"), "CLOSE_WRITE", created("d/new")),
            (lambda: d.set("new", b"longer"), "CLOSE_WRITE", ["d/new: MODIFY", "d/new: CLOSE_WRITE"]),
            (lambda: d.delete("new"), "DELETE", ["d/new: DELETE"]),
        ):
            if reads:
                assert (d.path / "key1").read_bytes() == b"x" * 6000
            change()
            assert d.inotify.until(f"d/new: {last}") == events


# poll


def polls(fd, timeout=0):
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    return bool(poll.poll(timeout * 1000))


def polling(fd):
    """Polls in a thread; the function that is returned waits for the outcome."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(polls(fd, 20)))
    thread.start()

    def result():
        thread.join()
        return outcome[0]

    return result


def test_poll_wakes_on_a_change_elsewhere(mnt, agent):
    agent.kv_set("d/a", b"1")
    with opened(mnt / "kv/d/a", os.O_RDONLY) as fd:
        assert not polls(fd)
        result = polling(fd)
        wait_until(lambda: stats(mnt)["upcalls.poll"] >= 2, "somebody polls")
        agent.kv_set("d/a", b"2")
        assert result()
        assert polls(fd)  # and remains so
        assert os.read(fd, 9) == b"1"
    with opened(mnt / "kv/d/a", os.O_RDONLY) as fd:
        assert not polls(fd)
        agent.delete("/v1/kv/d/a")
        assert polls(fd, 20)


def test_poll_wakes_on_a_change_here(mnt, agent):
    agent.kv_set("d/a", b"1")
    with opened(mnt / "kv/d/a", os.O_RDONLY) as fd, opened(mnt / "kv/d/a", os.O_RDONLY) as other:
        result = polling(fd)
        wait_until(lambda: stats(mnt)["upcalls.poll"] >= 1, "somebody polls")
        (mnt / "kv/d/a").write_bytes(b"2")
        assert result()
        assert polls(other)
    with opened(mnt / "kv/d/a", os.O_RDONLY) as fd:
        assert not polls(fd)
        os.unlink(mnt / "kv/d/a")
        assert polls(fd, 20)


def test_poll_is_not_woken_by_what_did_not_change(mnt, agent):
    agent.kv_set("d/a", b"1")
    agent.kv_set("d/b", b"1")
    with opened(mnt / "kv/d/a", os.O_RDONLY) as fd, opened(mnt / "kv/d/b", os.O_RDONLY) as fence:
        agent.request("PUT", "/v1/kv/d/a", params={"flags": 42}, data=b"1")
        agent.kv_set("d/b", b"2")
        assert polls(fence, 20)
        assert not polls(fd)


def test_many_pollers(mnt, agent):
    agent.kv_set("d/a", b"1")
    fds = [os.open(mnt / "kv/d/a", os.O_RDONLY) for _ in range(200)]
    results = [polling(fd) for fd in fds]
    wait_until(lambda: stats(mnt)["upcalls.poll"] >= 200, "all poll")
    agent.kv_set("d/a", b"2")
    assert all(result() for result in results)
    for fd in fds:
        os.close(fd)


def test_files_are_always_ready(mnt, agent):
    agent.kv_set("d/a", b"1")
    with opened(mnt / "kv/d/a", os.O_RDWR) as fd:
        assert select.select([fd], [fd], [], 0) == ([fd], [fd], [])


# What it costs


def test_nothing_is_announced_where_nobody_can_watch(mnt, agent):
    agent.kv_set("unseen/a", b"1")
    with Directory(mnt, agent) as d:
        # The first fences: an event is heard a moment before it is counted.
        wait_equal(lambda: stats(mnt)["inotify.announced"], 2)
        before = stats(mnt)
        for n in range(20):
            agent.kv_set("unseen/a", b"%d" % n)
        assert d.events() == []
        wait_equal(lambda: stats(mnt)["inotify.announced"], before["inotify.announced"] + 2)  # the fences


def test_no_request_is_sent(mount, agent, proxy):
    mnt = mount(proxy)
    with Directory(mnt, agent) as d:
        d.set("a", b"1")
        d.events()
        with proxy.record() as seen:
            for n in range(20):
                d.set("a", b"%d" % n)
                d.events()
        assert not seen.not_blocking
        assert stats(mnt)["inotify.failed"] == 0


def test_rate_is_bounded_and_changes_are_put_together(mount, agent):
    """One announcement a second, after a first burst: what waits in the queue is one for each name."""
    mnt = mount(agent, inotify=1)
    agent.kv_set("d/0", b"")
    names(mnt / "kv/d")
    with Inotify().watch(mnt / "kv/d") as inotify:
        for n in range(200):
            agent.kv_set(f"d/{n}", b"1")
        wait_until(lambda: stats(mnt)["inotify.queued"] > 100, "announcements wait")
        for n in range(200):
            agent.kv_set(f"d/{n}", b"2")
        queued = stats(mnt)["inotify.queued"]
        assert 0 < queued <= 200
        assert stats(mnt)["inotify.dropped"] == 0
        inotify.until("d/10: CLOSE_WRITE")


def test_off(mount, agent):
    mnt = mount(agent, inotify=0)
    agent.kv_set("d/a", b"1")
    with Inotify().watch(mnt / "kv/d") as inotify:
        agent.kv_set("d/a", b"2")
        wait_equal((mnt / "kv/d/a").read_bytes, b"2")
        agent.kv_set("d/b", b"2")
        wait_equal(lambda: names(mnt / "kv/d"), ["a", "b"])
        (mnt / "kv/d/fence").write_bytes(b"")
        assert inotify.until("d/fence: CREATE") == ["d/fence: CREATE"]
    assert stats(mnt)["upcalls.announcing"] == 0


def test_read_only_mount_still_tells_the_file(mount, agent):
    agent.kv_set("d/a", b"1")
    mnt = mount(agent, ro=True)
    with Inotify().watch(mnt / "kv/d/a") as inotify:
        agent.kv_set("d/a", b"2")
        assert "a: DELETE_SELF" in inotify.until("a: IGNORED")


# And if something is slow, or ends


def test_a_slow_directory_does_not_hold_back_another(mount, agent, proxy):
    mnt = mount(proxy)
    with Directory(mnt, agent, "slow") as slow, Directory(mnt, agent) as d:
        with proxy.fault(Stall(), path="/v1/txn", method="PUT") as fault:
            writer = threading.Thread(target=lambda: os.close(os.open(slow.path / "x", os.O_CREAT | os.O_EXCL)))
            writer.start()
            wait_until(lambda: fault.hits, "the creation waits, and holds the directory's lock")
            slow.set("y", b"1")
            for n in range(10):
                d.set("a", b"%d" % n)
                assert d.events() == (created("d/a") if n == 0 else written("d/a"))
        writer.join()
        slow.inotify.until("slow/y: CLOSE_WRITE")


def test_unmounting_is_never_busy_on_our_account(mount, agent):
    for _ in range(5):
        mnt = mount(agent)
        agent.kv_set("d/a", b"")
        names(mnt / "kv/d")
        stop = threading.Event()

        def change(stop=stop):
            n = 0
            while not stop.is_set():
                n += 1
                ops = [{"KV": {"Verb": "set", "Key": f"d/{n % 7}{i}", "Value": f"{n:04}"}} for i in range(20)]
                agent.put("/v1/txn", ops)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            wait_until(lambda: stats(mnt)["inotify.announced"] > 50, "changes are announced")
            subprocess.run(["fusermount3", "-u", mnt.path], check=True)
        finally:
            stop.set()
            thread.join()
        assert mnt.process.wait(timeout=20) == 0


def test_mount_that_is_hidden_by_another(mount, agent, tmp_path):
    """What was mounted over it is not touched."""
    mnt = mount(agent)
    agent.kv_set("d/a", b"1")
    names(mnt / "kv/d")
    subprocess.run(["mount", "-t", "tmpfs", "none", mnt.path], check=True)
    try:
        (mnt / "kv/d").mkdir(parents=True)
        (mnt / "kv/d/a").write_bytes(b"ours")
        before = os.stat(mnt / "kv/d/a").st_mtime_ns
        agent.kv_set("d/b", b"1")
        agent.kv_set("d/a", b"2")
        agent.kv_set("d/a", b"3")
        # A second mount sees these; the first has heard of them by the time that it is uncovered.
        assert names(mnt / "kv/d") == ["a"]
        assert os.stat(mnt / "kv/d/a").st_mtime_ns == before
    finally:
        subprocess.run(["umount", mnt.path], check=True)
    wait_equal((mnt / "kv/d/a").read_bytes, b"3")
    with Inotify().watch(mnt / "kv/d") as inotify:
        agent.kv_set("d/a", b"4")
        assert inotify.until("d/a: CLOSE_WRITE") == written("d/a")


def test_what_is_removed_in_a_directory_that_moves(mount, agent, proxy):
    """The directory that was there stays one for the kernel: its place may be filled again where it is by then."""
    mnt = mount(proxy)
    agent.kv_set("moves/a", b"")
    agent.kv_set("moves/sub/a", b"")
    new = mnt / "kv/moved/sub"
    with Directory(mnt, agent) as fence, opened(mnt / "kv/moves/sub", os.O_RDONLY):
        with proxy.fault(Stall(), path="/v1/txn", method="PUT") as fault:
            thread = threading.Thread(target=lambda: os.rename(mnt / "kv/moves", mnt / "kv/moved"))
            thread.start()
            wait_until(lambda: fault.hits, "the transaction is on its way")
            agent.client.kv.delete("moves/sub/a")
            fence.events()
        thread.join()
        agent.kv_set("moved/sub/b", b"")
        wait_equal(lambda: new.exists() and names(new), ["b"])
