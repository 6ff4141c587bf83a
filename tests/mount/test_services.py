"""services/: listing, views by health, registering and deregistering with echo, ls, cat and rm."""

import errno
import json
import os

import pytest

from harness.programs import fails_with, opened, sh
from harness.wait import wait_equal, wait_until

# The document that the article which this project began with registers its service by.
ARTICLE = {
    "id": "web-1",
    "name": "web",
    "address": "127.0.0.1",
    "port": 8000,
    "tags": ["v1"],
    "checks": [{"http": "http://127.0.0.1:8000/health", "interval": "5s"}],
}


def lines(path):
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return sorted(text.splitlines())


def lines_at(directory, name):
    with open(name, opener=lambda name, flags: os.open(name, flags, dir_fd=directory)) as file:
        return sorted(file.read().splitlines())


def external(agent, service, instance, node="ext", address="192.0.2.1", **more):
    """An instance on a node that has no agent."""
    document = {"Node": node, "Address": address, "Service": {"Service": service, "ID": instance, **more}}
    agent.put("/v1/catalog/register", document)


# The article's own session


def test_article(mnt, agent):
    client = agent.client
    assert os.listdir(mnt / "services") == ["consul"]

    sh(f"mkdir services/web && echo '{json.dumps(ARTICLE)}' > services/web/web-1.json", cwd=mnt.path)
    registered = client.agent.services()["web-1"]
    assert (registered["Service"], registered["Address"], registered["Port"]) == ("web", "127.0.0.1", 8000)
    assert registered["Tags"] == ["v1"]
    wait_until(lambda: client.catalog.service("web")[1], "the catalog has it")

    wait_equal(lambda: sorted(os.listdir(mnt / "services")), ["consul", "web"])
    assert "web-1.json" in sh("ls services/web", cwd=mnt.path).stdout.split()
    wait_equal(lambda: sh("cat services/web/all", cwd=mnt.path).stdout, "127.0.0.1:8000\n")
    assert sh("cat services/web/tags", cwd=mnt.path).stdout == "v1\n"
    # Nothing answers at port 8000.
    assert sh("cat services/web/critical", cwd=mnt.path).stdout == "127.0.0.1:8000\n"
    assert sh("cat services/web/passing", cwd=mnt.path).stdout == ""

    sh("rm services/web/web-1.json", cwd=mnt.path)
    assert client.agent.services() == {}
    wait_until(lambda: not client.catalog.service("web")[1], "the catalog has it no more")
    wait_equal(lambda: os.listdir(mnt / "services"), ["consul"])


# Views


def test_views_by_health(mnt, agent):
    for status, port in (("passing", 1), ("warning", 2), ("critical", 3)):
        agent.register("web", f"web-{status}", status, Address="10.0.0.1", Port=port, Tags=[status, "all"])
    web = mnt / "services/web"
    assert lines(web / "passing") == ["10.0.0.1:1"]
    assert lines(web / "warning") == ["10.0.0.1:2"]
    assert lines(web / "critical") == ["10.0.0.1:3"]
    assert lines(web / "all") == ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]
    assert lines(web / "tags") == ["all", "critical", "passing", "warning"]
    instances = {"web-passing.json", "web-warning.json", "web-critical.json"}
    assert instances | {"passing", "warning", "critical", "all", "tags"} <= set(os.listdir(web))


def test_health_changes_move_an_instance(mnt, agent):
    agent.register("web", Port=1, Address="10.0.0.1")
    web = mnt / "services/web"
    assert lines(web / "passing") == ["10.0.0.1:1"]
    for status in ("warning", "critical", "passing"):
        agent.set_status("web", "web", status)
        wait_equal(lambda: lines(web / status), ["10.0.0.1:1"])
        for other in {"passing", "warning", "critical"} - {status}:  # each file is told of by itself
            wait_equal(lambda: lines(web / other), [])


def test_nodes_check_counts_too(mnt, agent):
    agent.register("web", Port=1, Address="10.0.0.1")
    agent.put("/v1/agent/check/register", {"Name": "disk", "TTL": "1h", "Status": "critical"})
    web = mnt / "services/web"
    wait_equal(lambda: lines(web / "critical"), ["10.0.0.1:1"])
    assert lines(web / "passing") == []
    agent.put("/v1/agent/check/deregister/disk")
    wait_equal(lambda: lines(web / "passing"), ["10.0.0.1:1"])


@pytest.mark.parametrize(
    "own, shown",
    [("10.1.2.3", "10.1.2.3"), ("", None), ("2001:db8::7", "[2001:db8::7]"), ("db.internal", "db.internal")],
)
def test_addresses(mnt, agent, own, shown):
    agent.register("web", Port=80, Address=own)
    assert lines(mnt / "services/web/all") == [f"{shown or agent.host}:80"]


def test_address_of_an_ipv6_node(mnt, agent):
    external(agent, "web", "web-1", address="2001:db8::1", Port=80)
    assert lines(mnt / "services/web/all") == ["[2001:db8::1]:80"]


def test_service_without_tags(mnt, agent):
    agent.register("web")
    assert (mnt / "services/web/tags").read_bytes() == b""


# Documents


def is_formatted(text):
    return text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


def test_instance_document(mnt, agent):
    agent.register("web", "web-1", Port=80, Meta={"version": "3"})
    text = (mnt / "services/web/web-1.json").read_text()
    assert is_formatted(text)
    document = json.loads(text)
    assert sorted(document) == ["Checks", "Node", "Service"]
    assert document == agent.get("/v1/health/service/web").json()[0]
    assert document["Service"]["Meta"] == {"version": "3"}
    assert os.stat(mnt / "services/web/web-1.json").st_size == len(text.encode())


def test_service_document_is_there_but_not_listed(mnt, agent):
    agent.register("web", "web-1")
    agent.register("web", "web-2")
    text = (mnt / "services/web.json").read_text()
    assert is_formatted(text)
    assert json.loads(text) == agent.get("/v1/health/service/web").json()
    assert sorted(os.listdir(mnt / "services")) == ["consul", "web"]


def test_instances_of_other_nodes(mnt, agent):
    agent.register("web", "web-1")
    external(agent, "web", "web-1", node="db07", Port=7)
    external(agent, "web", "web-2", node="db07", Port=8)
    web = mnt / "services/web"
    documents = {name for name in os.listdir(web) if name.endswith(".json") and not name.startswith("fastest")}
    assert documents == {"web-1.json", "web-1@db07.json", "web-2@db07.json"}
    assert json.loads((web / "web-1@db07.json").read_text())["Service"]["Port"] == 7
    assert (web / f"web-1@{agent.node}.json").read_text() == (web / "web-1.json").read_text()
    for absent in ("web-2.json", "web-1@nowhere.json", f"web-2@{agent.node}.json"):
        with fails_with(errno.ENOENT):
            (web / absent).read_text()


def test_at_sign_in_an_id(mnt, agent):
    agent.register("web", "a@b")
    assert "a%40b.json" in os.listdir(mnt / "services/web")
    assert json.loads((mnt / "services/web/a%40b.json").read_text())["Service"]["ID"] == "a@b"


@pytest.mark.parametrize("name, path", [("two words", "two words"), ("a/b", "a%2Fb"), ("5%", "5%"), ("ключ", "ключ")])
def test_odd_names(mnt, agent, name, path):
    agent.register(name, "ab/c", Port=80, Address="10.0.0.1")
    assert sorted(os.listdir(mnt / "services")) == sorted(["consul", path])
    assert lines(mnt / "services" / path / "all") == ["10.0.0.1:80"]
    os.unlink(mnt / "services" / path / "ab%2Fc.json")
    assert agent.client.agent.services() == {}


def test_absent_service(mnt):
    for path in ("services/web", "services/web/all", "services/web.json", "services/consul/nothing"):
        with fails_with(errno.ENOENT):
            os.stat(mnt / path)


def test_consul_itself(mnt, agent):
    assert lines(mnt / "services/consul/passing") == [f"{agent.host}:{agent.server_port}"]


# Registering


def test_name_and_id_from_the_path(mnt, agent):
    os.mkdir(mnt / "services/web")
    (mnt / "services/web/web-7.json").write_text('{"Port": 7}')
    service = agent.client.agent.services()["web-7"]
    assert (service["Service"], service["Port"]) == ("web", 7)


def test_dropped_document(mnt, agent):
    (mnt / "services/web.json").write_text('{"Port": 7}')
    assert agent.client.agent.services()["web"]["Service"] == "web"
    wait_equal(lambda: sorted(os.listdir(mnt / "services")), ["consul", "web"])


def test_dropped_document_with_an_id(mnt, agent, tmp_path):
    (tmp_path / "web.json").write_text(json.dumps(ARTICLE, indent=4))
    sh(f"cp {tmp_path}/web.json services/", cwd=mnt.path)
    assert agent.client.agent.services()["web-1"]["Service"] == "web"


def test_odd_names_by_path(mnt, agent):
    os.mkdir(mnt / "services/a%2Fb")
    (mnt / "services/a%2Fb/x%40y.json").write_text("{}")
    assert agent.client.agent.services()["x@y"]["Service"] == "a/b"


def test_update(mnt, agent):
    agent.register("web", "web-1", Port=1, Address="10.0.0.1")
    assert lines(mnt / "services/web/all") == ["10.0.0.1:1"]
    (mnt / "services/web/web-1.json").write_text('{"port": 2, "address": "10.0.0.1"}')
    assert agent.client.agent.services()["web-1"]["Port"] == 2
    wait_equal(lambda: lines(mnt / "services/web/all"), ["10.0.0.1:2"])


def test_document_is_registered_as_soon_as_it_is_complete(mnt, agent):
    os.mkdir(mnt / "services/web")
    with opened(mnt / "services/web/web-1.json", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, b'{"port"')
        assert agent.client.agent.services() == {}
        os.write(fd, b": 80}")
        assert agent.client.agent.services()["web-1"]["Port"] == 80
        os.write(fd, b"\n")


def test_large_document(mnt, agent):
    """More than a page, so that it comes in several writes."""
    document = {"Port": 80, "Tags": [f"tag-{n:05}" for n in range(2000)]}
    os.mkdir(mnt / "services/web")
    (mnt / "services/web/web-1.json").write_text(json.dumps(document))
    assert agent.client.agent.services()["web-1"]["Tags"] == document["Tags"]
    wait_equal(lambda: len(lines(mnt / "services/web/tags")), 2000)


def test_room_for_the_first_instance(mnt):
    os.mkdir(mnt / "services/new")
    assert "new" in os.listdir(mnt / "services")
    assert (mnt / "services/new/all").read_text() == ""
    with fails_with(errno.EEXIST):
        os.mkdir(mnt / "services/new")
    os.rmdir(mnt / "services/new")
    assert os.listdir(mnt / "services") == ["consul"]


# Refused documents


@pytest.mark.parametrize(
    "document, reason",
    [
        ('{"port": x}', None),
        ("not json", None),
        ("[]", None),
        ("7", None),
        ('{"port": 80} {"port": 81}', None),
        ('{"Bogus": 1}', "Bogus"),
        ('{"port": "eighty"}', "ort"),
        ('{"checks": [{"http": "http://127.0.0.1"}]}', "Interval"),
        ('{"name": "other"}', None),
        ('{"id": "web-2"}', None),
        ('{"Name": "other", "name": "web"}', None),
    ],
)
def test_refused_document(mnt, agent, document, reason):
    os.mkdir(mnt / "services/web")
    with fails_with(errno.EINVAL), opened(mnt / "services/web/web-1.json", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, document.encode())
    assert agent.client.agent.services() == {}
    if reason:
        assert reason in (mnt / ".consulfs/errors").read_text()
    assert sh(f"echo '{document}' > web-1.json", check=False, cwd=mnt / "services/web").returncode != 0


def test_incomplete_document(mnt, agent):
    os.mkdir(mnt / "services/web")
    fd = os.open(mnt / "services/web/web-1.json", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b'{"port": 80')
    with fails_with(errno.EINVAL):
        os.close(fd)
    assert agent.client.agent.services() == {}


def test_refused_update_changes_nothing(mnt, agent):
    agent.register("web", "web-1", Port=1, Address="10.0.0.1")
    with fails_with(errno.EINVAL):
        (mnt / "services/web/web-1.json").write_text('{"port": 2, "Bogus": 1}')
    assert agent.client.agent.services()["web-1"]["Port"] == 1
    assert lines(mnt / "services/web/all") == ["10.0.0.1:1"]


def test_views_are_read_only(mnt, agent):
    agent.register("web")
    for name in ("all", "passing", "tags"):
        with fails_with(errno.EACCES, errno.EPERM):
            (mnt / "services/web" / name).write_text("x")
    with fails_with(errno.EACCES, errno.EPERM, errno.EINVAL):
        (mnt / "services/web/notes.txt").write_text("x")


# Deregistering


def test_rm_r(mnt, agent):
    agent.register("web", "web-1")
    agent.register("web", "web-2")
    external(agent, "web", "web-3")
    assert os.listdir(mnt / "services/web")
    sh("rm -r services/web", cwd=mnt.path)
    wait_equal(lambda: agent.instances("web"), [])
    wait_equal(lambda: os.listdir(mnt / "services"), ["consul"])


def test_rm_of_an_external_instance(mnt, agent):
    external(agent, "web", "web-1", node="db07")
    external(agent, "web", "web-2", node="db07")
    os.unlink(mnt / "services/web/web-1@db07.json")
    assert agent.instances("web") == ["web-2"]


def test_rm_by_the_long_name(mnt, agent):
    agent.register("web", "web-1")
    os.unlink(mnt / f"services/web/web-1@{agent.node}.json")
    assert agent.client.agent.services() == {}


def test_rm_of_what_is_absent(mnt, agent):
    agent.register("web", "web-1")
    for name in ("web-2.json", "web-1@db07.json"):
        with fails_with(errno.ENOENT):
            os.unlink(mnt / "services/web" / name)
    assert agent.instances("web") == ["web-1"]


def test_service_goes_away_elsewhere(mnt, agent):
    agent.register("web", "web-1")
    assert "web" in os.listdir(mnt / "services")
    assert "web-1.json" in os.listdir(mnt / "services/web")
    agent.put("/v1/agent/service/deregister/web-1")
    wait_equal(lambda: os.listdir(mnt / "services"), ["consul"])
    wait_until(lambda: not (mnt / "services/web").exists(), "the kernel is told")


def test_removed_here_as_soon_as_it_was_there(mnt, agent):
    """It comes and goes while watchers are told that it came."""
    assert os.listdir(mnt / "services") == ["consul"]
    for service in (f"web-{i}" for i in range(10)):
        external(agent, service, "one")
        sh("rm nodes/ext/services/one.json", cwd=mnt.path)
        wait_until(lambda: not (mnt / "services" / service).exists(), "it is gone")


# Instances that come to be another service's: Consul wakes no blocking query on the one that had them


def test_an_instance_moves_to_another_service(mnt, agent):
    agent.register("old", "one", Address="10.0.0.1", Port=1)
    agent.register("old", "two", Address="10.0.0.1", Port=2)
    agent.register("new", "three", Address="10.0.0.1", Port=3)
    old, new = mnt / "services/old", mnt / "services/new"
    assert lines(old / "passing") == ["10.0.0.1:1", "10.0.0.1:2"]
    assert lines(new / "passing") == ["10.0.0.1:3"]
    agent.register("new", "one", Address="10.0.0.1", Port=1)
    wait_equal(lambda: lines(new / "passing"), ["10.0.0.1:1", "10.0.0.1:3"])
    wait_equal(lambda: lines(old / "passing"), ["10.0.0.1:2"])
    assert not (old / "one.json").exists()


def test_the_last_instance_moves_to_another_service(mnt, agent):
    """The list of services tells; nobody looks at the other one. Who is in the directory still reads its files."""
    agent.register("old", "one", Address="10.0.0.1", Port=1)
    assert sorted(os.listdir(mnt / "services")) == ["consul", "old"]
    with opened(mnt / "services/old", os.O_PATH) as old:
        assert lines_at(old, "all") == ["10.0.0.1:1"]
        agent.register("new", "one", Port=1)
        wait_equal(lambda: sorted(os.listdir(mnt / "services")), ["consul", "new"])
        wait_equal(lambda: lines_at(old, "all"), [])


def test_an_instance_is_moved_to_another_service_here(mnt, agent):
    """Who moves it sees it at once."""
    agent.register("old", "one", Address="10.0.0.1", Port=1)
    agent.register("old", "two", Address="10.0.0.1", Port=2)
    assert lines(mnt / "services/old/all") == ["10.0.0.1:1", "10.0.0.1:2"]
    os.mkdir(mnt / "services/new")
    (mnt / "services/new/one.json").write_text('{"Address": "10.0.0.1", "Port": 1}')
    assert lines(mnt / "services/new/all") == ["10.0.0.1:1"]
    wait_equal(lambda: lines(mnt / "services/old/all"), ["10.0.0.1:2"])
    assert not (mnt / "services/old/one.json").exists()


def test_what_another_live_agent_owns(mount, new_agent):
    """Consul would take it off the catalog, and its agent would put it back within a minute."""
    ours = new_agent(node="ours")
    theirs = new_agent(node="theirs", dev=False, server=False, retry_join=[ours.lan])
    ours.register("web", "web-1")
    theirs.register("web", "web-2")
    mnt = mount(ours)
    wait_equal(lambda: "web-2@theirs.json" in os.listdir(mnt / "services/web"), True)
    with fails_with(errno.EPERM):
        os.unlink(mnt / "services/web/web-2@theirs.json")
    assert "theirs" in (mnt / ".consulfs/errors").read_text()
    assert sh("rm -r services/web", check=False, cwd=mnt.path).returncode != 0
    wait_equal(lambda: ours.instances("web"), ["web-2"])
    assert "web-2" in theirs.client.agent.services()
