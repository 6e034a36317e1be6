"""Tidemark on a repository in a directory or in an S3 store."""

import json
import subprocess

from . import garage, machine
from .meter import Daemon, measure

SERVER = "bench"
CONFIGURATION = """
[repository]
url = "{url}"
{store}
[[server]]
name = "{server}"
engine = "postgresql"
url = "{server_url}"
data_directory = "{data}"
slot = "tidemark_{kind}"
application_name = "tidemark_{kind}"
synchronous = {synchronous}

[server.base_backup]
schedule = "0 0 29 2 *"         # none by itself but the first
level = {level}
jobs = {workers}
"""


class FileRepository:
    """A directory of this machine."""

    kind = "file"
    cgroup = None

    def __init__(self, workshop):
        self.directory = workshop.directory("repository")
        self.url = f"file://{self.directory}"
        self.configuration = ""
        self.options = []


class S3Repository:
    """A fresh prefix in the bucket of a running Garage."""

    kind = "s3"
    _made = 0

    def __init__(self, store):
        S3Repository._made += 1
        self.cgroup = store.cgroup
        self.url = f"s3://{garage.BUCKET}/repository-{S3Repository._made}"
        self.configuration = f'endpoint = "{store.endpoint}"\nregion = "{garage.REGION}"\npath_style = true\n'
        self.options = ["--endpoint", store.endpoint, "--region", garage.REGION]


class Tidemark:
    """An agent, and restores from what it stored."""

    name = "Tidemark"
    server_settings = ""

    def __init__(self, workshop, repository, synchronous=False):
        self.store = repository.kind
        self.application = f"tidemark_{repository.kind}"
        self._workshop = workshop
        self._repository = repository
        self._synchronous = synchronous
        self._directory = workshop.directory(f"tidemark-{repository.kind}")
        self._configuration = self._directory / "agent.toml"
        self._from = ["--repository", repository.url, *repository.options]
        self._agent = None

    def attach(self, server):
        """Configures the agent, lets it take its first base backup, and starts it anew: what then runs only streams."""
        repository = self._repository
        machine.write(self._configuration, CONFIGURATION.format(
            url=repository.url, store=repository.configuration, server=SERVER, server_url=server.url, data=server.data,
            kind=repository.kind, synchronous=str(self._synchronous).lower(), level=self._workshop.level,
            workers=self._workshop.workers))
        self._start(server)
        machine.wait_for("the first base backup", self._has_backup, 1800, 1)
        self._agent.stop()
        self._start(server)

    def _start(self, server):
        command = machine.as_server_user(self._workshop.programs.agent, "run", "--config", self._configuration)
        self._agent = Daemon(f"agent-{self.store}", command, self._directory / "agent.log")
        machine.wait_for("the agent to stream", lambda: self._is_streaming(server), 120)

    def _is_streaming(self, server):
        self._agent.check_running()
        return server.sql(f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{self.application}'")

    def _has_backup(self):
        self._agent.check_running()
        return any(generation["base_backups"] for generation in self.list())

    @property
    def cgroup(self):
        return self._agent.cgroup

    def _restore_tool(self, *arguments):
        return machine.as_server_user(self._workshop.programs.restore, *arguments)

    def list(self):
        """What `list --json` says; nothing while there is no repository yet."""
        done = subprocess.run(self._restore_tool("list", *self._from, "--json"), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
        return json.loads(done.stdout) if done.returncode == 0 else []

    def _back_up(self, server, *options):
        beside = {"server": server.cgroup, "agent": self.cgroup}
        if self._repository.cgroup:
            beside["store"] = self._repository.cgroup
        before = self.base_stored_bytes()
        measured = measure(machine.as_server_user(self._workshop.programs.agent, "backup", "--config",
                                                  self._configuration, "--server", SERVER, *options), beside)
        # A commit of its own to restore to: nothing changes up to it, and recovery can stop at it.
        target = server.sql("SELECT pg_logical_emit_message(true, '', '')", "SELECT pg_current_wal_insert_lsn()").split()[-1]
        return measured, target, self.base_stored_bytes() - before

    def base_stored_bytes(self):
        """Bytes of base backups. From S3 they are not told apart: what the file repository holds is the same."""
        if self.store != "file":
            return 0
        return machine.stored_bytes(self._repository.directory / "servers" / SERVER / "0001" / "base")

    def archived(self):
        """Bytes of stored log."""
        return sum(branch["stored_bytes"] for generation in self.list() for branch in generation["branches"])

    def full(self, server):
        return self._back_up(server, "--full")

    def incremental(self, server):
        return self._back_up(server)

    def restore(self, target, directory):
        """Restores to where the log ended just after a base backup."""
        return self.restore_to("--target-lsn", target, directory)

    def restore_to(self, *target, options=()):
        """Restores to a target, given by an option and its value; the directory comes last."""
        *target, directory = target
        self.remove_restored(directory)
        return measure(self._restore_tool("restore", *self._from, "--server", SERVER, *target, "--to", directory, "--jobs",
                                          self._workshop.workers, "--pg-bin", self._workshop.programs.postgres, "--json",
                                          *options))

    @staticmethod
    def remove_restored(directory):
        machine.remove(directory)
        machine.remove(f"{directory}.tidemark")

    def planning(self, *arguments):
        """`list` or `plan`, measured."""
        return measure(self._restore_tool(*arguments[:1], *self._from, *arguments[1:]))

    def stop(self):
        if self._agent:
            self._agent.stop()
            self._agent = None
