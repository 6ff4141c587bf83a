"""
What is watched: the coarsest prefix that is small and quiet, else the directories and keys in it that are read; and what
a watch may cost. The same is tested with a clock of its own in unit/test_cache.c, where it takes minutes.
"""

import contextlib
import errno
import functools
import os

import pytest

from harness.programs import fails_with, opened, sh
from harness.proxy import Delay
from harness.stats import stats
from harness.wait import wait_equal, wait_until

SMALL = 1 << 20  # of the answer: what one watch may show of the store


def fill(agent, prefix, size, count=10):
    """So many bytes in so many keys."""
    for n in range(count):
        agent.kv_set(f"{prefix}/{n}", b"x" * (size // count))


def watched(mnt):
    now = stats(mnt)
    return {sort: now[f"watches.{sort}"] for sort in ("prefixes", "names", "keys", "others") if now[f"watches.{sort}"]}


def test_a_small_store_is_one_watch(mount, agent, proxy):
    """When more than a few of the names in it were looked at."""
    names = "abcdefghij"
    for name in names:
        fill(agent, f"{name}/deep/er", 1000)
    mnt = mount(proxy)
    requests = []
    for name in names:
        with proxy.record() as seen:
            assert len((mnt / f"kv/{name}/deep/er/3").read_bytes()) == 100
        requests.append([request.path for request in seen.not_blocking])
    assert requests == [[f"/v1/kv/{name}"] for name in names[:8]] + [["/v1/kv/"], []]
    wait_until(lambda: watched(mnt) == {"prefixes": 1}, "the first ones are not watched by themselves any more")
    with proxy.record() as seen:
        for name in names:
            assert len((mnt / f"kv/{name}/deep/er/3").read_bytes()) == 100
    assert seen.not_blocking == []


def test_other_things_have_watches_of_their_own(mount, agent):
    agent.kv_set("a", b"1")
    agent.register("web", Port=1)
    mnt = mount(agent)
    (mnt / "kv/a").read_bytes()
    (mnt / "services/web/passing").read_bytes()
    now = watched(mnt)
    assert now["prefixes"] == 1 and now["others"] >= 1 and sum(now.values()) == stats(mnt)["watches.now"]


def test_ended_watches_do_not_use_up_the_agents_connections(mount, new_agent):
    """It holds one until a blocking query's time is over, whether or not somebody still waits; 200 for a host."""
    agent = new_agent()
    agent.kv_set("a", b"1")
    mnt = mount(agent)
    for _ in range(220):
        (mnt / ".consulfs/drop-caches").write_text("1")
        before = stats(mnt)["http.blocking_queries"]
        assert (mnt / "kv/a").read_bytes() == b"1"
        if stats(mnt)["watches.now"]:
            wait_until(lambda: stats(mnt)["http.blocking_queries"] > before, "the watch holds a connection")
    now = stats(mnt)
    assert 50 < now["watches.abandoned"] + now["watches.now"] <= 2 * 64
    assert agent.kv_get("a") == b"1"


def test_in_a_large_store_what_is_read_is_watched(mount, agent, proxy):
    fill(agent, "large", 2 * SMALL)
    for n in range(10):
        fill(agent, f"small{n}", 1000)
    mnt = mount(proxy)
    requests = []
    for n in range(10):
        with proxy.record() as seen:
            assert len((mnt / f"kv/small{n}/3").read_bytes()) == 100
        requests.append(len(seen.not_blocking))
        assert watched(mnt) == {"prefixes": n + 1} and stats(mnt)["prefixes.too_large"] == (n >= 8)
    assert requests == [1] * 8 + [2, 1], "what it is about; of the ninth also all, which is too large, once"
    with proxy.record() as seen:
        for n in range(10):
            assert len((mnt / f"kv/small{n}/4").read_bytes()) == 100
    assert seen.not_blocking == []


def beyond_the_watches(mount, agent, address):
    """A mount of a large store whose few watches are all in use."""
    fill(agent, "large", 2 * SMALL)
    for n in range(12):
        agent.kv_set(f"used/{n}/key", b"1")
        agent.kv_set(f"d{n}/a/b/c/key", b"1")
    fill(agent, "used", 2 * SMALL, 30)
    mnt = mount(address, watches=6)
    for n in range(12):
        (mnt / f"kv/used/{n}/key").read_bytes()
    return mnt


def begun_and_ended(mnt):
    """Of watches. Where these stay the same, none has become free meanwhile."""
    now = stats(mnt)
    return now["watches.now"], now["watches.ended"]


def test_a_first_cat_is_one_request_where_no_watch_is_free(mount, agent, proxy):
    """Each name on the way is looked up by itself, but the first look brings all that is below."""
    mnt = beyond_the_watches(mount, agent, proxy)
    unwatched = []
    for n in range(12):
        before = begun_and_ended(mnt)
        with proxy.record() as seen:
            assert (mnt / f"kv/d{n}/a/b/c/key").read_bytes() == b"1"
        if begun_and_ended(mnt) == before:
            unwatched.append(len(seen.not_blocking))
    assert len(unwatched) > 6
    assert sum(unwatched) < 2 * len(unwatched), "1 each, but for who was held up on his way; each name by itself is 4"


def test_ls_of_a_directory_that_is_not_watched_does_not_ask_for_it_each_time(mount, agent, proxy):
    """It looks at each file by its path, and so through the directory; the listing has said what the files are."""
    fill(agent, "list", 4000, 40)
    mnt = beyond_the_watches(mount, agent, proxy)
    before = begun_and_ended(mnt)
    with proxy.record() as seen:
        assert len(sh("ls -l kv/list", cwd=mnt.path).stdout.splitlines()) == 41
    if begun_and_ended(mnt) == before:
        assert len(seen.not_blocking) < 30


def changes_are_seen_at_once(mnt, agent, held, value):
    agent.kv_set("d1/a/b/c/key", value)
    seen = (mnt / "kv/d1/a/b/c/key").read_bytes() == value
    agent.kv_set("d1/a/b/c/key", value + b"!")
    with opened("a/b/c/key", os.O_RDONLY, dir_fd=held) as descriptor:
        seen &= os.read(descriptor, 100) == value + b"!"
    name = value.decode()
    agent.kv_set(f"d1/a/{name}/new", value)
    seen &= name in os.listdir(mnt / "kv/d1/a")
    seen &= os.path.exists(mnt / f"kv/d1/a/{name}/new")
    agent.delete(f"/v1/kv/d1/a/{name}/new")
    seen &= not os.path.exists(mnt / f"kv/d1/a/{name}/new")
    return seen and name not in os.listdir(mnt / "kv/d1/a")


def test_what_is_not_watched_is_never_old(mount, agent):
    """Whoever changed it a moment ago, by another way, sees that."""
    mnt = beyond_the_watches(mount, agent, agent)
    before = begun_and_ended(mnt)
    with opened(mnt / "kv/d1", os.O_RDONLY | os.O_DIRECTORY) as held:
        for n in range(200):
            seen = changes_are_seen_at_once(mnt, agent, held, b"%d" % n)
            # After some seconds one of the watches was not needed any more: from then on it is watched, and told.
            if begun_and_ended(mnt) != before:
                break
            assert seen, n
    assert n >= 3


def test_hot_keys_of_a_large_directory(mount, agent, proxy):
    """Each is watched with what begins with it. That there is one shows that the directory is there, too."""
    fill(agent, "large", 2 * SMALL)
    mnt = mount(proxy)
    requests = []
    for n in "123":
        with proxy.record() as seen:
            (mnt / "kv/large" / n).read_bytes()
        requests.append(len(seen.not_blocking))
    assert requests == [2, 1, 1], "what begins with large is too large, which is not asked twice"
    assert watched(mnt) == {"prefixes": 3}
    agent.kv_set("large/2", b"new")
    wait_equal((mnt / "kv/large/2").read_bytes, b"new")
    with proxy.record() as seen:
        assert (mnt / "kv/large/2").read_bytes() == b"new"
        assert len((mnt / "kv/large/3").read_bytes()) == SMALL // 5
    assert seen.not_blocking == []


def test_keys_that_begin_with_one_that_is_watched(mount, agent, proxy):
    """They came with it, and are told with it."""
    fill(agent, "large", 2 * SMALL, 100)
    mnt = mount(proxy)
    (mnt / "kv/large/5").read_bytes()
    with proxy.record() as seen:
        assert len((mnt / "kv/large/57").read_bytes()) == SMALL // 50
        assert not os.path.exists(mnt / "kv/large/570")
        agent.kv_set("large/57", b"new")
        wait_equal((mnt / "kv/large/57").read_bytes, b"new")
        agent.kv_set("large/570/below", b"other")
        wait_equal((mnt / "kv/large/570").is_dir, True)
        assert os.listdir(mnt / "kv/large/570") == ["below"]
    assert not seen.not_blocking and watched(mnt) == {"prefixes": 1}


def test_a_large_directory_goes_with_its_last_key(mount, agent, proxy):
    """Also where nothing is watched but a key in it."""
    fill(agent, "large", 2 * SMALL)
    mnt = mount(proxy)
    (mnt / "kv/large/2").read_bytes()
    with opened(mnt / "kv/large", os.O_RDONLY | os.O_DIRECTORY):
        (mnt / "kv/large/3").read_bytes()
        agent.client.kv.delete("large/3")
        wait_equal(lambda: os.path.exists(mnt / "kv/large/3"), False)
        assert (mnt / "kv/large").is_dir()
        assert len((mnt / "kv/large/2").read_bytes()) == SMALL // 5
        agent.client.kv.delete("large/", recurse=True)
        wait_equal(lambda: os.path.exists(mnt / "kv/large"), False)
        agent.kv_set("large", b"a file")
        wait_equal(lambda: (mnt / "kv/large").is_file(), True)


def test_a_store_that_grows_too_large(mount, agent):
    fill(agent, "small", 1000)
    mnt = mount(agent)
    os.listdir(mnt / "kv")
    (mnt / "kv/small/3").read_bytes()
    assert watched(mnt) == {"prefixes": 1}
    fill(agent, "large", 2 * SMALL)
    wait_until(lambda: stats(mnt)["prefixes.too_large"] == 1, "the whole is too large")
    assert watched(mnt) == {}

    def watched_again():
        assert len((mnt / "kv/small/3").read_bytes()) == 100
        return watched(mnt) == {"prefixes": 1}

    wait_until(watched_again, "the kernel has forgotten it, and what is read is watched in parts")
    agent.kv_set("small/3", b"new")
    wait_equal((mnt / "kv/small/3").read_bytes, b"new")


def test_one_hot_prefix_beside_a_quiet_one(mount, agent, proxy):
    """The watch on both is given up, then the one on the hot; the quiet one keeps its own."""
    value, quiet = 10_000, SMALL // 2
    fill(agent, "hot", 10 * value)
    fill(agent, "quiet", quiet)
    mnt = mount(proxy)
    done = 0

    def rewrite():
        nonlocal done
        done += 1
        new = b"%d" % done * (value // len(b"%d" % done))
        agent.kv_set(f"hot/{done % 10}", new)
        wait_equal((mnt / f"kv/hot/{done % 10}").read_bytes, new)
        assert len((mnt / "kv/quiet/3").read_bytes()) == quiet // 10

    os.listdir(mnt / "kv")
    rewrite()
    assert watched(mnt) == {"prefixes": 1}
    while stats(mnt)["watches.demotions"] < 2:
        assert done < 100, "what changes all the time is watched whole"
        rewrite()
    assert stats(mnt)["prefixes.demoted"] == 2
    for _ in range(10):
        rewrite()
    before, start = stats(mnt)["http.bytes_received"], done
    with proxy.record() as seen:
        for _ in range(50):
            rewrite()
    assert stats(mnt)["http.bytes_received"] - before < 3 * value * (done - start)
    assert not seen.matching(path="/v1/kv/quiet/*"), "what is quiet costs nothing"
    hot = {request.path for request in seen if request.path.startswith("/v1/kv/hot")}
    assert hot == {f"/v1/kv/hot/{n}" for n in range(10)}, "each by itself"
    # Whoever lists it sees it as it is.
    agent.kv_set("hot/new", b"1")
    assert "new" in os.listdir(mnt / "kv/hot")


def if_quick(test):
    """
    Of a mount that goes by how long answers take: on a busy machine one that is to be quick may not be. The test is to
    make its own mounts; it is done anew, and has failed where it fails three times.
    """

    @functools.wraps(test)
    def tried(**arguments):
        for _ in range(2):
            with contextlib.suppress(AssertionError):
                return test(**arguments)
        return test(**arguments)

    return tried


def heavy(proxy, *paths, **limits):
    """As if there were a hundred thousand keys below these: what the server goes through for their names."""
    stack = contextlib.ExitStack()
    for path in paths:
        stack.enter_context(proxy.fault(Delay(0.04), path=path, asking="keys", **limits))
    return stack


def asked(run, proxy):
    """What that asks for at once, in the order of time."""
    with proxy.record() as seen:
        run()
    return [f"{r.path.removeprefix('/v1/kv/')}?{next(iter(r.query), '')}" for r in seen.not_blocking]


@contextlib.contextmanager
def heavy_store(mount, agent, proxy):
    """A mount of some small things, and one of which nobody knows how large it is before all of it was asked for."""
    for n in range(3):
        agent.kv_set(f"config/{n}", b"%d" % n)
        agent.kv_set(f"vault/sys/{n}", b"%d" % n)
        agent.kv_set(f"vault/logical/{n}/key", b"%d" % n)
    agent.kv_set("key", b"value")
    with heavy(proxy, "/v1/kv/", "/v1/kv/vault/", "/v1/kv/vault/logical/"):
        yield mount(proxy)


@if_quick
def test_listing_a_heavy_store_asks_for_names(mount, agent, proxy):
    """An answer of all of it, which the server puts together even if nobody takes it, is not asked for."""
    with heavy_store(mount, agent, proxy) as mnt:
        kv = mnt / "kv"
        assert asked(lambda: sh(f"ls {kv}"), proxy) == ["?keys"]
        assert asked(lambda: sh(f"ls -l {kv}"), proxy) == ["key?"], "that the others are directories, the names tell"
        assert asked(lambda: sh(f"ls -l {kv}; cat {kv}/key"), proxy) == []
        assert asked(lambda: sh(f"ls -l {kv}/vault"), proxy) == ["vault/?keys"]
        assert asked(lambda: sh(f"ls -l {kv}/vault/sys"), proxy) == ["vault/sys/?keys", "vault/sys/?recurse"]
        assert asked(lambda: sh(f"cat {kv}/vault/sys/*"), proxy) == []
        assert sorted(os.listdir(kv)) == ["config", "key", "vault"]
        assert sorted(os.listdir(kv / "vault/logical")) == ["0", "1", "2"]
        assert watched(mnt) == {"prefixes": 1, "keys": 1, "names": 3}


@if_quick
def test_looking_into_a_heavy_store_asks_for_what_is_small(mount, agent, proxy):
    with heavy_store(mount, agent, proxy) as mnt:
        kv = mnt / "kv"
        assert asked(lambda: sh(f"ls {kv}; cat {kv}/config/1"), proxy) == ["?keys", "config/?keys", "config/?recurse"]
        assert asked(lambda: sh(f"cat {kv}/config/*"), proxy) == []
        assert asked((kv / "vault/logical/2/key").read_bytes, proxy) == [
            "vault/?keys",
            "vault/logical/?keys",
            "vault/logical/2/?keys",
            "vault/logical/2/?recurse",
        ]
        assert asked((kv / "vault/sys/1").read_bytes, proxy) == ["vault/sys/?keys", "vault/sys/?recurse"]
        assert not (kv / "vault/none").exists() and not (kv / "none").exists()


def test_names_that_are_prefixes_too(mount, agent, proxy):
    """There are other names between a key and what is below it: "app" < "app-x" < "app/"."""
    for key in ("app", "app-x", "app.conf", "app/y", "app/z/1", "app/z.conf", "app/z", "marked/", "marked/a", "full//a"):
        agent.kv_set(key, b"value")
    agent.kv_set("folder/", b"")
    agent.kv_set("folder/a", b"value")
    directories = ["", "app", "app/z", "marked", "folder", "full"]
    light = mount(agent)
    expected = {at: sorted(os.listdir(light / "kv" / at)) for at in directories}
    assert expected[""] == ["app", "app-x", "app.conf", "folder", "full", "marked"]
    assert expected["app"] == ["%value", "y", "z", "z.conf"]
    assert expected["marked"] == ["%empty", "a"] and expected["folder"] == ["a"] and expected["full"] == ["%empty"]
    with heavy(proxy, *("/v1/kv/" + (at and at + "/") for at in directories)):
        kv = mount(proxy) / "kv"
        assert {at: sorted(os.listdir(kv / at)) for at in directories} == expected
        assert asked(lambda: os.listdir(kv / "app"), proxy) == [], "the value is watched like the names"
        assert not (kv / "folder/%empty").exists()
        assert (kv / "app/%value").read_bytes() == (kv / "marked/%empty").read_bytes() == b"value"
        sh(f"rm -r {kv}/app {kv}/marked")
    assert agent.kv_keys() == ["app-x", "app.conf", "folder/", "folder/a", "full//a"]


@if_quick
def test_a_first_cat_of_a_heavy_store_is_one_request(mount, agent, proxy):
    """However many names are looked at: all of it is never asked for."""
    with heavy_store(mount, agent, proxy) as mnt:
        kv = mnt / "kv"
        assert asked((kv / "config/1").read_bytes, proxy) == ["config?recurse"]
        assert asked((kv / "key").read_bytes, proxy) == ["key?recurse"]
        for n in range(12):
            assert asked(lambda: (kv / f"none{n}").exists(), proxy) == [f"none{n}?recurse"]


def test_a_heavy_store_changes(mount, agent, proxy):
    with heavy_store(mount, agent, proxy) as mnt:
        kv = mnt / "kv"
        sh(f"ls -l {kv} {kv}/vault {kv}/vault/logical; cat {kv}/key {kv}/config/1 {kv}/vault/logical/1/key")
        agent.kv_set("key", b"new")
        agent.kv_set("config/1", b"new")
        agent.kv_set("vault/logical/1/key", b"new")
        agent.kv_set("vault/logical/more/key", b"1")
        for path in ("key", "config/1", "vault/logical/1/key"):
            wait_equal((kv / path).read_bytes, b"new")
        wait_equal(lambda: sorted(os.listdir(kv / "vault/logical")), ["0", "1", "2", "more"])
        agent.client.kv.delete("vault/", recurse=True)
        wait_equal(lambda: sorted(os.listdir(kv)), ["config", "key"])
        wait_equal(lambda: (kv / "vault").exists(), False)
        (kv / "made").mkdir()
        (kv / "made/file").write_bytes(b"own")
        (kv / "key").rename(kv / "made/key")
        assert sorted(os.listdir(kv)) == ["config", "made"] and sorted(os.listdir(kv / "made")) == ["file", "key"]
        (kv / "made").rename(kv / "moved")
        assert (kv / "moved/file").read_bytes() == b"own" and (kv / "moved/key").read_bytes() == b"new"
        assert agent.kv_get("moved/file") == b"own" and agent.kv_get("made/file") is None


@if_quick
def test_a_store_whose_names_took_long_by_chance_is_not_heavy(mount, agent, proxy):
    agent.kv_set("config/key", b"value")
    agent.kv_set("key", b"value")
    with heavy(proxy, "/v1/kv/", times=2):
        mnt = mount(proxy)
        assert asked(lambda: sh(f"ls -l {mnt / 'kv'}; ls -l {mnt / 'kv/config'}"), proxy) == ["?recurse"]


def test_names_that_cost_the_server_much_are_not_watched(mount, agent, proxy):
    """At each change it goes through all that is below. A key that is read shows that its directory is there, too."""
    fill(agent, "large", 9 * SMALL, 25)
    mnt = mount(proxy)
    with proxy.fault(Delay(0.1), path="/v1/kv/", blocking=False):
        os.listdir(mnt / "kv")
    (mnt / "kv/large/7").read_bytes()
    assert watched(mnt) == {"names": 1, "prefixes": 1}
    changes = 0
    while stats(mnt)["watches.demotions"] == 0:
        assert changes < 20, "they are watched as ever"
        with proxy.record() as seen:
            agent.kv_set("other", b"%d" % changes)
            changes += 1
            wait_until(lambda: seen or stats(mnt)["watches.demotions"], "the change was told")
    assert watched(mnt) == {"prefixes": 1}
    with proxy.record() as seen:
        (mnt / "kv/large/7").read_bytes()
    assert not seen
    agent.kv_set("other", b"new")
    assert os.listdir(mnt / "kv") == ["large", "other"], "it is asked for"
    agent.client.kv.delete("large/", recurse=True)
    wait_equal(lambda: os.path.exists(mnt / "kv/large"), False)


@pytest.mark.parametrize("store", ["small", "large"])
def test_what_is_missing_is_not_watched(mount, agent, proxy, store):
    """Old servers wake such a watch for every write."""
    fill(agent, "d", 2 * SMALL if store == "large" else 1000)
    mnt = mount(proxy)
    with proxy.record() as seen:
        for missing in ("missing", "missing/deeper", "d/missing", "d/missing/deeper"):
            for _ in range(3):
                with fails_with(errno.ENOENT):
                    os.stat(mnt / "kv" / missing)
        os.listdir(mnt / "kv/d")
    assert not [request for request in seen if request.blocking and "missing" in request.path]


def test_what_was_removed_is_not_watched(mount, agent, proxy):
    fill(agent, "large", 2 * SMALL)
    agent.kv_set("large/key", b"1")
    mnt = mount(proxy)
    with proxy.record() as seen:
        (mnt / "kv/large/key").read_bytes()
        wait_until(lambda: seen.matching(path="/v1/kv/large/key", blocking=True), "the key is watched")
        agent.client.kv.delete("large/key")
        wait_equal(lambda: os.path.exists(mnt / "kv/large/key"), False)
    assert "keys" not in watched(mnt)
    with proxy.record() as seen:
        agent.kv_set("large/other", b"1")
        wait_equal(lambda: os.path.exists(mnt / "kv/large/other"), True)
    assert not seen.matching(path="/v1/kv/large/key", blocking=True)


# What listing costs


def test_a_large_directory_is_listed_in_three_requests(mount, agent, proxy):
    """With all that ls -l wants to know of each file: the kernel has it from the listing."""
    for n in range(400):
        agent.kv_set(f"large/{n}", b"x" * 3000)
    mnt = mount(proxy)
    before = stats(mnt)
    with proxy.record() as seen:
        listed = sh("ls -l kv/large", cwd=mnt.path).stdout.splitlines()
    after = stats(mnt)
    assert len(listed) == 401 and all(line.split()[4] == "3000" for line in listed[1:])
    assert len(seen.not_blocking) <= 3, seen.not_blocking
    assert after["upcalls.lookup"] - before["upcalls.lookup"] <= 3
    assert after["upcalls.xattr"] - before["upcalls.xattr"] <= 6
    with proxy.record() as seen:
        sh("ls -l kv/large; cat kv/large/*", cwd=mnt.path)
    assert seen.not_blocking == []


def test_a_tree_of_some_size_is_read_whole(mount, agent, proxy):
    for n in range(100):
        agent.kv_set(f"tree/{n % 10}/{n}", b"x" * 20_000)
    mnt = mount(proxy)
    with proxy.record() as seen:
        sh("grep -r nothing kv/tree; true", cwd=mnt.path)
    assert len(seen.not_blocking) <= 3, seen.not_blocking


def test_the_value_of_a_directory_in_a_large_store_is_listed(mount, agent):
    fill(agent, "large", 2 * SMALL)
    fill(agent, "d", 1000, 2)
    agent.kv_set("d", b"value")
    mnt = mount(agent)
    assert sorted(os.listdir(mnt / "kv/d")) == ["%value", "0", "1"]
    assert (mnt / "kv/d/%value").read_bytes() == b"value"
    agent.client.kv.delete("d")
    wait_equal(lambda: sorted(os.listdir(mnt / "kv/d")), ["0", "1"])


@pytest.mark.parametrize("look", ["first", "second", "listed"])
def test_a_key_of_a_large_store_becomes_a_directory(mount, agent, look):
    """The key itself does not change: that there are others below it is told by what begins with it, or by the
    names, where these are watched for who listed them."""
    fill(agent, "large", 9 * SMALL, 25)
    agent.kv_set("d/key", b"value")
    agent.kv_set("key", b"value")
    mnt = mount(agent)
    if look == "second":
        (mnt / "kv/d/key").read_bytes()
    if look == "listed":
        os.listdir(mnt / "kv")
    assert (mnt / "kv/key").read_bytes() == b"value"
    wanted = {"first": {"prefixes": 1}, "second": {"prefixes": 2}, "listed": {"names": 1, "keys": 1}}[look]
    wait_equal(lambda: watched(mnt), wanted)
    agent.kv_set("key/below", b"other")
    wait_until(lambda: (mnt / "kv/key").is_dir(), "it is a directory")
    assert sorted(os.listdir(mnt / "kv/key")) == ["%value", "below"]
    agent.client.kv.delete("key/below")
    wait_until(lambda: (mnt / "kv/key").is_file(), "it is a file")


@pytest.mark.parametrize("name", ["key", "0"])
def test_a_key_of_a_directory_of_many_names(mount, agent, proxy, name):
    """These are too many to be read for one of them; and what begins with "0" is too large, too."""
    names = [f"{n:05}" + "n" * 245 for n in range(SMALL // 250)]
    agent.kv_set_all(f"d/{other}" for other in names)
    agent.kv_set(f"d/{name}", b"value")
    agent.kv_set("d/both", b"value")
    agent.kv_set("d/both/below", b"value")
    mnt = mount(proxy)
    key = mnt / "kv/d" / name
    assert (mnt / "kv/d/both").is_dir(), "though it is a key, too"
    assert key.read_bytes() == b"value"
    assert fails_with(errno.ENOENT, os.stat, mnt / "kv/d/none")
    by_itself = name == "0"
    wait_until(lambda: watched(mnt).get("keys", 0) == by_itself, "its value is watched")
    with proxy.record() as seen:
        for _ in range(20):
            assert key.read_bytes() == b"value"
    assert len(seen.not_blocking) <= (3 if by_itself else 0), "it is asked for what is below it once a second"
    agent.kv_set(f"d/{name}", b"new")
    wait_equal(key.read_bytes, b"new")
    agent.kv_set(f"d/{name}/below", b"other")
    wait_until(key.is_dir, "it is a directory")
    assert sorted(os.listdir(key)) == ["%value", "below"]
    agent.client.kv.delete(f"d/{name}/below")
    wait_until(key.is_file, "it is a file")
    assert len(os.listdir(mnt / "kv/d")) == len(names) + 2


def test_a_directory_of_many_megabytes_is_listed_with_contents(mount, agent, proxy):
    for n in range(45):
        agent.kv_set(f"huge/{n}", b"x" * 200_000)
    mnt = mount(proxy)
    before = stats(mnt)
    with proxy.record() as seen:
        listed = sh("ls -l kv/huge", cwd=mnt.path).stdout.splitlines()
    assert len(listed) == 46 and all(line.split()[4] == "200000" for line in listed[1:])
    assert stats(mnt)["upcalls.lookup"] - before["upcalls.lookup"] <= 5, "not one a file"
    assert len(seen.not_blocking) <= 5, seen.not_blocking
