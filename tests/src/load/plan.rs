//! What a client does next: a pure function of a seed and of what the client was told so far.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The shape of a run. All bounds are counts, so that a run always ends.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Seed of every choice.
    pub seed: u64,
    /// Client sessions, at most 10,000.
    pub clients: u32,
    /// Operations per session.
    pub operations: u32,
    /// Distinct keys.
    pub keys: u32,
    /// Share of reads in percent.
    pub read_percent: u32,
    /// Share of deletes in percent.
    pub delete_percent: u32,
    /// Share of writes that carry the token the client holds for the key, in percent.
    pub token_percent: u32,
    /// Bytes added to each value.
    pub padding: usize,
}

/// The next operation of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the key.
    Get(String),
    /// Write the key, with a token or blind.
    Put(String, Option<String>),
    /// Delete the key, with a token or blind.
    Delete(String, Option<String>),
}

/// One client: its random numbers and the tokens it holds.
#[derive(Debug)]
pub struct Session {
    plan: Plan,
    rng: SmallRng,
    left: u32,
    tokens: BTreeMap<String, String>,
}

impl Session {
    /// The session of `client` under a plan.
    pub fn new(plan: &Plan, client: u32) -> Self {
        let seed = plan.seed ^ (u64::from(client) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            plan: plan.clone(),
            rng: SmallRng::seed_from_u64(seed),
            left: plan.operations,
            tokens: BTreeMap::new(),
        }
    }

    /// The next operation, or nothing when the session is through.
    pub fn next_step(&mut self) -> Option<Step> {
        self.left = self.left.checked_sub(1)?;
        let key = format!("key-{}", self.rng.random_range(0..self.plan.keys.max(1)));
        let dice = self.rng.random_range(0..100);
        let with_token = self.rng.random_range(0..100) < self.plan.token_percent;
        if dice < self.plan.read_percent {
            return Some(Step::Get(key));
        }
        let token = if with_token { self.tokens.get(&key).cloned() } else { None };
        if dice < self.plan.read_percent + self.plan.delete_percent {
            return Some(Step::Delete(key, token));
        }
        Some(Step::Put(key, token))
    }

    /// A number below `bound`, from the session's own stream: which server to ask, how long to think.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.rng.random_range(0..bound.max(1))
    }

    /// Remembers the token that came back for a key.
    pub fn learn(&mut self, key: &str, token: Option<&str>) {
        if let Some(token) = token {
            self.tokens.insert(key.to_string(), token.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same_steps_and_ends() {
        let plan = Plan {
            seed: 1,
            clients: 1,
            operations: 50,
            keys: 3,
            read_percent: 40,
            delete_percent: 10,
            token_percent: 50,
            padding: 0,
        };
        let steps = |client| {
            let mut session = Session::new(&plan, client);
            session.learn("key-1", Some("t"));
            std::iter::from_fn(|| session.next_step()).collect::<Vec<_>>()
        };
        assert_eq!(steps(0), steps(0));
        assert_ne!(steps(0), steps(1));
        assert_eq!(steps(0).len(), 50);
        assert!(steps(0).iter().any(|s| matches!(s, Step::Put(_, Some(_)))));
    }
}
