"""agent/: the agent that is mounted."""

import json
import os

import pytest

from harness.agent import Agent
from harness.programs import fails_with, names, refuses, sh
from harness.wait import wait_equal, wait_until
from errno import EACCES, EINVAL, ENOENT


def checks(agent):
    return agent.get("/v1/agent/checks").json()


def services(agent):
    return agent.get("/v1/agent/services").json()


def test_what_is_listed(mnt):
    """What triggers something is not, and without Prometheus in the agent's configuration there is no metrics.prom."""
    assert names(mnt / "agent") == [
        "checks", "host.json", "maintenance", "members", "members.json", "metrics.json", "self.json", "services"]
    for hidden in ("join", "force-leave", "leave", "reload"):
        assert (mnt / "agent" / hidden).stat().st_mode & 0o777 == 0o200
        assert "ermission denied" in sh(f"cat agent/{hidden}", cwd=mnt.path, check=False).stderr


def test_documents(mnt, agent):
    assert json.loads((mnt / "agent/self.json").read_text())["Config"]["NodeName"] == agent.node
    assert [m["Name"] for m in json.loads((mnt / "agent/members.json").read_text())] == [agent.node]
    assert "Gauges" in json.loads((mnt / "agent/metrics.json").read_text())
    assert "Memory" in json.loads((mnt / "agent/host.json").read_text())
    title, member = (mnt / "agent/members").read_text().splitlines()
    assert title.split() == ["NAME", "ADDRESS", "STATUS", "TYPE", "BUILD", "DATACENTER"]
    assert member.split() == [agent.node, agent.lan, "alive", "server", "1.8.7", "dc1"]


def test_metrics_for_prometheus(new_agent, mount):
    mnt = mount(new_agent(telemetry={"prometheus_retention_time": "1h"}))
    assert "# TYPE consul" in (mnt / "agent/metrics.prom").read_text()


def test_services_are_registered_and_removed(mnt, agent):
    sh("""echo '{"Name": "web", "Port": 8000}' > agent/services/web-1.json""", cwd=mnt.path)
    assert services(agent)["web-1"]["Port"] == 8000 and services(agent)["web-1"]["Service"] == "web"
    assert names(mnt / "agent/services") == ["web-1.json", "web-1.maintenance"]
    assert (mnt / "services/web/all").read_text().endswith(":8000\n")
    document = json.loads((mnt / "agent/services/web-1.json").read_text())
    assert (document["ID"], document["Service"]) == ("web-1", "web")
    document["Port"] = 8001  # read, edit, write
    (mnt / "agent/services/web-1.json").write_text(json.dumps(document))
    assert services(agent)["web-1"]["Port"] == 8001
    sh("rm agent/services/web-1.json", cwd=mnt.path)
    assert services(agent) == {} and not (mnt / "services/web").exists()
    with fails_with(ENOENT):
        os.unlink(mnt / "agent/services/web-1.json")


def test_the_name_of_a_service_defaults_to_its_id(mnt, agent):
    sh("""echo '{}' > agent/services/db.json""", cwd=mnt.path)
    assert services(agent)["db"]["Service"] == "db"
    refuses(mnt, """echo '{"ID": "other"}' > agent/services/db.json""", 'the path says "db"')


def test_maintenance_of_a_service(mnt, agent):
    agent.register("web")
    line = mnt / "agent/services/web.maintenance"
    assert line.read_text() == "off\n"
    sh("echo on moving to another rack > agent/services/web.maintenance", cwd=mnt.path)
    assert checks(agent)["_service_maintenance:web"]["Notes"] == "moving to another rack"
    assert line.read_text() == "on moving to another rack\n"
    assert (mnt / "services/web/passing").read_text() == ""
    sh("echo off > agent/services/web.maintenance", cwd=mnt.path)
    assert "_service_maintenance:web" not in checks(agent)
    assert line.read_text() == "off\n" and (mnt / "services/web/passing").read_text() != ""
    refuses(mnt, "echo perhaps > agent/services/web.maintenance", "is expected")
    assert not (mnt / "agent/services/other.maintenance").exists()


def test_maintenance_of_the_node(mnt, agent):
    assert (mnt / "agent/maintenance").read_text() == "off\n"
    sh("echo on > agent/maintenance", cwd=mnt.path)
    assert "_node_maintenance" in checks(agent)
    assert (mnt / "agent/maintenance").read_text().startswith("on ")  # Consul has a reason where none is given
    sh("echo off > agent/maintenance", cwd=mnt.path)
    assert "_node_maintenance" not in checks(agent)


def test_checks_are_registered_and_removed(mnt, agent):
    sh("""echo '{"TTL": "30s", "Notes": "disk"}' > agent/checks/disk.json""", cwd=mnt.path)
    assert checks(agent)["disk"]["Notes"] == "disk" and checks(agent)["disk"]["Name"] == "disk"
    assert names(mnt / "agent/checks") == ["disk.json", "disk.status"]
    assert json.loads((mnt / "agent/checks/disk.json").read_text())["CheckID"] == "disk"
    assert "disk.json" in names(mnt / "checks/any")
    sh("rm agent/checks/disk.json", cwd=mnt.path)
    assert checks(agent) == {} and "disk.json" not in names(mnt / "checks/any")
    with fails_with(ENOENT):
        os.unlink(mnt / "agent/checks/disk.json")
    refuses(mnt, "echo '{}' > agent/checks/disk.json", "400")
    refuses(mnt, """echo '{"CheckID": "x", "TTL": "1s"}' > agent/checks/disk.json""", 'the path says "disk"')


def test_a_check_is_read_edited_and_written(mnt, agent):
    """Consul does not show what is checked: that is to be added."""
    sh("""echo '{"TTL": "1h", "Notes": "disk"}' > agent/checks/disk.json""", cwd=mnt.path)
    path = mnt / "agent/checks/disk.json"
    document = json.loads(path.read_text())
    with fails_with(EINVAL):
        path.write_text(json.dumps(document))
    path.write_text(json.dumps({**document, "Notes": "disks", "TTL": "2h"}))
    assert checks(agent)["disk"]["Notes"] == "disks"
    path = mnt / "checks/any/disk.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "Notes": "a disk", "TTL": "2h"}))
    assert checks(agent)["disk"]["Notes"] == "a disk"


@pytest.mark.parametrize("status", ["passing", "warning", "critical"])
def test_status_of_a_check(mnt, agent, status):
    sh("""echo '{"TTL": "1h"}' > agent/checks/disk.json""", cwd=mnt.path)
    line = mnt / "agent/checks/disk.status"
    assert line.read_text() == "critical\n"
    sh(f"echo {status} 90% full > agent/checks/disk.status", cwd=mnt.path)
    assert (checks(agent)["disk"]["Status"], checks(agent)["disk"]["Output"]) == (status, "90% full")
    assert line.read_text() == f"{status}\n"
    assert "disk.json" in names(mnt / "checks" / status)


def test_status_that_is_refused(mnt, agent):
    refuses(mnt, "echo passing > agent/checks/disk.status || echo passing > agent/checks/disk.json", "")
    agent.put("/v1/agent/check/register", {"ID": "tcp", "Name": "tcp", "TCP": "127.0.0.1:1", "Interval": "1h"})
    refuses(mnt, "echo passing > agent/checks/tcp.status", "does not have associated TTL")
    refuses(mnt, "echo fine > agent/checks/tcp.status", "passing, warning or critical")


@pytest.fixture
def two(consul, tmp_path):
    """A server and a client that has not joined."""
    agents = [Agent(consul, tmp_path), Agent(consul, tmp_path, node="n2", server=False, dev=False)]

    def answers(agent):
        try:
            return agent.get("/v1/agent/self").ok
        except OSError:
            return False

    for agent in agents:
        agent.start()
    agents[0].wait_ready()
    wait_until(lambda: answers(agents[1]), "the client answers", 30)
    yield agents
    for agent in agents:
        agent.kill()


def test_join_and_force_leave(two, mount):
    server, client = two

    def members():
        return {member["Name"]: member["Status"] for member in server.get("/v1/agent/members").json()}

    mnt = mount(server)
    refuses(mnt, "echo 127.0.0.1:1 > agent/join", "refused")
    refuses(mnt, "echo one two three > agent/join", "expected")
    refuses(mnt, "echo n2 > agent/force-leave", "No node found")
    sh(f"echo {client.lan} > agent/join", cwd=mnt.path)
    wait_equal(lambda: members().get("n2"), 1)
    wait_equal(lambda: [line.split()[2:4] for line in (mnt / "agent/members").read_text().splitlines()[1:]],
               [["alive", "server"], ["alive", "client"]])
    client.kill()
    wait_until(lambda: members()["n2"] == 4, "the client has failed", 60)
    sh("echo n2 > agent/force-leave", cwd=mnt.path)
    wait_until(lambda: members().get("n2") in (None, 3), "the client has left", 30)


def test_two_orders_through_one_descriptor(mnt, agent):
    """Each line is an order of its own: the first that fails does not keep the second from being carried out."""
    done = sh(f"{{ echo 127.0.0.1:1; echo {agent.lan}; }} > agent/join", shell="bash", cwd=mnt.path, check=False)
    assert "write error" in done.stderr and done.returncode == 0


def test_leave(consul, tmp_path, mount, new_agent):
    agent = new_agent()
    mnt = mount(agent)
    mnt.expect_log()
    sh("echo > agent/leave", cwd=mnt.path)
    wait_until(lambda: agent.process.poll() is not None, "the agent has left", 60)


def test_reload(new_agent, mount):
    agent = new_agent(dev=False)
    mnt = mount(agent)
    config = json.loads((agent.directory / "config.json").read_text())
    config["checks"] = [{"id": "new", "name": "new", "ttl": "1h"}]
    (agent.directory / "config.json").write_text(json.dumps(config))
    sh("echo > agent/reload", cwd=mnt.path)
    wait_equal(lambda: "new" in checks(agent), True)


def test_a_token_that_may_not_read_the_agent(acl_agent, proxy_for, mount):
    """It does not know what our node is called, but may do with its services what it may."""
    rules = 'service_prefix "web" { policy = "write" } node_prefix "" { policy = "read" }'
    acl_agent.register("web")
    proxy = proxy_for(acl_agent)
    mnt = mount(proxy, env={"CONSUL_HTTP_TOKEN": acl_agent.new_token(rules)})
    with fails_with(EACCES):
        (mnt / "agent/self.json").read_text()
    with proxy.record() as seen:
        sh("echo warning full > agent/checks/ttl:web.status", cwd=mnt.path)
    assert checks(acl_agent)["ttl:web"]["Status"] == "warning"
    assert len(seen.matching(method="PUT")) == 1
    assert not [request for request in seen if "/v1/health/node/" in request.path]  # nothing that could be waited for
    sh("echo '{}' > agent/services/web-2.json; rm agent/services/web.json", cwd=mnt.path)
    assert list(services(acl_agent)) == ["web-2"]
    sh("rm agent/services/web-2.json", cwd=mnt.path)
    assert services(acl_agent) == {}
    wait_equal(lambda: acl_agent.instances("web-2"), [])
