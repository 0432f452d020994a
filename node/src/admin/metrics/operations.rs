//! The families of operations and of this node's rebuild.

use super::{Labels, Page};
use crate::admin::OperationFigures;

impl Page {
    pub(super) fn operations(&mut self, figures: &OperationFigures) {
        let states: [(Labels<'_>, f64); 3] = [
            (&[("state", "running")], figures.running as f64),
            (&[("state", "waiting")], figures.waiting as f64),
            (&[("state", "failed")], figures.failed as f64),
        ];
        self.gauges("operations", "Operations of the cluster document, by how they are.", &states);
        let [waiting, moving, done] = figures.rebuilt.map(|count| count as f64);
        let stages: [(Labels<'_>, f64); 3] = [
            (&[("stage", "waiting")], waiting),
            (&[("stage", "moving")], moving),
            (&[("stage", "done")], done),
        ];
        let copies = "Copies of this node that are made anew, by how far they are.";
        self.gauges("rebuild_copies", copies, &stages);
        let bytes = "Bytes of keys and sets in the copies that were made anew.";
        self.gauge("rebuild_bytes", bytes, figures.rebuilt_bytes as f64);
    }
}
