"""Job `plan`: `list` and `plan` over a million stored objects of log. All but the first few are names only: planning
reads names, and the few objects around its stop point, which lies in the real ones."""

import secrets

from . import machine
from .postgres import Server
from .tidemark import SERVER, FileRepository, Tidemark

GRAIN = 16 * 1024 * 1024
# Of the first name's commits, in microseconds since 1970: far ahead, as the log's times must not go back. A second each.
FIRST_TIME = 4_000_000_000_000_000


def run(workshop, dataset, repetitions, results, objects):
    repository = FileRepository(workshop)
    tidemark = Tidemark(workshop, repository)
    with Server.on_copy(workshop, dataset.cluster) as server:
        tidemark.attach(server)
        try:
            position = server.sql("CREATE TABLE little (i int)", "SELECT pg_current_wal_flush_lsn()")
            ended = server.end_segment()
            machine.wait_for("the log to be durable", lambda: finished_slice(repository, ended))
        finally:
            tidemark.stop()
    extend(finished_slice(repository, ended), objects)
    # The target lies in the real log: its end is known when all names are joined.
    commands = {"list": ["list"], "plan": ["plan", "--server", SERVER, "--target-lsn", position]}
    for _ in range(repetitions):
        for name, arguments in commands.items():
            measured = tidemark.planning(*arguments)
            results.add("plan", (f"Tidemark, {name}", "file"), objects=objects, wall_s=measured.wall_s, cpu_s=measured.cpu_s,
                        rss_mib=measured.rss_mib)


def finished_slice(repository, segment):
    """The path of the slice with which the segment of this name ends, or None."""
    number = int(segment[8:16], 16) * 256 + int(segment[16:], 16)
    branch = repository.directory / "servers" / SERVER / "0001" / "log" / segment[:8]
    return next(branch.glob(f"{number:016X}-*e*.zst"), None)


def extend(last, objects):
    """Replaces what follows the slice at `last` by the names of a log that goes on there, a slice for each segment."""
    fields = last.name.removesuffix(".zst").split("-")
    file, end_hash, time = int(fields[0], 16) + 1, fields[4], FIRST_TIME
    for later in last.parent.iterdir():
        if int(later.name.split("-")[0], 16) >= file:
            later.unlink()
    for number in range(objects):
        next_hash = secrets.token_hex(8)
        times = f"{time:016x}-{time + 999_999:016x}"
        name = f"{file + number:016X}-{0:010X}-{GRAIN:010X}-{end_hash}-{next_hash}-0-{times}-e.zst"
        (last.parent / name).touch()
        end_hash, time = next_hash, time + 1_000_000
