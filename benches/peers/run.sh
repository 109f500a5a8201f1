#!/bin/sh
# Measures the peers this scheduler is compared with; one JSON line per figure.
#
#   run.sh [memory-jobs] [sqlite-jobs]      (default: 100000 and 2000)
#
# The Python packages go into .venv beside this file, made on the first run.
# Without Python or pip there is nothing to compare with: says so, exits 0.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
memory_jobs=${1:-100000}
sqlite_jobs=${2:-2000}
python=$here/.venv/bin/python

skip() {
    echo "peers skipped: $1" >&2
    exit 0
}

command -v python3 >/dev/null 2>&1 || skip "python3 is missing"
if ! [ -x "$python" ]; then
    python3 -m venv "$here/.venv" >/dev/null 2>&1 || {
        rm -rf "$here/.venv"
        skip "python3 cannot make an environment with pip"
    }
fi
"$python" -m pip --version >/dev/null 2>&1 || skip "pip is missing"
"$python" -m pip install --quiet --disable-pip-version-check \
    'apscheduler==3.11.*' 'sqlalchemy==2.*'

"$python" "$here/apscheduler_fire.py" --store memory --jobs "$memory_jobs"
"$python" "$here/apscheduler_fire.py" --store sqlite --jobs "$sqlite_jobs"
