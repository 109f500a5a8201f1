#!/usr/bin/env bash
# APScheduler 3 or 4 on a PostgreSQL: postgres.sh VERSION URL JOBS prints firings a second.
set -euo pipefail
cd "$(dirname "$0")"
case $1 in
    3) packages=(APScheduler==3.11.2 SQLAlchemy 'psycopg[binary]') ;;
    4) packages=(APScheduler==4.0.0a6 'SQLAlchemy[asyncio]' asyncpg sniffio) ;;
esac
venv=.venv/postgres$1
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "${packages[@]}"
fi
exec "$venv/bin/python" "apscheduler$1_postgres.py" "$2" "$3"
