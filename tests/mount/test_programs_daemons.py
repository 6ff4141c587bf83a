"""Programs that stay: what follows a file, what watches a directory, what serves and is told to reload; other users."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile

import pytest
import requests

from harness.agent import free_ports
from harness.place import Place
from harness.wait import wait_equal, wait_until


@contextlib.contextmanager
def running(place, script):
    """In the background, in kv/. What it writes to both outputs goes to the file that this yields."""
    output = place.home / "output"
    with output.open("wb") as out:
        command = ["sh", "-c", 'cd "$0" && exec ' + script, os.fspath(place.kv)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=place.env)
    try:
        yield output
    finally:
        process.kill()
        process.wait()


# Following, watching


def test_tail_F(place):
    """-s: it looks at the name again after five times of that; on FUSE it polls."""
    place.put(log=b"0\n")
    with running(place, "tail -s 0.01 -n +1 -F log") as output:
        said = ""

        def says(more):
            nonlocal said
            said += more
            wait_equal(output.read_text, said)

        says("0\n")
        place.run("echo 1 >> log")
        says("1\n")
        place.run("mv log log.1")
        says("tail: 'log' has become inaccessible: No such file or directory\n")
        place.run("echo 2 > log; rm log.1")
        says("tail: 'log' has appeared;  following new file\n2\n")
        place.run("echo 3 > new; mv new log")
        says("tail: 'log' has been replaced;  following new file\n3\n")
        # An open file keeps its version: a change made elsewhere is another file of that name, and is read whole.
        place.run("echo 4 >> $there/log")
        says("tail: 'log' has been replaced;  following new file\n3\n4\n")
        place.agent.kv_set("log", b"5\n")
        says("tail: 'log' has been replaced;  following new file\n5\n")
    place.holds({"log": b"5\n"})


def test_inotifywait(place):
    """Of changes on the same mount; those of `mkdir d; touch d/x` may come before d is watched, so d is there."""
    place.run("mkdir d")
    with running(place, "inotifywait -m -r -e create,modify,close_write,move,delete --format '%w%f %e' .") as output:
        wait_until(lambda: "established" in output.read_text(), "it watches")
        place.run("echo 1 > a; echo 2 >> a; mv a b; cp b d/c; sed -i s/1/x/ d/c; rm b; rm -r d; echo > end")
        wait_until(lambda: "./end CLOSE_WRITE" in output.read_text(), "all is told")
        said = output.read_text()
    for line in (
        *("./a CREATE", "./a MODIFY", "./a CLOSE_WRITE,CLOSE", "./a MOVED_FROM", "./b MOVED_TO", "./b DELETE"),
        *("./d/c CREATE", "./d/c CLOSE_WRITE,CLOSE", "./d/c MOVED_TO", "./d/c DELETE", "./d DELETE,ISDIR"),
    ):
        assert said.count(line + "\n") >= 1, f"no {line!r} in {said}"
    assert said.count("./a MODIFY\n") == 2 and said.count("./a CREATE\n") == 1
    place.holds({"end": b"\n"})


# nginx


NGINX = """
user root; worker_processes 1; pid {prefix}/pid; error_log {prefix}/errors notice;
events {{}}
http {{
    access_log off; client_body_temp_path {prefix}/t1; proxy_temp_path {prefix}/t2; fastcgi_temp_path {prefix}/t3;
    uwsgi_temp_path {prefix}/t4; scgi_temp_path {prefix}/t5;
    include {kv}/nginx/*.conf;
    server {{ listen {address}; root {kv}/www; location /answer {{ include {kv}/nginx/answer; }} }}
}}
"""


@pytest.fixture
def nginx(place):
    """The address of an nginx whose configuration and files are in kv/."""
    place.put(**{"nginx/answer": b'return 200 "one";\n', "nginx/more.conf": b"# nothing yet\n", "www/a.txt": b"a\n"})
    address = f"127.0.0.1:{free_ports('127.0.0.1', 1)[0]}"
    (place.home / "nginx.conf").write_text(NGINX.format(prefix=place.home, kv=place.kv, address=address))
    place.run("nginx -p $home -c $home/nginx.conf -e $home/errors")
    pid = int((place.home / "pid").read_text())
    yield address
    os.kill(pid, 15)
    wait_until(lambda: not (place.home / "pid").exists(), "nginx ends")


def get(address, path):
    answer = requests.get(f"http://{address}{path}", timeout=10)
    return answer.content if answer.ok else answer.status_code


def reload(place):
    place.run("nginx -p $home -c $home/nginx.conf -e $home/errors -s reload")


def test_nginx_reloads_what_was_changed_elsewhere(place, nginx):
    assert get(nginx, "/answer") == b"one"
    place.agent.kv_set("nginx/answer", b'return 200 "two";\n')
    wait_equal((place.kv / "nginx/answer").read_bytes, b'return 200 "two";\n')
    reload(place)
    wait_equal(lambda: get(nginx, "/answer"), b"two")
    wait_equal((place.there / "kv/nginx/answer").read_bytes, b'return 200 "two";\n')
    place.run("sed -i s/two/three/ $there/nginx/answer")
    wait_equal((place.kv / "nginx/answer").read_bytes, b'return 200 "three";\n')
    reload(place)
    wait_equal(lambda: get(nginx, "/answer"), b"three")
    # A configuration that is wrong changes nothing, as with files on a disk.
    place.agent.kv_set("nginx/more.conf", b"nonsense;\n")
    wait_equal((place.kv / "nginx/more.conf").read_bytes, b"nonsense;\n")
    place.run("nginx -p $home -c $home/nginx.conf -t 2> $home/said && exit 9; grep -q nonsense $home/said")
    os.kill(int((place.home / "pid").read_text()), signal.SIGHUP)
    wait_until(lambda: 'unknown directive "nonsense"' in (place.home / "errors").read_text(), "nginx has tried")
    wait_equal(lambda: get(nginx, "/answer"), b"three")  # the worker before that one may still be there


def test_nginx_serves_keys(place, nginx):
    big = os.urandom(300_000)
    place.agent.client.kv.put("www/big", big)
    wait_equal(lambda: get(nginx, "/big"), big)
    assert get(nginx, "/a.txt") == b"a\n" and get(nginx, "/none") == 404
    assert requests.get(f"http://{nginx}/big", headers={"Range": "bytes=5-9"}, timeout=10).content == big[5:10]
    seen = requests.get(f"http://{nginx}/a.txt", timeout=10).headers
    fresh = {"If-None-Match": seen["ETag"], "If-Modified-Since": seen["Last-Modified"]}
    assert requests.get(f"http://{nginx}/a.txt", headers=fresh, timeout=10).status_code == 304
    place.agent.kv_set("www/a.txt", b"another\n")
    wait_equal(lambda: get(nginx, "/a.txt"), b"another\n")
    place.run("mv www/a.txt www/b.txt")
    assert get(nginx, "/a.txt") == 404 and get(nginx, "/b.txt") == b"another\n"


# Other users


READS = """
set -e
cat d/a; ls -R d; stat -c '%a %U' d d/a; find d -type f; test -r d/a; test -x d; grep -r value d
tar -c d | tar -t; cp -r d $home/open/copy; diff -r d $home/open/copy; dd if=d/a bs=3 status=none
wc -c < d/a; md5sum < d/a; awk 1 d/a; sort d/a; head -c 2 d/a; tail -n 1 d/a; python3 -c 'print(open("d/a").read())'
"""

WRITES = [
    *("echo no > d/a", "echo no >> d/a", "echo no > d/new", "rm -f d/a", "mkdir d/new", "rmdir d", "mv d/a d/b"),
    *("mv d e", "touch d/a", "sed -i s/v/w/ d/a", "truncate -s 0 d/a", "cp d/a d/b", "chmod 600 d/a", "ln d/a d/b"),
]


@pytest.mark.parametrize("become", ["setpriv --reuid nobody --regid nogroup --clear-groups sh", "su -s /bin/sh nobody"])
def test_an_ordinary_user(mount, agent, tmp_path, become):
    """May read all that root may, in the same way, and change nothing."""
    place = Place(agent, mount(agent, allow_other=True), mount(agent), tmp_path / "home")
    place.put(**{"d/a": b"value\n", "d/sub/b": b"value\n"})
    # Who is nobody can't walk to where the tests are: everything is relative to where he begins.
    (place.home / "script").write_text(READS.replace("$home/open", "$1"))
    expected = place.run("mkdir $home/open && sh $home/script $home/open")
    out = tempfile.mkdtemp(prefix="consulfs-nobody.")
    try:
        os.chown(out, 65534, 65534)
        assert place.run(f"{become} -c 'sh -s {out}' < $home/script") == expected
    finally:
        shutil.rmtree(out)
    for write in WRITES:
        assert place.run(f"{become} -c '{write}' 2> $home/refused && echo done; true") == "", write
    place.holds({"d/a": b"value\n", "d/sub/b": b"value\n"})
