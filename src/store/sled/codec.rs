//! How values look on disk: a checksum before everything, hot rows of a few dozen bytes, and blocks
//! of many small entries, because sled never gives back the space of a large value.

/// Largest value written, checksum included.
pub const VALUE_MAX: usize = 4096;
const CHECKSUM: usize = 4;
/// Largest entry of a block, so that one always fits.
pub const ENTRY_MAX: usize = VALUE_MAX - CHECKSUM - 3;

/// `payload` behind its checksum.
pub fn seal(payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CHECKSUM + payload.len());
    value.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// The payload, if its checksum is right.
pub fn unseal(value: &[u8]) -> Option<&[u8]> {
    let (checksum, payload) = value.split_at_checked(CHECKSUM)?;
    (checksum == crc32fast::hash(payload).to_le_bytes()).then_some(payload)
}

/// What one row adds to the sum over its tree. A row that is lost, stale or doubled changes it.
pub fn weight(tree: usize, key: &[u8], value: &[u8]) -> u64 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&[tree as u8]);
    hash.update(key);
    let checksum = value.first_chunk::<CHECKSUM>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let mixed = (u64::from(hash.finalize()) << 32 | u64::from(checksum)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// A value of any size in pieces of at most [`VALUE_MAX`]: `key`, a zero byte, the piece's number.
pub fn pieces(key: &[u8], bytes: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let count = bytes.len().div_ceil(ENTRY_MAX).max(1);
    (0..count).map(move |at| {
        let piece = &bytes[at * ENTRY_MAX..bytes.len().min((at + 1) * ENTRY_MAX)];
        (piece_key(key, at), seal(piece))
    })
}

fn piece_key(key: &[u8], at: usize) -> Vec<u8> {
    let mut full = prefix(key);
    full.extend_from_slice(&(at as u16).to_be_bytes());
    full
}

/// What the keys of all pieces of `key` begin with.
pub fn prefix(key: &[u8]) -> Vec<u8> {
    let mut prefix = key.to_vec();
    prefix.push(0);
    prefix
}

/// The key that a piece belongs to, and the piece's number.
pub fn piece_of(full: &[u8]) -> Option<(&[u8], u16)> {
    let (key, number) = full.split_at_checked(full.len().checked_sub(3)?)?;
    (number[0] == 0).then(|| (key, u16::from_be_bytes([number[1], number[2]])))
}

/// Packs small entries into payloads that fit one value each.
#[derive(Default)]
pub struct Packer {
    pub blocks: Vec<Vec<u8>>,
}

impl Packer {
    /// Adds an entry and says in which block it is.
    pub fn push(&mut self, flag: bool, entry: &[u8]) -> usize {
        debug_assert!(entry.len() <= ENTRY_MAX);
        let fits = self.blocks.last().is_some_and(|block| block.len() + 3 + entry.len() <= VALUE_MAX - CHECKSUM);
        if !fits {
            self.blocks.push(Vec::with_capacity(VALUE_MAX));
        }
        let at = self.blocks.len() - 1;
        let block = &mut self.blocks[at];
        block.push(u8::from(flag));
        block.extend_from_slice(&(entry.len() as u16).to_le_bytes());
        block.extend_from_slice(entry);
        at
    }
}

/// The entries of a block, each with its flag.
pub fn unpack(mut payload: &[u8]) -> Option<Vec<(bool, &[u8])>> {
    let mut entries = Vec::new();
    while let Some((head, rest)) = payload.split_at_checked(3) {
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([head[1], head[2]])))?;
        entries.push((head[0] != 0, entry));
        payload = rest;
    }
    payload.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_as_a_block_end_without_panic(bytes: Vec<u8>) {
            let _ = unpack(&bytes);
            let _ = unseal(&bytes);
            let _ = piece_of(&bytes);
        }

        #[test]
        fn what_is_packed_is_unpacked(entries in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..900)), 0..40)) {
            let mut packer = Packer::default();
            for (flag, entry) in &entries {
                packer.push(*flag, entry);
            }
            prop_assert!(packer.blocks.iter().all(|block| seal(block).len() <= VALUE_MAX));
            let unpacked: Vec<(bool, Vec<u8>)> = packer.blocks.iter()
                .flat_map(|block| unpack(block).unwrap())
                .map(|(flag, entry)| (flag, entry.to_vec())).collect();
            prop_assert_eq!(unpacked, entries);
        }

        #[test]
        fn pieces_join_again(bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
            let joined: Vec<u8> = pieces(b"k", &bytes).flat_map(|(key, value)| {
                assert_eq!(piece_of(&key).unwrap().0, b"k");
                unseal(&value).unwrap().to_vec()
            }).collect();
            prop_assert_eq!(joined, bytes);
        }
    }
}
