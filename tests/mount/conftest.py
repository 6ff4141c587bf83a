"""Fixtures: a shared agent, agents of a test's own, mounts, proxies, health servers."""

import signal
import threading
import uuid
from fcntl import LOCK_EX

import pytest

pytest.register_assert_rewrite("harness")

from harness.agent import Agent, acl_settings, consul_binary  # noqa: E402  (after the rewrite is registered)
from harness.groups import Cluster, ServerAndClient, TwoDatacenters  # noqa: E402
from harness.health import HealthServer  # noqa: E402
from harness.locks import TTL  # noqa: E402
from harness.mount import BINARY, Mount  # noqa: E402
from harness.place import Place  # noqa: E402
from harness.process import Process  # noqa: E402
from harness.proxy import Proxy  # noqa: E402

# A shell starts its background jobs with SIGINT ignored, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A test that hangs does so inside the mount; ending the daemon ends the hang with an error on the line that hung.
TEST_TIMEOUT = 90


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): how long the test may take before its mounts are killed")


@pytest.fixture(scope="session")
def consul():
    return consul_binary()


@pytest.fixture(scope="session")
def shared_agent(consul, tmp_path_factory):
    agent = Agent(consul, tmp_path_factory.mktemp("shared")).start()
    try:
        yield agent.wait_ready()
    finally:
        agent.kill()


@pytest.fixture
def agent(shared_agent):
    """The agent that all tests share, empty. What would hurt others (pausing it, ACLs) needs a `new_agent`."""
    shared_agent.wipe()
    return shared_agent


@pytest.fixture
def new_agent(consul, tmp_path):
    """Makes agents of the test's own, started and ready by default: new_agent(node="n2", dev=False, …)."""
    agents = []

    def make(start=True, ready=True, **arguments):
        agent = Agent(consul, tmp_path, **arguments)
        agents.append(agent)
        if start:
            agent.start()
        return agent.wait_ready() if start and ready else agent

    yield make
    for agent in agents:
        agent.kill()


# Starting these takes seconds: once for each file that uses them. Every test finds them running and empty.


def started(what):
    """Kills it at the end, also when it does not start."""
    try:
        yield what.start()
    finally:
        what.kill()


def healed(group):
    group.heal().wipe()
    return group


@pytest.fixture(scope="module")
def started_acl_agent(consul, tmp_path_factory):
    token = str(uuid.uuid4())
    yield from started(Agent(consul, tmp_path_factory.mktemp("acl"), token=token, acl=acl_settings(token)))


@pytest.fixture
def acl_agent(started_acl_agent):
    """
    An agent with ACLs that deny by default; `acl_agent.token` is its management token, which its helpers use.
    `acl_agent.new_token(rules)` makes others.
    """
    started_acl_agent.wait_ready().wipe()
    return started_acl_agent


@pytest.fixture(scope="module")
def started_datacenters(consul, tmp_path_factory):
    yield from started(TwoDatacenters(consul, tmp_path_factory.mktemp("datacenters")))


@pytest.fixture
def two_datacenters(started_datacenters):
    """`near` is an agent of dc1, `far` one of dc2."""
    return healed(started_datacenters)


@pytest.fixture(scope="module")
def started_cluster(consul, tmp_path_factory):
    yield from started(Cluster(consul, tmp_path_factory.mktemp("cluster")))


@pytest.fixture
def cluster(started_cluster):
    """Three `servers`, of which one is the `leader`, and a `client` agent. What a test kills runs again for the next."""
    return healed(started_cluster)


@pytest.fixture(scope="module")
def started_client(consul, tmp_path_factory):
    yield from started(ServerAndClient(consul, tmp_path_factory.mktemp("client")))


@pytest.fixture
def client_agent(started_client):
    """A client agent; its server is another process and another node."""
    return healed(started_client).client


@pytest.fixture
def proxy_for():
    """Puts a counting, misbehaving proxy before an agent."""
    proxies = []

    def make(agent):
        proxies.append(Proxy(agent.host, agent.port))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def proxy(agent, proxy_for):
    return proxy_for(agent)


@pytest.fixture
def mount(request, tmp_path):
    """
    Mounts: mount(agent_or_proxy, timeout=3, ro=True, args=("-d",), env={…}). At the test's end all are unmounted and
    their daemons must have ended well.
    """
    mounts = request.node.mounts = []

    def make(server=None, args=(), env=None, **options):
        address = server if server is None or isinstance(server, str) else server.http
        mounts.append(Mount(tmp_path / f"mount-{len(mounts)}", address, options, args, env))
        return mounts[-1].start()

    marker = request.node.get_closest_marker("limit")
    limit = marker.args[0] if marker else TEST_TIMEOUT

    def abort_all():
        for mount in mounts:
            mount.abort(f"the test was not done after {limit} s")

    watchdog = threading.Timer(limit, abort_all)
    watchdog.start()
    yield make
    watchdog.cancel()
    failures = []
    for mount in reversed(mounts):
        try:
            mount.end()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture
def mnt(mount, agent):
    """The shared agent, empty, mounted with no options."""
    return mount(agent)


@pytest.fixture
def place(mount, agent, tmp_path):
    """Where programs run: kv/ of a mount of the shared agent, empty, which another mount looks at, too."""
    return Place(agent, mount(agent), mount(agent), tmp_path / "home")


@pytest.fixture(params=["one agent", "two agents"])
def pair(request, mount):
    """Two mounts, and the agent that says what there is."""
    if request.param == "one agent":
        agent = request.getfixturevalue("agent")
        return mount(agent), mount(agent), agent
    cluster = request.getfixturevalue("cluster")
    return mount(cluster.leader), mount(cluster.client), cluster.leader


@pytest.fixture
def health_server():
    servers = []

    def make(**arguments):
        servers.append(HealthServer(**arguments))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def process():
    """Makes processes that lock on command."""
    made = []

    def make():
        made.append(Process())
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.fixture
def held(mount, agent, process):
    """Two mounts of one agent; a process has locked the key `job` through the first."""
    agent.kv_set("job", b"1")
    here, there = mount(agent, lock_ttl=TTL), mount(agent, lock_ttl=TTL)
    holder = process()
    holder.open_("f", str(here / "kv/job"))
    holder.flock("f", LOCK_EX)
    return here, there, holder


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure comes with what the daemon said and a line that reproduces it."""
    report = (yield).get_result()
    if report.failed:
        for mount in getattr(item, "mounts", []):
            report.sections.append((" ".join(mount.command), mount.log))
        again = f"cd {item.config.rootpath} && CONSULFS_BIN={BINARY} /usr/bin/python3 -m pytest '{item.nodeid}'"
        report.sections.append(("again", again))
