"""Job `redo`: the same log, replayed by the server from each contestant's repository. The data directory, the settings and
the target are the same; only the restore_command differs."""

import json
import re
import subprocess
from pathlib import Path

from . import machine
from .pgbackrest import PgBackRest
from .postgres import SETTINGS, Server
from .tidemark import FileRepository, S3Repository, Tidemark

CLIENTS = 4
TRANSACTIONS = 25_000
REDO_DONE = re.compile(r"redo done at \S+ system usage: CPU: user: ([\d.]+) s, system: ([\d.]+) s, elapsed: ([\d.]+) s")


def run(workshop, dataset, store, repetitions, results):
    plain = workshop.directory("plain-wal")
    pgbackrest = PgBackRest(workshop)
    on_file = Tidemark(workshop, FileRepository(workshop))
    on_s3 = Tidemark(workshop, S3Repository(store))
    end = make_log(workshop, dataset, plain, pgbackrest, [on_file, on_s3])

    base, base_s3 = workshop.scratch / "base", workshop.scratch / "base-s3"
    on_file.restore_to("--target-lsn", end, base)
    on_s3.restore_to("--target-lsn", end, base_s3)
    data = workshop.scratch / "replayed"
    for _ in range(repetitions):
        replay(workshop, base, f"cp {plain}/%f %p", results, ("cp", "file"))
        pgbackrest.forget_fetched()
        replay(workshop, base, pgbackrest.restore_command(data), results, ("pgBackRest", "file"))
        # None: the restored directory's own restore_command.
        replay(workshop, base, None, results, ("Tidemark, wal-get alone", "file"))
        replay(workshop, base_s3, None, results, ("Tidemark, wal-get alone", "s3"))
        for contestant in (on_file, on_s3):
            replay_started(workshop, contestant, end, results)
    for directory in (base, base_s3, data):
        Tidemark.remove_restored(directory)


def make_log(workshop, dataset, plain, pgbackrest, tidemarks):
    """One load, archived by all; returns where its last commit ends."""
    push = " ".join(map(str, pgbackrest.command))
    settings = f"archive_mode = on\narchive_command = 'cp %p {plain}/%f && {push} archive-push %p'\n"
    with Server.on_copy(workshop, dataset.cluster, settings) as server:
        pgbackrest.attach(server)
        try:
            for tidemark in tidemarks:
                tidemark.attach(server)
            load(server, dataset)
            end = server.sql("CREATE TABLE last (i int)", "SELECT pg_current_wal_flush_lsn()")
            last = server.end_segment()
            machine.wait_for("the archiver", lambda: server.sql(
                f"SELECT 1 FROM pg_stat_archiver WHERE last_archived_wal >= '{last}'"), 900)
            server.stop()
        finally:
            for tidemark in tidemarks:
                tidemark.stop()
    return end


def load(server, dataset):
    """A fixed number of transactions, so that each run of the benchmark replays the same amount."""
    command = machine.as_server_user(server.bin / "pgbench", *server.connection, "-n", "-c", CLIENTS, "-j", 1, "-t",
                                     max(100, int(TRANSACTIONS * dataset.scale)), "--random-seed=42", "postgres")
    pgbench = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server.sql(dataset.bulk_insert)
    if pgbench.wait() != 0:
        raise RuntimeError(f"pgbench ended with {pgbench.returncode}")


def replay(workshop, base, restore_command, results, key):
    """Starts the server on a copy of the base; the time is what the server itself says of its redo."""
    data = workshop.scratch / "replayed"
    machine.copy_tree(base, data)
    # Nothing that an earlier round fetched ahead may be left.
    for fetched in (Path(f"{base}.tidemark") / "wal").iterdir():
        fetched.unlink()
    with open(data / "postgresql.auto.conf", "a") as settings:
        settings.write(SETTINGS.format(port=workshop.first_port, socket=workshop.scratch / "socket"))
        settings.write("archive_mode = off\nrecovery_target_action = promote\n")
        if restore_command:
            settings.write(f"restore_command = '{restore_command}'\n")
    with Server(workshop, data, extra=None) as server:
        elapsed = float(REDO_DONE.search(server.wait_ready())[3])
        results.add("redo", key, wall_s=elapsed, cpu_s=server.cgroup.cpu_seconds())


def replay_started(workshop, tidemark, end, results):
    """The way that people take: one command lays the files down, feeds the server ahead of its needs, and checks."""
    data = workshop.scratch / "replayed"
    measured = tidemark.restore_to("--target-lsn", end, data, options=["--start", "--action", "shutdown"])
    phases = json.loads(measured.output)["phases"]
    results.add("redo", ("Tidemark, restore --start", tidemark.store), wall_s=phases["start"] + phases["replay"],
                command_cpu_s=measured.cpu_s, command_wall_s=measured.wall_s)
