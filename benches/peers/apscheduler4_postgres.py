"""How fast APScheduler 4 fires schedules that are due, with its data store on PostgreSQL."""

import asyncio
import sys
import time
from datetime import datetime, timedelta, timezone

from apscheduler import AsyncScheduler, ConflictPolicy, JobReleased
from apscheduler.datastores.sqlalchemy import SQLAlchemyDataStore
from apscheduler.triggers.date import DateTrigger


async def no_op():
    """The job."""


async def main(url, count):
    store = SQLAlchemyDataStore(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncScheduler(store, max_concurrent_jobs=100) as scheduler:
        due = datetime.now(timezone.utc) - timedelta(seconds=1)
        await scheduler.configure_task("no_op", func=no_op, max_running_jobs=100)
        for n in range(count):
            await scheduler.add_schedule(
                "no_op", DateTrigger(due), id=str(n), conflict_policy=ConflictPolicy.replace
            )
        done, released = asyncio.Event(), 0

        def on_released(_event):
            nonlocal released
            released += 1
            if released == count:
                done.set()

        scheduler.subscribe(on_released, {JobReleased})
        begun = time.perf_counter()
        await scheduler.start_in_background()
        try:
            await asyncio.wait_for(done.wait(), 120)
        except TimeoutError:
            pass
        print(released / (time.perf_counter() - begun))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
