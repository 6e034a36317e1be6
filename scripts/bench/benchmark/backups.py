"""Jobs `backup` and `restore`: full base backups, incremental ones after one percent of the rows changed, and restores
of both. All contestants work on one server, in turn, so that a noisy minute hits them alike."""

import subprocess

from . import machine
from .dataset import change_one_percent
from .pgbackrest import PgBackRest
from .postgres import Server
from .postgres_tools import PgBaseBackup
from .tidemark import FileRepository, S3Repository, Tidemark


class Taken:
    """A backup of a contestant, and what the cluster held when it was taken."""

    def __init__(self, contestant, name, digest):
        self.contestant = contestant
        self.name = name
        self.digest = digest


def key(contestant):
    return contestant.name, contestant.store


def run(workshop, dataset, store, repetitions, results, with_restores):
    """Takes the backups, and restores the last full and the first incremental ones."""
    pgbackrest = PgBackRest(workshop)
    contestants = [pgbackrest, PgBaseBackup(workshop), Tidemark(workshop, FileRepository(workshop)),
                   Tidemark(workshop, S3Repository(store))]
    try:
        with Server.on_copy(workshop, dataset.cluster, pgbackrest.server_settings + "summarize_wal = on\n") as server:
            for contestant in contestants:
                contestant.attach(server)
            fulls = back_up(server, contestants, "full", repetitions, results)
            incrementals = []
            for number in range(repetitions):
                change_one_percent(server, number)
                incrementals += back_up(server, contestants, "incremental", 1, results)
            for contestant in contestants:
                contestant.stop()
            server.stop()
        if with_restores:
            for taken in fulls[-len(contestants):]:
                restore(workshop, taken, "restore full", repetitions, results)
            for taken in incrementals[:len(contestants)]:
                restore(workshop, taken, "restore full + incremental", repetitions, results)
    finally:
        for contestant in contestants:
            contestant.stop()


def back_up(server, contestants, kind, repetitions, results):
    digest = server.digest()
    taken = []
    for _ in range(repetitions):
        for contestant in contestants:
            back_up_once = contestant.full if kind == "full" else contestant.incremental
            measured, name, stored = back_up_once(server)
            results.add_measured(kind, key(contestant), measured, stored)
            taken.append(Taken(contestant, name, digest))
    return taken


def restore(workshop, taken, job, repetitions, results):
    """Restores, and at the end starts the server on it to look at the rows."""
    target = workshop.scratch / "restored"
    for _ in range(repetitions):
        measured = taken.contestant.restore(taken.name, target)
        # Others leave their pages to the kernel, which would write them during the next restore.
        subprocess.run(["sync"], check=True)
        results.add_measured(job, key(taken.contestant), measured)
    with Server(workshop, target, extra=None) as server:
        server.wait_ready()
        found = server.digest()
    if found != taken.digest:
        raise RuntimeError(f"{taken.contestant.name} restored {found} instead of {taken.digest}")
    Tidemark.remove_restored(target)
    machine.remove(target)
