//! What a guest is told of a stream that failed.

use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{Error, Result};
use wasmtime_wasi::p2::bindings::io::error::{Host, HostError};

/// `wasi:io/error`, without the backtrace of this process, which an error has when `RUST_BACKTRACE` is
/// set and which is nothing for a guest to see.
pub struct Errors<'a>(pub &'a mut ResourceTable);

impl Host for Errors<'_> {}

impl HostError for Errors<'_> {
    fn to_debug_string(&mut self, error: Resource<Error>) -> Result<String> {
        Ok(format!("{:#}", self.0.get(&error)?))
    }

    fn drop(&mut self, error: Resource<Error>) -> Result<()> {
        self.0.delete(error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_what_failed_and_nothing_of_this_process() {
        let mut table = ResourceTable::new();
        let error = table.push(Error::msg("the disk is full").context("could not write")).unwrap();
        let again = Resource::new_borrow(error.rep());
        assert_eq!(Errors(&mut table).to_debug_string(again).unwrap(), "could not write: the disk is full");
        Errors(&mut table).drop(error).unwrap();
        assert!(table.is_empty());
    }
}
