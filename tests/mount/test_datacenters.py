"""datacenters/: what is below is another datacenter's; what that one does not answer says nothing of ours."""

import json
import os

import pytest

from harness.programs import fails_with, names, sh
from harness.wait import wait_equal
from errno import EHOSTUNREACH, EIO, ENOENT, EROFS, ETIMEDOUT


@pytest.fixture
def pair(two_datacenters):
    return two_datacenters


@pytest.fixture
def mnt(pair, mount):
    return mount(pair.near)


def test_datacenters_are_listed(mnt):
    assert names(mnt / "datacenters") == ["dc1", "dc2"]
    assert os.readlink(mnt / "datacenters/dc1") == ".."
    assert {"kv", "services", "nodes", "checks", "sessions"} <= set(names(mnt / "datacenters/dc2"))
    for absent in ("agent", "status", "acl", "datacenters", ".consulfs", "dc3"):
        assert not (mnt / "datacenters/dc2" / absent).exists()
    assert not (mnt / "datacenters/dc3").exists()
    assert json.loads((mnt / "datacenters/coordinates.json").read_text())[0]["Datacenter"] == "dc1"


def test_our_own_is_the_top_level(mnt, pair):
    pair.near.kv_set("a", b"1")
    assert os.path.samefile(mnt / "datacenters/dc1/kv/a", mnt / "kv/a")
    (mnt / "datacenters/dc1/kv/b").write_text("2")
    assert (mnt / "kv/b").read_text() == "2" and pair.far.kv_get("b") is None


def test_keys_of_the_other_datacenter(mnt, pair):
    far = mnt / "datacenters/dc2/kv"
    pair.near.kv_set("app/port", b"near")
    pair.far.kv_set("app/port", b"far")
    assert ((mnt / "kv/app/port").read_text(), (far / "app/port").read_text()) == ("near", "far")
    (far / "app/name").write_text("web")
    assert pair.far.kv_get("app/name") == b"web" and pair.near.kv_get("app/name") is None
    assert (names(mnt / "kv/app"), names(far / "app")) == (["port"], ["name", "port"])
    sh("echo more >> app/name; mkdir new; mv app/name new/name; rm app/port", cwd=far)
    assert pair.far.kv_keys() == ["new/", "new/name"] and pair.far.kv_get("new/name") == b"webmore\n"
    with pytest.raises(FileExistsError):
        open(far / "new/name", "x")
    pair.far.kv_set("new/name", b"changed there")
    wait_equal((far / "new/name").read_text, "changed there")
    sh("rm -r new", cwd=far)
    assert pair.far.kv_keys() == [] and pair.near.kv_get("app/port") == b"near"


def test_what_is_moved_between_datacenters_is_copied(mnt, pair):
    pair.near.kv_set("a", b"value")
    with pytest.raises(OSError) as error:
        os.rename(mnt / "kv/a", mnt / "datacenters/dc2/kv/a")
    assert error.value.errno == 18  # EXDEV
    sh("mv kv/a datacenters/dc2/kv/a", cwd=mnt.path)
    assert pair.near.kv_get("a") is None and pair.far.kv_get("a") == b"value"


def test_sessions_of_the_other_datacenter(mnt, pair):
    done = sh("echo '{}' > sessions/far.json", cwd=mnt / "datacenters/dc2", check=False)
    assert done.returncode != 0  # our agent's node is not there to hold it
    sh("echo '{\"Node\": \"n2\"}' > sessions/far.json", cwd=mnt / "datacenters/dc2")
    assert [s["Name"] for s in pair.far.get("/v1/session/list").json()] == ["far"]
    assert pair.near.get("/v1/session/list").json() == []
    assert names(mnt / "sessions/by-name") == []
    sh("rm sessions/far.json", cwd=mnt / "datacenters/dc2")
    assert pair.far.get("/v1/session/list").json() == []


def test_services_of_the_other_datacenter_are_read(mnt, pair):
    pair.far.register("web", Port=8000, Address="10.0.0.8")
    wait_equal((mnt / "datacenters/dc2/services/web/passing").read_text, "10.0.0.8:8000\n")
    assert not (mnt / "services/web").exists()
    assert names(mnt / "datacenters/dc2/nodes") == ["n2"]
    assert "serfHealth@n2.json" in names(mnt / "datacenters/dc2/checks/passing")
    assert json.loads((mnt / "datacenters/dc2/services/web/web@n2.json").read_text())["Node"]["Datacenter"] == "dc2"


def test_services_of_the_other_datacenter_are_written(mnt, pair):
    """There for nodes without an agent: our agent is of this datacenter, and theirs is another live one."""
    there = mnt / "datacenters/dc2"
    sh("""echo '{"Address": "10.0.0.7"}' > nodes/db07.json
          echo '{"Service": "db", "Port": 5432}' > nodes/db07/services/db-1.json
          echo '{"Port": 5433}' > services/db/db-2@db07.json
          echo '{"Status": "passing"}' > nodes/db07/checks/ping.json""", cwd=there)
    assert set(pair.far.get("/v1/catalog/node/db07").json()["Services"]) == {"db-1", "db-2"}
    assert pair.near.get("/v1/catalog/node/db07").json() is None
    assert (there / "services/db/passing").read_text() == "10.0.0.7:5432\n10.0.0.7:5433\n"
    for command in ("""echo '{"Address": "10.0.0.9", "Datacenter": "dc1"}' > nodes/db09.json""",
                    "echo '{}' > services/web.json", "mkdir services/web && echo '{}' > services/web/web.json",
                    "echo '{}' > nodes/n2/services/x.json", "echo '{}' > checks/any/x.json", "rmdir nodes/n2"):
        assert sh(command, cwd=there, check=False).returncode != 0, command
    sh("rmdir services/web; rm services/db/db-2@db07.json; rm -r nodes/db07", cwd=there)
    assert pair.far.get("/v1/catalog/node/db07").json() is None


def test_config_entries_of_the_other_datacenter_are_for_reading(mnt, pair):
    pair.far.put("/v1/config", {"Kind": "service-defaults", "Name": "web", "Protocol": "http"})
    entry = mnt / "datacenters/dc2/config/service-defaults/web.json"
    wait_equal(entry.exists, True)
    for attempt in (lambda: entry.write_text("{}"), lambda: os.unlink(entry)):
        with fails_with(EROFS):
            attempt()
    assert pair.near.get("/v1/config/service-defaults").json() == []
    pair.far.delete("/v1/config/service-defaults/web")


def test_the_fastest_is_elsewhere_when_none_passes_here(mnt, pair):
    for agent, address in ((pair.near, "127.0.0.1"), (pair.far, "127.0.0.2")):
        agent.register("web", Port=80, Address=address)
    for place, address in (("", "127.0.0.1"), ("datacenters/dc2", "127.0.0.2")):
        wait_equal((mnt / place / "services/web/fastest").read_text, f"{address}:80\n")
    pair.near.set_status("web", "web", "critical")
    wait_equal((mnt / "services/web/fastest").read_text, "127.0.0.2:80\n")
    pair.near.set_status("web", "web", "passing")
    wait_equal((mnt / "services/web/fastest").read_text, "127.0.0.1:80\n")
    pair.far.set_status("web", "web", "critical")
    wait_equal((mnt / "datacenters/dc2/services/web/fastest").read_text, "127.0.0.1:80\n")


def test_a_datacenter_that_is_known_costs_no_request(mount, pair, proxy_for):
    proxy = proxy_for(pair.near)
    mnt = mount(proxy)
    pair.far.kv_set("a", b"1")
    assert (mnt / "datacenters/dc2/kv/a").read_text() == "1"
    with proxy.record() as seen:
        for _ in range(10):
            assert (mnt / "datacenters/dc2/kv/a").read_text() == "1"
    assert len(seen.not_blocking.matching(path="/v1/catalog/datacenters")) <= 1 and len(seen.not_blocking) <= 1


def test_a_dead_datacenter_is_an_error_and_ours_goes_on(mount, pair):
    pair.near.kv_set("a", b"near")
    mnt = mount(pair.near, timeout=3, stale=0)
    mnt.expect_log()
    assert (mnt / "kv/a").read_text() == "near"
    pair.far.kill()
    for path in ("kv/a", "services/web", "nodes/n2"):
        with fails_with(EHOSTUNREACH, ETIMEDOUT, EIO):
            (mnt / "datacenters/dc2" / path).read_text()
    with fails_with(EHOSTUNREACH, ETIMEDOUT, EIO):
        os.listdir(mnt / "datacenters/dc2/kv")
    # No outage of ours: nothing was given up, and nothing is said to be.
    assert (mnt / "kv/a").read_text() == "near"
    assert "state connected" in (mnt / ".consulfs/status").read_text()
    (mnt / "kv/b").write_text("2")
    assert pair.near.kv_get("b") == b"2"
    with fails_with(ENOENT):
        (mnt / "datacenters/dc3/kv/a").read_text()
