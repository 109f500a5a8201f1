"""How fast APScheduler 3 fires jobs that are due, with its job store on PostgreSQL."""

import sys
import threading
import time
from datetime import datetime, timedelta, timezone

from apscheduler.events import EVENT_JOB_EXECUTED
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler


def no_op():
    """The job. At module level, so that the store can refer to it."""


def main(url, count):
    store = SQLAlchemyJobStore(url=url.replace("postgresql://", "postgresql+psycopg://"))
    scheduler = BackgroundScheduler(jobstores={"default": store}, timezone=timezone.utc)
    scheduler.start(paused=True)
    due = datetime.now(timezone.utc) - timedelta(seconds=1)
    for n in range(count):
        scheduler.add_job(no_op, "date", run_date=due, id=str(n), misfire_grace_time=None)
    done, executed = threading.Event(), []

    def on_executed(_event):
        executed.append(1)
        if len(executed) == count:
            done.set()

    scheduler.add_listener(on_executed, EVENT_JOB_EXECUTED)
    begun = time.perf_counter()
    scheduler.resume()
    done.wait(300)
    print(len(executed) / (time.perf_counter() - begun))
    scheduler.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
