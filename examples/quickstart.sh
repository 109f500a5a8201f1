#!/bin/sh
# The main job from end to end: build, compile plugins, register them, schedule exports with typed
# arguments, watch runs: a value, a trap and an out-of-fuel end arrive as events and as history.
# Needs Rust; installs the wasm target if it is missing. Leaves nothing behind but target/.
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

say "Building sandclock and the sample plugins"
cargo build --quiet --bin sandclock
plugins/build.sh --quiet

SANDCLOCK_HOME=$(mktemp -d)
export SANDCLOCK_HOME
PATH=$PWD/target/debug:$PATH
daemon=
stop() {
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
    rm -rf "$SANDCLOCK_HOME"
}
trap stop EXIT INT TERM
components=plugins/target/wasm32-wasip2/release

say "Register two plugins: what they export, and what they ask for"
show sandclock plugin add "$components/hello.wasm"
show sandclock plugin add "$components/unruly.wasm"

say "Call a function once, in the sandbox"
show sandclock exec hello:greet --arg name=Ada

say "Schedule exports, with arguments checked against their types"
show sandclock job add hello:greet --arg name=Ada --every 1s --id greeting
show sandclock job add unruly:panic --arg message=boo --cron '*/2 * * * * *' --id panics
show sandclock job add unruly:spin --fuel 50000000 --cron '*/2 * * * * *' --id spins
printf '$ sandclock job add hello:greet --arg nmae=Ada      # a mistake is told at once\n'
sandclock job add hello:greet --arg nmae=Ada || true

say "Start the daemon and watch six seconds of events"
sandclock serve 2>"$SANDCLOCK_HOME/serve.log" &
daemon=$!
until [ -S "$SANDCLOCK_HOME/socket" ]; do sleep 0.1; done
printf '$ sandclock events --follow --mask JOB_STARTED,JOB_EXECUTED,JOB_ERROR\n'
timeout 6 sandclock events --follow --mask JOB_STARTED,JOB_EXECUTED,JOB_ERROR || true

say "What ran is history"
show sandclock job list
show sandclock run list --limit 6
run=$(sandclock --json run list --job panics --limit 1 | sed -n 's/.*"id": "\(.*\)".*/\1/p' | head -n 1)
show sandclock run show "$run"

say "Jobs and history are on disk: stop the daemon, look again"
kill "$daemon"
wait "$daemon" || true
daemon=
show sandclock status
