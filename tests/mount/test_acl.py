"""acl/: tokens, policies, roles, auth methods and binding rules, by files that only their owner can see."""

import json
import os
import subprocess

import pytest

from errno import ENODATA, ENOENT, EPERM
from harness.programs import fails_with, names, refuses, sh
from harness.wait import wait_equal, wait_until

RULES = 'key_prefix "app/" { policy = "read" }\n'
ANONYMOUS = "00000000-0000-0000-0000-000000000002"
ACCESSOR = "11111111-2222-3333-4444-555555555555"
SECRET = "99999999-8888-7777-6666-555555555555"


@pytest.fixture
def mnt(acl_agent, mount):
    return mount(acl_agent, env={"CONSUL_HTTP_TOKEN": acl_agent.token})


@pytest.fixture
def acl(mnt):
    return mnt / "acl"


def tokens(agent):
    return {token["AccessorID"]: token for token in agent.get("/v1/acl/tokens").json()}


def described(agent, description):
    return [accessor for accessor, token in tokens(agent).items() if token["Description"] == description]


def policies(agent):
    return {policy["Name"]: policy["ID"] for policy in agent.get("/v1/acl/policies").json()}


# Tokens


def test_a_token_is_created_by_any_name(acl, acl_agent):
    sh("""echo '{"Description": "ci"}' > tokens/ci.json""", cwd=acl)
    (accessor,) = described(acl_agent, "ci")
    secret = acl_agent.get(f"/v1/acl/token/{accessor}").json()["SecretID"]
    for name in ("ci.json", f"{accessor}.json", "by-description/ci"):
        assert json.loads((acl / "tokens" / name).read_text())["SecretID"] == secret
    assert os.readlink(acl / "tokens/by-description/ci") == f"../{accessor}.json"
    assert f"{accessor}.json" in names(acl / "tokens") and "ci.json" not in names(acl / "tokens")


def test_a_token_is_created_with_its_accessor(acl, acl_agent):
    sh(f"""echo '{{"Description": "ci"}}' > tokens/{ACCESSOR}.json""", cwd=acl)
    assert tokens(acl_agent)[ACCESSOR]["Description"] == "ci"


def test_a_token_that_was_saved_is_put_back_as_it_was(acl, acl_agent):
    document = {"AccessorID": ACCESSOR, "SecretID": SECRET, "Description": "ci"}
    (acl / f"tokens/{ACCESSOR}.json").write_text(json.dumps(document))
    saved = (acl / f"tokens/{ACCESSOR}.json").read_text()
    sh(f"rm tokens/{ACCESSOR}.json", cwd=acl)
    assert ACCESSOR not in tokens(acl_agent)
    (acl / f"tokens/{ACCESSOR}.json").write_text(saved)
    assert acl_agent.get(f"/v1/acl/token/{ACCESSOR}").json()["SecretID"] == SECRET


def test_a_token_is_changed(acl, acl_agent):
    acl_agent.put("/v1/acl/token", {"AccessorID": ACCESSOR, "Description": "before"})
    path = acl / f"tokens/{ACCESSOR}.json"
    document = json.loads(path.read_text())
    document["Description"] = "after"
    path.write_text(json.dumps(document))
    assert tokens(acl_agent)[ACCESSOR]["Description"] == "after"
    assert json.loads(path.read_text())["Description"] == "after"
    assert names(acl / "tokens/by-description").count("before") == 0


def test_a_token_is_destroyed(acl, acl_agent):
    acl_agent.put("/v1/acl/token", {"AccessorID": ACCESSOR, "Description": "ci"})
    sh(f"rm tokens/{ACCESSOR}.json", cwd=acl)
    assert ACCESSOR not in tokens(acl_agent)
    with fails_with(ENOENT):
        os.unlink(acl / f"tokens/{ACCESSOR}.json")


def test_a_copy_is_another_token(acl, acl_agent):
    acl_agent.put("/v1/acl/policy", {"Name": "reads", "Rules": RULES})
    acl_agent.put("/v1/acl/token", {"AccessorID": ACCESSOR, "SecretID": SECRET, "Description": "ci",
                                    "Policies": [{"Name": "reads"}]})
    sh(f"cp tokens/{ACCESSOR}.json tokens/new.json", cwd=acl)
    (copy,) = set(described(acl_agent, "ci")) - {ACCESSOR}
    document = acl_agent.get(f"/v1/acl/token/{copy}").json()
    assert document["SecretID"] != SECRET and [p["Name"] for p in document["Policies"]] == ["reads"]
    sh(f"""sed 's/: "ci"/: "edited"/' tokens/{ACCESSOR}.json > tokens/third.json""", cwd=acl)
    assert len(described(acl_agent, "edited")) == 1
    sh("rm tokens/new.json tokens/third.json", cwd=acl)
    assert copy not in tokens(acl_agent) and described(acl_agent, "edited") == []


def test_tokens_that_are_refused(acl, mnt, acl_agent):
    acl_agent.put("/v1/acl/token", {"AccessorID": ACCESSOR, "Description": "ci"})
    before = set(tokens(acl_agent))
    refuses(mnt, """echo '{"Policies": [{"Name": "nope"}]}' > tokens/new.json""", "No such ACL policy", cwd="acl")
    refuses(mnt, """echo '{"Bogus": 1}' > tokens/new.json""", "Bogus", cwd="acl")
    refuses(mnt, f"""echo '{{"AccessorID": "{ANONYMOUS}"}}' > tokens/{ACCESSOR}.json""", "the token's is", cwd="acl")
    refuses(mnt, f"rm tokens/{ANONYMOUS}.json", "anonymous", cwd="acl")
    assert set(tokens(acl_agent)) == before
    with fails_with(EPERM):
        open(acl / "tokens/no-suffix", "w")


def test_tokens_of_others_come_and_go(acl, acl_agent):
    acl_agent.put("/v1/acl/token", {"AccessorID": ACCESSOR, "Description": "theirs"})
    wait_equal(lambda: f"{ACCESSOR}.json" in names(acl / "tokens"), True)
    acl_agent.delete(f"/v1/acl/token/{ACCESSOR}")
    wait_equal(lambda: f"{ACCESSOR}.json" in names(acl / "tokens"), False)
    wait_equal((acl / f"tokens/{ACCESSOR}.json").exists, False)


def test_the_token_of_the_mount(acl, acl_agent):
    assert json.loads((acl / "self.json").read_text())["SecretID"] == acl_agent.token


# Policies


def test_a_policy(acl, acl_agent):
    (acl / "policies/reads.json").write_text(json.dumps({"Rules": RULES, "Description": "d"}))
    assert "reads" in policies(acl_agent)
    assert {"reads.json", "reads.hcl"} <= set(names(acl / "policies"))
    assert (acl / "policies/reads.hcl").read_text() == RULES
    document = json.loads((acl / "policies/reads.json").read_text())
    document["Description"] = "other"
    (acl / "policies/reads.json").write_text(json.dumps(document))
    policy = acl_agent.get(f"/v1/acl/policy/{policies(acl_agent)['reads']}").json()
    assert (policy["Description"], policy["Rules"]) == ("other", RULES)
    sh("rm policies/reads.json", cwd=acl)
    assert "reads" not in policies(acl_agent) and not (acl / "policies/reads.hcl").exists()


def test_rules_alone(acl, acl_agent):
    sh(f"""echo '{RULES.strip()}' > policies/reads.hcl""", cwd=acl)
    number = policies(acl_agent)["reads"]
    acl_agent.put(f"/v1/acl/policy/{number}", {"Name": "reads", "Rules": RULES, "Description": "kept"})
    sh("""sed 's/read"/write"/' policies/reads.hcl > /dev/shm/$$ && cp /dev/shm/$$ policies/reads.hcl; rm /dev/shm/$$""",
       cwd=acl)
    policy = acl_agent.get(f"/v1/acl/policy/{number}").json()
    assert (policy["Description"], policy["Rules"]) == ("kept", RULES.replace("read", "write"))
    with fails_with(EPERM):
        os.unlink(acl / "policies/reads.hcl")


def test_policies_that_are_refused(mnt, acl_agent):
    refuses(mnt, "echo bogus > policies/reads.hcl", "Failed to parse", cwd="acl")
    refuses(mnt, """echo '{"Name": "other"}' > policies/reads.json""", "as its file is called", cwd="acl")
    refuses(mnt, "rm policies/global-management.json", "not permitted", cwd="acl")
    assert list(policies(acl_agent)) == ["global-management"]


# The rest


def test_roles(acl, acl_agent):
    acl_agent.put("/v1/acl/policy", {"Name": "reads", "Rules": RULES})
    sh("""echo '{"Policies": [{"Name": "reads"}]}' > roles/ops.json""", cwd=acl)
    (role,) = acl_agent.get("/v1/acl/roles").json()
    assert (role["Name"], role["Policies"][0]["Name"]) == ("ops", "reads")
    document = json.loads((acl / "roles/ops.json").read_text())
    document["Policies"] = []
    (acl / "roles/ops.json").write_text(json.dumps(document))
    assert not acl_agent.get(f"/v1/acl/role/{role['ID']}").json().get("Policies")
    sh("rm roles/ops.json", cwd=acl)
    assert acl_agent.get("/v1/acl/roles").json() == []


def test_auth_methods_and_binding_rules(acl, acl_agent, tmp_path):
    key = sh("openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout").stdout
    method = {"Type": "jwt", "Config": {"JWTSupportedAlgs": ["ES256"], "JWTValidationPubKeys": [key]}}
    (acl / "auth-methods/ci.json").write_text(json.dumps(method))
    assert [m["Name"] for m in acl_agent.get("/v1/acl/auth-methods").json()] == ["ci"]
    assert json.loads((acl / "auth-methods/ci.json").read_text())["Config"]["JWTValidationPubKeys"] == [key]
    rule = {"AuthMethod": "ci", "BindType": "service", "BindName": "web"}
    (acl / "binding-rules/new.json").write_text(json.dumps(rule))
    (known,) = acl_agent.get("/v1/acl/binding-rules").json()
    assert names(acl / "binding-rules") == [f"{known['ID']}.json"]
    document = json.loads((acl / "binding-rules/new.json").read_text())
    document["BindName"] = "db"
    (acl / f"binding-rules/{known['ID']}.json").write_text(json.dumps(document))
    assert acl_agent.get(f"/v1/acl/binding-rule/{known['ID']}").json()["BindName"] == "db"
    sh("rm binding-rules/*.json auth-methods/ci.json", cwd=acl)
    assert acl_agent.get("/v1/acl/binding-rules").json() == acl_agent.get("/v1/acl/auth-methods").json() == []


# Who may see it


def every_path(directory):
    yield directory
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            yield from every_path(entry.path)
        elif not entry.is_symlink():
            yield entry.path


@pytest.mark.parametrize("options", [{}, {"umask": "000"}, {"allow_other": True, "umask": "002"}])
def test_only_the_owner_may_look(acl_agent, mount, options):
    acl_agent.put("/v1/acl/policy", {"Name": "reads", "Rules": RULES})
    mnt = mount(acl_agent, env={"CONSUL_HTTP_TOKEN": acl_agent.token}, **options)
    for path in [*every_path(mnt / "acl"), mnt / "acl/bootstrap"]:
        assert os.stat(path).st_mode & 0o777 == (0o700 if os.path.isdir(path) else 0o600), path


def test_another_user_is_kept_out(acl_agent, mount, tmp_path):
    for directory in [tmp_path, *tmp_path.parents][:-2]:
        directory.chmod(0o755)
    mnt = mount(acl_agent, env={"CONSUL_HTTP_TOKEN": acl_agent.token}, allow_other=True)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert subprocess.run([*nobody, "ls", mnt / "services"], capture_output=True).returncode == 0
    for path in ("acl", "acl/tokens", "acl/self.json", "acl/bootstrap"):
        done = subprocess.run([*nobody, "cat", mnt / path], capture_output=True, text=True)
        assert "Permission denied" in done.stderr and done.stdout == "", path


def test_no_secret_is_told(acl_agent, mount):
    mnt = mount(acl_agent, env={"CONSUL_HTTP_TOKEN": acl_agent.token}, args=["-d"])
    mnt.expect_log()
    sh(f"""echo '{{"AccessorID": "{ACCESSOR}", "SecretID": "{SECRET}", "Bogus": 1}}' > {ACCESSOR}.json
           echo '{{"AccessorID": "{ACCESSOR}", "SecretID": "{SECRET}"}}' > {ACCESSOR}.json; cat *.json; rm {ACCESSOR}.json""",
       cwd=mnt / "acl/tokens", check=False)
    sh("echo > bootstrap", cwd=mnt / "acl", check=False)
    told = mnt.log + "".join(
        (mnt / ".consulfs" / name).read_text() for name in names(mnt / ".consulfs") if name != "drop-caches")
    assert SECRET not in told and acl_agent.token not in told


# Bootstrap, and an agent without ACLs


def test_bootstrap(new_agent, mount):
    agent = new_agent(ready=False, acl={"enabled": True, "default_policy": "deny"})
    wait_until(lambda: is_up(agent), "the agent answers", 30)
    mnt = mount(agent)
    assert "bootstrap" not in names(mnt.path / "acl") if may_list(mnt) else True
    with fails_with(ENODATA):
        (mnt / "acl/bootstrap").read_text()
    sh("echo > acl/bootstrap", cwd=mnt.path)
    document = json.loads((mnt / "acl/bootstrap").read_text())
    agent.token = document["SecretID"]
    assert agent.get("/v1/acl/token/self").json()["AccessorID"] == document["AccessorID"]
    assert sh("echo > acl/bootstrap", cwd=mnt.path, check=False).returncode != 0
    assert "no longer allowed" in (mnt / ".consulfs/errors").read_text()
    assert json.loads((mnt / "acl/bootstrap").read_text()) == document
    told = mnt.log + (mnt / ".consulfs/errors").read_text() + (mnt / ".consulfs/config").read_text()
    assert document["SecretID"] not in told


def may_list(mnt):
    try:
        os.listdir(mnt / "acl")
        return True
    except PermissionError:
        return False


def is_up(agent):
    try:
        return agent.get("/v1/status/leader").json() != ""
    except (OSError, ValueError):
        return False


def test_without_acls_there_is_no_such_directory(agent, mount, proxy):
    mnt = mount(proxy)
    assert "acl" not in names(mnt.path)
    with proxy.record() as seen:
        for _ in range(20):
            assert not (mnt / "acl").exists() and "acl" not in names(mnt.path)
    assert len(seen.matching(path="/v1/acl/*")) <= 1
