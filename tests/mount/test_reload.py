"""Servers that reload by themselves: a change made on another host reaches them through inotify, and nothing else."""

import contextlib
import json
import socket
import struct
import subprocess
import time
import urllib.request

from harness.agent import free_ports
from harness.wait import wait_until

HOST = "127.0.0.9"


@contextlib.contextmanager
def running(command, log):
    """A server in the foreground, ended with the block."""
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def lookup(name, port):
    """The IPv4 addresses of a name (RFC 1035), asked by UDP."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        asking.connect((HOST, port))
        try:
            asking.send(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + question)
            answer = asking.recv(1500)
        except OSError:
            return None
    found, at = [], 12 + len(question)
    for _ in range(struct.unpack_from(">H", answer, 6)[0]):
        length = struct.unpack_from(">H", answer, at + 10)[0]
        found.append(socket.inet_ntoa(answer[at + 12 : at + 12 + length]))
        at += 12 + length
    return found


def test_dnsmasq_hostsdir(mount, agent, tmp_path):
    mnt = mount(agent, allow_other=True)  # it runs in a group of its own
    agent.kv_set("hosts/web", b"10.0.0.1 web.test\n")
    (port,) = free_ports(HOST, 1)
    command = [
        "/usr/sbin/dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        f"--listen-address={HOST}",
        f"--port={port}",
        f"--pid-file={tmp_path}/pid",
        f"--hostsdir={mnt.path}/kv/hosts",
    ]
    with running(command, tmp_path / "dnsmasq"):
        wait_until(lambda: lookup("web.test", port) == ["10.0.0.1"], "dnsmasq answers")
        agent.kv_set("hosts/db", b"10.0.0.2 db.test\n")
        wait_until(lambda: lookup("db.test", port) == ["10.0.0.2"], "a new file is read")
        agent.kv_set("hosts/db", b"10.0.0.2 db.test\n10.0.0.3 cache.test\n")
        wait_until(lambda: lookup("cache.test", port) == ["10.0.0.3"], "a changed file is read again")


def targets(port):
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/api/v1/targets", timeout=2) as answer:
            active = json.load(answer)["data"]["activeTargets"]
    except OSError:
        return None
    return sorted(target["labels"]["instance"] for target in active)


def scrape(*addresses):
    return json.dumps([{"targets": list(addresses)}]).encode()


def test_prometheus_file_sd(mnt, agent, tmp_path):
    """It reads its files again every five minutes, too: what it learns within seconds it was told of."""
    agent.kv_set("targets/web.json", scrape("127.0.0.9:1"))
    (port,) = free_ports(HOST, 1)
    config = tmp_path / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "scrape_configs": [
                    {
                        "job_name": "consulfs",
                        "scrape_interval": "1h",
                        "file_sd_configs": [{"files": [f"{mnt.path}/kv/targets/*.json"], "refresh_interval": "1h"}],
                    }
                ]
            }
        )
    )
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address={HOST}:{port}",
        "--web.console.templates=/nonexistent",
        "--web.console.libraries=/nonexistent",
    ]
    with running(command, tmp_path / "prometheus"):
        wait_until(lambda: targets(port) == ["127.0.0.9:1"], "prometheus has read its files", timeout=60)
        agent.kv_set("targets/web.json", scrape("127.0.0.9:1", "127.0.0.9:2"))
        wait_until(lambda: targets(port) == ["127.0.0.9:1", "127.0.0.9:2"], "a changed file is read", timeout=60)
        agent.kv_set("targets/db.json", scrape("127.0.0.9:3"))
        wait_until(lambda: len(targets(port) or []) == 3, "a new file is read", timeout=60)
        agent.delete("/v1/kv/targets/web.json")
        wait_until(lambda: targets(port) == ["127.0.0.9:3"], "a file is gone", timeout=60)


def test_inotifywait(mnt, agent, tmp_path):
    """What a shell script does: one line for each change."""
    agent.kv_set("app/port", b"1")
    command = ["inotifywait", "-m", "-q", "-e", "close_write,create,delete", "--format", "%e %f", f"{mnt.path}/kv/app"]
    log = tmp_path / "inotifywait"
    with running(command, log):
        began = time.monotonic()
        while "CLOSE_WRITE,CLOSE port" not in log.read_text():  # until it listens
            assert time.monotonic() - began < 20
            agent.kv_set("app/port", b"%d" % time.monotonic_ns())
            time.sleep(0.05)
        agent.kv_set("app/new", b"1")
        wait_until(lambda: "CLOSE_WRITE,CLOSE new" in log.read_text(), "a new key is told")
        agent.delete("/v1/kv/app/new")
        wait_until(lambda: "DELETE new" in log.read_text(), "a deleted key is told")
    lines = [line for line in log.read_text().splitlines() if line.endswith(" new")]
    assert lines == ["CREATE new", "CLOSE_WRITE,CLOSE new", "DELETE new"]


def test_tail(mnt, agent, tmp_path):
    agent.kv_set("app/log", b"one\n")
    log = tmp_path / "tail"
    with running(["tail", "-n", "+1", "-F", "-s", "0.1", f"{mnt.path}/kv/app/log"], log):
        wait_until(lambda: log.read_text() == "one\n", "tail has read the file")
        agent.kv_set("app/log", b"one\ntwo\n")
        wait_until(lambda: log.read_text().endswith("two\n"), "tail follows")
