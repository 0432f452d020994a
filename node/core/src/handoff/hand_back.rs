//! How far the hand-back of one stand-in copy has come, and when the copy may go.
//!
//! The copy may go when every node that the partition's entry names stored exactly what the copy holds,
//! all under one version of that entry. A newer version, or a copy that grew meanwhile, begins anew:
//! acknowledgements under two versions never add up, since a node may have lost its volume between two
//! tenures (refuted by the models when they did).

use std::collections::BTreeSet;

use crate::id::NodeId;

/// Acknowledgements of one copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandBack {
    /// Version and hash of the entry, and what the copy held.
    under: Option<((u64, u64), u128)>,
    stored: BTreeSet<NodeId>,
}

impl HandBack {
    /// Who still has to store a copy with this fingerprint under this entry (version and hash).
    pub fn missing(&mut self, entry: (u64, u64), copy: u128, owners: &[NodeId]) -> Vec<NodeId> {
        if self.under != Some((entry, copy)) {
            self.under = Some((entry, copy));
            self.stored.clear();
        }
        owners.iter().copied().filter(|owner| !self.stored.contains(owner)).collect()
    }

    /// Whether it is this entry and this copy that acknowledgements count for.
    pub fn is_under(&self, entry: (u64, u64), copy: u128) -> bool {
        self.under == Some((entry, copy))
    }

    /// An owner stored, durably, what [`Self::missing`] was last asked about.
    pub fn stored(&mut self, owner: NodeId) {
        self.stored.insert(owner);
    }

    /// Whether the copy may be deleted: all `owners` of this very entry stored this very copy, and
    /// there is at least one.
    pub fn complete(&self, entry: (u64, u64), copy: u128, owners: &[NodeId]) -> bool {
        self.is_under(entry, copy)
            && !owners.is_empty()
            && owners.iter().all(|owner| self.stored.contains(owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::node;
    use proptest::prelude::*;

    #[test]
    fn acknowledgements_of_two_versions_do_not_add_up() {
        let owners = [node(0), node(1)];
        let mut back = HandBack::default();
        assert_eq!(back.missing((1, 7), 9, &owners), owners);
        back.stored(node(0));
        assert_eq!(back.missing((1, 7), 9, &owners), [node(1)]);
        assert_eq!(back.missing((2, 8), 9, &owners), owners, "a new version begins anew");
        back.stored(node(1));
        assert!(!back.complete((2, 8), 9, &owners));
        back.stored(node(0));
        assert!(back.complete((2, 8), 9, &owners));
        assert!(!back.complete((2, 8), 10, &owners), "the copy grew meanwhile");
        assert!(!back.complete((1, 7), 9, &owners));
        assert!(!back.complete((2, 8), 9, &[]), "nobody is not everybody");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Entry(u64),
        Grow,
        Send(u8),
    }

    proptest! {
        /// Against a model that remembers who stored what under which version.
        #[test]
        fn a_copy_goes_only_when_every_owner_of_one_version_has_it(
            steps in prop::collection::vec(
                prop_oneof![
                    (0_u64..3).prop_map(Step::Entry),
                    Just(Step::Grow),
                    (0_u8..4).prop_map(Step::Send),
                ],
                0..40,
            ),
        ) {
            let owners = |version: u64| match version {
                0 => vec![node(0), node(1)],
                1 => vec![node(1), node(2)],
                _ => vec![node(0), node(1), node(2)],
            };
            let (mut version, mut copy) = (0, 0);
            let mut back = HandBack::default();
            let mut model: BTreeSet<(u64, u128, NodeId)> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Entry(to) => version = to,
                    Step::Grow => copy += 1,
                    Step::Send(to) => {
                        if back.missing((version, 0), copy, &owners(version)).contains(&node(to)) {
                            back.stored(node(to));
                            model.insert((version, copy, node(to)));
                        }
                    }
                }
                if back.complete((version, 0), copy, &owners(version)) {
                    let has = |owner: &NodeId| model.contains(&(version, copy, *owner));
                    prop_assert!(owners(version).iter().all(has));
                }
            }
        }
    }
}
