"""operator/: Raft, autopilot, the keyring, usage."""

import base64
import json

import pytest

from harness.programs import names, sh
from harness.proxy import Answer
from harness.wait import wait_equal


def test_what_changes_servers_or_is_secret_is_not_listed(mnt):
    assert names(mnt / "operator") == ["autopilot", "raft"]
    assert names(mnt / "operator/raft") == ["configuration.json", "peers"]
    assert names(mnt / "operator/autopilot") == ["configuration.json", "health.json"]


def test_raft(mnt, agent):
    assert json.loads((mnt / "operator/raft/configuration.json").read_text()) == agent.get(
        "/v1/operator/raft/configuration").json()
    title, peer = (mnt / "operator/raft/peers").read_text().splitlines()
    assert title.split() == ["NODE", "ID", "ADDRESS", "STATE", "VOTER", "PROTOCOL"]
    assert peer.split()[0] == agent.node and peer.split()[2:5] == [f"{agent.host}:{agent.server_port}", "leader", "true"]


def test_autopilot_is_read_and_written(mnt, agent):
    path = mnt / "operator/autopilot/configuration.json"
    configuration = json.loads(path.read_text())
    path.write_text(json.dumps({**configuration, "MaxTrailingLogs": 333}))
    assert agent.get("/v1/operator/autopilot/configuration").json()["MaxTrailingLogs"] == 333
    assert json.loads(path.read_text())["MaxTrailingLogs"] == 333
    path.write_text(json.dumps(configuration))
    assert sh("echo '{\"Bogus\": 1}' > configuration.json", cwd=path.parent, check=False).returncode != 0
    assert sh("echo '{\"LastContactThreshold\": \"soon\"}' > configuration.json", cwd=path.parent,
              check=False).returncode != 0


def test_autopilot_that_is_not_healthy_says_so(mount, agent, proxy):
    """429 is no refusal here: what is wrong is in the answer."""
    mnt = mount(proxy)
    document = {"Healthy": False, "FailureTolerance": 0, "Servers": []}
    with proxy.fault(Answer(429, json.dumps(document).encode()), path="/v1/operator/autopilot/health") as fault:
        assert json.loads((mnt / "operator/autopilot/health.json").read_text()) == document
    assert fault.hits == 1


def test_newer_servers_have_more(mount, agent, proxy):
    mnt = mount(proxy)
    state, usage = {"Healthy": True, "Servers": {}}, {"Usage": {"dc1": {"Nodes": 1}}}
    with proxy.fault(Answer(200, json.dumps(state).encode()), path="/v1/operator/autopilot/state"), proxy.fault(
            Answer(200, json.dumps(usage).encode()), path="/v1/operator/usage"):
        assert "state.json" in names(mnt / "operator/autopilot")
        assert json.loads((mnt / "operator/autopilot/state.json").read_text()) == state
        assert json.loads((mnt / "operator/usage.json").read_text()) == usage


def test_no_leader_is_transferred_where_the_server_cannot(mnt):
    done = sh("echo > operator/raft/transfer-leader", shell="bash", cwd=mnt.path, check=False)
    assert done.returncode != 0 and "not supported" in done.stderr


def test_leader_is_transferred(mount, agent, proxy):
    mnt = mount(proxy)
    with proxy.fault(Answer(200, b'{"Success": true}'), path="/v1/operator/raft/transfer-leader"), proxy.record() as seen:
        sh("echo > operator/raft/transfer-leader", cwd=mnt.path)
        sh("echo some-id > operator/raft/transfer-leader", cwd=mnt.path)
    assert [(r.method, r.query) for r in seen.matching(path="/v1/operator/raft/transfer-leader")] == [
        ("POST", {}), ("POST", {"id": "some-id"})]


def test_peers_that_are_not_there_are_not_removed(mnt):
    for word in ("127.0.0.250:1", "no-such-id", "two words", ""):
        assert sh(f"echo '{word}' > operator/raft/remove-peer", cwd=mnt.path, check=False).returncode != 0, word
    assert "Permission denied" in sh("cat operator/raft/remove-peer", cwd=mnt.path, check=False).stderr


def test_keyring_without_encryption_is_not_there(mnt):
    assert names(mnt / "operator/keyring") == []
    assert not (mnt / "operator/keyring/keys.json").exists()


@pytest.fixture
def encrypted(new_agent):
    return new_agent(encrypt=base64.b64encode(b"k" * 32).decode())


def test_keyring(encrypted, mount):
    mnt = mount(encrypted)
    ring = mnt / "operator/keyring"
    first, second = (base64.b64encode(c * 32).decode() for c in (b"k", b"l"))

    def installed():
        return {pool["WAN"]: set(pool["Keys"]) for pool in encrypted.get("/v1/operator/keyring").json()}

    assert "operator/keyring" not in sh("find operator", cwd=mnt.path).stdout
    assert first in (ring / "keys.json").read_text()
    assert (ring / "keys.json").stat().st_mode & 0o777 == 0o600
    sh(f"echo {second} > install", cwd=ring)
    assert all(keys == {first, second} for keys in installed().values())
    sh(f"echo {second} > use", cwd=ring)
    assert sh(f"echo {second} > remove", cwd=ring, check=False).returncode != 0  # it is in use
    sh(f"echo {first} > remove", cwd=ring)
    assert all(keys == {second} for keys in installed().values())
    wait_equal(lambda: first in (ring / "keys.json").read_text(), False)
    said = "".join((mnt / ".consulfs" / name).read_text() for name in names(mnt / ".consulfs") if name != "drop-caches")
    assert first not in said + mnt.log and second not in said + mnt.log
