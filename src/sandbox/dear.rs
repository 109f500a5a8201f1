//! Host calls that take the host far longer than they cost the guest fuel: thousands of them fit between
//! two pauses of a run. They pause themselves, so that deadlines hold.

use super::host::State;
use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::io::poll;
use wasmtime_wasi::p2::bindings::random::{insecure, random};
use wasmtime_wasi::random::WasiRandomView;

/// Random bytes that are made without a pause.
const BYTES_BEFORE_PAUSE: usize = 256;
/// Pollables of one list that are polled without a pause.
const POLLABLES_BEFORE_PAUSE: usize = 16;

type Store<'a> = StoreContextMut<'a, State>;

/// Replaces what is linked of these interfaces already.
pub fn link(linker: &mut Linker<State>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:random/random@0.2.12")?.func_wrap_async(
        "get-random-bytes",
        |mut store: Store<'_>, (length,): (u64,)| {
            Box::new(async move {
                let bytes = random::Host::get_random_bytes(store.data_mut().random(), length)?;
                pause(bytes.len() > BYTES_BEFORE_PAUSE).await;
                Ok((bytes,))
            })
        },
    )?;
    linker.instance("wasi:random/insecure@0.2.12")?.func_wrap_async(
        "get-insecure-random-bytes",
        |mut store: Store<'_>, (length,): (u64,)| {
            Box::new(async move {
                let bytes = insecure::Host::get_insecure_random_bytes(store.data_mut().random(), length)?;
                pause(bytes.len() > BYTES_BEFORE_PAUSE).await;
                Ok((bytes,))
            })
        },
    )?;
    linker.instance("wasi:io/poll@0.2.12")?.func_wrap_async(
        "poll",
        |mut store: Store<'_>, (pollables,): (Vec<Resource<DynPollable>>,)| {
            Box::new(async move {
                pause(pollables.len() > POLLABLES_BEFORE_PAUSE).await;
                Ok((poll::Host::poll(store.data_mut().ctx().table, pollables).await?,))
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

async fn pause(dear: bool) {
    if dear {
        tokio::task::yield_now().await;
    }
}
