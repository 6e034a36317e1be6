"""The server's own tools: pg_basebackup, pg_combinebackup, pg_receivewal. They sync nothing here."""

import subprocess

from . import machine
from .meter import Daemon, measure

UNPACK = """
set -e
unpack() {
    mkdir -m 700 "$2"
    zstd -q -dc "$1/base.tar.zst" | tar -x -C "$2"
    tar -x -C "$2/pg_wal" -f "$1"/pg_wal.tar*
    cp "$1/backup_manifest" "$2/"
}
target=$1 combine=$2; shift 2
if [ $# = 1 ]; then unpack "$1" "$target"; rm "$target/backup_manifest"; exit; fi
parts=()
for backup in "$@"; do unpack "$backup" "$target.${#parts[@]}"; parts+=("$target.${#parts[@]}"); done
"$combine" --no-sync "${parts[@]}" -o "$target"
rm "$target/backup_manifest"
"""


class PgBaseBackup:
    """pg_basebackup as tar files, compressed by the client; the server must have summarize_wal on."""

    name = "pg_basebackup"
    store = "file"

    def __init__(self, workshop):
        self._bin = workshop.programs.postgres
        self._compression = f"client-zstd:level={workshop.level},workers={workshop.workers}"
        self._repository = workshop.directory("pg_basebackup")
        self._unpack = machine.write(self._repository / "unpack.sh", UNPACK)
        self._taken = 0
        self._chains = {}

    def attach(self, server):
        """Needs nothing."""

    def _back_up(self, server, parents, *options):
        self._taken += 1
        name = f"{self._taken:03}"
        directory = self._repository / name
        measured = measure(machine.as_server_user(
            self._bin / "pg_basebackup", *server.connection, "-D", directory, "-Ft", "-X", "stream", "--checkpoint=fast",
            "--no-sync", f"--compress={self._compression}", *options), {"server": server.cgroup})
        self._chains[name] = [*parents, directory]
        return measured, name, machine.stored_bytes(directory)

    def full(self, server):
        return self._back_up(server, [])

    def incremental(self, server):
        parents = self._chains[f"{self._taken:03}"]
        return self._back_up(server, parents, f"--incremental={parents[-1] / 'backup_manifest'}")

    def restore(self, name, target):
        """Unpacks, and combines where there is more than one."""
        machine.remove(target)
        for number in range(len(self._chains[name])):
            machine.remove(f"{target}.{number}")
        measured = measure(machine.as_server_user("bash", self._unpack, target, self._bin / "pg_combinebackup",
                                                  *self._chains[name]))
        for number in range(len(self._chains[name])):
            machine.remove(f"{target}.{number}")
        return measured

    def stop(self):
        """Nothing runs on."""


class PgReceiveWal:
    """pg_receivewal, uncompressed: the least that streaming can cost."""

    name = "pg_receivewal"
    store = "file"
    application = "pg_receivewal"
    server_settings = ""

    def __init__(self, workshop, synchronous=False):
        self._workshop = workshop
        self._directory = workshop.directory("pg_receivewal")
        self._durability = "--synchronous" if synchronous else "--no-sync"
        self._daemon = None

    def attach(self, server):
        receive = machine.as_server_user(server.bin / "pg_receivewal", *server.connection, "--slot", "receivewal")
        subprocess.run([*receive, "--create-slot"], check=True)
        # Only with a slot does it tell the server how far it has got: whole segments.
        command = [*receive, "-D", self._directory, self._durability, "--status-interval", "1"]
        self._daemon = Daemon("receiver", command, self._workshop.scratch / "pg_receivewal.log")
        machine.wait_for("pg_receivewal", lambda: server.sql("SELECT 1 FROM pg_stat_replication"))

    @property
    def cgroup(self):
        return self._daemon.cgroup

    def archived(self):
        return machine.stored_bytes(self._directory)

    def stop(self):
        self._daemon.stop()
