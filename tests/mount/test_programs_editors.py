"""Programs that change a file where it is: editors, and those that write a new one beside it and rename it."""

import re

import pytest

from harness.terminal import at_terminal
from harness.wait import wait_equal

OLD, NEW = b"port = 80\nname = web\n", b"port = 8080\nname = web\n"


@pytest.mark.parametrize(
    "command, backup",
    [
        ("sed -i s/80/8080/ conf", None),
        ("sed -i.bak s/80/8080/ conf", "conf.bak"),
        ("sed -i --follow-symlinks s/80/8080/ ./conf", None),
        ("busybox sed -i s/80/8080/ conf", None),
        ("perl -pi -e s/80/8080/ conf", None),
        ("perl -pi.orig -e s/80/8080/ conf", "conf.orig"),
        ("gawk -i inplace '{ sub(80, 8080); print }' conf", None),
        (r"printf '%s\n' ,s/80/8080/ w q | ed -s conf", None),
        ("vim.tiny -Nu NONE -es -c 1s/80/8080/ -c wq conf", None),
        ("sed s/80/8080/ conf | sponge conf", None),
        ("sed s/80/8080/ conf > new && mv new conf", None),
        ("sed s/80/8080/ conf > new && mv -b new conf", "conf~"),
        ("cp --force -b conf conf && sed s/80/8080/ conf~ > conf", "conf~"),
        ("sed s/80/8080/ conf > $home/new && cp $home/new conf", None),
        ("sed s/80/8080/ conf > $home/new && cp --remove-destination $home/new conf", None),
        ("sed s/80/8080/ conf > $home/new && install -b -m 600 $home/new conf", "conf~"),
        ("sed s/80/8080/ conf | diff -u conf - | patch -s conf", None),
        ("sed s/80/8080/ conf | diff -u conf - | patch -s -b conf", "conf.orig"),
    ],
)
def test_in_place(place, command, backup):
    place.put(conf=OLD)
    assert place.run(f"set -e; {command}") == ""
    place.holds({"conf": NEW, **({backup: OLD} if backup else {})})


def test_a_hunk_that_does_not_fit(place):
    """patch leaves the file alone and what it could not do beside it, as on a disk."""
    place.put(conf=OLD)
    diff = r"printf '%s\n' '--- conf' '+++ conf' '@@ -1 +1 @@' -other +new"
    said = place.run(f"{diff} | patch -s --no-backup-if-mismatch conf || test $? = 1")
    assert "1 out of 1 hunk FAILED" in said
    stored = place.stored()
    assert stored.pop("conf.rej").endswith(b"-other\n+new\n")
    assert stored == {"conf": OLD}


def test_sort_into_the_file_that_it_reads(place):
    place.put(list=b"b\na\nc\n")
    place.run("sort -o list list")
    place.holds({"list": b"a\nb\nc\n"})


def test_jq_and_sponge(place):
    place.put(doc=b'{"a": 1}\n')
    place.run("jq -c .b=2 doc | sponge doc && jq -c .c=3 doc | sponge doc")
    place.holds({"doc": b'{"a":1,"b":2,"c":3}\n'})


# With a terminal


@pytest.mark.parametrize("backupcopy", ["auto", "yes", "no"])
@pytest.mark.parametrize("backup", [True, False], ids=["backup", "nobackup"])
def test_vim(place, backup, backupcopy):
    """Swap file on, saved twice. backupskip: vim makes no backups below /tmp, where these tests may run."""
    place.agent.put("/v1/kv/c/f", b"one\n", flags=7)
    settings = f"set swapfile writebackup backupskip= backupcopy={backupcopy} {'backup' if backup else 'nobackup'}"
    with at_terminal("vim.tiny", "-Nu", "NONE", "--cmd", settings, "f", cwd=place.kv / "c", env=place.env) as vim:
        vim.wait_for('"f"')
        assert set(place.stored()) == {"c/f", "c/.f.swp"}
        vim.type("Gotwo\x1b:w\r")
        vim.wait_for("written")
        assert place.agent.kv_get("c/f") == b"one\ntwo\n"
        # It removes what it shall not keep after it has said so.
        wait_equal(lambda: place.agent.kv_get("c/f~"), b"one\n" if backup else None)
        vim.type("Gothree\x1b:w\r")
        vim.wait_for("written")
        assert place.agent.kv_get("c/f") == b"one\ntwo\nthree\n"
        vim.type(":q\r")
        assert vim.end() == 0
    assert not re.search(r"\b[EW][0-9]+:|WARNING|error", vim.said)
    place.holds({"c/f": b"one\ntwo\nthree\n", **({"c/f~": b"one\ntwo\n"} if backup else {})})
    if backupcopy == "yes":  # else it is another file, on a disk too
        assert place.agent.kv_entry("c/f")["Flags"] == 7


def test_vim_recovers_from_its_swap_file(place):
    place.put(f=b"one\n")
    command = ["vim.tiny", "-Nu", "NONE", "--cmd", "set swapfile"]
    with at_terminal(*command, "f", cwd=place.kv, env=place.env) as vim:
        vim.wait_for('"f"')
        vim.type("Gotwo\x1b:preserve\r")
        vim.wait_for("File preserved")
        vim.process.kill()
        vim.end()
    assert place.agent.kv_get("f") == b"one\n" and b"two" in place.agent.kv_get(".f.swp")
    with at_terminal(*command, "-r", "f", cwd=place.kv, env=place.env) as vim:
        vim.wait_for("Recovery completed")
        vim.type("\r:wq\r")
        assert vim.end() == 0
    place.run("rm .f.swp")
    place.holds({"f": b"one\ntwo\n"})


def test_nano(place):
    place.put(f=b"one\n")
    env = {**place.env, "TERM": "vt100"}
    with at_terminal("nano", "--ignorercfiles", "--backup", "f", cwd=place.kv, env=env) as nano:
        nano.wait_for("one")
        nano.type("zero\r\x13")
        nano.wait_for("Wrote 2 lines")
        nano.type("half\r\x13")
        nano.wait_for("Wrote 3 lines")
        nano.type("\x18")
        assert nano.end() == 0
    assert "rror" not in nano.said
    place.holds({"f": b"zero\nhalf\none\n", "f~": b"zero\none\n"})


def test_busybox_vi(place):
    place.put(f=b"one\n")
    with at_terminal("busybox", "vi", "f", cwd=place.kv, env={**place.env, "TERM": "vt100"}) as vi:
        vi.wait_for("one")
        for lines, word in ((2, "two"), (3, "three")):
            vi.type(f"o{word}")
            vi.wait_for(word[-1])
            vi.type("\x1b")  # what follows at once would be the rest of a key's sequence
            vi.wait_for("- f")
            vi.type(":w\r")
            vi.wait_for(f"'f' {lines}L")
        vi.type(":q\r")
        assert vi.end() == 0
    place.holds({"f": b"one\ntwo\nthree\n"})
