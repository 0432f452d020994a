//! Who is there, and who is believed to be up: heartbeat counters spread by gossip, judged by phi
//! accrual.
//!
//! Every node keeps a list of members with a heartbeat counter each. Every interval it raises its
//! own counter and sends the list to a few random members, who answer with the rows of which they
//! know a larger counter; of two counters for one member the larger is taken. A member whose counter
//! stands still is suspected; it is then asked, by this node and through others, and held for down
//! if nobody hears of it; who suspects it too and has no newer word takes that over. What is believed here steers requests and stand-ins only: it never decides
//! who owns data (that is the cluster document).
//!
//! [`Gossip`] is a state machine: time, messages and randomness go in, messages and [`Event`]s come
//! out. It opens no socket and reads no clock.
//!
//! What travels:
//! - the **profile** of a member (addresses, labels, boot, ...) changes rarely. It has a 6-byte tag
//!   and is sent only to those who ask for it (`Want` -> `Profiles`), besides the sender's own in
//!   every message;
//! - the **pulse** (refutation, counter, mark, which document, generation, leaving) changes every
//!   interval. The list sends it as a packed row of about 11 bytes behind the tag, so that 1,000
//!   members cost about 11 KB a message. In a larger cluster a list carries only some of the rows,
//!   the most urgent first: news, then the members that were silent for longest, then drawn ones.
//!
//! Invariants: within one process of one node (boot and nonce) a pulse is a function of its
//! counter, so "take the larger" is commutative, associative and idempotent; a profile with a
//! higher boot supersedes at once; everything that grows has a bound.
//!
//! Sources: Dynamo (DeCandia et al. 2007) 4.8; van Renesse, Minsky, Hayden, "A Gossip-Style Failure
//! Detection Service" (1998) for the counters; Hayashibara et al., "The phi Accrual Failure
//! Detector" (2004) for suspicion; the refutation counter is SWIM's incarnation (Das et al. 2002),
//! and so is asking through others; a node that doubts itself waits longer, as in Lifeguard (2018).

mod absorb;
mod claims;
pub mod config;
mod doubt;
mod member;
pub mod message;
mod phi;
mod probe;
pub mod profile;
mod rows;
mod spread;
mod state;
pub mod view;

pub use config::{ConfigError, GossipConfig};
pub use message::{
    Body, DocumentId, Entry, Message, NotServing, Part, Pulse, Send, Standing, Target,
};
pub use profile::{Addresses, Heartbeat, Labels, Profile, ProfileError, Tag};
pub use state::{Gossip, GossipError, Me};
pub use view::{Alarm, Counters, Event, MemberView, Refusal, Status};

#[cfg(test)]
mod tests;
