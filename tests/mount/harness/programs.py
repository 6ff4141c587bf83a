"""Running ordinary programs on a mount, and reading what they could not do."""

import contextlib
import errno
import functools
import os
import subprocess

import pytest


def sh(script, shell="sh", check=True, timeout=20, cwd="/", **arguments):
    """
    Runs a script in a directory; returns the completed process with its output as text. The shell changes there, not
    subprocess: until its child has called exec this process stands still, and so would a proxy of ours that the
    mount needs for the chdir().
    """
    command = [shell, "-c", f'cd "$0" || exit; {script}', os.fspath(cwd)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd="/", **arguments)
    if check:
        assert done.returncode == 0, f"{script!r} ended with {done.returncode}: {done.stderr}{done.stdout}"
    return done


def quietly(script, stderr="", **arguments):
    """
    What a script that succeeds writes to stdout. It must write nothing to stderr but this: who complains there has
    noticed that this is no disk.
    """
    done = sh(script, **arguments)
    assert done.stderr == stderr, f"{script!r} said: {done.stderr}"
    return done.stdout


def names(path):
    """What a directory lists, sorted."""
    return sorted(os.listdir(path))


def refuses(mnt, command, words, cwd=""):
    """The command must fail, and the last refusal that the mount tells of must have these words."""
    done = sh(command, shell="bash", cwd=mnt / cwd, check=False)
    assert done.returncode != 0
    assert words in (mnt / ".consulfs/errors").read_text().splitlines()[-1]


@contextlib.contextmanager
def fails_with(*codes):
    """The block must fail with one of these errno values."""
    with pytest.raises(OSError) as caught:
        yield
    names = [errno.errorcode[code] for code in codes]
    assert caught.value.errno in codes, f"{errno.errorcode.get(caught.value.errno)} instead of {' or '.join(names)}"


@contextlib.contextmanager
def opened(path, flags, mode=0o644, dir_fd=None):
    """A descriptor, with no buffering of Python's between the test and the file system."""
    fd = os.open(path, flags, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@functools.cache
def sanitized():
    """Whether the binary under test is one of the slow ones, built with a sanitizer. Who counts less then says so."""
    from harness.mount import BINARY

    symbols = BINARY.read_bytes()
    return b"__asan_init" in symbols or b"__tsan_init" in symbols
