#!/bin/sh
# Builds the sample plugins into plugins/target/wasm32-wasip2/release/*.wasm.
set -eu
cd "$(dirname "$0")"
rustup target list --installed | grep -qx wasm32-wasip2 || rustup target add wasm32-wasip2
cargo build --release --target wasm32-wasip2 --workspace --exclude moon "$@"
# By itself, because the others would have its dependencies built with std.
exec cargo build --release --target wasm32-wasip2 --package moon "$@"
