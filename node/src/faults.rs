//! What a node of a local cluster does to the frames that it sends, to show what a bad network does.
//!
//! `kvasir dev` cuts and slows the links between its nodes by telling each of them, over the standard
//! input that ties it to `kvasir dev`, what to do with its own frames. No port takes such an order and
//! a node that runs by itself has nobody who could give one. Without orders a frame costs one load.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use kvasir_core::id::NodeId;
use serde::{Deserialize, Serialize};

use crate::seam::Fate;

/// The longest that frames are held back, in milliseconds: each waits in memory.
pub const DELAY_MAX_MS: u64 = 10_000;

/// Everything that one node is to do; replaces what it was told before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Orders {
    /// Frames to these nodes are lost.
    pub cut: BTreeSet<NodeId>,
    /// All others are sent this much later.
    pub delay_ms: u64,
}

/// The orders in force, shared by the threads of a node.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    any: AtomicBool,
    orders: RwLock<Orders>,
}

impl Faults {
    /// Takes orders as one line of JSON.
    ///
    /// # Errors
    /// The line is none; the orders in force stay.
    pub fn obey(&self, line: &str) -> Result<(), String> {
        let orders: Orders = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if orders.delay_ms > DELAY_MAX_MS {
            return Err(format!("a delay of {} ms is above {DELAY_MAX_MS}", orders.delay_ms));
        }
        let any = orders != Orders::default();
        *self.0.orders.write().unwrap_or_else(PoisonError::into_inner) = orders;
        self.0.any.store(any, Ordering::Release);
        Ok(())
    }

    /// What happens to a frame to this node.
    pub fn fate(&self, to: NodeId) -> Fate {
        if !self.0.any.load(Ordering::Acquire) {
            return Fate::Deliver;
        }
        let orders = self.0.orders.read().unwrap_or_else(PoisonError::into_inner);
        match orders.delay_ms {
            _ if orders.cut.contains(&to) => Fate::Drop,
            0 => Fate::Deliver,
            late => Fate::Delay(Duration::from_millis(late)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 16])
    }

    #[test]
    fn orders_replace_each_other_and_mistakes_change_nothing() {
        let faults = Faults::default();
        assert_eq!(faults.fate(node(1)), Fate::Deliver);
        let orders = Orders { cut: BTreeSet::from([node(1)]), delay_ms: 20 };
        faults.obey(&serde_json::to_string(&orders).unwrap()).unwrap();
        let late = Fate::Delay(Duration::from_millis(20));
        let expect_both = || {
            assert_eq!((faults.fate(node(1)), faults.fate(node(2))), (Fate::Drop, late));
        };
        expect_both();
        for wrong in ["", "x", "7", "{\"cut\":[1]}", "{\"lose\":1}", "{\"delayMs\":10001}"] {
            assert!(faults.obey(wrong).is_err(), "{wrong}");
            expect_both();
        }
        faults.obey("{}").unwrap();
        assert_eq!(faults.fate(node(1)), Fate::Deliver);
    }
}
