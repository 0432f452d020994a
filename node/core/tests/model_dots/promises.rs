//! What every reachable state must keep.

use crate::world::{Refusal, Set, World, bit};

impl World {
    /// The first promise that is broken.
    pub fn broken_promise(&self) -> Option<String> {
        match self.refused {
            Some(Refusal::Token) => return Some("a token that was issued was refused".into()),
            Some(Refusal::ReplicaTraffic) => return Some("replica traffic was refused".into()),
            None => {}
        }
        self.minted_twice().or_else(|| self.shown_wrongly()).or_else(|| self.lost())
    }

    /// Two writes under one dot.
    fn minted_twice(&self) -> Option<String> {
        let writes = &self.writes[..self.written as usize];
        writes.iter().enumerate().find_map(|(number, write)| {
            let earlier = writes[..number].iter().position(|other| other.dot == write.dot)?;
            Some(format!("one dot minted twice: writes {earlier} and {number}"))
        })
    }

    /// A write that a node covers but does not show must have been seen by a write that it covers;
    /// one that it shows must not have been.
    fn shown_wrongly(&self) -> Option<String> {
        for (number, node) in self.nodes.iter().enumerate() {
            let set = node.memory.set;
            for write in 0..self.written as usize {
                if self.writes[write].erased || set.context & bit(self.writes[write].dot) == 0 {
                    continue;
                }
                let superseded = self.writes[..self.written as usize].iter().any(|other| {
                    other.history >> write & 1 == 1 && set.context & bit(other.dot) != 0
                });
                match (set.held >> write & 1 == 1, superseded) {
                    (false, false) => {
                        return Some(format!(
                            "false supersession of write {write} at node {number}"
                        ));
                    }
                    (true, true) => {
                        return Some(format!("superseded write {write} shows again at {number}"));
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// What all disks hold together must hold every acknowledged write that no later one saw.
    fn lost(&self) -> Option<String> {
        let all = self.nodes.iter().fold(Set::default(), |all, n| self.merge(all, n.disk.set));
        let writes = &self.writes[..self.written as usize];
        let lost = writes.iter().enumerate().position(|(number, write)| {
            let seen = || writes.iter().any(|other| other.history >> number & 1 == 1);
            write.acknowledged && !write.erased && all.held >> number & 1 == 0 && !seen()
        });
        lost.map(|number| format!("acknowledged write {number} lost"))
    }
}
