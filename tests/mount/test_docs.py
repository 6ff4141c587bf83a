"""What the documentation says is what the program does: README.md, consulfs(8), --help, and the examples."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.agent import free_ports
from harness.mount import BINARY, clean_environment
from harness.programs import sh
from harness.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
MANUAL = (ROOT / "fs/consulfs.8").read_text()


def consulfs(*args):
    return subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=10, env=clean_environment())


# Options


def help_section(title):
    """The lines below a title of --help, as [(what stands before the gap, the rest)]."""
    section = consulfs("--help").stdout.split(f"{title}:\n", 1)[1].split("\n\n", 1)[0]
    return [re.match(r"  (\S.*?)(?:\s{2,}(.*)|$)", line).groups() for line in section.splitlines() if line[2] != " "]


def names(text):
    """`timeout=SECONDS` and `stale=10|forever` without their values; `[no]dev [a]sync` as four names."""
    found = set()
    for word in re.findall(r"(?:\[\w+\])?[a-z]\w*(?:=[^\s,]*)?", text):
        name = word.split("=")[0]
        optional = re.fullmatch(r"\[(\w+)\](\w+)", name)
        found |= {optional[2], optional[1] + optional[2]} if optional else {name}
    return found


def help_mount_options():
    found = set()
    for first, rest in help_section("Mount options"):
        found |= names(first) if first != "FUSE's own" else set()
    fuse = consulfs("--help").stdout.split("FUSE's own", 1)[1].split("\n\n", 1)[0]
    return found | names(fuse.replace("and those of", "").replace("mount(8):", ""))


def manual_section(title):
    return re.split(r"^\.S[hs] ", MANUAL.split(f" {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def manual_mount_options():
    """Those that have an item of their own, and those of FUSE and mount(8) in the text behind the list."""
    items, rest = manual_section("Mount options").split("\n.El\n", 1)
    found = set(re.findall(r"\bCm (\w+)", "\n".join(re.findall(r"^\.It .*", items, re.M)))) - {"forever"}
    rest = rest.split("What\n", 1)[0]  # what only mount(8) itself understands
    return found | set(re.findall(r"^\.Cm (\w+)", rest, re.M))


# Without effect of their own, or not worth a line of --help.
MANUAL_ONLY = {"rw", "debug", "context", "defcontext", "fscontext", "rootcontext"}


def test_mount_options_are_in_the_manual():
    in_help, in_manual = help_mount_options(), manual_mount_options()
    assert {"token_file", "stale", "nodev", "async", "max_threads"} <= in_help  # the parsing above still works
    assert in_help - in_manual == set()
    assert in_manual - in_help == MANUAL_ONLY


def test_mount_options_of_the_manual_are_known():
    for name in sorted(manual_mount_options()):
        error = consulfs("-o", name).stderr
        assert "wants a value" in error or "no mount point" in error, f"{name}: {error}"
    assert "unknown option" in consulfs("-o", "bogus").stderr


def test_options_are_in_the_manual():
    in_help = {tuple(re.findall(r"-+(\w+)", first)) for first, _ in help_section("Options")}
    in_manual = set(re.findall(r"^\.It Fl (\w) , Fl -(\w+)$", manual_section("OPTIONS"), re.M)) | {("o",)}
    assert re.search(r"^\.It Fl o Ar option", manual_section("OPTIONS"), re.M)
    assert in_help == in_manual


def test_environment_is_in_the_manual():
    def variables(text):
        return set(re.findall(r"\bCONSUL_[A-Z_]+", text))

    in_help = variables(consulfs("--help").stdout)
    assert in_help == variables("\n".join(re.findall(r"^\.It Ev.*", MANUAL, re.M)))
    assert variables(README) <= in_help


def test_exit_status_is_in_the_manual():
    in_help = [first.split()[0] for first, _ in help_section("Exit status")]
    assert in_help == re.findall(r"^\.It (\d)$", manual_section("EXIT STATUS"), re.M)


def test_manual_is_well_formed():
    done = sh(f"groff -mandoc -ww -z {ROOT}/fs/consulfs.8", check=False)
    if done.returncode == 127:
        pytest.skip("groff is not installed")
    assert done.returncode == 0 and done.stderr == ""


# The tree


def test_files_of_the_mount_itself_are_in_the_manual(mnt):
    listed = {path.name for path in (mnt / ".consulfs").iterdir()}
    assert listed == set(re.findall(r"^\.It Pa \.consulfs/(\S+)", MANUAL, re.M))


def test_top_level_is_in_the_manual(mnt):
    listed = {path.name for path in mnt.path.iterdir()} | {".consulfs", "acl"}  # the agent here has no ACLs
    assert listed == set(re.findall(r"^\.Ss (\S+)/$", MANUAL, re.M))


def test_files_of_a_service_node_and_check_are_in_the_manual(mnt, agent):
    agent.register("web", "ID", Address=agent.host, Port=agent.port)
    own = f"nodes/{agent.node}"
    for directory, shown in (("services/web", "services/X"), (own, "nodes/N"), ("checks", "checks")):
        listed = {path.name for path in (mnt / directory).iterdir()}
        described = set(re.findall(rf"^\.It Pa {shown}/([^/\s]+)", MANUAL, re.M))
        assert listed - {"coordinate.json"} <= described, directory  # an agent has none for its first seconds


# The examples, as meson has built them


def example(name):
    return BINARY.parents[1] / "examples" / name


def test_watch_key(agent):
    command = ["timeout", "30", example("watch-key"), "some/key", "4"]
    env = clean_environment(CONSUL_HTTP_ADDR=agent.http)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "(no such key)\n"
        agent.kv_set("some/key", b"one")
        assert re.fullmatch(r"\d+ one\n", process.stdout.readline())
        agent.kv_set("some/other", b"not this")
        agent.kv_set("some/key", b"two")
        assert re.fullmatch(r"\d+ two\n", process.stdout.readline())
        agent.delete("/v1/kv/some/key")
        assert process.stdout.readline() == "(no such key)\n"
        assert process.wait(timeout=10) == 0


def test_register_service(agent):
    def register(*args):
        command = [example("register-service"), *args]
        env = clean_environment(CONSUL_HTTP_ADDR=agent.http)
        return subprocess.run(command, capture_output=True, text=True, timeout=20, env=env)

    assert register("demo", "8000", f"http://{agent.http}/v1/status/leader").returncode == 0
    assert agent.client.agent.services()["demo"]["Port"] == 8000
    assert [check["ServiceID"] for check in agent.client.agent.checks().values()] == ["demo"]
    refused = register("", "1")
    assert refused.returncode == 1 and "Missing service name" in refused.stderr
    assert register().returncode == 2


# README.md


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def console_blocks():
    """The commands of README's ```console blocks, [(command, what it prints)], in order."""
    commands = []
    for block in re.findall(r"^```console\n(.*?)^```$", README, re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            commands.append((command, output))
    return commands


# What is another each time.
VOLATILE = [
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d", "DATE"),
    (r'(?<="(?:Create|Modify)Index": )\d+', "N"),
    (r'(?<="Milliseconds": )[\d.e-]+', "N"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r'(?<="LTime":)\d+', "N"),
    (r"(?m)^(watches|resources|cached_bytes|http\.\w+) \d+$", r"\1 N"),
    (r"(?m)^([-d]\S{9} \d+) \w+ +\w+ +", r"\1 OWNER GROUP "),
    (r"(?m)^version .*", "version N"),
    (r"(?m)^\S+: line \d+: ", "bash: "),
]


def settled(text):
    for pattern, replacement in VOLATILE:
        text = re.sub(pattern, replacement, text)
    return text


class Reader:
    """Types README's commands on a mount, with this agent's addresses in place of those of the quickstart's."""

    def __init__(self, mnt, agent, port):
        self.mnt = mnt
        self.addresses = [
            (r"\b127\.0\.0\.1:8500\b", agent.http),
            (r"\b127\.0\.0\.1:8300\b", f"{agent.host}:{agent.server_port}"),
            (r"(?m)^127\.0\.0\.1$", agent.host),
            (r"\b8000\b", str(port)),
        ]

    def here(self, text):
        for pattern, replacement in self.addresses:
            text = re.sub(pattern, replacement, text)
        return text

    def run(self, command):
        # In English, and sorted as in README.
        script = f"exec 2>&1; export LC_ALL=C; {self.here(command)}"
        return sh(script, shell="bash", check=False, cwd=self.mnt.path).stdout

    def check(self, command, expected):
        expected = settled(self.here(expected))
        if not re.match(r"cat|ls|grep|tail", command):
            assert settled(self.run(command)) == expected, command
            return
        last = None

        def shows_it():
            nonlocal last
            last = settled(self.run(command))
            return last == expected

        try:  # a check runs when Consul gets to it
            wait_until(shows_it, command, timeout=20)
        except AssertionError:
            assert last == expected, command


@pytest.fixture
def web_server(tmp_path):
    """The server that README has the reader start, on a port of its own; its port."""
    line = re.search(r"^    (mkdir \S+ && .*http\.server.*)$", README, re.M)[1]
    (port,) = free_ports("127.0.0.1", 1)
    prepare, _, serve = line.rpartition(" && ")
    place = str(tmp_path / "web")
    sh(prepare.replace("/tmp/web", place))
    words = shlex.split(re.sub(r"\b8000$", str(port), serve.replace("/tmp/web", place)))
    assert words[0] == "python3"
    with open(tmp_path / "web.log", "wb") as log:
        process = subprocess.Popen([sys.executable, *words[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    yield port
    process.kill()
    process.wait()


def test_tour(mount, new_agent, web_server):
    agent = new_agent(node="quickstart")
    mnt = mount(agent)
    reader = Reader(mnt, agent, web_server)
    commands = console_blocks()
    assert len(commands) > 30
    for command, expected in commands:
        reader.check(command, expected)
    assert agent.kv_keys() == [] and list(agent.get("/v1/catalog/services").json()) == ["consul"]


def test_quickstart_is_what_the_readme_says():
    """Its options and its default are named in README as it has them."""
    script = (ROOT / "examples/quickstart").read_text()
    assert "examples/quickstart stop" in script and "examples/quickstart stop" in README
    assert "${1-/consul}" in script and "`/consul`" in README
    for package in re.search(r"apt-get install (.*)", README)[1].split():
        assert package in script
