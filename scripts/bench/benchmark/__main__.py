"""Runs the chosen jobs and writes the report; see `--help`. scripts/bench/run.sh prepares what this needs."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from . import backups, garage, machine, planning, redo, report, shipping, synchronous
from .dataset import Dataset
from .results import Results

ROOT = Path(__file__).resolve().parents[3]
JOBS = ("backup", "restore", "ship", "sync", "redo", "plan")


def options():
    parser = argparse.ArgumentParser(prog="scripts/bench/run.sh", description="Measures Tidemark beside its peers.")
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"which: {' '.join(JOBS)} (all; restore implies backup)")
    parser.add_argument("--repetitions", type=int, default=3, help="of each measurement; medians are shown (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the database; 1 is 3.6 GB (%(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="how long log is shipped (%(default)s)")
    parser.add_argument("--objects", type=int, default=1_000_000, help="stored objects for the job plan (%(default)s)")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/tidemark-bench"), help="where to work (%(default)s)")
    parser.add_argument("--port", type=int, default=30100, help="first of five ports (%(default)s)")
    parser.add_argument("--output", type=Path, help="write the report here too; figures in JSON beside it")
    chosen = parser.parse_args()
    unknown = set(chosen.jobs) - set(JOBS)
    if unknown:
        parser.error(f"no such job: {' '.join(sorted(unknown))}")
    chosen.jobs = chosen.jobs or JOBS
    return chosen


def run_jobs(chosen, workshop, results):
    store = garage.Garage(workshop)
    try:
        dataset = Dataset(workshop, chosen.scratch / "dataset", chosen.scale)
        progress(f"dataset of {dataset.bytes / 1e9:.2f} GB")
        if "backup" in chosen.jobs or "restore" in chosen.jobs:
            backups.run(workshop, dataset, store, chosen.repetitions, results, "restore" in chosen.jobs)
            progress("backup")
        if "ship" in chosen.jobs:
            shipping.run(workshop, dataset, store, chosen.repetitions, results, chosen.seconds)
            progress("ship")
        if "sync" in chosen.jobs:
            synchronous.run(workshop, dataset, store, chosen.repetitions, results, chosen.seconds)
            progress("sync")
        if "redo" in chosen.jobs:
            redo.run(workshop, dataset, store, chosen.repetitions, results)
            progress("redo")
        if "plan" in chosen.jobs:
            planning.run(workshop, dataset, chosen.repetitions, results, chosen.objects)
            progress("plan")
        return dataset
    finally:
        store.stop()


def progress(what):
    print(f"{time.strftime('%H:%M:%S')} {what}: done", file=sys.stderr, flush=True)


def main():
    if os.geteuid() != 0:
        raise SystemExit("run as root: CPU time of process trees is counted by cgroups")
    # A scheduler's SIGTERM shall end servers like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = options()
    programs = machine.Programs.find(ROOT)
    os.environ.update(garage.credentials())
    chosen.scratch.mkdir(parents=True, exist_ok=True)
    workshop = machine.Workshop(programs, chosen.scratch / "work", chosen.port)
    machine.make_directory(workshop.scratch).chmod(0o755)
    results = Results()
    begun = machine.describe()
    try:
        dataset = run_jobs(chosen, workshop, results)
    finally:
        if chosen.output:
            chosen.output.with_suffix(".json").write_text(json.dumps(results.as_json(), indent=1))
    text = report.render(results, [
        begun + f" at the beginning, {os.getloadavg()[0]:.1f} at the end", "; ".join(programs.versions()),
        f"database {dataset.bytes / 1e9:.2f} GB; {chosen.repetitions} repetitions, medians; zstd level {workshop.level}, "
        f"{workshop.workers} workers"])
    print(text)
    if chosen.output:
        chosen.output.write_text(text)
    machine.remove(workshop.scratch)


main()
