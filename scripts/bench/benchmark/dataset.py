"""The database that everything is measured on: a seed makes the same one again.

Three parts that compress differently: pgbench's accounts (well), rows of random hexadecimal text (by half), random
binary values stored out of line (not at all). About 3.6 GB at scale 1.
"""

import json
import random

from . import machine
from .postgres import Server

SEED = 42
PGBENCH_SCALE = 100
TEXT_BYTES = 1_500_000_000
BINARY_BYTES = 250_000_000
TEXT_ROW_BYTES = 1064
BINARY_ROW_BYTES = 6150
BULK_ROWS = 920_000


class Dataset:
    """A cluster, shut down, that jobs copy; made once for each scale and kept."""

    def __init__(self, workshop, directory, scale):
        self.scale = scale
        self.directory = directory / f"scale-{scale:g}"
        self.cluster = self.directory / "cluster"
        if not (self.directory / "complete").exists():
            self._make(workshop)
        self.bytes = machine.stored_bytes(self.cluster / "base", self.cluster / "global")

    def _make(self, workshop):
        machine.make_directory(self.directory)
        programs = workshop.programs.postgres
        machine.run(programs / "initdb", "-D", self.cluster, "-U", "postgres", "--auth=trust", "--encoding=UTF8",
                    "--locale=C.UTF-8", "--no-sync", "--data-checksums")
        # Loading with minimal WAL: what is left of the log would be copied with every backup.
        with Server(workshop, self.cluster, "wal_level = minimal\nmax_wal_senders = 0\n") as server:
            pgbench_scale = max(1, round(PGBENCH_SCALE * self.scale))
            machine.run(programs / "pgbench", *server.connection, "-i", "-q", "-s", pgbench_scale, "postgres")
            server.sql("CREATE TABLE text_rows (id int, body text)",
                       "CREATE TABLE binary_rows (id int, body bytea)",
                       "ALTER TABLE binary_rows ALTER body SET STORAGE EXTERNAL")
            server.copy_in("text_rows", text_rows(self.scale))
            server.copy_in("binary_rows", binary_rows(self.scale))
            server.sql("ALTER TABLE text_rows ADD PRIMARY KEY (id)", "ALTER TABLE binary_rows ADD PRIMARY KEY (id)",
                       "VACUUM (FREEZE, ANALYZE)", "CHECKPOINT")
            server.stop()
        # Once more as it will be used, so that the control file says so.
        with Server(workshop, self.cluster) as server:
            server.stop()
        self._drop_old_log(programs)
        (self.directory / "complete").write_text(json.dumps({"seed": SEED, "scale": self.scale}))

    def _drop_old_log(self, programs):
        """Recycled segments are ballast: only the one with the checkpoint is kept."""
        facts = machine.run(programs / "pg_controldata", "-D", self.cluster)
        needed = next(line.split()[-1] for line in facts.splitlines() if "REDO WAL file" in line)
        for entry in (self.cluster / "pg_wal").iterdir():
            if entry.is_file() and entry.name != needed:
                entry.unlink()

    @property
    def bulk_insert(self):
        """A statement that writes about a gigabyte of log at scale 1."""
        return f"CREATE TABLE bulk AS SELECT id, body FROM text_rows LIMIT {int(BULK_ROWS * self.scale)}"


def text_rows(scale):
    source = random.Random(SEED)
    for number in range(1, int(TEXT_BYTES * scale / TEXT_ROW_BYTES) + 1):
        yield f"{number}\t{source.randbytes(512).hex()}\n"


def binary_rows(scale):
    source = random.Random(SEED + 1)
    for number in range(1, int(BINARY_BYTES * scale / BINARY_ROW_BYTES) + 1):
        yield f"{number}\t\\\\x{source.randbytes(6000).hex()}\n"


def change_one_percent(server, round_number):
    """Changes each hundredth text row, another hundredth in each round, and puts it on disk."""
    server.sql(f"UPDATE text_rows SET body = reverse(body) WHERE id % 100 = {7 + round_number}", "CHECKPOINT")
