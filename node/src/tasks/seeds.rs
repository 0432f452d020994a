//! Seeds by name: one name may stand for every node, as a headless Service does.
//!
//! Dialing such a name would reach whichever address comes first, which may be this node itself for
//! ever. So each address behind it is a seed of its own, looked up again and again, since pods come
//! back with others.

use std::rc::Rc;
use std::time::Duration;

use super::control::Control;

/// How often names are looked up.
const EVERY: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(super) async fn run(control: Rc<Control>) {
    loop {
        let mut seeds = Vec::new();
        for name in &control.configured_seeds {
            seeds.extend(control.net.resolve(name).await);
        }
        seeds.sort();
        seeds.dedup();
        if *control.seeds.borrow() != seeds {
            tracing::debug!(?seeds, "the seeds, looked up");
            control.gossip.borrow_mut().set_seeds(seeds.clone());
            control.seeds.replace(seeds);
        }
        tokio::time::sleep(EVERY).await;
    }
}
