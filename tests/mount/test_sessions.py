"""sessions/: creating, naming, renewing and destroying sessions."""

import json
import os

from errno import ENOENT, EPERM
from harness.programs import fails_with, names, sh
from harness.wait import wait_equal


def known(agent):
    return {session["Name"]: session for session in agent.client.session.list()[1]}


def test_a_session_is_created_by_its_name(mnt, agent):
    sh("echo '{}' > sessions/backup.json", cwd=mnt.path)
    session = known(agent)["backup"]
    assert names(mnt / "sessions") == sorted([f"{session['ID']}.json", "by-name"])
    assert os.readlink(mnt / "sessions/by-name/backup") == f"../{session['ID']}.json"
    assert sh("basename $(readlink sessions/by-name/backup) .json", cwd=mnt.path).stdout.strip() == session["ID"]
    for name in ("backup.json", f"{session['ID']}.json", "by-name/backup"):
        assert json.loads((mnt / "sessions" / name).read_text())["ID"] == session["ID"]


def test_what_the_document_says_counts(mnt, agent):
    sh("""echo '{"TTL": "30s", "Behavior": "delete", "LockDelay": "1s", "Name": "other"}' > sessions/backup.json""",
       cwd=mnt.path)
    session = known(agent)["other"]
    assert (session["TTL"], session["Behavior"]) == ("30s", "delete")
    assert json.loads((mnt / "sessions/backup.json").read_text())["Name"] == "other"


def test_a_session_is_destroyed(mnt, agent):
    sh("echo '{}' > sessions/a.json; echo '{}' > sessions/b.json", cwd=mnt.path)
    sh("rm sessions/a.json", cwd=mnt.path)
    assert list(known(agent)) == ["b"]
    sh(f"rm sessions/{known(agent)['b']['ID']}.json", cwd=mnt.path)
    assert known(agent) == {} and names(mnt / "sessions") == ["by-name"]
    with fails_with(ENOENT):
        os.unlink(mnt / "sessions/a.json")


def test_renewing(mount, agent, proxy):
    mnt = mount(proxy)
    sh("""echo '{"TTL": "60s"}' > sessions/a.json""", cwd=mnt.path)
    number = known(agent)["a"]["ID"]
    with proxy.record() as seen:
        sh("touch sessions/a.json sessions/by-name/a", cwd=mnt.path)
        os.utime(mnt / f"sessions/{number}.json")
    assert len(seen.matching(path=f"/v1/session/renew/{number}", method="PUT")) == 3
    agent.put(f"/v1/session/destroy/{number}")
    wait_equal(lambda: sh(f"touch -c sessions/{number}.json; ls sessions/{number}.json", cwd=mnt.path,
                          check=False).returncode != 0, True)


def test_a_session_cannot_be_changed(mnt, agent):
    sh("echo '{}' > sessions/a.json", cwd=mnt.path)
    done = sh("""echo '{"TTL": "60s"}' > sessions/a.json""", shell="bash", cwd=mnt.path, check=False)
    assert "not permitted" in done.stderr and known(agent)["a"]["TTL"] == ""
    assert "cannot be changed" in (mnt / ".consulfs/errors").read_text()


def test_what_is_refused(mnt, agent):
    for document in ('{"TTL": "1s"}', '{"Behavior": "explode"}', '{"Node": "nobody"}'):
        done = sh(f"echo '{document}' > sessions/a.json", shell="bash", cwd=mnt.path, check=False)
        assert done.returncode != 0 and known(agent) == {}, document
    assert "Invalid Session TTL" in (mnt / ".consulfs/errors").read_text()
    with fails_with(EPERM):
        open(mnt / "sessions/name-without-suffix", "w")


def test_sessions_of_others_are_seen(mnt, agent):
    assert names(mnt / "sessions/by-name") == []
    number = agent.put("/v1/session/create", {"Name": "theirs"}).json()["ID"]
    wait_equal(lambda: names(mnt / "sessions/by-name"), ["theirs"])
    wait_equal(lambda: names(mnt / "nodes" / agent.node / "sessions"), [f"{number}.json"])
    agent.put(f"/v1/session/destroy/{number}")
    wait_equal(lambda: names(mnt / "sessions"), ["by-name"])


def test_two_sessions_of_one_name(mnt, agent):
    first = agent.put("/v1/session/create", {"Name": "same"}).json()["ID"]
    second = agent.put("/v1/session/create", {"Name": "same"}).json()["ID"]
    wait_equal(lambda: names(mnt / "sessions"), sorted([f"{first}.json", f"{second}.json", "by-name"]))
    assert names(mnt / "sessions/by-name") == ["same"]
    assert os.readlink(mnt / "sessions/by-name/same") in (f"../{first}.json", f"../{second}.json")
