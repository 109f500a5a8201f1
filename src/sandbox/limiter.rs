//! Memory, summed over everything that a run has: the engine's own limits are for each memory.

use super::engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};
use wasmtime::{Error, ResourceLimiter, Result};

/// Counts what a run's memories and tables hold, and refuses growth past the job's limit.
#[derive(Debug)]
pub struct Limiter {
    /// Bytes; never goes down, because wasm memory never shrinks.
    used: u64,
    max: u64,
    /// Growth was refused. A guest that traps after that ran out of memory.
    pub refused: bool,
}

impl Limiter {
    pub fn new(max: u64) -> Self {
        Limiter { used: 0, max, refused: false }
    }

    pub fn peak(&self) -> u64 {
        self.used
    }

    fn grow(&mut self, by: u64) -> bool {
        let fits = self.used.checked_add(by).is_some_and(|sum| sum <= self.max);
        if fits {
            self.used += by;
        } else {
            self.refused = true;
        }
        fits
    }
}

/// Host bytes of one table element.
const ELEMENT: u64 = 16;

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, _error: Error) -> Result<()> {
        // Nothing is given back: the engine may say this without having asked before.
        self.refused = true;
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            self.refused = true;
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64 * ELEMENT))
    }

    fn table_grow_failed(&mut self, _error: Error) -> Result<()> {
        self.refused = true;
        Ok(())
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize * 2
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}
