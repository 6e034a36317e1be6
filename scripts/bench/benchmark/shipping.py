"""Job `ship`: the log that pgbench and a bulk insert write, shipped by each contestant in turn from a fresh copy of the
cluster: CPU time per gigabyte, memory, and how long a commit waits until it is durable elsewhere."""

import signal
import subprocess
import time

from . import machine
from .meter import Cgroup, MemoryWatch
from .pgbackrest import PgBackRest
from .postgres import Server
from .postgres_tools import PgReceiveWal
from .tidemark import FileRepository, S3Repository, Tidemark

CLIENTS = 4
# Transactions a second: a rate that leaves the machine some idle time, so that all contestants get the same log.
RATE = 800
SECONDS_BEFORE_BULK = 5
IDLE_SECONDS = 10
SEGMENT_BYTES = 16 * 1024 * 1024
GIGABYTE = 1e9

# How far the log is on the server's disk, and how far it is durable elsewhere.
BY_STREAM = ("SELECT extract(epoch FROM clock_timestamp()), pg_current_wal_flush_lsn() - '0/0', "
             "(SELECT flush_lsn - '0/0' FROM pg_stat_replication WHERE application_name = '{application}' LIMIT 1)")
BY_ARCHIVER = ("SELECT extract(epoch FROM clock_timestamp()), pg_current_wal_flush_lsn() - '0/0', "
               "(SELECT last_archived_wal FROM pg_stat_archiver)")


class LagWatch:
    """Samples both positions many times a second over one session."""

    def __init__(self, server, contestant, output):
        query = BY_STREAM.format(application=contestant.application) if contestant.application else BY_ARCHIVER
        self.query = query
        self._server = server
        self._output = output
        command = machine.as_server_user(server.bin / "psql", "-X", "-q", "-At", *server.connection, "postgres")
        with open(output, "w") as sink:
            self._process = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=sink, text=True,
                                             start_new_session=True)
        self._process.stdin.write(query + " \\watch 0.02\n")
        self._process.stdin.flush()

    def durable(self):
        """How far the log is durable now."""
        return durable_position(self._server.sql(self.query).split("|")[2])

    def stop(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        samples = []
        for line in open(self._output):
            fields = line.rstrip("\n").split("|")
            # The last line may be cut off.
            if len(fields) == 3 and line.endswith("\n"):
                samples.append((float(fields[0]), int(fields[1]), durable_position(fields[2])))
        return samples


def durable_position(text):
    """Of an LSN as a number, or of the name of a segment that is archived to its end."""
    if len(text) == 24:
        number = int(text[8:16], 16) * (0x100000000 // SEGMENT_BYTES) + int(text[16:], 16)
        return (number + 1) * SEGMENT_BYTES
    return int(text) if text.isdigit() else 0


def lags(samples):
    """How long each new end of the log waited to be durable. Those that never were are left out: the load is followed
    by a switch of segments and a wait."""
    waited, later, known = [], 0, 0
    for when, written, _ in samples:
        if written <= known:
            continue
        known = written
        while later < len(samples) and samples[later][2] < written:
            later += 1
        if later == len(samples):
            break
        waited.append(max(0.0, samples[later][0] - when))
    return sorted(waited)


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(workshop, dataset, store, repetitions, results, seconds):
    makers = [lambda: PgBackRest(workshop), lambda: PgReceiveWal(workshop),
              lambda: Tidemark(workshop, FileRepository(workshop)), lambda: Tidemark(workshop, S3Repository(store))]
    for _ in range(repetitions):
        for make in makers:
            contestant = make()
            with Server.on_copy(workshop, dataset.cluster, contestant.server_settings) as server:
                contestant.attach(server)
                try:
                    measure_shipping(workshop, server, contestant, dataset, results, seconds)
                finally:
                    contestant.stop()


def worker_cgroup(server, contestant):
    """Where the contestant's work is counted: its daemon, or the archiver with all that it starts."""
    if contestant.application:
        return contestant.cgroup, None
    archiver = Cgroup("archiver")
    archiver.add(int(server.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'")))
    return archiver, archiver


def measure_shipping(workshop, server, contestant, dataset, results, seconds):
    cgroup, to_remove = worker_cgroup(server, contestant)
    stored = contestant.archived()
    cpu, sender = cgroup.cpu_seconds(), sender_seconds(server, contestant)
    begin = server.position()
    watch = LagWatch(server, contestant, workshop.scratch / "lag")
    with MemoryWatch(cgroup) as memory:
        load(server, dataset, seconds)
        written = server.position() - begin
        drained = drain(server, watch)
    # The watch itself goes on the server's account.
    samples = watch.stop()
    used = cgroup.cpu_seconds() - cpu
    sender = sender_seconds(server, contestant) - sender
    ordered = lags(samples)
    machine.wait_for("stored log", lambda: contestant.archived() > stored)
    idle = cgroup.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    idle = (cgroup.cpu_seconds() - idle) / IDLE_SECONDS
    key = contestant.name, contestant.store
    results.add("ship", key, log_gb=written / GIGABYTE, cpu_s=used, cpu_s_per_gb=used / written * GIGABYTE,
                sender_cpu_s_per_gb=sender / written * GIGABYTE if contestant.application else None,
                lag_p50_s=percentile(ordered, 0.5), lag_p99_s=percentile(ordered, 0.99), drain_s=drained,
                rss_mib=memory.peak_mib, idle_cpu_percent=idle * 100, stored_mb=(contestant.archived() - stored) / 1e6)
    if to_remove:
        server.stop()
        to_remove.remove()


def sender_seconds(server, contestant):
    return server.walsender_cpu_seconds(contestant.application) if contestant.application else 0.0


def load(server, dataset, seconds):
    """pgbench at a fixed rate, with a bulk insert in the midst of it."""
    command = machine.as_server_user(server.bin / "pgbench", *server.connection, "-n", "-c", CLIENTS, "-j", 1, "-T", seconds,
                                     "-R", RATE, "--random-seed=42", "postgres")
    pgbench = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(min(SECONDS_BEFORE_BULK, seconds / 2))
        server.sql(dataset.bulk_insert)
    finally:
        if pgbench.wait() != 0:
            raise RuntimeError(f"pgbench ended with {pgbench.returncode}")


def drain(server, watch):
    """Waits until all of the log is durable; returns how long that took."""
    begin = time.monotonic()
    end = server.position()
    server.end_segment()
    machine.wait_for("the log to be durable", lambda: watch.durable() >= end, 300, 0.05)
    return time.monotonic() - begin
