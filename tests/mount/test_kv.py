"""kv/: keys as files. What is written through the mount is checked through Consul's API, and the other way round."""

import errno
import os
import threading

import pytest

from harness.programs import fails_with, opened, sh
from harness.proxy import Delay
from harness.stats import stat_of
from harness.wait import wait_equal, wait_until

LIMIT = 512 * 1024

MASTER = "5ec7e700-0000-4000-8000-000000000001"

CONTENTS = [
    b"",
    b"v",
    b"no newline added",
    b"two\nlines\n",
    bytes(range(256)) * 3,
    b"\0" * 4096,
    b"x" * 4097,
    bytes(range(256)) * (LIMIT // 256),
]

# What Consul has, what the tree calls it.
ODD_NAMES = [
    ("50%off", "50%off"),
    ("%", "%25"),
    ("%value", "%25value"),
    ("%empty", "%25empty"),
    ("%25", "%2525"),
    ("a%25", "a%2525"),
    ("a%2Fb", "a%252Fb"),
    ("a%2fb", "a%2fb"),
    ("a%2E", "a%252E"),
    (".", "%2E"),
    ("..", "%2E%2E"),
    ("...", "..."),
    (".hidden", ".hidden"),
    ("two words", "two words"),
    (" blanks ", " blanks "),
    ("line\nbreak", "line\nbreak"),
    ("tab\there", "tab\there"),
    ("del\x7f", "del\x7f"),
    ("a?b&c=d#e+f;g", "a?b&c=d#e+f;g"),
    ("quote'\"`$\\", "quote'\"`$\\"),
    ("ключ", "ключ"),
    ("no-break\u00a0zero\u200bwidth", "no-break\u00a0zero\u200bwidth"),
    ("\U0001f511", "\U0001f511"),
    ("x" * 255, "x" * 255),
]


def ids(pairs):
    return [ascii(name[:20]) for name, _ in pairs]


# Reading


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_read(mnt, agent, content):
    agent.client.kv.put("d/key", content)
    assert (mnt / "kv/d/key").read_bytes() == content
    assert os.stat(mnt / "kv/d/key").st_size == len(content)


def test_read_at_offsets(mnt, agent):
    content = os.urandom(100_000)
    agent.kv_set("a", content)
    with opened(mnt / "kv/a", os.O_RDONLY) as fd:
        assert os.pread(fd, 10, 99_995) == content[-5:]
        assert os.pread(fd, 10, 100_000) == b""
        assert os.pread(fd, 4096, 50_001) == content[50_001:54_097]


def test_absent(mnt, agent):
    agent.kv_set("a", b"")
    for path in ("kv/b", "kv/a-longer", "kv/d", "kv/d/e"):
        with fails_with(errno.ENOENT):
            os.stat(mnt / path)
    with fails_with(errno.ENOTDIR):
        os.stat(mnt / "kv/a/b")


def test_empty_store(mnt):
    assert os.listdir(mnt / "kv") == []


def test_listing(mnt, agent):
    for key in ("a", "ab", "d/x", "d/e/f/g", "e/", "f/y"):
        agent.kv_set(key, b"value")
    assert sorted(os.listdir(mnt / "kv")) == ["a", "ab", "d", "e", "f"]
    assert sorted(os.listdir(mnt / "kv/d")) == ["e", "x"]
    assert sh("find . -type f | sort", cwd=mnt / "kv").stdout.split() == [
        "./a",
        "./ab",
        "./d/e/f/g",
        "./d/x",
        "./e/%empty",
        "./f/y",
    ]


def test_large_directory(mnt, agent):
    names = [f"key-{n:04}" for n in range(640)]
    agent.kv_set_all(f"d/{name}" for name in names)
    assert sorted(os.listdir(mnt / "kv/d")) == names


def test_name_that_is_too_long_is_left_out(mnt, agent):
    agent.kv_set("d/" + "x" * 256, b"")
    agent.kv_set("d/here", b"")
    agent.kv_set("d/" + "y" * 300 + "/z", b"")
    assert os.listdir(mnt / "kv/d") == ["here"]


def test_listing_with_sizes_does_not_ask_for_each_file(mount, agent, proxy):
    sizes = {f"key-{n:02}": n * 37 for n in range(50)}
    for name, size in sizes.items():
        agent.kv_set(f"d/{name}", b"x" * size)
    mnt = mount(proxy)
    with proxy.record() as seen:
        lines = sh("ls -l", cwd=mnt / "kv/d").stdout.splitlines()[1:]
    assert {line.split()[-1]: int(line.split()[4]) for line in lines} == sizes
    assert len(seen.matching(path="/v1/kv/*", blocking=False)) <= 3


def test_first_read_costs_one_round_trip(mount, agent, proxy):
    agent.kv_set("a", b"value")
    mnt = mount(proxy)
    round_trip = 0.5
    with proxy.fault(Delay(round_trip)):
        started = threading.Event()
        done = threading.Event()

        def read():
            started.set()
            assert (mnt / "kv/a").read_bytes() == b"value"
            done.set()

        threading.Thread(target=read, daemon=True).start()
        started.wait()
        assert done.wait(1.9 * round_trip)


# Writing


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_write(mnt, agent, content):
    (mnt / "kv/key").write_bytes(content)
    assert agent.client.kv.get("key")[1]["Value"] == (content or None)
    assert (mnt / "kv/key").read_bytes() == content
    assert os.stat(mnt / "kv/key").st_size == len(content)


def test_one_write_is_stored_by_that_write(mnt, agent):
    with opened(mnt / "kv/key", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, b"v\n")
        assert agent.kv_get("key") == b"v\n"


def test_overwriting_with_less(mnt, agent):
    agent.kv_set("key", b"a long value")
    sh("echo v > key", cwd=mnt / "kv")
    assert agent.kv_get("key") == b"v\n"


def test_new_file_in_new_directories(mnt, agent):
    os.makedirs(mnt / "kv/a/b")
    (mnt / "kv/a/b/c").write_bytes(b"value")
    assert agent.kv_get("a/b/c") == b"value"


def test_touch(mnt, agent):
    sh("touch new", cwd=mnt / "kv")
    assert agent.kv_get("new") == b""
    agent.kv_set("old", b"value")
    sh("touch old", cwd=mnt / "kv")
    assert agent.kv_get("old") == b"value"


def test_exclusive_creation(mnt, agent):
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with opened(mnt / "kv/new", flags) as fd:
        os.write(fd, b"mine")
    agent.kv_set("there", b"theirs")
    for name in ("new", "there"):
        with fails_with(errno.EEXIST), opened(mnt / "kv" / name, flags):
            pass
    assert agent.kv_get("new") == b"mine" and agent.kv_get("there") == b"theirs"


def test_exclusive_creation_has_one_winner_among_mounts(mount, agent):
    mounts = [mount(agent) for _ in range(2)]
    for key in range(10):
        winners = []

        def race(mnt, name):
            try:
                os.close(os.open(mnt / "kv" / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                winners.append(mnt)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=race, args=(mnt, f"lock-{key}")) for mnt in mounts * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1


def test_truncating_what_is_appended_to(mnt, agent):
    agent.kv_set("log", b"value")
    with opened(mnt / "kv/log", os.O_RDWR | os.O_APPEND) as fd:
        os.ftruncate(fd, 3)
        os.write(fd, b"!")
    assert agent.kv_get("log") == b"val!"
    with open(mnt / "kv/log", "a+") as log:
        log.truncate(0)
    assert agent.kv_get("log") == b""


def test_append(mnt, agent):
    sh("echo one >> log; echo two >> log", cwd=mnt / "kv")
    assert agent.kv_get("log") == b"one\ntwo\n"
    agent.kv_set("log", b"changed elsewhere\n")
    sh("echo three >> log", cwd=mnt / "kv")
    assert agent.kv_get("log") == b"changed elsewhere\nthree\n"


def test_appends_of_several_mounts_are_all_kept(mount, agent):
    mounts = [mount(agent) for _ in range(2)]

    def append(mnt, number):
        for line in range(10):
            with opened(mnt / "kv/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
                os.write(fd, f"{number} {line}\n".encode())

    threads = [threading.Thread(target=append, args=(mnt, n)) for n, mnt in enumerate(mounts * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = agent.kv_get("log").decode().splitlines()
    assert sorted(lines) == [f"{number} {line}" for number in range(4) for line in range(10)]


@pytest.mark.parametrize("size, expected", [(0, b""), (3, b"abc"), (8, b"abcdef\0\0")])
def test_truncate(mnt, agent, size, expected):
    agent.kv_set("a", b"abcdef")
    os.truncate(mnt / "kv/a", size)
    assert agent.kv_get("a") == expected
    assert (mnt / "kv/a").read_bytes() == expected


def test_truncate_of_an_open_file(mnt, agent):
    agent.kv_set("a", b"abcdef")
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        os.ftruncate(fd, 2)
        assert os.fstat(fd).st_size == 2
        os.pwrite(fd, b"XY", 2)
    assert agent.kv_get("a") == b"abXY"


def test_writing_in_the_middle(mnt, agent):
    agent.kv_set("a", b"hello, world")
    with opened(mnt / "kv/a", os.O_RDWR) as fd:
        os.pwrite(fd, b"W", 7)
    assert agent.kv_get("a") == b"hello, World"
    with opened(mnt / "kv/hole", os.O_WRONLY | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", 5)
    assert agent.kv_get("hole") == b"\0\0\0\0\0end"


def test_read_modify_write_notices_a_change_in_between(mnt, agent):
    agent.kv_set("a", b"old")
    with fails_with(errno.ESTALE), opened(mnt / "kv/a", os.O_RDWR) as fd:
        value = os.read(fd, 100)
        agent.kv_set("a", b"newer")
        os.pwrite(fd, value.upper(), 0)
        os.fsync(fd)
    assert agent.kv_get("a") == b"newer"


def test_a_stream_is_stored_whole(mount, agent):
    """Readers see one value or the other, never a part or nothing, while a writer replaces it in many writes."""
    writer, reader = mount(agent), mount(agent)
    values = [letter * 100_000 for letter in (b"a", b"b")]
    (writer / "kv/a").write_bytes(values[0])
    stop = threading.Event()

    def write():
        turn = 0
        while not stop.is_set():
            turn += 1
            with opened(writer / "kv/a", os.O_WRONLY | os.O_TRUNC) as fd:
                value = values[turn % 2]
                for start in range(0, len(value), 4096):
                    os.write(fd, value[start : start + 4096])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = set()

        def read_both():
            value = (reader / "kv/a").read_bytes()
            assert value in values, f"{len(value)} bytes"
            seen.add(value[:1])
            return len(seen) == 2

        wait_until(read_both, "both values")
        for _ in range(100):
            read_both()
    finally:
        stop.set()
        thread.join()


# Refused writes


def test_too_big(mnt, agent):
    agent.kv_set("there", b"as it was")
    for name in ("new", "there"):
        with fails_with(errno.EFBIG):
            (mnt / "kv" / name).write_bytes(b"x" * (LIMIT + 1))
    assert agent.kv_get("there") == b"as it was"
    assert agent.kv_get("new") is None


@pytest.mark.parametrize("command", ["cp {big} f", "cat {big} > f", "dd if={big} of=f bs=4096", "tee f < {big}"])
def test_programs_learn_that_it_is_too_big(mnt, agent, tmp_path, command):
    big = tmp_path / "big"
    big.write_bytes(b"x" * (LIMIT + 1))
    agent.kv_set("f", b"as it was")
    assert sh(command.format(big=big), check=False, cwd=mnt / "kv").returncode != 0
    assert agent.kv_get("f") == b"as it was"


def test_truncate_to_more_than_the_limit(mnt, agent):
    agent.kv_set("a", b"value")
    with fails_with(errno.EFBIG):
        os.truncate(mnt / "kv/a", LIMIT + 1)
    assert agent.kv_get("a") == b"value"


@pytest.fixture
def read_only_token(new_agent):
    """An agent, and a token that may read keys but not write them."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER}}
    agent = new_agent(token=MASTER, acl=acl)
    agent.put("/v1/acl/policy", {"Name": "reader", "Rules": 'key_prefix "" { policy = "read" }'})
    return agent, agent.put("/v1/acl/token", {"Policies": [{"Name": "reader"}]}).json()["SecretID"]


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_refused_echo_fails(mount, read_only_token, shell):
    """A shell ignores what close() returns, so the error must come from write()."""
    agent, token = read_only_token
    agent.kv_set("there", b"value")
    mnt = mount(agent, env={"CONSUL_HTTP_TOKEN": token})
    for name in ("there", "new"):
        done = sh(f"echo v > {name}", shell=shell, check=False, cwd=mnt / "kv")
        assert done.returncode != 0
        assert "Permission denied" in done.stderr or shell == "dash"  # which has its own words for every error
    assert agent.kv_get("there") == b"value" and agent.kv_get("new") is None
    assert "Permission denied" in (mnt / ".consulfs/errors").read_text()


def test_refused_changes(mount, read_only_token):
    agent, token = read_only_token
    agent.kv_set("a", b"value")
    agent.kv_set("d/", b"")
    mnt = mount(agent, env={"CONSUL_HTTP_TOKEN": token})
    for attempt in (
        lambda: os.unlink(mnt / "kv/a"),
        lambda: os.rename(mnt / "kv/a", mnt / "kv/b"),
        lambda: os.mkdir(mnt / "kv/new"),
        lambda: os.rmdir(mnt / "kv/d"),
        lambda: os.truncate(mnt / "kv/a", 1),
    ):
        with fails_with(errno.EACCES):
            attempt()
    assert agent.kv_keys() == ["a", "d/"] and agent.kv_get("a") == b"value"


# Removing, directories


def test_unlink(mnt, agent):
    agent.kv_set("a", b"")
    agent.kv_set("ab", b"")
    os.unlink(mnt / "kv/a")
    assert agent.kv_keys() == ["ab"]
    assert os.listdir(mnt / "kv") == ["ab"]
    with fails_with(errno.ENOENT):
        os.unlink(mnt / "kv/a")


def test_what_is_unlinked_while_it_is_open_stays_gone(mnt, agent):
    """Whichever comes first, Consul's answer or what the watch tells: each of so many has its chance."""
    (mnt / "kv/beside").write_bytes(b"")
    assert os.listdir(mnt / "kv") == ["beside"]
    for n in range(100):
        with opened(mnt / f"kv/temporary-{n}", os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
            os.unlink(mnt / f"kv/temporary-{n}")
            os.write(fd, b"value")
            assert os.pread(fd, 100, 0) == b"value"
    assert agent.kv_keys() == ["beside"] and os.listdir(mnt / "kv") == ["beside"]


def test_mkdir_writes_the_folder_marker(mnt, agent):
    os.mkdir(mnt / "kv/d")
    assert agent.kv_keys() == ["d/"] and agent.kv_get("d/") == b""
    assert os.listdir(mnt / "kv") == ["d"] and os.listdir(mnt / "kv/d") == []
    with fails_with(errno.EEXIST):
        os.mkdir(mnt / "kv/d")
    os.rmdir(mnt / "kv/d")
    assert agent.kv_keys() == [] and os.listdir(mnt / "kv") == []


def test_mkdir_over_what_is_there(mnt, agent):
    agent.kv_set("file", b"")
    agent.kv_set("prefix/a", b"")
    for name in ("file", "prefix"):
        with fails_with(errno.EEXIST):
            os.mkdir(mnt / "kv" / name)
    assert agent.kv_keys() == ["file", "prefix/a"]


def test_rmdir_of_what_is_not_empty(mnt, agent):
    agent.kv_set("marked/", b"")
    agent.kv_set("marked/a", b"")
    agent.kv_set("prefix/a", b"")
    for name in ("marked", "prefix"):
        with fails_with(errno.ENOTEMPTY):
            os.rmdir(mnt / "kv" / name)
    assert agent.kv_keys() == ["marked/", "marked/a", "prefix/a"]


def test_rmdir_sees_what_was_added_elsewhere(mnt, agent):
    os.mkdir(mnt / "kv/d")
    assert os.listdir(mnt / "kv/d") == []
    agent.kv_set("d/a", b"value")
    with fails_with(errno.ENOTEMPTY):
        os.rmdir(mnt / "kv/d")
    assert agent.kv_keys() == ["d/", "d/a"]


def test_marker_that_holds_bytes(mnt, agent):
    agent.kv_set("d/", b"value")
    assert os.listdir(mnt / "kv/d") == ["%empty"]
    assert (mnt / "kv/d/%empty").read_bytes() == b"value"


@pytest.mark.parametrize("keys", [["d/a", "d/e/b"], ["d/", "d/a", "d/e/", "d/e/b"], ["d/e/f/g"], ["d/"]])
def test_rm_r_leaves_nothing(mnt, agent, keys):
    for key in [*keys, "beside", "da"]:
        agent.kv_set(key, b"")
    sh("rm -r d", cwd=mnt / "kv")
    assert agent.kv_keys() == ["beside", "da"]
    assert sorted(os.listdir(mnt / "kv")) == ["beside", "da"]


def test_directory_vanishes_with_its_last_key(mnt, agent):
    agent.kv_set("d/a", b"")
    assert os.listdir(mnt / "kv/d") == ["a"]
    agent.client.kv.delete("d/a")
    wait_equal(lambda: os.listdir(mnt / "kv"), [])
    wait_until(lambda: not (mnt / "kv/d").exists(), "the kernel is told")


# Renaming


def test_rename_of_a_value_too_large_for_a_transaction(mnt, agent):
    big = b"x" * 500_000
    (mnt / "kv/a").write_bytes(big)
    (mnt / "kv/b").write_bytes(b"old")
    os.rename(mnt / "kv/a", mnt / "kv/b")
    assert agent.kv_keys() == ["b"] and agent.kv_get("b") == big
    assert (mnt / "kv/b").read_bytes() == big


def test_rm_of_a_key_that_is_a_prefix_and_what_is_below(mnt, agent):
    agent.kv_set("a", b"value")
    agent.kv_set("a/x", b"")
    sh("rm a/*", cwd=mnt / "kv")
    assert agent.kv_keys() == []


def test_rename(mnt, agent):
    agent.put("/v1/kv/a", b"value", flags=7)
    os.mkdir(mnt / "kv/d")
    os.rename(mnt / "kv/a", mnt / "kv/d/b")
    assert agent.kv_keys() == ["d/", "d/b"]
    assert agent.kv_entry("d/b")["Flags"] == 7
    assert (mnt / "kv/d/b").read_bytes() == b"value"


def test_rename_replaces(mnt, agent):
    agent.kv_set("a", b"new")
    agent.kv_set("b", b"old")
    os.rename(mnt / "kv/a", mnt / "kv/b")
    assert agent.kv_keys() == ["b"] and (mnt / "kv/b").read_bytes() == b"new"
    assert os.listdir(mnt / "kv") == ["b"]


def test_rename_without_replacing(mnt, agent):
    agent.kv_set("a", b"new")
    agent.kv_set("b", b"old")
    sh("mv -n a b", cwd=mnt / "kv")
    assert agent.kv_keys() == ["a", "b"] and agent.kv_get("b") == b"old"


def test_rename_of_what_is_absent(mnt, agent):
    agent.kv_set("b", b"")
    with fails_with(errno.ENOENT):
        os.rename(mnt / "kv/a", mnt / "kv/b")
    assert agent.kv_keys() == ["b"]


def test_mv_of_a_directory(mnt, agent):
    for key in ("d/", "d/a", "d/e/b", "d/e//odd"):
        agent.kv_set(key, key.encode())
    sh("mv d new", cwd=mnt / "kv")
    assert agent.kv_keys() == ["new/", "new/a", "new/e//odd", "new/e/b"]
    assert agent.kv_get("new/e/b") == b"d/e/b"


def test_mv_between_the_mount_and_elsewhere(mnt, agent, tmp_path):
    agent.kv_set("d/", b"")  # without its marker the directory would vanish with its only key
    agent.kv_set("d/a", b"value")
    sh(f"mv d/a {tmp_path}/out && mv {tmp_path}/out d/b", cwd=mnt / "kv")
    assert agent.kv_keys() == ["d/", "d/b"] and agent.kv_get("d/b") == b"value"


# Keys that are also prefixes, and empty components


def test_key_that_is_also_a_prefix(mnt, agent):
    agent.kv_set("a", b"the key's")
    agent.kv_set("a/b", b"under it")
    assert os.listdir(mnt / "kv") == ["a"]
    assert sorted(os.listdir(mnt / "kv/a")) == ["%value", "b"]
    assert (mnt / "kv/a/%value").read_bytes() == b"the key's"
    (mnt / "kv/a/%value").write_bytes(b"changed")
    assert agent.kv_get("a") == b"changed"
    os.unlink(mnt / "kv/a/%value")
    assert agent.kv_keys() == ["a/b"] and os.listdir(mnt / "kv/a") == ["b"]


def test_file_becomes_a_directory_and_a_file_again(mnt, agent):
    agent.kv_set("a", b"value")
    assert (mnt / "kv/a").read_bytes() == b"value"
    agent.kv_set("a/b", b"under it")
    wait_equal(lambda: (mnt / "kv/a/%value").read_bytes(), b"value")
    agent.client.kv.delete("a/b")
    wait_equal(lambda: (mnt / "kv/a").read_bytes(), b"value")


def test_rm_r_of_a_key_that_is_also_a_prefix(mnt, agent):
    for key in ("a", "a/", "a/b", "a//c"):
        agent.kv_set(key, b"value")
    sh("rm -r a", cwd=mnt / "kv")
    assert agent.kv_keys() == []


def test_rmdir_of_the_last_directory_in_a_key_that_is_also_a_prefix(mnt, agent):
    """The kernel has been told by then that it is a file, which a path to the directory that is removed cannot go through."""
    agent.kv_set("a", b"value")
    agent.kv_set("a/b/c", b"")
    wait_equal(lambda: (mnt / "kv/a/b/c").exists(), True)
    told = stat_of(mnt, "kernel.notified")
    os.unlink(mnt / "kv/a/b/c")
    wait_until(lambda: stat_of(mnt, "kernel.notified") >= told + 2, "the kernel is told of both directories")
    os.rmdir(mnt / "kv/a/b")
    assert (mnt / "kv/a").read_bytes() == b"value"


@pytest.mark.parametrize(
    "key, path",
    [
        ("a//b", "a/%empty/b"),
        ("/a", "%empty/a"),
        ("//", "%empty/%empty/%empty"),
        ("a//", "a/%empty/%empty"),
        ("a/./b", "a/%2E/b"),
        ("a/../b", "a/%2E%2E/b"),
    ],
)
def test_keys_that_consuls_mux_would_redirect(mnt, agent, key, path):
    agent.kv_set(key, b"value")
    agent.kv_set("a/b", b"another")
    agent.kv_set("b", b"another")
    assert (mnt / "kv" / path).read_bytes() == b"value"
    assert sh("find . -type f", cwd=mnt / "kv").stdout.splitlines().count(f"./{path}") == 1
    (mnt / "kv" / path).write_bytes(b"changed")
    assert agent.kv_get(key) == b"changed"
    os.unlink(mnt / "kv" / path)
    assert agent.kv_get(key) is None
    assert agent.kv_get("a/b") == b"another" and agent.kv_get("b") == b"another"


# Odd names


@pytest.mark.parametrize("key, name", ODD_NAMES, ids=ids(ODD_NAMES))
def test_odd_names_from_consul(mnt, agent, key, name):
    agent.kv_set(key, b"value")
    assert os.listdir(mnt / "kv") == [name]
    assert (mnt / "kv" / name).read_bytes() == b"value"
    os.unlink(mnt / "kv" / name)
    assert agent.kv_keys() == []


@pytest.mark.parametrize("key, name", ODD_NAMES, ids=ids(ODD_NAMES))
def test_odd_names_to_consul(mnt, agent, key, name):
    os.mkdir(mnt / "kv" / name)
    (mnt / "kv" / name / name).write_bytes(b"value")
    assert sorted(agent.kv_keys()) == sorted([f"{key}/", f"{key}/{key}"])
    assert agent.kv_get(f"{key}/{key}") == b"value"


@pytest.mark.parametrize("name", ["%2F", "a%2Fb", "a%2Eb", "%2Ea", "a%25b", "%bogus", "%"])
def test_spellings_that_do_not_exist(mnt, agent, name):
    for key in ("/", "a/b", "a.b", ".a", "a%b", "%bogus"):
        agent.kv_set(key, b"")
    with fails_with(errno.ENOENT):
        os.stat(mnt / "kv" / name)
    with fails_with(errno.EINVAL):
        os.mkdir(mnt / "kv" / name)
    with fails_with(errno.EINVAL), opened(mnt / "kv" / name, os.O_WRONLY | os.O_CREAT):
        pass


def test_name_that_is_no_utf8(mnt, agent):
    """Consul would list it under another name, at which nobody could reach it."""
    with fails_with(errno.EINVAL, errno.EILSEQ), opened(os.fsencode(mnt / "kv") + b"/\xff", os.O_WRONLY | os.O_CREAT):
        pass
    assert agent.kv_keys() == []


# Real programs


def test_sed_in_place(mnt, agent):
    agent.kv_set("conf/app", b"port = 80\n")
    sh("sed -i s/80/8080/ app", cwd=mnt / "kv/conf")
    assert agent.kv_get("conf/app") == b"port = 8080\n"
    assert agent.kv_keys() == ["conf/app"]


def test_cp_r_and_diff_and_tar(mnt, agent, tmp_path):
    tree = tmp_path / "tree"
    (tree / "d/e").mkdir(parents=True)
    (tree / "d/e/f").write_bytes(os.urandom(50_000))
    (tree / "d/g").write_bytes(b"")
    sh(f"cp -r {tree} . && diff -r {tree} tree && tar cf - tree | tar tf - | sort", cwd=mnt / "kv")
    assert agent.kv_get("tree/d/e/f") == (tree / "d/e/f").read_bytes()


def test_dd_without_truncation(mnt, agent):
    agent.kv_set("a", b"abcdef")
    sh("printf XY | dd of=a bs=1 seek=2 conv=notrunc", cwd=mnt / "kv")
    assert agent.kv_get("a") == b"abXYef"


def test_tee_appends(mnt, agent):
    agent.kv_set("a", b"one\n")
    sh("echo two | tee -a a", cwd=mnt / "kv")
    assert agent.kv_get("a") == b"one\ntwo\n"
