#!/bin/sh
# Builds the sample plugins into plugins/target/wasm32-wasip2/release/*.wasm.
set -eu
cd "$(dirname "$0")"
rustup target list --installed | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2
exec cargo build --release --target wasm32-wasip2 "$@"
