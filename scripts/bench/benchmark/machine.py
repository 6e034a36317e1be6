"""What the benchmark uses of this machine: programs, the servers' user, scratch space, ports."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SERVER_USER = "postgres"


def as_server_user(*command):
    """`command` as the user that servers run as: PostgreSQL refuses root."""
    return ["setpriv", f"--reuid={SERVER_USER}", f"--regid={SERVER_USER}", "--init-groups", "env", "HOME=/tmp",
            *map(str, command)]


def run(*command, **options):
    """Runs a command as the servers' user; returns what it printed."""
    done = subprocess.run(as_server_user(*command), cwd="/", text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def make_directory(path):
    """An empty directory of the servers' user."""
    path = Path(path)
    remove(path)
    path.mkdir(parents=True)
    shutil.chown(path, SERVER_USER, SERVER_USER)
    path.chmod(0o700)
    return path


def write(path, text):
    """A file of the servers' user."""
    Path(path).write_text(text)
    shutil.chown(path, SERVER_USER, SERVER_USER)
    return Path(path)


def remove(path):
    if Path(path).is_dir():
        shutil.rmtree(path)


def copy_tree(source, target):
    """A copy with the same owners; by reference where the file system can."""
    remove(target)
    run("cp", "-a", "--reflink=auto", source, target)


def stored_bytes(*paths):
    """Bytes of all files below the paths."""
    return sum(entry.stat().st_size for path in paths for entry in Path(path).rglob("*") if entry.is_file())


def wait_for(what, condition, seconds=300, pause=0.1):
    """Waits until `condition()` is true, and returns its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(pause)
    raise RuntimeError(f"waited {seconds} s in vain for {what}")


@dataclass(frozen=True)
class Programs:
    """Where everything is: the variables of scripts/env.sh, and the binaries that cargo built."""

    postgres: Path
    pgbackrest: Path
    garage: Path
    agent: Path
    restore: Path

    @classmethod
    def find(cls, root):
        built = Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release"
        found = cls(
            postgres=Path(os.environ["TIDEMARK_PG17_BIN"]),
            pgbackrest=Path(os.environ["TIDEMARK_PGBACKREST"]),
            garage=Path(os.environ["TIDEMARK_GARAGE"]),
            agent=Path(os.environ.get("TIDEMARK_AGENT", built / "tidemark-agent")),
            restore=Path(os.environ.get("TIDEMARK_RESTORE", built / "tidemark-restore")),
        )
        for name, path in vars(found).items():
            if not path.exists():
                raise SystemExit(f"{name} is missing: there is no {path}; scripts/bench/run.sh installs and builds all")
        return found

    def versions(self):
        """A line for each, for the report's head."""
        def ask(*command):
            return subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True).stdout.strip()
        return [ask(self.agent, "--version"), ask(self.postgres / "postgres", "--version"),
                ask(self.pgbackrest, "version"), ask(self.garage, "--version").split(" [")[0]]


@dataclass(frozen=True)
class Workshop:
    """One run's scratch space and settings."""

    programs: Programs
    scratch: Path
    first_port: int
    level: int = 3
    workers: int = 2

    def directory(self, *names):
        return make_directory(self.scratch.joinpath(*names))


def describe():
    """The machine in a line."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown CPU")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {os.uname().release}, load {os.getloadavg()[0]:.1f}"
