//! Counters of the peer protocol, shared by all workers of a node and read by the metrics page.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use std::collections::BTreeSet;

use super::frame::FrameError;
use super::hello::Goodbye;

/// Complaints that are remembered so that each is logged once.
const COMPLAINTS_MAX: usize = 1024;

/// Counters since the start of the node. All only rise, except where said.
#[derive(Debug, Default)]
pub struct PeerStats {
    /// Connections opened, hello included.
    pub dialed: AtomicU64,
    /// Connections that could not be opened.
    pub dial_failed: AtomicU64,
    /// Connections accepted, hello included.
    pub accepted: AtomicU64,
    /// Connections open now, both directions (rises and falls).
    pub open: AtomicU64,
    /// Frames written.
    pub frames_out: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
    /// Writes that carried them: fewer than frames where frames were coalesced.
    pub writes: AtomicU64,
    /// Frames read.
    pub frames_in: AtomicU64,
    /// Bytes read.
    pub bytes_in: AtomicU64,
    /// Calls begun.
    pub calls: AtomicU64,
    /// Calls that ended without a reply.
    pub calls_failed: AtomicU64,
    /// Calls that wait for their answers now (rises and falls).
    pub calls_open: AtomicU64,
    /// Bytes of their messages (rises and falls).
    pub calls_open_bytes: AtomicU64,
    /// Calls and notices refused because the peer's queue was full.
    pub queue_full: AtomicU64,
    /// Requests refused because a connection had too many in work.
    pub overloaded: AtomicU64,
    /// Requests that came a second time on their connection and were not worked on again.
    pub repeated: AtomicU64,
    /// Notices dropped because a connection had too many in work.
    pub notices_dropped: AtomicU64,
    /// Bodies that did not decode, in good frames.
    pub bad_bodies: AtomicU64,
    /// Connections ended by bytes that are no frame.
    pub bad_frames: AtomicU64,
    goodbyes: [AtomicU64; Goodbye::CODES.len()],
    complaints: Mutex<BTreeSet<(String, &'static str)>>,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl PeerStats {
    /// Connections ended or refused by each cause, either side: (stable code, count).
    pub fn goodbyes(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Goodbye::CODES
            .into_iter()
            .zip(&self.goodbyes)
            .map(|(code, count)| (code, count.load(Ordering::Relaxed)))
    }

    /// Counts a goodbye that was said or heard. It is logged at warning the first time for each
    /// (who, code), at debug afterwards, so that a misconfigured peer cannot flood the log.
    pub(super) fn goodbye(&self, who: &str, goodbye: &Goodbye) {
        if let Some(counter) = self.goodbyes.get(goodbye.number()) {
            add(counter, 1);
        }
        if goodbye.is_alarming() && self.first_time(who, goodbye.code()) {
            tracing::warn!(peer = who, code = goodbye.code(), "connection refused: {goodbye}");
        } else {
            tracing::debug!(peer = who, code = goodbye.code(), "connection ended: {goodbye}");
        }
    }

    /// Counts bytes that are no frame, and logs the first of each kind from each place.
    pub(super) fn bad_frame(&self, who: &str, error: FrameError) {
        add(&self.bad_frames, 1);
        if self.first_time(who, error.code()) {
            tracing::warn!(peer = who, code = error.code(), "closing a peer connection: {error}");
        } else {
            tracing::debug!(peer = who, code = error.code(), "closing a peer connection: {error}");
        }
    }

    fn first_time(&self, who: &str, code: &'static str) -> bool {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        // The port of an accepted connection differs each time: only the host is remembered.
        let host = who.rsplit_once(':').map_or(who, |(host, _)| host).to_string();
        complaints.len() < COMPLAINTS_MAX && complaints.insert((host, code))
    }
}
