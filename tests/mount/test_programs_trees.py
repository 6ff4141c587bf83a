"""Programs that copy, move, compare and remove whole trees, and those that keep one, as git and make do."""

import os
import shutil

import pytest

from harness.programs import quietly

TREE = {
    "binary": bytes(range(256)) * 400,
    "empty file": b"",
    "empty/": b"",
    "sub/": b"",
    "sub/deep/": b"",
    "sub/deep/.hidden": b"hidden\n",
    "sub/deep/y": b"y\n",
    "two words": b"two\nlines\n",
}


def beneath(directory, tree):
    """As keys, with the directory's marker."""
    return {f"{directory}/": b"", **{f"{directory}/{name}": value for name, value in tree.items()}}


@pytest.fixture
def tree(place):
    """TREE on a disk; its path."""
    top = place.home / "tree"
    for name, value in TREE.items():
        if name.endswith("/"):
            (top / name).mkdir(parents=True, exist_ok=True)
        else:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(value)
    (top / "sub/deep/y").chmod(0o755)
    os.utime(top / "binary", (10**9, 10**9))
    return top


@pytest.mark.parametrize(
    "copy_in, copy_out",
    [
        ("cp -a $home/tree copy", "cp -a copy $home/back"),
        ("cp -r --sparse=always $home/tree copy", "cp -r --sparse=always copy $home/back"),
        ("busybox cp -a $home/tree copy", "busybox cp -a copy $home/back"),
        ("rsync -a --delete $home/tree/ copy/", "rsync -a --delete copy/ $home/back/"),
        ("rsync -aAXS --inplace $home/tree/ copy/", "rsync -a --inplace --checksum copy/ $home/back/"),
        (
            "mkdir copy; tar -C $home/tree -c . | tar -C copy -x",
            "mkdir $home/back; tar -C copy -c . | tar -C $home/back -x",
        ),
        (
            "mkdir copy; tar -C $home/tree -c . | busybox tar -C copy -x",
            "mkdir $home/back; busybox tar -C copy -c . | busybox tar -C $home/back -x",
        ),
        ("mv $home/tree copy; cp -a copy $home/tree", "cp -a copy $home/save; mv copy $home/back; mv $home/save copy"),
    ],
    ids=["cp", "cp-sparse", "busybox-cp", "rsync", "rsync-inplace", "tar", "busybox-tar", "mv"],
)
def test_there_and_back(place, tree, copy_in, copy_out):
    place.run(f"set -e; {copy_in}; diff -r $home/tree copy")
    place.holds(beneath("copy", TREE))
    place.run(f"set -e; {copy_out}; diff -r $home/tree $home/back; diff -r copy $home/back")
    place.holds(beneath("copy", TREE))


def change(top):
    (top / "sub/deep/y").write_bytes(b"another, longer\n")
    (top / "new").write_bytes(b"new\n")
    (top / "two words").unlink()
    shutil.rmtree(top / "empty")


CHANGED = {name: value for name, value in TREE.items() if name not in ("two words", "empty/")}
CHANGED.update({"sub/deep/y": b"another, longer\n", "new": b"new\n"})


def test_rsync_brings_a_copy_up_to_date(place, tree):
    place.run("rsync -a $home/tree/ copy/ && rsync -a copy/ $home/back/")
    change(tree)
    place.run("rsync -a --delete $home/tree/ copy/")
    place.holds(beneath("copy", CHANGED))
    place.run("rsync -a --delete copy/ $home/back/ && diff -r $home/tree $home/back")


def test_rsync_that_compares_contents_writes_only_what_differs(place, tree):
    """There are no times to go by: this is how to keep rsync from writing everything each time."""
    place.run("rsync -rc $home/tree/ copy/")
    index = place.agent.kv_entry("copy/binary")["ModifyIndex"]
    change(tree)
    said = place.run("rsync -rc --delete --itemize-changes $home/tree/ copy/")
    written = sorted(line.split(maxsplit=1)[1] for line in said.splitlines())
    assert written == ["empty/", "new", "sub/deep/y", "two words"]
    place.holds(beneath("copy", CHANGED))
    assert place.agent.kv_entry("copy/binary")["ModifyIndex"] == index


ARCHIVES = """
set -e
cp -a $home/tree t
tar -cf t.tar t; tar -rf t.tar -C $home tree/sub; tar -uf t.tar t; tar --delete -f t.tar t/binary
tar -tf t.tar > $home/listed; grep -qx t/sub/deep/y $home/listed; grep -qx tree/sub/deep/y $home/listed
grep -qx t/binary $home/listed && exit 9
tar -czf t.tgz t; mkdir x; tar -xzf t.tgz -C x; diff -r t x/t; rm -r x
zip -qr t.zip t; zip -qd t.zip t/binary; zip -qur t.zip t; mkdir x; unzip -qq t.zip -d x; diff -r t x/t; rm -r x
ar rc lib.a t/sub/deep/y; ar r lib.a 't/two words'; ar d lib.a y; test "$(ar t lib.a)" = 'two words'
rm lib.a t.*
"""


def test_archives_that_are_changed_in_the_mount(place, tree):
    place.run(ARCHIVES)
    place.holds(beneath("t", TREE))


# Moving, removing


def many(count):
    return {f"f{n:03}": b"%d\n" % n for n in range(count)}


def fill(place, directory, tree):
    keys = {f"{directory}/{name}": value for name, value in tree.items()}
    (place.home / "fill").mkdir()
    for key, value in keys.items():
        path = place.home / "fill" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    place.run("cp -r $home/fill/* .")


def test_mv_of_a_small_tree_is_one_request(mount, agent, proxy):
    tree = {**many(10), "sub/": b"", "sub/x": b"x"}
    for key, value in beneath("a", tree).items():
        agent.kv_set(key, value)
    mnt = mount(proxy)
    with proxy.record() as seen:
        quietly("mv a b && mkdir c && mv b c", cwd=mnt / "kv")
    assert len(seen.matching(method="PUT", path="/v1/txn")) == 3
    assert {key: agent.kv_get(key) for key in agent.kv_keys()} == {"c/": b"", **beneath("c/b", tree)}


@pytest.mark.parametrize("mv", ["mv", "busybox mv"])
def test_mv_of_a_tree_that_is_too_large_for_one_step(place, mv):
    fill(place, "a", {**many(70), "sub/x": b"x"})
    place.run(f"{mv} a b")
    place.holds(beneath("b", {**many(70), "sub/": b"", "sub/x": b"x"}))
    place.run(f"mkdir c && {mv} b c")
    place.holds({"c/": b"", **beneath("c/b", {**many(70), "sub/": b"", "sub/x": b"x"})})


@pytest.mark.parametrize(
    "remove",
    [
        "rm -rf a",
        "rm -r a",
        "find a -delete",
        "find a -type f -delete; rm -rf a",
        "find a -depth -exec rm -d {} +",
        "find a -type f -print0 | xargs -0 -P 4 -n 10 rm; rm -rf a",
        "busybox rm -r a",
        "python3 -c 'import shutil; shutil.rmtree(\"a\")'",
        "perl -MFile::Path=remove_tree -e 'remove_tree(\"a\")'",
        "rsync -r --delete --exclude beside $home/nothing/ .",
        "mv a $home",
    ],
)
@pytest.mark.parametrize("made_by", ["programs", "consul"])
def test_removing_a_tree(place, remove, made_by):
    """One that was made here has folder markers, one that others made may have none."""
    (place.home / "nothing").mkdir()
    tree = {**many(70), "sub/deep/x": b"x", "sub/y": b"y"}
    if made_by == "programs":
        fill(place, "a", tree)
    else:
        place.put(**{f"a/{name}": value for name, value in tree.items()})
    place.put(beside=b"")
    place.run(remove)
    place.holds({"beside": b""})


# Programs that keep a tree


GIT = """
set -e
git init -q repo; cd repo
echo one > a; mkdir d; echo two > d/b; git add .; git commit -qm first; test -z "$(git status -s)"
echo more >> a; git commit -qam second; git tag -a v1 -m v1
git checkout -q -b side HEAD~; git mv d/b d/c; git rm -q a; git commit -qm third
git checkout -q -; git merge -q -m merge side > /dev/null 2>&1 || git checkout -q v1 a && git commit -qam merged
git stash list; git fsck --strict --no-progress; test -z "$(git status -s)"
"""


def test_git(place):
    place.run(GIT)
    place.run("cd repo && git gc -q --prune=now && git repack -adq && git fsck --no-progress")
    stored = place.stored()
    assert not [key for key in stored if key.endswith(".lock") or "tmp_" in key or "/objects/pack/.tmp" in key]
    assert sum(key.endswith(".pack") for key in stored) == 1
    assert {key: value for key, value in stored.items() if ".git" not in key} == {
        "repo/": b"", "repo/a": b"one\nmore\n", "repo/d/": b"", "repo/d/c": b"two\n",
    }
    place.holds(stored)
    # What is there is the whole repository, by Consul's account too.
    for key, value in stored.items():
        path = place.home / "dump" / key
        path.mkdir(parents=True, exist_ok=True) if key.endswith("/") else path.write_bytes(value)
    for repository in ("$home/dump/repo", "$there/repo"):
        place.run(f"cd {repository} && git fsck --strict --no-progress && test -z \"$(git status -s)\"")


def test_git_clone_and_push(place):
    place.run("git init -q --bare origin.git && git clone -q origin.git $home/clone 2> $home/said_that_it_is_empty")
    place.run("set -e; cd $home/clone; echo one > a; git add a; git commit -qm one; git push -q origin HEAD")
    place.run("set -e; git clone -q origin.git work; cd work; echo two >> a; git commit -qam two; git push -q")
    place.run("git -C $home/clone pull -q && diff -r --exclude=.git $home/clone work")
    place.run("git -C origin.git fsck --no-progress")
    stored = place.stored()
    assert not [key for key in stored if key.endswith(".lock") or "tmp_" in key or "incoming" in key]
    assert stored["work/a"] == b"one\ntwo\n"
    place.holds(stored)
    assert place.run("git clone -q $there/origin.git $home/other && cat $home/other/a") == "one\ntwo\n"


def test_make(place):
    place.put(Makefile=b"out/b: a | out\n\tcp a out/b\nout:\n\tmkdir out\n", a=b"1\n")
    assert place.run("make").splitlines() == ["mkdir out", "cp a out/b"]
    assert "up to date" in place.run("make")
    place.run("echo 2 > a")
    assert place.run("make").splitlines() == ["cp a out/b"]
    assert "up to date" in place.run("make")
    makefile = place.stored()["Makefile"]
    place.holds({"Makefile": makefile, "a": b"2\n", "out/": b"", "out/b": b"2\n"})
