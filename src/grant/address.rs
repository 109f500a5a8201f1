//! Which addresses a guest's requests may go to: only those of the public internet, unless a grant
//! names another. A pure function of the address, so that every spelling of one is judged alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address that is not of the public internet is, by the special-purpose registries of IANA
/// (RFC 6890) and the metadata addresses of clouds; `None` for a public one. An IPv6 address that has
/// an IPv4 address within it is what that one is.
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, d] = address.octets();
    Some(match (a, b, c, d) {
        (0, ..) => "of this network",
        (127, ..) => "a loopback address",
        (10, ..) | (172, 16..=31, ..) | (192, 168, ..) => "a private address",
        (169, 254, 169, 254) | (100, 100, 100, 200) | (168, 63, 129, 16) => "a metadata address",
        (169, 254, ..) => "a link-local address",
        (100, 64..=127, ..) => "a carrier's private address",
        (192, 0, 0, _) => "a protocol's own address",
        (192, 0, 2, _) | (198, 51, 100, _) | (203, 0, 113, _) => "an address for documentation",
        (192, 88, 99, _) => "a relay of 6to4",
        (198, 18..=19, ..) => "an address for benchmarks",
        (224..=239, ..) => "a multicast address",
        (255, 255, 255, 255) => "the broadcast address",
        (240..=255, ..) => "a reserved address",
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let s = address.segments();
    let low = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("the unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        // Mapped, compatible and translated forms, NAT64 in both of its prefixes, 6to4, ISATAP.
        [0, 0, 0, 0, 0, 0xffff | 0, g, h] | [0, 0, 0, 0, 0xffff, 0, g, h] => {
            special_v4(low(g, h)).or(Some("an IPv4 address within an IPv6 one"))
        }
        [0x64, 0xff9b, 0, 0, 0, 0, g, h] => special_v4(low(g, h)),
        [0x64, 0xff9b, 1, ..] => Some("a translated private address"),
        [0x2002, b, c, ..] => special_v4(low(b, c)),
        [_, _, _, _, 0 | 0x200, 0x5efe, g, h] if special_v4(low(g, h)).is_some() => special_v4(low(g, h)),
        [0x2001, 0, ..] => Some("a Teredo address"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("an address for documentation"),
        [0x2001, 0..=0x1ff, ..] => Some("a protocol's own address"),
        [0x100, 0, 0, 0 | 1, ..] => Some("an address that discards"),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some("a metadata address"),
        [0x5f00, ..] => Some("a segment identifier"),
        [0xfc00..=0xfdff, ..] => Some("a private address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xfec0..=0xfeff, ..] => Some("a site-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        // What is not given out yet.
        [0x2000..=0x3fff, ..] => None,
        _ => Some("a reserved address"),
    }
}

/// A block of addresses: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    pub fn one(address: IpAddr) -> Self {
        Network { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(block), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (u32::from(block) ^ u32::from(address)) & mask == 0
            }
            (IpAddr::V6(block), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (u128::from(block) ^ u128::from(address)) & mask == 0
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let one = Network::one(address.parse().map_err(|_| "an address is such as `10.1.2.3` or `10.0.0.0/8`")?);
        let bits = bits.map_or(Ok(one.bits), |bits| bits.parse().map_err(|_| "the bits of a network are a number"))?;
        if bits > one.bits {
            return Err("a network has at most 32 bits, or 128 for IPv6");
        }
        Ok(Network { bits, ..one })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Network::one(self.address) {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_of_an_inner_address_is_special() {
        for text in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "169.254.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.8",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "192.88.99.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:10.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "fd00:ec2::254",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
            "4000::1",
            "::2",
            "2001:4860::5efe:a00:1",
            "2001:4860::200:5efe:7f00:1",
            "8000::",
        ] {
            assert!(special(text.parse().unwrap()).is_some(), "{text}");
        }
    }

    #[test]
    fn the_public_internet_is_not() {
        for text in [
            "8.8.8.8",
            "1.1.1.1",
            "93.184.216.34",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2a00:1450::1",
            "126.255.255.255",
            "128.0.0.1",
        ] {
            assert_eq!(special(text.parse().unwrap()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_judged_the_same_in_whichever_form_it_is_embedded(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low);
            let six_to_four = Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1);
            prop_assert_eq!(special(nat64.into()), special(v4.into()));
            prop_assert_eq!(special(six_to_four.into()), special(v4.into()));
            prop_assert!(special(v4.to_ipv6_mapped().into()).is_some());
            prop_assert!(special(v4.to_ipv6_compatible().into()).is_some());
        }

        #[test]
        fn a_network_contains_what_shares_its_bits(address: u32, bits in 0u8..=32, other: u32) {
            let network: Network = format!("{}/{bits}", Ipv4Addr::from(address)).parse().unwrap();
            let same = bits == 0 || address >> (32 - bits) == other >> (32 - bits);
            prop_assert_eq!(network.contains(Ipv4Addr::from(other).into()), same);
            prop_assert!(network.contains(Ipv4Addr::from(address).into()));
        }

        #[test]
        fn any_text_as_a_network_ends_without_panic(text in "[0-9a-f:./]{0,40}") {
            if let Ok(network) = text.parse::<Network>() {
                prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
            }
        }
    }
}
