"""What was measured: figures by job, contestant and name, of which medians are shown."""

import statistics
from collections import defaultdict

MEGABYTE = 1e6


class Results:
    """All figures of a run, in the order in which they came."""

    def __init__(self):
        self._figures = defaultdict(lambda: defaultdict(list))

    def add(self, job, contestant, **figures):
        """Adds one repetition's figures of `contestant`, a pair of its name and its store."""
        for name, value in figures.items():
            if value is not None:
                self._figures[job, contestant][name].append(value)

    def add_measured(self, job, contestant, measured, stored=None):
        """A command's figures. All the CPU time that it caused counts, but for the store's."""
        beside = measured.beside
        caused = measured.cpu_s + beside.get("server", 0) + beside.get("agent", 0)
        self.add(job, contestant, wall_s=measured.wall_s, cpu_s=caused, tool_cpu_s=measured.cpu_s,
                 server_cpu_s=beside.get("server"), agent_cpu_s=beside.get("agent"), store_cpu_s=beside.get("store"),
                 rss_mib=measured.rss_mib, stored_mb=stored / MEGABYTE if stored else None)

    def jobs(self):
        return list(dict.fromkeys(job for job, _ in self._figures))

    def contestants(self, job):
        return [contestant for other, contestant in self._figures if other == job]

    def names(self, job):
        """Names of all figures of a job."""
        return list(dict.fromkeys(name for key, figures in self._figures.items() if key[0] == job for name in figures))

    def median(self, job, contestant, name):
        """None where it was not measured."""
        values = self._figures.get((job, contestant), {}).get(name)
        return statistics.median(values) if values else None

    def spread(self, job, contestant, name):
        values = self._figures[job, contestant][name]
        return min(values), max(values), len(values)

    def as_json(self):
        return [{"job": job, "contestant": contestant[0], "store": contestant[1], "figures": dict(figures)}
                for (job, contestant), figures in self._figures.items()]
