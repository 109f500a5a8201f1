//! The policy for addresses, against the registries of IANA as a table of its own here, in every way
//! in which one address is embedded in another; and the text forms of grants: what a host means to a
//! resolver that reads it as an address is judged like that address.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandclock::grant::{DirGrant, HttpGrant, Network, Pick, SecretGrant, SecretName, special};
use std::fmt::{Debug, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::LazyLock;

/// iana-ipv4-special-registry and the multicast space: what is not globally reachable, or not
/// unicast. Beside it the metadata addresses of clouds that are none of these.
const INNER_V4: &[(&str, u32)] = &[
    ("0.0.0.0", 8),
    ("10.0.0.0", 8),
    ("100.64.0.0", 10),
    ("127.0.0.0", 8),
    ("169.254.0.0", 16),
    ("172.16.0.0", 12),
    ("192.0.0.0", 24),
    ("192.0.2.0", 24),
    ("192.88.99.0", 24),
    ("192.168.0.0", 16),
    ("198.18.0.0", 15),
    ("198.51.100.0", 24),
    ("203.0.113.0", 24),
    ("224.0.0.0", 4),
    ("240.0.0.0", 4),
    ("168.63.129.16", 32),
];

/// iana-ipv6-special-registry within 2000::/3; all else of the space is not global unicast.
const INNER_V6: &[(&str, u32)] = &[("2001::", 23), ("2001:db8::", 32), ("3fff::", 20)];

/// A block of IPv6 addresses, or the last 32 bits of one of IPv4.
#[derive(Clone, Copy)]
struct Block(u128, u32);

impl Block {
    fn has(self, address: u128) -> bool {
        address >> self.1 == self.0 >> self.1
    }
}

fn v4((text, bits): (&str, u32)) -> Block {
    Block(u32::from(text.parse::<Ipv4Addr>().unwrap()).into(), 32 - bits)
}

fn v6((text, bits): (&str, u32)) -> Block {
    Block(text.parse::<Ipv6Addr>().unwrap().into(), 128 - bits)
}

static BLOCKS_V4: LazyLock<Vec<Block>> = LazyLock::new(|| INNER_V4.iter().copied().map(v4).collect());
static BLOCKS_V6: LazyLock<Vec<Block>> = LazyLock::new(|| INNER_V6.iter().copied().map(v6).collect());
static SIX_TO_FOUR: LazyLock<Block> = LazyLock::new(|| v6(("2002::", 16)));
static NAT64: LazyLock<Block> = LazyLock::new(|| v6(("64:ff9b::", 96)));
static UNICAST: LazyLock<Block> = LazyLock::new(|| v6(("2000::", 3)));

fn inner_v4(address: Ipv4Addr) -> bool {
    BLOCKS_V4.iter().any(|block| block.has(u32::from(address).into()))
}

/// The IPv4 address that a packet to this one would go on to, where one is embedded.
fn embedded(bits: u128) -> Option<Ipv4Addr> {
    let at = |shift: u32| Some(Ipv4Addr::from((bits >> shift) as u32));
    if SIX_TO_FOUR.has(bits) {
        at(80)
    } else if NAT64.has(bits) {
        at(0)
    } else if matches!((bits >> 32) as u32, 0x5efe | 0x0200_5efe) {
        // ISATAP, by RFC 5214 in any prefix. Others may have these bits by chance.
        at(0).filter(|v4| inner_v4(*v4))
    } else {
        None
    }
}

fn inner(address: IpAddr) -> bool {
    let bits = match address {
        IpAddr::V4(address) => return inner_v4(address),
        IpAddr::V6(address) => address.into(),
    };
    let reserved = BLOCKS_V6.iter().any(|block| block.has(bits)) || !(UNICAST.has(bits) || NAT64.has(bits));
    reserved || embedded(bits).is_some_and(inner_v4)
}

/// Every way in which an IPv4 address stands in an IPv6 one, with other bits where they are free.
fn embeddings(v4: Ipv4Addr, other: u128) -> Vec<IpAddr> {
    let low = u128::from(u32::from(v4));
    // A block, then other bits, then `end` bits of zero.
    let block = |text: &str, bits: u32, end: u32| {
        let Block(start, free) = v6((text, bits));
        start | other & ((1 << free) - 1) & !((1 << end) - 1)
    };
    let all = [
        low,
        0xffff << 32 | low,
        0xffff << 48 | low,
        block("64:ff9b::", 96, 32) | low,
        block("64:ff9b:1::", 48, 32) | low,
        block("2002::", 48, 0) | low << 80,
        // Teredo has it inverted.
        block("2001::", 32, 32) | u128::from(!u32::from(v4)),
        block("2000::", 3, 64) | 0x5efe << 32 | low,
        block("2000::", 3, 64) | 0x0200_5efe << 32 | low,
        block("fe80::", 10, 32) | low,
        block("2000::", 3, 0),
        other,
    ];
    all.map(|bits| Ipv6Addr::from(bits).into()).to_vec()
}

/// What reads prints as it reads, as text and as JSON.
fn holds<T: FromStr + Display + Debug + PartialEq>(text: &str) -> Option<T>
where
    T::Err: Display + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string().parse::<T>().unwrap(), value);
            Some(value)
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() < 2000 && !error.contains(|c: char| c.is_control()), "{error:?}");
            None
        }
    }
}

/// A host as `inet_aton` reads it: one to four numbers, each of them decimal, octal or hexadecimal.
fn aton(host: &str) -> Option<Ipv4Addr> {
    let number = |text: &str| {
        let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
            Some("") => return Some(0),
            Some(digits) => (digits, 16),
            None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
            None => (text, 10),
        };
        u32::from_str_radix(digits, radix).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let parts = host.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, first) = parts.split_last()?;
    let fits = first.len() < 4 && first.iter().all(|part| *part < 256);
    let room = 32 - 8 * u32::try_from(first.len()).ok()?;
    (fits && (room == 32 || u64::from(*last) < 1 << room)).then(|| {
        let high = first.iter().enumerate().fold(0, |sum, (at, part)| sum | part << (24 - 8 * at));
        Ipv4Addr::from(high | last)
    })
}

fn http(grant: &HttpGrant, addresses: &[IpAddr]) {
    let host = grant.host();
    let literal = host.parse::<IpAddr>().ok();
    assert!(literal.is_some() || aton(host).is_none(), "{host} is an address to a resolver");
    let text = grant.to_string();
    let network = text.split_once('@').map(|(_, network)| network.parse::<Network>().unwrap());
    for address in addresses.iter().copied().chain(literal) {
        let named = literal == Some(address)
            || network.is_some_and(|network| network.contains(address))
            || (host == "localhost" && address.to_canonical().is_loopback());
        assert_eq!(grant.refuses(address).is_some(), inner(address) && !named, "{grant} and {address}");
    }
}

fn dir(grant: &DirGrant) {
    for path in [&grant.host, &grant.guest] {
        assert!(path.starts_with('/') && path.split('/').all(|part| part != ".."), "{path}");
    }
    let first = grant.host.split('/').find(|part| !part.is_empty());
    assert!(!matches!(first, None | Some("proc" | "dev" | "sys")), "{grant}");
}

fuzz_target!(|input: (u32, u128, u8, &str, &str)| {
    let (bits, other, length, text, second) = input;
    // Few of all addresses are inner: half of those tried are in a block, or beside one.
    let v4 = match BLOCKS_V4.get(usize::from(length % 32)) {
        Some(Block(block, free)) => {
            let changed = (1u64 << (free + u32::from(length / 128))) - 1;
            Ipv4Addr::from(*block as u32 ^ bits & changed as u32)
        }
        None => Ipv4Addr::from(bits),
    };
    let mut addresses = embeddings(v4, other);
    addresses.push(v4.into());
    for address in &addresses {
        assert_eq!(special(*address).is_some(), inner(*address), "{address} is {:?}", special(*address));
        if let Ok(network) = format!("{address}/{length}").parse::<Network>() {
            assert!(network.contains(*address) && network.to_string().parse() == Ok(network));
        }
        let tried = [*address, v4.into(), Ipv6Addr::from(other).into()];
        http(&format!("[{address}]:80").parse().unwrap(), &tried);
        http(&format!("a.org@{address}/{}", length % 33).parse().unwrap(), &tried);
    }
    if let Some(grant) = holds::<HttpGrant>(text) {
        http(&grant, &addresses);
        if grant.matches(second, grant.port()) {
            let same = if second.contains(':') && !second.starts_with('[') {
                format!("[{second}]")
            } else {
                second.to_owned()
            };
            assert_eq!(same.parse::<HttpGrant>().unwrap().host(), grant.host());
        }
        let json = serde_json::to_string(&grant).unwrap();
        assert_eq!(serde_json::from_str::<HttpGrant>(&json).unwrap(), grant);
    }
    if let Some(grant) = holds::<DirGrant>(text) {
        dir(&grant);
    }
    holds::<Network>(text);
    holds::<SecretName>(text);
    holds::<SecretGrant>(text);
    holds::<Pick>(text);
    for kind in ["http", "env", "dir", "secret"] {
        holds::<Pick>(&format!("{kind}:{second}"));
    }
});
