//! A trigger: fires at each full moon, or at each new moon, by the mean synodic month.

#![no_std]

extern crate alloc;

use alloc::alloc::Layout;
use alloc::format;
use alloc::string::String;

wit_bindgen::generate!({ path: ["../../wit", "wit"], world: "sample:moon/moon", generate_all });

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// How the host has memory for arguments made. Elsewhere this comes with the C library, which is not
/// linked here.
///
/// # Safety
/// As the canonical ABI says: `old` is null or came from here, with the same length and alignment.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_len: usize, align: usize, new_len: usize) -> *mut u8 {
    unsafe {
        if old_len == 0 {
            alloc::alloc::alloc(Layout::from_size_align_unchecked(new_len.max(1), align))
        } else {
            alloc::alloc::realloc(old, Layout::from_size_align_unchecked(old_len, align), new_len.max(1))
        }
    }
}

/// 29.530588853 days.
const MONTH_MS: i64 = 2_551_442_877;
/// The new moon of 2000-01-06 18:14 UTC.
const NEW_MOON_MS: i64 = 947_182_440_000;

struct Moon;

impl Guest for Moon {
    fn next_fire_time(previous: Option<i64>, now: i64, parameters: String) -> Result<Option<i64>, String> {
        let phase = match parameters.as_str() {
            "new" => NEW_MOON_MS,
            "" | "full" => NEW_MOON_MS + MONTH_MS / 2,
            other => return Err(format!("`{other}` is no phase (there are `full` and `new`)")),
        };
        let from = previous.map_or(now, |previous| now.max(previous + 1));
        let months = (from - phase + MONTH_MS - 1).div_euclid(MONTH_MS);
        Ok(Some(phase + months * MONTH_MS))
    }
}

export!(Moon);
