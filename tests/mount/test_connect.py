"""connect/: certificates and intentions."""

import json

import pytest

from harness.programs import names, sh
from harness.proxy import Answer
from harness.wait import wait_equal, wait_until


@pytest.fixture
def connect(mnt, agent):
    for intention in agent.get("/v1/connect/intentions").json() or []:
        agent.delete(f"/v1/connect/intentions/{intention['ID']}")
    return mnt / "connect"


def intentions(agent):
    return {f"{i['SourceName']}:{i['DestinationName']}": i["Action"]
            for i in agent.get("/v1/connect/intentions").json() or []}


def test_what_is_listed(connect):
    assert names(connect) == ["ca.json", "intentions", "leaf", "roots.json", "roots.pem"]
    assert (connect / "ca.json").stat().st_mode & 0o777 == 0o600


def test_roots(connect, agent):
    roots = agent.get("/v1/agent/connect/ca/roots").json()
    assert json.loads((connect / "roots.json").read_text())["TrustDomain"] == roots["TrustDomain"]
    assert (connect / "roots.pem").read_text() == "".join(root["RootCert"] for root in roots["Roots"])


def test_a_leaf_certificate_and_its_key(connect, tmp_path):
    leaf = connect / "leaf/web"
    assert (leaf / "key.pem").stat().st_mode & 0o777 == 0o600
    said = sh(f"openssl verify -CAfile {connect}/roots.pem {leaf}/cert.pem").stdout
    assert said.endswith("cert.pem: OK\n")
    assert "/svc/web" in sh(f"openssl x509 -in {leaf}/cert.pem -noout -ext subjectAltName").stdout
    assert sh(f"openssl x509 -in {leaf}/cert.pem -noout -pubkey").stdout == sh(
        f"openssl pkey -in {leaf}/key.pem -pubout").stdout


def test_no_program_that_goes_through_a_tree_has_certificates_issued(mount, agent, proxy):
    mnt = mount(proxy)
    with proxy.record() as seen:
        sh("find connect -type f | xargs cat > /dev/null; ls -lR connect; du -a connect", cwd=mnt.path)
    assert not seen.matching(path="/v1/agent/connect/ca/leaf/*")
    assert names(mnt / "connect/leaf") == []


@pytest.mark.limit(180)
def test_leaf_certificates_rotate(new_agent, mount):
    """A new root has every leaf signed anew; the name then has the new one, an open file keeps the old one whole."""
    agent = new_agent()
    mnt = mount(agent)
    certificate = mnt / "connect/leaf/web/cert.pem"
    with certificate.open() as old:
        before, root = certificate.read_text(), (mnt / "connect/roots.pem").read_text()
        key = sh("openssl ecparam -name prime256v1 -genkey -noout").stdout
        (mnt.directory / "key.pem").write_text(key)
        made = sh(f"openssl req -x509 -new -key {mnt.directory}/key.pem -days 30 -subj /CN=test -addext "
                  f"'subjectAltName=URI:spiffe://{trust_domain(agent)}' -addext 'keyUsage=critical,keyCertSign,cRLSign'").stdout
        configuration = {"Provider": "consul", "Config": {"PrivateKey": key, "RootCert": made, "LeafCertTTL": "72h",
                                                          "IntermediateCertTTL": "8760h"}}
        (mnt / "connect/ca.json").write_text(json.dumps(configuration))
        wait_until(lambda: made.strip() in agent.get("/v1/agent/connect/ca/roots").text.replace("\\n", "\n"),
                   "the agent has the new root", 60)
        wait_until(lambda: made.strip() in (mnt / "connect/roots.pem").read_text(), "the new root", 30)
        assert root.strip() in (mnt / "connect/roots.pem").read_text()
        wait_until(lambda: certificate.read_text() != before, "the leaf is signed anew", 120)
        assert old.read() == before
    assert key.split("\n")[1] not in "".join(
        (mnt / ".consulfs" / name).read_text() for name in names(mnt / ".consulfs") if name != "drop-caches") + mnt.log


def trust_domain(agent):
    return agent.get("/v1/agent/connect/ca/roots").json()["TrustDomain"]


def test_intentions(connect, agent):
    directory = connect / "intentions"
    sh("""echo '{"Action": "allow"}' > web:db.json; echo '{"Action": "deny"}' > '*:db.json'""", cwd=directory)
    assert intentions(agent) == {"web:db": "allow", "*:db": "deny"}
    assert names(directory) == ["*:db.json", "web:db.json"]
    document = json.loads((directory / "web:db.json").read_text())
    document["Action"] = "deny"
    (directory / "web:db.json").write_text(json.dumps(document))
    assert intentions(agent)["web:db"] == "deny"
    sh("rm 'web:db.json'", cwd=directory)
    assert intentions(agent) == {"*:db": "deny"} and names(directory) == ["*:db.json"]
    agent.request("POST", "/v1/connect/intentions",
                  json={"SourceName": "a", "DestinationName": "b", "Action": "allow"})
    wait_equal(lambda: names(directory), ["*:db.json", "a:b.json"])


def test_intentions_that_are_refused(connect, mnt):
    for name, document in (("web:db", "{}"), ("web:db", '{"Action": "perhaps"}'),
                           ("web:db", '{"SourceName": "other", "Action": "allow"}'), ("web", '{"Action": "allow"}')):
        done = sh(f"echo '{document}' > '{name}.json'", cwd=connect / "intentions", check=False)
        assert done.returncode != 0, (name, document)
    assert not (connect / "intentions/web:db.json").exists()


def test_intentions_of_newer_servers_go_by_their_names(mount, agent, proxy):
    """Since 1.9, and the only way since 1.16; there is no such Consul here."""
    self_ = agent.get("/v1/agent/self").json()
    self_["Config"]["Version"] = "1.20.1"
    for intention in agent.get("/v1/connect/intentions").json() or []:
        agent.delete(f"/v1/connect/intentions/{intention['ID']}")
    with proxy.fault(Answer(200, json.dumps(self_).encode()), path="/v1/agent/self"):
        mnt = mount(proxy)
        with proxy.fault(Answer(200, b"true"), path="/v1/connect/intentions/exact"), proxy.record() as seen:
            sh("""echo '{"Action": "allow"}' > 'connect/intentions/web:a b.json'""", cwd=mnt.path)
    (request,) = seen.matching(path="/v1/connect/intentions/exact")
    assert (request.method, request.query) == ("PUT", {"source": "web", "destination": "a b"})
    assert json.loads(request.body) == {"Action": "allow", "SourceName": "web", "DestinationName": "a b"}


def test_without_connect(new_agent, mount):
    mnt = mount(new_agent(dev=False, connect={"enabled": False}))
    assert not (mnt / "connect/roots.json").exists() and not (mnt / "connect/roots.pem").exists()
    done = sh("cat connect/leaf/web/cert.pem", cwd=mnt.path, check=False)
    assert done.returncode != 0
    assert sh("ls -lR connect", cwd=mnt.path).stderr == ""


def test_numbers_that_need_64_bits(mount, agent, proxy):
    """Serial numbers are unsigned; the parser's integers are not."""
    mnt = mount(proxy)
    document = b'{"ActiveRootID": "a", "Roots": [{"SerialNumber": 18446744073709551615, "Name": "1 \\" 99999999999999999999"}]}'
    with proxy.fault(Answer(200, document), path="/v1/agent/connect/ca/roots"):
        root = json.loads((mnt / "connect/roots.json").read_text())["Roots"][0]
    assert root == {"SerialNumber": "18446744073709551615", "Name": '1 " 99999999999999999999'}
