//! Ports that no other test has: a block of them is held by a lock that the kernel lets go of with the process.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

/// How many are looked through.
const SPAN: u16 = 12_000;
const BLOCK: u16 = 10;

/// Ten ports that are ours until this is dropped.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    given: AtomicU16,
    _lock: File,
}

impl Ports {
    /// Takes a free block.
    pub fn take() -> Self {
        let folder = shared_folder("tenon-test-ports");
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let start = start();
        for first in (start..start + SPAN).step_by(usize::from(BLOCK)) {
            let lock = File::create(folder.join(first.to_string())).expect("the temporary folder can be written");
            if lock.try_lock().is_ok() && (first..first + BLOCK).all(is_free) {
                return Self { first, given: AtomicU16::new(0), _lock: lock };
            }
        }
        panic!("no ten free ports between {start} and {}: end the processes that hold them", start + SPAN);
    }

    /// The next port of the block.
    pub fn next(&self) -> u16 {
        let index = self.given.fetch_add(1, Ordering::Relaxed);
        assert!(index < BLOCK, "a block has {BLOCK} ports; take another");
        self.first + index
    }
}

/// The first of ports that the system gives to nobody by itself: neither to outgoing connections nor to who asks for any.
fn start() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = range.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(low), _) if low >= 1_024 + SPAN => (low - SPAN).min(20_000),
        (_, Some(high)) if high < u16::MAX - SPAN => high + 1,
        // Elsewhere they begin at 49,152 (RFC 6335).
        _ => 20_000,
    }
}

/// A folder that all tests of this user share, whichever process they are in.
pub fn shared_folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("{name}-{}", rustix::process::getuid().as_raw()));
    fs::create_dir_all(&folder).expect("the temporary folder can be written");
    folder
}
