"""Programs that make, cut, join, pack and check single files, and what shells do with them."""

import os
import sqlite3

import pytest

from harness.programs import fails_with, opened

NUMBERS = b"".join(b"%d\n" % n for n in range(3000))


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 4096, 65536])
def test_dd(place, size):
    place.put(numbers=NUMBERS)
    place.run(f"dd if=numbers of=copy bs={size} status=none && dd if=copy bs={size} status=none | cmp - numbers")
    place.holds({"numbers": NUMBERS, "copy": NUMBERS})
    place.run(f"printf %0600d | dd of=copy bs={size} seek=1 conv=notrunc iflag=fullblock status=none")
    changed = NUMBERS[:size].ljust(size, b"\0") + b"0" * 600 + NUMBERS[size + 600 :]
    place.holds({"numbers": NUMBERS, "copy": changed})


@pytest.mark.parametrize(
    "flags", ["oflag=direct conv=fsync", "oflag=sync", "oflag=append conv=notrunc", "iflag=direct", "conv=sparse"]
)
def test_dd_flags(place, flags):
    place.put(numbers=NUMBERS)
    place.run(f"dd if=numbers of=copy bs=4096 {flags} status=none")
    place.holds({"numbers": NUMBERS, "copy": NUMBERS})


@pytest.mark.parametrize("sparse", ["always", "never", "auto"])
def test_cp_of_a_sparse_file(place, sparse):
    place.run("truncate -s 100000 $home/sparse; echo end >> $home/sparse; truncate -s 200000 $home/sparse")
    place.run(f"set -e; for to in a b $home/back; do cp --sparse={sparse} ${{from-$home/sparse}} $to; from=$to; done")
    place.run("cmp $home/sparse $home/back")
    value = bytes(100_000) + b"end\n" + bytes(99_996)
    place.holds({"a": value, "b": value})


def test_split_and_cat(place):
    place.put(numbers=NUMBERS)
    place.run("split -b 1000 numbers part. && cat part.* > joined && cmp numbers joined && rm part.*")
    place.run("split -l 500 numbers && cat xa? | cmp - numbers && rm xa?")
    place.run("csplit -q numbers 100 '{5}' && cat xx?? | cmp - numbers && rm xx??")
    place.run("(head -n 1500 numbers; tail -n +1501 numbers) > joined; tac numbers | tac | cmp - joined")
    place.holds({"numbers": NUMBERS, "joined": NUMBERS})


@pytest.mark.parametrize(
    "pack, unpack, suffix",
    [
        ("gzip", "gunzip", "gz"),
        ("xz", "unxz", "xz"),
        ("bzip2", "bunzip2", "bz2"),
        ("busybox gzip", "busybox gunzip", "gz"),
    ],
)
def test_packing_in_place(place, pack, unpack, suffix):
    place.put(numbers=NUMBERS)
    place.run(f"{pack} numbers")
    assert set(place.stored()) == {f"numbers.{suffix}"}
    place.run(f"{unpack} numbers.{suffix}")
    place.holds({"numbers": NUMBERS})


def test_head_appended_by_tee(place):
    place.put(a=b"one\ntwo\n")
    assert place.run("head -c 4 a | tee -a a") == "one\n"
    place.holds({"a": b"one\ntwo\none\n"})


def test_install(place):
    (place.home / "new").write_bytes(b"new\n")
    place.run("install -D -m 600 $home/new a/b/c; install -d -m 700 d; install -t d $home/new; install -b a/b/c d/new;"
              "install -C a/b/c d/new; install -o nobody -g nogroup -p d/new d/other")
    new = b"new\n"
    place.holds({"a/": b"", "a/b/": b"", "a/b/c": new, "d/": b"", "d/new": new, "d/new~": new, "d/other": new})


@pytest.mark.parametrize(
    "command, complaint",
    [
        ("ln a b", "ln: failed to create hard link 'b' => 'a': Operation not permitted\n"),
        ("ln -s a b", "ln: failed to create symbolic link 'b': Operation not permitted\n"),
        ("cp -l a b", "cp: cannot create hard link 'b' to 'a': Operation not permitted\n"),
        ("mkfifo b", "mkfifo: cannot create fifo 'b': Operation not permitted\n"),
        ("mknod b c 1 3", "mknod: b: Operation not permitted\n"),
    ],
)
def test_what_consul_has_no_such_thing_for(place, command, complaint):
    """As on vfat: refused in so many words."""
    place.put(a=b"value")
    place.run(f"{command} && exit 9; true", stderr=complaint)
    place.holds({"a": b"value"})


def test_shred(place):
    """It writes whole blocks, so a block must fit into a value."""
    place.put(a=b"secret", b=b"secret")
    place.run("shred -n 1 a && shred -u -z b")
    stored = place.stored()
    assert set(stored) == {"a"} and len(stored["a"]) >= 6 and b"secret" not in stored["a"]


def test_temporary_files(place):
    made = place.run("mktemp ./fXXXX && mktemp -d ./dXXXX").split()
    assert set(place.stored()) == {made[0][2:], made[1][2:] + "/"}
    place.run("rm f???? && rmdir d????")
    place.holds({})


def test_checksums_and_comparisons(place):
    place.put(a=NUMBERS, b=NUMBERS)
    place.run("sha256sum a b > sums && sha256sum --quiet -c sums && cmp a b && diff a b && comm -3 a b && rm sums")
    place.run("test -s a -a -f a -a -r a -a -w a -a ! -x a")
    assert place.run("wc -c < a; stat -c '%s %F' a; du -b a") == "13890\n13890 regular file\n13890\ta\n"
    place.holds({"a": NUMBERS, "b": NUMBERS})


# Python, SQLite


PYTHON = """
import configparser, dbm.dumb, mmap, os, pathlib, shelve, shutil, tempfile, zipfile

with open("new", "x") as new:
    new.write("mine")
try:
    open("new", "x")
    raise AssertionError
except FileExistsError:
    pass
with shelve.open("shelf") as shelf:
    shelf["a"] = [1, 2]
with shelve.open("shelf") as shelf:
    assert dict(shelf) == {"a": [1, 2]}
for path in pathlib.Path().glob("shelf*"):
    path.unlink()
with zipfile.ZipFile("zip", "w") as archive:
    archive.write("new")
with zipfile.ZipFile("zip", "a") as archive:
    archive.writestr("other", "other")
with zipfile.ZipFile("zip") as archive:
    assert archive.testzip() is None and archive.namelist() == ["new", "other"]
os.unlink("zip")
with open("new", "rb") as new:
    assert mmap.mmap(new.fileno(), 0, access=mmap.ACCESS_READ)[:] == b"mine"
    private = mmap.mmap(new.fileno(), 0, access=mmap.ACCESS_COPY)
    private[:1] = b"f"
    assert private[:] == b"fine"
pathlib.Path("dir/sub").mkdir(parents=True)
pathlib.Path("dir/sub/a").write_text("x")
shutil.copytree("dir", "dir2")
shutil.move("dir2", "dir3")
shutil.rmtree("dir")
shutil.rmtree("dir3")
for opened in (tempfile.NamedTemporaryFile(dir="."), tempfile.TemporaryFile(dir="."), open("gone", "w+b")):
    with opened:
        if opened.name == "gone":
            os.unlink("gone")
        opened.write(b"temporary")
        opened.flush()
        opened.seek(0)
        assert opened.read() == b"temporary"
with tempfile.TemporaryDirectory(dir=".") as directory:
    pathlib.Path(directory, "x").write_text("x")
with open("update", "w+") as update:
    update.write("hello")
    update.seek(2)
    update.write("LL")
    update.flush()
    update.seek(0)
    assert update.read() == "heLLo"
    os.rename("update", "renamed")
    update.write(" world")
with open("renamed", "r+") as update:
    update.truncate(7)
os.replace("new", "replaced")
"""


def test_python(place):
    assert place.run('python3 -c "$script"'.replace("$script", PYTHON.replace('"', '\\"'))) == ""
    place.holds({"renamed": b"heLLo w", "replaced": b"mine"})


def test_exclusive_creation_on_two_mounts(place):
    place.run("python3 -c 'open(\"new\", \"x\").write(\"mine\")'")
    with fails_with(17), opened(place.there / "kv/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL):
        pass
    place.holds({"new": b"mine"})


def test_sqlite(place):
    """A database that is one value. Its journal is a key beside it while it is written."""
    database = sqlite3.connect(place.home / "db")
    database.executescript("create table t(a); insert into t values(1), (2);")
    database.close()
    place.run("cp $home/db db")
    assert place.run("sqlite3 -readonly db 'select sum(a) from t'") == "3\n"
    place.holds({"db": (place.home / "db").read_bytes()})
    assert place.run("sqlite3 $there/db 'select count(*) from t'") == "2\n"
    place.run("sqlite3 db 'insert into t values(4); begin; insert into t values(8); rollback; vacuum'")
    assert place.run("sqlite3 db 'pragma integrity_check; select sum(a) from t'") == "ok\n7\n"
    stored = place.stored()
    assert set(stored) == {"db"}
    place.holds(stored)
    (place.home / "back").write_bytes(stored["db"])
    assert place.run("sqlite3 $home/back 'select sum(a) from t'") == "7\n"


# Shells


REDIRECTIONS = r"""
set -e
echo a > f; echo b >> f; test "$(cat f)" = "$(printf 'a\nb')"
cat > here <<X
here $((1 + 1))
X
{ echo 1; echo 2; ls --zero here; } > group
exec 3> fd; echo one >&3; echo two >&3; exec 3>&-
exec 4<> both; echo hi >&4; exec 4<&-
(echo out; echo err >&2) > outerr 2>&1
set -C; { echo x > f; } 2> refused && exit 9; test -s refused; rm refused; echo y >| f; set +C
: > none; > none2
for i in 1 2 3; do echo $i; done > loop; for i in 4 5; do echo $i; done >> loop
while read line; do echo "<$line>"; done < loop > read
printf %s 'no newline' > n; read v < n || test "$v" = 'no newline'; echo "$(cat n)" > n
cat f here | tee t1 t2 > t3; cat here here >> t3
exec 5>> app; echo 1 >&5; echo 2 >> app; echo 3 >&5; exec 5>&-
seq 1 20000 > long; test "$(tail -n 1 < long) $(wc -c < long)" = '20000 108894'; rm long
sh -c 'echo x; exit 3' > status && exit 9; true
"""


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox ash"])
def test_redirections(place, shell):
    (place.home / "script").write_text(REDIRECTIONS)
    place.run(f"{shell} $home/script")
    here = b"here 2\n"
    place.holds({
        **{"f": b"y\n", "here": here, "group": b"1\n2\nhere\0", "fd": b"one\ntwo\n", "both": b"hi\n"},
        **{"outerr": b"out\nerr\n", "none": b"", "none2": b"", "n": b"no newline\n"},
        **{"app": b"1\n2\n3\n", "status": b"x\n"},
        **{"loop": b"1\n2\n3\n4\n5\n", "read": b"<1>\n<2>\n<3>\n<4>\n<5>\n"},
        **{"t1": b"y\n" + here, "t2": b"y\n" + here, "t3": b"y\n" + here * 3},
    })


BUSYBOX = r"""
set -e
for applet in cat cmp cp dd diff find head md5sum mkdir mv rm sort tee touch tr truncate unlink; do
    eval "$applet() { busybox $applet \"\$@\"; }"
done
mkdir d; cp f d; mv d/f d/g; dd if=f of=d/h bs=7 2> $home/said; cmp f d/h; touch d/i
mkdir -p e/k; cp -r d e/k; diff -r d e/k/d; sort -n -o f f; head -c 2 f | tee -a d/i > e/out
truncate -s 3 d/h; rm e/out; unlink d/g; rm -r e
test "$(find d -type f | sort | tr '\n' ' ')" = 'd/h d/i '; find . -type f -exec busybox md5sum {} + > $home/sums
"""


def test_busybox(place):
    place.put(f=NUMBERS)
    place.run(BUSYBOX)
    place.holds({"f": NUMBERS, "d/": b"", "d/h": NUMBERS[:3], "d/i": NUMBERS[:2]})
