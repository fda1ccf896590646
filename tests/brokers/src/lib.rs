//! Private brokers for tests: RabbitMQ and Mosquitto from the system's packages as child processes, each on loopback, with
//! ports and a folder of its own, gone with the value that holds it. Never a mock: what a broker does is what is tested.

pub mod mosquitto;
pub mod rabbitmq;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

/// A port of loopback that is free now. It is asked for and given back, so another process can take it in between: whoever
/// starts a server on it looks whether that server came up, and takes another one if not.
///
/// # Errors
/// The system has none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.local_addr()?.port())
}
