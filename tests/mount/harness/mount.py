"""A consulfs mount: its daemon in the foreground, its stderr in a file, its end checked."""

import os
import re
import subprocess
from pathlib import Path

from harness.wait import wait_until

BINARY = Path(os.environ.get("CONSULFS_BIN", Path(__file__).resolve().parents[3] / "build/fs/consulfs")).absolute()

# On the daemon's stderr these fail the test, whatever else it proved: the first always, the second unless expected.
DEFECT = re.compile(
    r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error|[Aa]ssert|stack smashing|malloc\(\)|free\(\)"
)
COMPLAINT = re.compile(r"\berror\b", re.IGNORECASE)


def clean_environment(**more):
    """Ours without what a developer's shell may say about their own Consul."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CONSUL_")}
    return {**env, **{name: str(value) for name, value in more.items()}}


def is_mounted(path):
    # The kernel writes blanks and backslashes in octal, which the paths of our tests do not have.
    return any(line.split()[1] == str(path) for line in open("/proc/mounts"))


class Mount:
    """
    `mnt / "kv/a"` is a path in it. `options` is what goes after -o: `timeout=5, ro=True` become `timeout=5,ro`.
    """

    def __init__(self, directory, address=None, options=None, args=(), env=None):
        self.directory = Path(directory)
        self.path = self.directory / "mnt"
        self.path.mkdir(parents=True)
        self.log_file = self.directory / "stderr"
        self.process = None
        self._expected = []
        self._killed = None

        options = options or {}
        text = ",".join(name if value is True else f"{name}={value}" for name, value in options.items())
        self.command = [str(BINARY), "-f", *args]
        if text:
            self.command += ["-o", text]
        if address:
            self.command.append(address)
        self.command.append(str(self.path))
        self._env = clean_environment(**(env or {}))

    def __truediv__(self, name):
        return self.path / name

    @property
    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def expect_log(self, pattern="."):
        """Says that the daemon has reason to complain, in lines that match."""
        self._expected.append(re.compile(pattern))

    def start(self):
        with self.log_file.open("ab") as log:
            # TERM, so that an orphan still takes its mount away with it.
            command = ["setpriv", "--pdeathsig", "TERM", *self.command]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env)

        def mounted():
            if self.process.poll() is not None:
                raise AssertionError(f"consulfs ended with status {self.process.returncode}: {self.log}")
            return is_mounted(self.path)

        try:
            wait_until(mounted, "consulfs mounts", timeout=20)
        except AssertionError:
            self.abort("it did not mount")
            raise
        return self

    def abort(self, why):
        """Ends it by force: whoever is blocked in the mount gets an error at once. `end` will fail, saying why."""
        self._killed = self._killed or why
        self.process.kill()
        self.process.wait()
        subprocess.run(["fusermount3", "-u", "-z", self.path], stderr=subprocess.DEVNULL)

    def end(self):
        """Unmounts. The daemon must let it, end with status 0, and have said nothing unexpected."""
        if self.process.poll() is None or is_mounted(self.path):
            self._unmount()
        assert not self._killed, f"consulfs had to be killed: {self._killed}"
        assert self.process.returncode == 0, f"consulfs ended with status {self.process.returncode}"
        self.check_log()

    def check_log(self):
        def is_bad(line):
            expected = any(pattern.search(line) for pattern in self._expected)
            return DEFECT.search(line) or (COMPLAINT.search(line) and not expected)

        bad = [line for line in self.log.splitlines() if is_bad(line)]
        assert not bad, "unexpected words on the daemon's stderr:\n" + "\n".join(bad)

    def _unmount(self):
        try:
            subprocess.run(["fusermount3", "-u", self.path], check=True, timeout=10, stderr=subprocess.PIPE, text=True)
            self.process.wait(timeout=20)
        except subprocess.CalledProcessError as error:
            self.abort(error.stderr.strip())
        except subprocess.TimeoutExpired as error:
            self.abort(str(error))
