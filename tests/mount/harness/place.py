"""Two views of one store: programs run in kv/ of a mount, and what they leave is looked at from all sides."""

import base64
import os
from pathlib import Path

from harness.mount import clean_environment
from harness.programs import quietly
from harness.wait import wait_equal


class Place:
    """
    `run` runs programs in `kv`, which is kv/ of the mount `here`. `there` is another mount, perhaps of another agent of
    the same datacenter. `home` is an empty directory on a disk.
    """

    def __init__(self, agent, here, there, home):
        self.agent = agent
        self.here, self.there = here, there
        self.kv = here / "kv"
        self.home = Path(home)
        self.home.mkdir()
        (self.home / ".gitconfig").write_text("[user]\nname = Somebody\nemail = somebody@example.com\n")
        self.env = clean_environment(
            HOME=self.home, home=self.home, there=there / "kv", LC_ALL="C", TERM="dumb", GIT_CONFIG_NOSYSTEM=1
        )

    def put(self, **keys):
        for key, value in keys.items():
            self.agent.kv_set(key, value)

    def run(self, script, **arguments):
        """As quietly() does. `$home` is there, and `$there`, kv/ of the other mount."""
        return quietly(script, cwd=self.kv, env=self.env, **arguments)

    def stored(self):
        """All keys with their values, as Consul has them."""
        answer = self.agent.get("/v1/kv/", recurse="", consistent="")
        return {entry["Key"]: base64.b64decode(entry["Value"] or "") for entry in answer.json()} if answer.ok else {}

    def holds(self, expected):
        """These keys with these values and no others, neither in Consul nor in the two mounts."""
        assert self.stored() == expected
        assert shown(self.kv) == as_shown(expected)
        wait_equal(lambda: shown(self.there / "kv"), as_shown(expected))


def as_shown(keys):
    """A mount shows each directory, be there a marker or not."""
    above = {key[: n + 1]: b"" for key in keys for n, letter in enumerate(key) if letter == "/"}
    return {**above, **keys}


def shown(top):
    """What as_shown() should be, read through a mount."""
    found = {}
    for path, directories, files in os.walk(top, onerror=_raise):
        below = os.path.relpath(path, top) + "/"
        below = "" if below == "./" else below
        found.update({f"{below}{name}/": b"" for name in directories})
        found.update({f"{below}{name}": Path(path, name).read_bytes() for name in files})
    return found


def _raise(error):
    raise error
