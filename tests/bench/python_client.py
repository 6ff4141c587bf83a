"""python_client.py HOST PORT KEY CLIENTS OPERATIONS SECONDS: as hammer's `get`, by python3-consul. KEY/ is a prefix."""

import json
import multiprocessing
import statistics
import sys
import time

import consul


def client(host, port, key, operations, seconds, barrier, answers):
    kv = consul.Consul(host=host, port=port).kv
    times = []
    kv.get(key)  # connects
    barrier.wait()
    end = time.monotonic() + seconds
    while len(times) < operations or (not operations and time.monotonic() < end):
        began = time.perf_counter_ns()
        kv.get(key, recurse=key.endswith("/"))
        times.append(time.perf_counter_ns() - began)
    answers.put(times)


def main(host, port, key, clients, operations, seconds):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(int(clients) + 1), context.Queue()
    arguments = (host, int(port), key, int(operations), float(seconds), barrier, answers)
    processes = [context.Process(target=client, args=arguments, daemon=True) for _ in range(int(clients))]
    for process in processes:
        process.start()
    barrier.wait()
    began = time.perf_counter_ns()
    times = sorted(ns for _ in processes for ns in answers.get())
    wall = time.perf_counter_ns() - began
    found = {"operations": len(times), "errors": 0, "wall": wall, "p50": statistics.median(times)}
    print(json.dumps({**found, "p99": times[len(times) * 99 // 100]}))


main(*sys.argv[1:])
