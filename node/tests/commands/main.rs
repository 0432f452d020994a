//! The command line as its users run it: the built binary, real nodes, a shell.

#![allow(clippy::unwrap_used)]

mod dev;
mod readme;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// The binary under test.
const KVASIR: &str = env!("CARGO_BIN_EXE_kvasir");

/// An HTTP port from which on six nodes find all of theirs free; another one at each call.
fn free_base() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 20) as u16 * 300;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let roles: Vec<u16> =
        [0, 100, 200].iter().flat_map(|role| (0..6).map(move |n| role + n)).collect();
    (0..20)
        .map(|_| start + NEXT.fetch_add(1, Ordering::Relaxed) * 300)
        .find(|base| roles.iter().all(|role| free(base + role)))
        .expect("twenty ranges of ports are not all taken")
}
