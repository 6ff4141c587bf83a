"""A process of its own that opens, locks, reads and writes on command: locks are about who asks."""

import ast
import os
import subprocess
import sys

_LOOP = """
import ast, errno, fcntl, os, sqlite3, struct, sys

files = {}

def open_(name, path, flags=os.O_RDWR):
    files[name] = os.open(path, flags)

def close(name):
    os.close(files.pop(name))

def flock(name, how):
    fcntl.flock(files[name], how)

def lockf(name, how, length=0, start=0):
    fcntl.lockf(files[name], how, length, start)

def getlk(name, kind=fcntl.F_WRLCK, start=0, length=0):
    asked = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(files[name], fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else (kind, start, length, pid)

def read(name):
    return os.pread(files[name], 1 << 20, 0)

def write(name, data):
    os.pwrite(files[name], data, 0)

def number(name):
    return os.fstat(files[name]).st_ino

for line in sys.stdin:
    function, arguments = ast.literal_eval(line)
    try:
        answer = globals()[function](*arguments)
    except OSError as error:
        answer = error
    print(repr(("error", answer.errno) if isinstance(answer, OSError) else ("value", answer)), flush=True)
"""


class Process:
    """
    process.open_("f", path); process.flock("f", LOCK_EX). `begin` does not wait for the answer, `end` does. An OSError
    over there is one here.
    """

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )

    @property
    def pid(self):
        return self.process.pid

    def begin(self, function, *arguments):
        self.process.stdin.write(repr((function, tuple(arguments))) + "\n")
        self.process.stdin.flush()

    def end(self):
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        kind, answer = ast.literal_eval(line)
        if kind == "error":
            raise OSError(answer, os.strerror(answer))
        return answer

    def __getattr__(self, function):
        def call(*arguments):
            self.begin(function, *arguments)
            return self.end()

        return call

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
