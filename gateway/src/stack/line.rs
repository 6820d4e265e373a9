//! What the two halves of a stream share: when something last passed, and why it ends before its time.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tonic::Code;

use crate::errors::Refusal;

/// One stream at work.
#[derive(Debug)]
pub(super) struct Line {
    opened: Instant,
    /// Milliseconds after `opened`.
    touched: AtomicU64,
    /// Bytes that the client sent.
    received: AtomicU64,
    /// How long neither side may be silent.
    idle: Option<Duration>,
    fault: OnceLock<Refusal>,
    failed: Notify,
}

impl Line {
    pub(super) fn new(idle: Option<Duration>) -> Self {
        let (opened, touched, fault) = (Instant::now(), AtomicU64::new(0), OnceLock::new());
        Self { opened, touched, received: AtomicU64::new(0), idle, fault, failed: Notify::new() }
    }

    /// Something passed just now.
    pub(super) fn touch(&self) {
        let passed = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.touched.store(passed, Ordering::Relaxed);
    }

    /// The client sent this many bytes just now.
    pub(super) fn took(&self, bytes: usize) {
        self.received.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.touch();
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// When something last passed.
    pub(super) fn touched_at(&self) -> Instant {
        self.opened + Duration::from_millis(self.touched.load(Ordering::Relaxed))
    }

    /// When the silence will have been too long, as far as one can say now.
    pub(super) fn idle_at(&self) -> Option<Instant> {
        Some(self.touched_at() + self.idle?)
    }

    /// The client's half could not be read, or its right to the stream is lost; the first reason counts.
    pub(super) fn fail(&self, refusal: Refusal) {
        let _first = self.fault.set(refusal);
        // One waits at most, and one that comes later finds the permit.
        self.failed.notify_one();
    }

    /// Why the stream was ended from the client's side: it outranks whatever the service made of that.
    pub(super) fn fault(&self) -> Option<Refusal> {
        self.fault.get().cloned()
    }

    /// Waits for what ends a stream before its time: `fail`, or that it was silent for too long.
    pub(super) async fn ended(&self) -> Refusal {
        tokio::select! {
            () = self.failed.notified() => {}
            () = self.silence() => {}
        }
        let silent =
            || Refusal::new(Code::DeadlineExceeded, "STREAM_IDLE", "nothing passed on the stream for too long");
        self.fault().unwrap_or_else(silent)
    }

    async fn silence(&self) {
        if self.idle.is_none() {
            std::future::pending::<()>().await;
        }
        while let Some(at) = self.idle_at().filter(|at| *at > Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
    }
}
