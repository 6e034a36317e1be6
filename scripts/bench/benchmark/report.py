"""Renders results as Markdown: a table for each job, and what became of the budget."""

from dataclasses import dataclass

TITLES = {
    "wall_s": "wall s", "cpu_s": "CPU s", "tool_cpu_s": "of it the tool", "server_cpu_s": "the server",
    "agent_cpu_s": "the agent", "store_cpu_s": "beside it: the store", "rss_mib": "memory MiB", "stored_mb": "stored MB",
    "log_gb": "log GB", "cpu_s_per_gb": "CPU s per GB", "sender_cpu_s_per_gb": "walsender CPU s per GB",
    "lag_p50_s": "lag p50 s", "lag_p99_s": "lag p99 s", "drain_s": "drained after s", "idle_cpu_percent": "idle CPU %",
    "commits_per_s": "commits a second", "latency_ms": "latency ms",
    "command_cpu_s": "whole command CPU s", "command_wall_s": "whole command wall s", "objects": "objects",
}
OURS = ("Tidemark", "file")
PGBACKREST = ("pgBackRest", "file")
PG_BASEBACKUP = ("pg_basebackup", "file")
# What wall and CPU time of a job are compared with.
REFERENCES = {"full": PGBACKREST, "incremental": PG_BASEBACKUP, "restore full": PGBACKREST,
              "restore full + incremental": PGBACKREST, "ship": PGBACKREST, "redo": PGBACKREST}
COMPARED = ("wall_s", "cpu_s", "cpu_s_per_gb", "stored_mb")


@dataclass(frozen=True)
class Budget:
    """Our figure may be at most `limit` times that of `peer`, or `limit` itself where there is no peer."""

    job: str
    figure: str
    limit: float
    peer: tuple = None
    ours: tuple = OURS


BUDGETS = [
    Budget("full", "wall_s", 0.7, PGBACKREST),
    Budget("full", "cpu_s", 0.75, PGBACKREST),
    Budget("incremental", "wall_s", 1.9, PG_BASEBACKUP),
    Budget("incremental", "stored_mb", 0.8, PG_BASEBACKUP),
    Budget("restore full", "wall_s", 0.7, PGBACKREST),
    Budget("restore full", "cpu_s", 0.7, PGBACKREST),
    Budget("restore full + incremental", "wall_s", 0.7, PGBACKREST),
    Budget("restore full + incremental", "cpu_s", 0.7, PGBACKREST),
    Budget("ship", "cpu_s_per_gb", 3.5),
    Budget("ship", "lag_p99_s", 5.0),
    Budget("ship", "rss_mib", 64.0),
    Budget("redo", "wall_s", 0.9, PGBACKREST, ("Tidemark, restore --start", "file")),
    Budget("plan", "cpu_s", 2.0, ours=("Tidemark, plan", "file")),
    Budget("plan", "rss_mib", 256.0, ours=("Tidemark, plan", "file")),
]


def number(value):
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(head, rows):
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def job_table(results, job):
    """All contestants of a job, with the ratios to the reference."""
    names = results.names(job)
    reference = REFERENCES.get(job)
    compared = [name for name in COMPARED if name in names] if reference in results.contestants(job) else []
    head = ["who", "on", *(TITLES[name] for name in names),
            *(f"{TITLES[name].removesuffix(' s')}, ratio" for name in compared)]
    rows = []
    for contestant in results.contestants(job):
        ratios = [ratio(results, job, contestant, reference, name) for name in compared]
        rows.append([*contestant, *(number(results.median(job, contestant, name)) for name in names),
                     *map(number, ratios)])
    return table(head, rows)


def ratio(results, job, contestant, reference, name):
    ours, theirs = results.median(job, contestant, name), results.median(job, reference, name)
    return ours / theirs if ours is not None and theirs else None


def best_peer(results, job, figure):
    """The best figure of anyone but us, and whose it is."""
    peers = [(results.median(job, contestant, figure), contestant[0]) for contestant in results.contestants(job)
             if not contestant[0].startswith("Tidemark")]
    return min((peer for peer in peers if peer[0] is not None), default=(None, ""))


def budget_table(results):
    rows = []
    for budget in BUDGETS:
        ours = results.median(budget.job, budget.ours, budget.figure)
        theirs = results.median(budget.job, budget.peer, budget.figure) if budget.peer else 1.0
        if ours is None or not theirs:
            continue
        best, name = best_peer(results, budget.job, budget.figure)
        limit = f"{budget.limit:g} × {budget.peer[0]}" if budget.peer else f"{budget.limit:g}"
        rows.append([budget.job, TITLES[budget.figure], number(ours), f"{number(best)} {name}".strip(),
                     number(ours / best) if best else "", limit, number(ours / theirs) if budget.peer else "",
                     "yes" if ours <= budget.limit * theirs else "**no**"])
    return table(["job", "figure", "ours", "best peer's", "ratio to it", "budget", "of the budget's peer", "met"], rows)


def render(results, facts):
    """The whole report; `facts` are lines about machine and run."""
    parts = ["".join(f"- {fact}\n" for fact in facts), "## Budget\n\n" + budget_table(results)]
    parts += [f"## {job.capitalize()}\n\n{job_table(results, job)}" for job in results.jobs()]
    return "\n".join(parts)
