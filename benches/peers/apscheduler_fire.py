"""How fast APScheduler 3.x fires a backlog of jobs that are already due.

The figure to compare is the cost of firing itself: finding the due jobs,
handing each one to a worker, taking it out of the job store and reporting
that it ran. So the jobs do nothing, each is due once and already due, and
none may be skipped for being late (``misfire_grace_time=None``).

The scheduler is started paused and the jobs are added to it then. Jobs added
before ``start()`` would only be queued, and the insertion into the store would
happen inside ``start()``, in the timed part. The clock runs from ``resume()``
to the N-th ``EVENT_JOB_EXECUTED``; neither adding nor shutting down is timed.

Workers are APScheduler's thread pool with its default of 10 threads. The store
is either the in-memory one or SQLite through SQLAlchemy, in a fresh file in a
temporary directory with SQLite's default durability. That directory follows
``TMPDIR``; on a memory-backed file system the commits are cheaper than on disk.

Prints one JSON line. Fails, and prints none, if any job errs or is skipped.
"""

import argparse
import itertools
import json
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import apscheduler
from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_EXECUTED,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
)
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler

DEFAULT_JOBS = {"memory": 100_000, "sqlite": 2_000}
WORKERS = 10


def no_op():
    """The job. At module level, so that a persistent store can refer to it."""


def make_store(kind, directory):
    if kind == "memory":
        return MemoryJobStore()
    from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore

    return SQLAlchemyJobStore(url=f"sqlite:///{Path(directory) / 'jobs.sqlite'}")


def time_backlog(store, job_count):
    """Seconds from resuming the scheduler to the last job having run."""
    finished = threading.Event()
    executed = itertools.count(1)  # next() is atomic in CPython: no lock needed
    finished_at = None
    failure = None

    def on_executed(_event):
        nonlocal finished_at
        if next(executed) == job_count:
            finished_at = time.perf_counter()
            finished.set()

    def on_not_executed(event):
        nonlocal failure
        failure = f"job {event.job_id} did not run (event code {event.code})"
        finished.set()

    scheduler = BackgroundScheduler(
        jobstores={"default": store},
        executors={"default": ThreadPoolExecutor(WORKERS)},
        timezone=timezone.utc,
    )
    scheduler.add_listener(on_executed, EVENT_JOB_EXECUTED)
    scheduler.add_listener(
        on_not_executed, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES
    )
    scheduler.start(paused=True)
    try:
        due = datetime.now(timezone.utc) - timedelta(seconds=1)
        for _ in range(job_count):
            scheduler.add_job(no_op, "date", run_date=due, misfire_grace_time=None)

        resumed_at = time.perf_counter()
        scheduler.resume()
        finished.wait()
    finally:
        scheduler.shutdown()
    if failure:
        sys.exit(failure)
    return finished_at - resumed_at


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", choices=sorted(DEFAULT_JOBS), default="memory")
    parser.add_argument(
        "--jobs",
        type=positive_int,
        help="how many jobs to fire (default: 100000 in memory, 2000 in sqlite)",
    )
    arguments = parser.parse_args()
    job_count = arguments.jobs or DEFAULT_JOBS[arguments.store]

    with tempfile.TemporaryDirectory() as directory:
        seconds = time_backlog(make_store(arguments.store, directory), job_count)

    print(
        json.dumps(
            {
                "peer": "apscheduler",
                "version": apscheduler.version,
                "store": arguments.store,
                "jobs": job_count,
                "seconds": round(seconds, 4),
                "fires_per_second": round(job_count / seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
