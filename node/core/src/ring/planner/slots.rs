//! Which new owner of a partition takes the slot of which old one.
//!
//! Who stays keeps its slot. Newcomers take slots on their own machine first, then in their rack,
//! then in their zone, then anywhere. So across the border of a machine, rack or zone either only
//! newcomers pass or only leavers, never both: as the moves of the partition are made, in whatever
//! order, the copies that a place holds only rise or only fall from the number before to the number
//! after. Where both keep the rules, every table between does.

use super::flow::Row;
use crate::ring::places::{Place, Places};

/// The places in which a newcomer looks for a slot, nearest first.
const NEARNESS: [fn(&Place, &Place) -> bool; 4] =
    [|a, b| a.machine == b.machine, |a, b| a.rack == b.rack, |a, b| a.zone == b.zone, |_, _| true];

/// The owners in `after`, each at its slot beside those of `before`.
pub(super) fn ordered(places: &Places, before: &[usize], after: Row) -> Row {
    let mut ordered = before.to_vec();
    let mut vacant: Vec<usize> =
        (0..before.len()).filter(|&slot| !after.contains(&before[slot])).collect();
    let mut newcomers: Vec<usize> =
        after.into_iter().filter(|node| !before.contains(node)).collect();
    newcomers.sort_unstable();
    for near in NEARNESS {
        newcomers.retain(|&node| {
            let here = |&slot: &usize| near(&places.nodes[before[slot]], &places.nodes[node]);
            let Some(at) = vacant.iter().position(here) else { return true };
            ordered[vacant.remove(at)] = node;
            false
        });
    }
    ordered
}
