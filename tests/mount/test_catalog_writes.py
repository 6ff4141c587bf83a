"""Writing in nodes/, checks/, and services/ of nodes without an agent."""

import json
import os

import pytest

from errno import EINVAL, ENOTEMPTY, EPERM
from harness.agent import Agent
from harness.programs import fails_with, names, refuses, sh
from harness.wait import wait_equal, wait_until


def node(agent, name):
    return agent.get(f"/v1/catalog/node/{name}").json()


@pytest.fixture
def external(agent, mnt):
    agent.put("/v1/catalog/register", {
        "Node": "db07", "Address": "10.0.0.7", "Service": {"Service": "db", "ID": "db-1", "Port": 5432},
        "Check": {"CheckID": "ping", "Name": "Ping", "Status": "passing"}})
    wait_equal(lambda: names(mnt / "nodes"), ["db07", agent.node])
    return mnt


def test_a_node_is_registered(mnt, agent):
    sh("""echo '{"Address": "10.0.0.9", "NodeMeta": {"rack": "7"}}' > nodes/db09.json""", cwd=mnt.path)
    assert node(agent, "db09")["Node"]["Address"] == "10.0.0.9"
    assert (mnt / "nodes/db09/address").read_text() == "10.0.0.9\n"
    assert json.loads((mnt / "nodes/db09.json").read_text())["Node"]["Meta"] == {"rack": "7"}
    assert "db09.json" not in names(mnt / "nodes")


def test_a_node_with_a_service_and_a_check(mnt, agent):
    document = {"Address": "10.0.0.9", "Service": {"Service": "db", "Port": 5432},
                "Check": {"Name": "Ping", "Status": "warning"}}
    (mnt / "nodes/db09.json").write_text(json.dumps(document))
    assert (mnt / "services/db/warning").read_text() == "10.0.0.9:5432\n"
    assert names(mnt / "checks/warning") == ["Ping@db09.json"]


def test_documents_that_are_refused(mnt, agent):
    refuses(mnt, "echo '{}' > nodes/db09.json", "Must provide address")
    refuses(mnt, """echo '{"Node": "other", "Address": "10.0.0.9"}' > nodes/db09.json""", 'the path says "db09"')
    refuses(mnt, """echo '{"Address": "10.0.0.9", "Bogus": 1}' > nodes/db09.json""", "Bogus")
    assert node(agent, "db09") is None
    refuses(mnt, """echo '{"Address": "10.0.0.9", "datacenter": "dc9"}' > nodes/db09.json""", 'the path says "dc1"')
    refuses(mnt, "mkdir nodes/db09", "write nodes/db09.json")
    with fails_with(EPERM):
        open(mnt / "nodes/db09", "w")


def test_services_and_checks_of_a_node(external, agent):
    mnt = external
    sh("""cd nodes/db07; echo '{"Service": "cache", "Port": 11211}' > services/cache-1.json
          echo '{"Name": "Disk", "Status": "critical"}' > checks/disk.json""", cwd=mnt.path)
    assert node(agent, "db07")["Services"]["cache-1"]["Service"] == "cache"
    assert node(agent, "db07")["Node"]["Address"] == "10.0.0.7"  # as it was
    assert {c["CheckID"]: c["Status"] for c in agent.get("/v1/health/node/db07").json()} == {
        "ping": "passing", "disk": "critical"}
    assert names(mnt / "nodes/db07/services") == ["cache-1.json", "db-1.json"]
    assert (mnt / "services/cache/critical").read_text() == "10.0.0.7:11211\n"
    sh("rm services/cache-1.json checks/disk.json", cwd=mnt / "nodes/db07")
    assert list(node(agent, "db07")["Services"]) == ["db-1"]
    assert [c["CheckID"] for c in agent.get("/v1/health/node/db07").json()] == ["ping"]
    assert not (mnt / "services/cache").exists()


def test_a_check_is_read_edited_and_written(external, agent):
    path = external / "nodes/db07/checks/ping.json"
    check = json.loads(path.read_text())
    check["Status"] = "critical"
    path.write_text(json.dumps(check))
    assert agent.get("/v1/health/node/db07").json()[0]["Status"] == "critical"
    assert (external / "services/db/critical").read_text() == "10.0.0.7:5432\n"


def edit(path, change):
    """As an editor does: the whole document is read, and written with a change."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def service_in(document):
    """In services/ a document is the health of the instance, elsewhere the instance alone."""
    return document["Service"] if isinstance(document["Service"], dict) else document


def test_a_node_is_read_edited_and_written(external, agent):
    path = external / "nodes/db07.json"
    edit(path, lambda document: document["Node"].update(Address="10.0.0.8", Meta={"rack": "7"}))
    assert (node(agent, "db07")["Node"]["Address"], node(agent, "db07")["Node"]["Meta"]) == ("10.0.0.8", {"rack": "7"})
    assert list(node(agent, "db07")["Services"]) == ["db-1"]
    assert (external / "nodes/db07/address").read_text() == "10.0.0.8\n"
    with fails_with(EINVAL):  # one request takes one service: they have files of their own
        edit(path, lambda document: document["Services"]["db-1"].update(Port=1))
    with fails_with(EINVAL):
        edit(path, lambda document: document["Node"].update(Node="db08"))
    with fails_with(EINVAL):
        (external / "nodes/db08.json").write_text(path.read_text().replace("db07", "db08"))
    assert node(agent, "db07")["Services"]["db-1"]["Port"] == 5432 and node(agent, "db08") is None


@pytest.mark.parametrize("path", ["services/db/db-1@db07.json", "nodes/db07/services/db-1.json"])
def test_an_instance_of_a_node_is_read_edited_and_written(external, agent, path):
    edit(external / path, lambda document: service_in(document).update(Port=5433))
    assert node(agent, "db07")["Services"]["db-1"]["Port"] == 5433
    assert (external / "services/db/passing").read_text() == "10.0.0.7:5433\n"
    assert [check["CheckID"] for check in agent.get("/v1/health/node/db07").json()] == ["ping"]


def test_the_address_of_our_instance_is_edited(mnt, agent):
    """Also where it was derived from: an agent tells addresses by kind, made of the one that was given."""
    for path, address in (("services/web/web.json", "10.1.1.2"), (f"nodes/{agent.node}/services/web.json", "10.1.1.3"),
                          ("agent/services/web.json", "10.1.1.4")):
        agent.register("web", Address="10.1.1.1", Port=80)
        wait_equal((mnt / "services/web/all").read_text, "10.1.1.1:80\n")
        wait_equal(lambda: service_in(json.loads((mnt / path).read_text()))["Address"], "10.1.1.1")
        edit(mnt / path, lambda document: service_in(document).update(Address=address))
        registered = agent.get("/v1/agent/service/web").json()
        assert registered["Address"] == address
        assert {one["Address"] for one in registered["TaggedAddresses"].values()} == {address}


@pytest.mark.parametrize("command", [
    """mkdir services/web && echo '{"Port": 1}' > services/web/web@db99.json""",
    """echo '{"Status": "passing"}' > checks/any/ping@db99.json"""])
def test_what_is_on_a_node_needs_the_node(mnt, agent, command):
    """Consul would make up one without an address."""
    refuses(mnt, command, 'there is no node "db99"')
    assert node(agent, "db99") is None


def test_checks_of_a_node_through_checks(external, agent):
    mnt = external
    sh("""echo '{"Status": "warning"}' > checks/any/load@db07.json""", cwd=mnt.path)
    assert {c["CheckID"]: c["Status"] for c in agent.get("/v1/health/node/db07").json()}["load"] == "warning"
    assert names(mnt / "checks/warning") == ["load@db07.json"]
    sh("rm checks/warning/load@db07.json", cwd=mnt.path)
    assert [c["CheckID"] for c in agent.get("/v1/health/node/db07").json()] == ["ping"]


def test_checks_of_our_agent_through_checks(mnt, agent):
    sh("""echo '{"TTL": "1h"}' > checks/any/disk.json""", cwd=mnt.path)
    assert "disk" in agent.get("/v1/agent/checks").json()
    assert names(mnt / "checks/critical") == ["disk.json"]
    sh(f"rm checks/any/disk@{agent.node}.json", cwd=mnt.path)
    assert agent.get("/v1/agent/checks").json() == {}
    with fails_with(EPERM):
        os.unlink(mnt / "checks/any/serfHealth.json")


def test_an_instance_of_a_node_through_services(external, agent):
    mnt = external
    sh("""echo '{"Port": 5433}' > services/db/db-2@db07.json""", cwd=mnt.path)
    assert node(agent, "db07")["Services"]["db-2"]["Port"] == 5433
    assert sorted((mnt / "services/db/all").read_text().split()) == ["10.0.0.7:5432", "10.0.0.7:5433"]
    sh("rm services/db/db-2@db07.json", cwd=mnt.path)
    assert list(node(agent, "db07")["Services"]) == ["db-1"]


@pytest.mark.parametrize("command", ["rm -r nodes/db07", "rmdir nodes/db07", "rm nodes/db07.json"])
def test_a_node_is_removed(external, agent, command):
    sh(command, cwd=external.path)
    assert node(agent, "db07") is None
    assert names(external / "nodes") == [agent.node] and not (external / "services/db").exists()


def test_views_of_a_node_go_with_it(external):
    for view in ("address", "node.json"):
        with fails_with(EPERM):
            os.unlink(external / "nodes/db07" / view)
    for directory in ("services", "checks"):
        with fails_with(ENOTEMPTY):
            os.rmdir(external / "nodes/db07" / directory)


def test_the_node_of_our_agent(mnt, agent):
    """Services and checks go to the agent; the node itself is the agent's to say."""
    here = mnt / "nodes" / agent.node
    sh("""echo '{"Port": 8000}' > services/web.json; echo '{"TTL": "1h"}' > checks/disk.json""", cwd=here)
    assert agent.get("/v1/agent/services").json()["web"]["Port"] == 8000
    assert "disk" in agent.get("/v1/agent/checks").json()
    sh("rm services/web.json checks/disk.json", cwd=here)
    assert agent.get("/v1/agent/services").json() == {} and agent.get("/v1/agent/checks").json() == {}
    refuses(mnt, f"rmdir nodes/{agent.node}", "our agent")
    refuses(mnt, f"rm nodes/{agent.node}.json", "our agent")
    refuses(mnt, f"""echo '{{"Address": "10.0.0.1"}}' > nodes/{agent.node}.json""", "our agent")
    with fails_with(EPERM):
        os.unlink(here / "services/consul.json")
    assert agent.get("/v1/catalog/service/consul").json() != []


def test_sessions_of_a_node_are_destroyed(mnt, agent):
    session = agent.put("/v1/session/create", {"Name": "mine"}).json()["ID"]
    wait_equal(lambda: names(mnt / "nodes" / agent.node / "sessions"), [f"{session}.json"])
    sh(f"rm nodes/{agent.node}/sessions/{session}.json", cwd=mnt.path)
    assert agent.get("/v1/session/list").json() == []


@pytest.fixture
def neighbour(agent, consul, tmp_path):
    """Another live agent."""
    client = Agent(consul, tmp_path, node="n2", server=False, dev=False, retry_join=[agent.lan])
    client.start()
    try:
        wait_until(lambda: "serfHealth" in [c["CheckID"] for c in agent.get("/v1/health/node/n2").json()],
                   "the neighbour is in the catalog", 60)
        yield client
        client.kill()
        agent.put("/v1/agent/force-leave/n2")
        wait_until(lambda: node(agent, "n2") is None, "the neighbour is gone", 60)
    finally:
        client.kill()


def test_what_a_live_agent_would_undo_is_refused(neighbour, mnt, agent):
    neighbour.put("/v1/agent/service/register", {"Name": "web", "Port": 1})
    wait_equal(lambda: names(mnt / "nodes/n2/services"), ["web.json"])
    for command in ("echo '{}' > nodes/n2/services/x.json", "echo '{}' > nodes/n2/checks/x.json",
                    """echo '{"Address": "10.0.0.1"}' > nodes/n2.json""", "rmdir nodes/n2", "rm nodes/n2.json",
                    "rm nodes/n2/services/web.json", "rm nodes/n2/checks/serfHealth.json",
                    "echo '{}' > services/web/x@n2.json", "rm services/web/web@n2.json",
                    "echo '{}' > checks/any/x@n2.json"):
        refuses(mnt, command, "alive")
    assert list(node(agent, "n2")["Services"]) == ["web"]
