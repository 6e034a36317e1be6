"""Job `sync`: what commits cost that wait until they are durable elsewhere."""

import re

from . import machine
from .postgres import Server
from .postgres_tools import PgReceiveWal
from .tidemark import FileRepository, S3Repository, Tidemark

CLIENTS = 16
COMMITS = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
LATENCY = re.compile(r"^latency average = ([\d.]+) ms", re.MULTILINE)


def run(workshop, dataset, store, repetitions, results, seconds):
    makers = [lambda: PgReceiveWal(workshop, synchronous=True),
              lambda: Tidemark(workshop, FileRepository(workshop), synchronous=True),
              lambda: Tidemark(workshop, S3Repository(store), synchronous=True)]
    for _ in range(repetitions):
        for make in makers:
            contestant = make()
            with Server.on_copy(workshop, dataset.cluster) as server:
                contestant.attach(server)
                try:
                    compare(server, contestant, results, seconds)
                finally:
                    contestant.stop()


def compare(server, contestant, results, seconds):
    """The same server once without waiting, once with."""
    note(results, ("no waiting", ""), server, seconds)
    server.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{contestant.application}'", "SELECT pg_reload_conf()")
    machine.wait_for("a synchronous standby", lambda: server.sql(
        "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), 60)
    note(results, (contestant.name, contestant.store), server, seconds)
    server.sql("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")


def note(results, key, server, seconds):
    """Without the updates of pgbench's few branches and tellers, whose locks would be waited for instead of commits."""
    text = machine.run(server.bin / "pgbench", *server.connection, "-n", "-N", "-c", CLIENTS, "-j", 1, "-T", seconds,
                       "--random-seed=42", "postgres")
    results.add("sync", key, commits_per_s=float(COMMITS.search(text)[1]), latency_ms=float(LATENCY.search(text)[1]))
