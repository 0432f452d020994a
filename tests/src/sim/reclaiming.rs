//! Stories in which nodes erase what was deleted as soon as they may.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::script::Script;
use super::story::Story;
use super::weather::Conditions;

impl Story {
    /// Five minutes on four nodes that erase what was deleted as soon as they may, while nodes crash and
    /// frames arrive up to ten minutes late. No volume is lost: a member that is out for good holds reclaim
    /// up for good.
    pub fn reclaiming(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x7ec1);
        let chaos_ms = 300_000;
        let mut script = Script::draw(&mut rng, 4, chaos_ms - 20_000);
        script.0.retain(|t| !t.fault.spoils());
        let conditions = Conditions {
            loss_permille: rng.random_range(0..20),
            twice_permille: rng.random_range(0..50),
            delay_ms: rng.random_range(0..10),
            late_permille: rng.random_range(5..30),
            late_ms: 600_000,
        };
        Self {
            word: "--reclaim ",
            hosts: 4,
            chaos_ms,
            script,
            conditions,
            clients: 4,
            think_ms: 1_500,
            keys: 24,
            delete_percent: 25,
            sets: &[
                "reclaim.generation=2s",
                "reclaim.min_age=1s",
                "reclaim.pause=2s",
                "reclaim.rate=1GiB",
            ],
            ..Self::random(seed)
        }
    }
}
