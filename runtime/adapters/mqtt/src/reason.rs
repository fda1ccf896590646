//! Reason codes of MQTT 5.0 (section 2.4), by number.
//!
//! The library has a table for each packet, with what the specification allows there. Brokers go beyond: Mosquitto answers a
//! PUBLISH that is too large with a PUBACK of 0x95, which no table has, and the packet would count as none at all. Which code
//! a refusal has is for the operator to read, and seldom for a program; so any number is taken.

use std::fmt;

/// Why a broker refuses something or ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) u8);

impl Reason {
    pub(crate) const UNSPECIFIED: Self = Self(0x80);
    pub(crate) const IMPLEMENTATION_SPECIFIC: Self = Self(0x83);
    pub(crate) const SESSION_TAKEN_OVER: Self = Self(0x8e);
    pub(crate) const PACKET_IDENTIFIER_IN_USE: Self = Self(0x91);
    pub(crate) const PACKET_TOO_LARGE: Self = Self(0x95);
    pub(crate) const QUOTA_EXCEEDED: Self = Self(0x97);

    /// From here on a code says that something failed.
    pub(crate) const FIRST_FAILURE: u8 = 0x80;

    /// The name that the specification gives it.
    fn name(self) -> &'static str {
        match self.0 {
            0x80 => "unspecified error",
            0x81 => "malformed packet",
            0x82 => "protocol error",
            0x83 => "implementation specific error",
            0x87 => "not authorized",
            0x88 => "server unavailable",
            0x89 => "server busy",
            0x8a => "banned",
            0x8b => "server shutting down",
            0x8d => "keep alive timeout",
            0x8e => "session taken over",
            0x8f => "topic filter invalid",
            0x90 => "topic name invalid",
            0x91 => "packet identifier in use",
            0x92 => "packet identifier not found",
            0x93 => "receive maximum exceeded",
            0x94 => "topic alias invalid",
            0x95 => "packet too large",
            0x96 => "message rate too high",
            0x97 => "quota exceeded",
            0x98 => "administrative action",
            0x99 => "payload format invalid",
            0x9a => "retain not supported",
            0x9b => "QoS not supported",
            0x9c => "use another server",
            0x9d => "server moved",
            0x9e => "shared subscriptions not supported",
            0x9f => "connection rate exceeded",
            0xa0 => "maximum connect time",
            0xa1 => "subscription identifiers not supported",
            0xa2 => "wildcard subscriptions not supported",
            _ => "reason code",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02x})", self.name(), self.0)
    }
}
