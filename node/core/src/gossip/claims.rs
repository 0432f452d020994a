//! Two processes that claim one node id: which one is listened to, and who is told.
//!
//! A volume that was copied, or put back to an older state, makes two processes carry one identity.
//! Of two starts the larger (boot, nonce) is listed; messages of the other are refused and answered
//! with the listed one. Others tell of the copy. The process itself first takes a claim for a memory
//! of a start from before its volume was put back ([`Event::OwnIdInUse`]: it may go on above that
//! boot); a claim that goes on beating is another process, and then the one that is not listed must
//! serve nothing ([`Event::Twin`]).

use crate::gossip::member::{Ghost, RETIRED_TAGS_MAX};
use crate::gossip::message::Entry;
use crate::gossip::profile::Profile;
use crate::gossip::state::{Gossip, Rival};
use crate::gossip::view::Event;

/// Intervals for which a process with an older boot must go on beating before it counts as a copy
/// of the volume: longer than a message can be late.
const GHOST_INTERVALS: u64 = 5;
/// Intervals for which another process with this node's id is watched, and the heartbeats in that
/// time that prove it to be running: more than the lists of a large cluster can differ by.
const TWIN_INTERVALS: u64 = 20;
const TWIN_BEATS: u64 = 15;

impl Gossip {
    /// A message says something of this node's own id.
    pub(super) fn absorb_own_id(&mut self, entry: &Entry) {
        let profile = &entry.profile;
        let (theirs, mine) = ((profile.boot, profile.nonce), (self.me.boot, self.me.nonce));
        if profile.boot < mine.0 || theirs == mine {
            let tag = profile.tag();
            if tag != self.my_tag && !self.my_retired.contains(&tag) {
                self.my_retired.insert(0, tag);
                self.my_retired.truncate(RETIRED_TAGS_MAX);
            }
            return;
        }
        let (boot, address) = (profile.boot, profile.addresses.peer.clone());
        let (counter, first_ms) = (entry.pulse.counter, self.lived_ms);
        if self.rival.as_ref().is_none_or(|rival| rival.process != theirs) {
            let twin = self.rival.as_ref().is_some_and(|rival| rival.beats);
            let rival = Rival { process: theirs, address, counter, first_ms, beats: twin };
            let address = rival.address.clone();
            self.rival = Some(rival);
            self.tell(Event::OwnIdInUse { boot, address });
            return;
        }
        let interval_ms = self.config.interval_ms;
        let Some(rival) = self.rival.as_mut().filter(|rival| !rival.beats) else { return };
        let watched = first_ms.saturating_sub(rival.first_ms) >= TWIN_INTERVALS * interval_ms;
        if theirs > mine && watched && counter.saturating_sub(rival.counter) >= TWIN_BEATS {
            rival.beats = true;
            self.tell(Event::Twin { boot, address });
        }
    }

    /// A process with an older boot says by itself that it is this member. One message may be late;
    /// one that goes on beating is a second process.
    pub(super) fn notice_ghost(&mut self, index: usize, entry: &Entry) {
        let (lived, wait) = (self.lived_ms, GHOST_INTERVALS * self.config.interval_ms);
        let process = (entry.profile.boot, entry.profile.nonce);
        let counter = entry.pulse.counter;
        let ghost = &mut self.members[index].ghost;
        match ghost.filter(|ghost| ghost.process == process) {
            None => *ghost = Some(Ghost { process, counter, first_ms: lived }),
            Some(known) if counter > known.counter && lived - known.first_ms >= wait => {
                self.tell_of_clone(index, &entry.profile);
            }
            Some(_) => {}
        }
    }

    pub(super) fn tell_of_clone(&mut self, index: usize, other: &Profile) {
        let member = &mut self.members[index];
        if !member.clone_told {
            member.clone_told = true;
            let name = |profile: &Profile| (profile.boot, profile.addresses.peer.clone());
            let (id, listed) = (other.id, name(&member.profile));
            self.tell(Event::Cloned { id, listed, other: name(other) });
        }
    }
}
