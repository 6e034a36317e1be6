"""pgBackRest: bundled, block-incremental, asynchronous archiving, as one would set it up for speed."""

import json

from . import machine
from .meter import measure

CONFIGURATION = """
[global]
repo1-path={repository}
repo1-bundle=y
repo1-block=y
repo1-retention-full=20
compress-type=zst
compress-level={level}
process-max={workers}
start-fast=y
archive-async={asynchronous}
spool-path={directory}/spool
lock-path={directory}/lock
log-path={directory}/log
log-level-console=warn
log-level-file=off
[main]
pg1-path={data}
pg1-socket-path={socket}
pg1-port={port}
pg1-user=postgres
"""


class PgBackRest:
    """A stanza on a directory of this machine."""

    name = "pgBackRest"
    store = "file"
    application = None

    def __init__(self, workshop, asynchronous=True):
        self._workshop = workshop
        self._asynchronous = asynchronous
        self._directory = workshop.directory("pgbackrest")
        self._repository = self._directory / "repository"
        for name in ("repository", "spool", "lock", "log"):
            workshop.directory("pgbackrest", name)
        self._configuration = self._directory / "pgbackrest.conf"
        self.command = [workshop.programs.pgbackrest, f"--config={self._configuration}", "--stanza=main"]

    @property
    def server_settings(self):
        """What the server's configuration must say."""
        push = " ".join(map(str, [*self.command, "archive-push", "%p"]))
        return f"archive_mode = on\narchive_command = '{push}'\n"

    def restore_command(self, data):
        """A restore_command for a copy of the cluster at `data`."""
        return " ".join(map(str, [*self.command, f"--pg1-path={data}", "archive-get", "%f", '"%p"']))

    def attach(self, server):
        """Makes the stanza; the server runs with `server_settings`."""
        machine.write(self._configuration, CONFIGURATION.format(
            repository=self._repository, directory=self._directory, level=self._workshop.level,
            workers=self._workshop.workers, asynchronous="y" if self._asynchronous else "n", data=server.data,
            socket=server.socket, port=server.port))
        machine.run(*self.command, "stanza-create")

    def archived(self):
        """Bytes of stored log."""
        return machine.stored_bytes(self._repository / "archive")

    def back_up(self, server, kind):
        """A backup, "full" or "incr"; returns what it took, its label, and the bytes it added."""
        before = machine.stored_bytes(self._repository / "backup")
        measured = measure(machine.as_server_user(*self.command, "backup", f"--type={kind}"), {"server": server.cgroup})
        info = json.loads(machine.run(*self.command, "info", "--output=json"))
        label = info[0]["backup"][-1]["label"]
        return measured, label, machine.stored_bytes(self._repository / "backup") - before

    def full(self, server):
        return self.back_up(server, "full")

    def incremental(self, server):
        return self.back_up(server, "incr")

    def restore(self, label, target):
        """Restores a backup into `target`; the server that is then started on it ends recovery as soon as it may."""
        machine.make_directory(target)
        return measure(machine.as_server_user(*self.command, "restore", f"--set={label}", f"--pg1-path={target}",
                                              "--archive-mode=off", "--type=immediate", "--target-action=promote"))

    def forget_fetched(self):
        """Empties the spool, so that the next recovery fetches everything again."""
        self._workshop.directory("pgbackrest", "spool")

    def stop(self):
        """Nothing runs on."""
