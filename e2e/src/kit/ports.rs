//! Ports for what is started with a port of our choice. Those that the kernel gives away (from 32768 by default) are
//! left alone, so that no backend of another test can get one between our look and the start. Cold.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A port that nobody listens on, and that is given once.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Runs beside each other begin at different places.
    let offset = (std::process::id() * 97 % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let number = NEXT.fetch_add(1, Relaxed) % COUNT;
        let port = FIRST + (offset + number) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free from {FIRST} to {}", FIRST + COUNT);
}
