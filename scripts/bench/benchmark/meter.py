"""Measures whole process trees: CPU time by a cgroup, which counts detached workers too, and memory by sampling."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.05
MIB = 1024.0


def _hierarchy():
    """The cgroup file system that counts CPU time: version 1's own controller, else version 2."""
    for path in ("/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"):
        if Path(path, "cpuacct.usage").exists():
            return Path(path), 1
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return Path("/sys/fs/cgroup"), 2
    raise SystemExit("no cgroup counts CPU time on this machine")


class Cgroup:
    """A set of processes with all that they start. Needs root."""

    def __init__(self, name):
        root, self._version = _hierarchy()
        self.path = root / f"tidemark-bench-{os.getpid()}-{name}"
        self.path.mkdir(exist_ok=True)

    def enter(self):
        """Moves the calling process in: for `preexec_fn`."""
        (self.path / "cgroup.procs").write_text("0")

    def add(self, pid):
        """Moves a running process in; what it starts later follows."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def cpu_seconds(self):
        if self._version == 1:
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        facts = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(facts["usage_usec"]) / 1e6

    def pids(self):
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def remove(self):
        for _ in range(50):
            try:
                return self.path.rmdir()
            except FileNotFoundError:
                return None
            except OSError:
                time.sleep(0.1)
        return None


def resident_kib(pid):
    """Resident memory of one process; 0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def process_cpu_seconds(pid):
    """CPU time of one process that runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class MemoryWatch:
    """The most memory that the processes of a cgroup held together, sampled in the background."""

    def __init__(self, cgroup):
        self._cgroup = cgroup
        self._ended = threading.Event()
        self.peak_kib = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _run(self):
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak_kib = max(self.peak_kib, sum(map(resident_kib, self._cgroup.pids())))

    @property
    def peak_mib(self):
        return self.peak_kib / MIB


@dataclass
class Measured:
    """What a command took. `beside` is the CPU time that others (the server, an agent, the store) spent meanwhile."""

    wall_s: float
    cpu_s: float
    rss_mib: float
    output: str
    beside: dict = field(default_factory=dict)


def measure(command, beside=None):
    """Runs `command` to its end in a cgroup of its own, also the workers that it leaves behind."""
    beside = beside or {}
    cgroup = Cgroup("command")
    before = {name: other.cpu_seconds() for name, other in beside.items()}
    try:
        with MemoryWatch(cgroup) as memory:
            begin = time.monotonic()
            done = subprocess.run(command, preexec_fn=cgroup.enter, text=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            wall = time.monotonic() - begin
            while cgroup.pids() and time.monotonic() - begin < wall + 60:
                time.sleep(SAMPLE_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        return Measured(wall, cgroup.cpu_seconds(), memory.peak_mib, done.stdout,
                        {name: other.cpu_seconds() - before[name] for name, other in beside.items()})
    finally:
        cgroup.remove()


class Daemon:
    """A process that runs beside, in a cgroup of its own, until it is stopped."""

    def __init__(self, name, command, log, env=None):
        self.cgroup = Cgroup(name)
        self.log = Path(log)
        with open(self.log, "ab") as output:
            self._process = subprocess.Popen(command, preexec_fn=self.cgroup.enter, env=env, stdin=subprocess.DEVNULL,
                                             stdout=output, stderr=subprocess.STDOUT)

    @property
    def pid(self):
        return self._process.pid

    def check_running(self):
        if self._process.poll() is not None:
            raise RuntimeError(f"it ended early; its log ends:\n{self.log.read_text()[-4000:]}")

    def stop(self, with_signal=signal.SIGTERM, timeout=60):
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.cgroup.remove()
