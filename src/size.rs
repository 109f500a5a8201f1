//! Numbers of bytes, as people write them.

/// `64MiB`, `256KiB`, `1G` or `4096`. Errors: why it is none.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err("the unit is B, KiB, MiB or GiB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "it is a number with a unit, such as 64MiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "it is too large".into())
}
