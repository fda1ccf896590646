//! The address of a listener: as it is bound, as it is shown, and which others it leaves no room for.

use std::net::{IpAddr, SocketAddr};

/// An address to listen on.
#[derive(Clone)]
pub(crate) struct ListenAddress {
    pub(crate) socket: SocketAddr,
    /// What stands in the flow file instead, if any of it was substituted.
    written: Option<String>,
}

impl ListenAddress {
    /// `written` is what may be shown in the place of the address, if that itself may not.
    pub(crate) fn new(socket: SocketAddr, written: Option<String>) -> Self {
        Self { socket, written }
    }

    /// As it is shown once the system has chosen the port.
    pub(crate) fn shown_when_bound(&self, bound: SocketAddr) -> String {
        match &self.written {
            None => bound.to_string(),
            Some(written) if self.socket.port() == 0 => format!("{written} (port {})", bound.port()),
            Some(written) => written.clone(),
        }
    }
}

/// As a person may see it.
impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.written {
            Some(written) => f.write_str(written),
            None => self.socket.fmt(f),
        }
    }
}

/// Whether these are two addresses of which only one can be listened on: `0.0.0.0` takes its port on every address of IPv4,
/// `[::]` on every address there is (a socket of IPv6 serves IPv4 too, unless the system is told otherwise), and
/// `[::ffff:127.0.0.1]` is `127.0.0.1` (RFC 4291 section 2.5.5.2).
pub(crate) fn exclude(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 is another one each time.
    if one == other || one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let is_one_in_two_ways = ip == other_ip && one.is_ipv4() != other.is_ipv4();
    is_one_in_two_ways || includes(ip, other_ip) || includes(other_ip, ip)
}

fn includes(any: IpAddr, ip: IpAddr) -> bool {
    any.is_unspecified() && (any.is_ipv6() || ip.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leaves_no_room_for_those_that_it_includes() {
        for (one, other, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("0.0.0.0:80", "127.0.0.1:81", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("[fe80::1%1]:80", "[fe80::1%2]:80", false),
            ("0.0.0.0:80", "0.0.0.0:80", false),
        ] {
            let (a, b): (SocketAddr, SocketAddr) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((exclude(a, b), exclude(b, a)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn what_was_substituted_is_shown_as_written() {
        let (any, bound) = ("10.0.0.7:0".parse().unwrap(), "10.0.0.7:4711".parse().unwrap());
        let address = ListenAddress::new(any, Some("${env:LISTEN}".into()));
        assert_eq!(address.to_string(), "${env:LISTEN}");
        assert_eq!(address.shown_when_bound(bound), "${env:LISTEN} (port 4711)");
        assert_eq!(ListenAddress::new(bound, Some("${env:L}".into())).shown_when_bound(bound), "${env:L}");
        assert_eq!(ListenAddress::new(any, None).shown_when_bound(bound), "10.0.0.7:4711");
    }
}
