"""A PostgreSQL server of our own, on a socket in the scratch space."""

import subprocess
import time

from . import machine
from .meter import Cgroup, process_cpu_seconds

# Without fsync the server's own disk traffic does not drown what is measured; checkpoints come when we ask for them.
SETTINGS = """
listen_addresses = ''
port = {port}
unix_socket_directories = '{socket}'
wal_level = replica
max_wal_senders = 10
shared_buffers = 1GB
max_wal_size = 8GB
checkpoint_timeout = 1h
fsync = off
jit = off
autovacuum = off
"""


class Server:
    """A server on `data`, counted in a cgroup of its own. With `extra` None it keeps the settings that it has, which
    come from another server of ours."""

    def __init__(self, workshop, data, extra=""):
        self.bin = workshop.programs.postgres
        self.data = data
        self.port = workshop.first_port
        self.socket = workshop.directory("socket")
        self.log = workshop.scratch / "server.log"
        self.cgroup = Cgroup("server")
        if extra is not None:
            machine.write(data / "postgresql.auto.conf", SETTINGS.format(port=self.port, socket=self.socket) + extra)

    @classmethod
    def on_copy(cls, workshop, source, extra=""):
        """A server on a fresh copy of a cluster that is shut down."""
        data = workshop.scratch / "data"
        machine.copy_tree(source, data)
        return cls(workshop, data, extra)

    @property
    def url(self):
        return f"postgresql://postgres@/postgres?host={self.socket}&port={self.port}"

    @property
    def connection(self):
        """Options for the server's own client programs."""
        return ["-h", str(self.socket), "-p", str(self.port), "-U", "postgres"]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop("immediate")
        self.cgroup.remove()

    def start(self):
        machine.write(self.log, "")
        command = machine.as_server_user(self.bin / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "900", "-s",
                                         "start")
        subprocess.run(command, cwd="/", check=True, preexec_fn=self.cgroup.enter)

    def stop(self, mode="fast"):
        if (self.data / "postmaster.pid").exists():
            machine.run(self.bin / "pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "300", "-s", "stop")

    def sql(self, *statements):
        """Runs statements; returns the unaligned output."""
        commands = [word for statement in statements for word in ("-c", statement)]
        return machine.run(self.bin / "psql", "-X", "-q", "-At", *self.connection, "-v", "ON_ERROR_STOP=1", *commands,
                           "postgres").strip()

    def copy_in(self, table, lines):
        """Loads lines of COPY text into a table."""
        command = machine.as_server_user(self.bin / "psql", "-X", "-q", *self.connection, "-c", f"COPY {table} FROM STDIN",
                                         "postgres")
        with subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, text=True) as psql:
            for line in lines:
                psql.stdin.write(line)
        if psql.returncode != 0:
            raise RuntimeError(f"COPY {table} ended with {psql.returncode}")

    def position(self):
        return int(self.sql("SELECT pg_current_wal_lsn() - '0/0'"))

    def end_segment(self):
        """Switches to a new segment; returns the name of the one that ended."""
        return self.sql("SELECT pg_walfile_name(pg_switch_wal())")

    def walsender_cpu_seconds(self, application):
        """CPU time so far of the process that streams to `application`."""
        pid = self.sql(f"SELECT pid FROM pg_stat_replication WHERE application_name = '{application}' LIMIT 1")
        return process_cpu_seconds(int(pid)) if pid else 0.0

    def digest(self):
        """Tells whether two clusters hold the same rows."""
        return self.sql(
            "SELECT (SELECT count(*) FROM text_rows), (SELECT count(*) FROM binary_rows), "
            "(SELECT sum(abalance) FROM pgbench_accounts), "
            "(SELECT md5(string_agg(body, '' ORDER BY id)) FROM text_rows WHERE id % 1000 = 7)")

    def wait_ready(self, seconds=1800):
        """After a start in recovery: until the log says that writes are accepted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = self.log.read_text()
            if "ready to accept connections" in text:
                return text
            if "FATAL" in text or "PANIC" in text:
                raise RuntimeError(f"the server does not start:\n{text[-2000:]}")
            time.sleep(0.05)
        raise RuntimeError("recovery does not end")
