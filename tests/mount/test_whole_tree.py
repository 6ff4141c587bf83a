"""Programs that go through everything meet no error, change nothing, and trigger nothing."""

import os

import pytest

from harness.programs import sh
from harness.wait import wait_equal

# What may not be asked for by somebody who only looks.
NEVER = ["/v1/agent/connect/ca/leaf/*", "/v1/agent/monitor*", "/v1/snapshot*", "/v1/operator/keyring*", "/v1/agent/join*",
         "/v1/agent/force-leave*", "/v1/agent/leave*", "/v1/agent/reload*", "/v1/acl/bootstrap*"]


@pytest.fixture
def busy(agent):
    """Something of everything."""
    agent.register("web", "web-1", Port=8000, Tags=["v1"])
    agent.register("web", "web-2", "critical", Port=8001)
    agent.put("/v1/catalog/register", {"Node": "db07", "Address": "10.0.0.7", "Service": {"Service": "db", "Port": 5432},
                                       "Check": {"CheckID": "ping", "Name": "Ping", "Status": "warning"}})
    for key in ("a", "app/port", "app/name", "app/deep/er/key", "both", "both/too"):
        agent.kv_set(key, b"value\n")
    agent.put("/v1/session/create", {"Name": "deploy"})
    agent.put("/v1/event/fire/deploy", b"v1")
    for query in agent.get("/v1/query").json():
        agent.delete(f"/v1/query/{query['ID']}")
    agent.request("POST", "/v1/query", json={"Name": "near", "Service": {"Service": "web"}})
    agent.put("/v1/config", {"Kind": "service-defaults", "Name": "web", "Protocol": "http"})
    agent.request("POST", "/v1/connect/intentions",
                  json={"SourceName": "web", "DestinationName": "db", "Action": "allow"})
    return agent


@pytest.mark.parametrize("options", [{}, {"ro": True}], ids=["rw", "ro"])
@pytest.mark.parametrize("command", [
    "find .", "find . -ls", "find . -type f -size +0", "ls -lR .", "ls -laR .", "find . -type f -exec cat {} +",
    "grep -r nothing-has-this . || test $? = 1", "tar cf - . | tar tf -", "du -a .", "cp -r . $OUT/copy",
    "find . -type f -exec md5sum {} +", "ls * */*"])
def test_nobody_who_looks_is_told_of_an_error(busy, mount, proxy, tmp_path, command, options):
    mnt = mount(proxy, **options)
    wait_equal((mnt / "services/web/passing").exists, True)
    with proxy.record() as seen:
        done = sh(command, shell="bash", timeout=60, cwd=mnt.path, env={**os.environ, "OUT": str(tmp_path)})
    assert done.stderr == ""
    assert {request.method for request in seen} <= {"GET"}
    for path in NEVER:
        assert not seen.matching(path=path), path


def test_with_acls(acl_agent, mount):
    acl_agent.put("/v1/acl/policy", {"Name": "reads", "Rules": 'key_prefix "" { policy = "read" }'})
    acl_agent.put("/v1/acl/token", {"Description": "ci"})
    mnt = mount(acl_agent, env={"CONSUL_HTTP_TOKEN": acl_agent.token})
    assert "acl/policies/reads.hcl" in sh("find acl", cwd=mnt.path).stdout
    for command in ("find . -ls", "ls -lR .", "find . -type f -exec cat {} +", "tar cf - . > /dev/null"):
        assert sh(command, timeout=60, cwd=mnt.path).stderr == "", command


def test_through_a_client_agent(client_agent, mount):
    mnt = mount(client_agent)
    for command in ("find . -ls", "find . -type f -exec cat {} +"):
        assert sh(command, timeout=60, cwd=mnt.path).stderr == "", command


def test_two_datacenters(two_datacenters, mount):
    mnt = mount(two_datacenters.near)
    for command in ("find . -ls", "ls -lR .", "find . -type f -exec cat {} +"):
        assert sh(command, timeout=60, cwd=mnt.path).stderr == "", command
