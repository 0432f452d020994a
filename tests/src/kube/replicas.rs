//! What the node of each pod stores alone, by the replica read of its admin port, for the judge that holds
//! simulated and local nodes to the same rule.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kvasir_core::admin_api::ReplicaRead;

use super::client::until;
use super::forward::Forward;
use super::ground::Scenario;
use crate::check::replicas::{Held, converged, unique_dots};

/// Keys of the load that are looked at.
const SAMPLE: u32 = 200;
/// Longest wait until hand-back and the comparison of replicas have mended what differs.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until all owners of keys of the load hold the same sets, and no dot names two writes. The load has
/// ended; `keys` is how many it wrote, `copies` how many owners each has over all data centers. `secret` holds
/// the token of the admin API.
///
/// # Panics
/// They do not, or too little is held for that to mean anything.
pub fn replicas_agree(scenario: &Scenario, pods: &[&str], secret: &str, keys: u32, copies: usize) {
    let secret = scenario.get("secret", secret).expect("the Secret with the token is there");
    let token = STANDARD.decode(secret["data"]["token"].as_str().unwrap_or_default());
    let token = String::from_utf8(token.expect("base64")).expect("a token in UTF-8");
    let step = (keys / SAMPLE).max(1) as usize;
    let names: Vec<String> = (0..keys).step_by(step).map(|n| format!("key-{n}")).collect();
    let held = until("all owners hold the same", PATIENCE, || {
        let mut held = Vec::new();
        for pod in pods {
            held.extend(held_by(scenario, pod, &token, &names)?);
        }
        match &converged(&held)[..] {
            [] => Ok(held),
            [first, rest @ ..] => Err(format!("{first}, and {} more", rest.len())),
        }
    });
    assert_eq!(unique_dots(&held.iter().collect::<Vec<_>>()), vec![]);
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for one in held.iter().filter(|one| one.read.owner && one.read.found) {
        *owners.entry(&one.key).or_default() += 1;
    }
    let everywhere = owners.values().filter(|count| **count >= copies).count();
    println!("{everywhere} of {} keys are held alike by {copies} owners", names.len());
    assert!(everywhere == names.len(), "{owners:?}");
}

fn held_by(
    scenario: &Scenario,
    pod: &str,
    token: &str,
    names: &[String],
) -> Result<Vec<Held>, String> {
    let admin = Forward::to(&scenario.namespace, &format!("pod/{pod}"), 9098);
    let paths: Vec<String> = names.iter().map(|key| format!("/v1/replica/check/{key}")).collect();
    let said = admin.curl_all(&paths, &["-H", &format!("Authorization: Bearer {token}")]);
    if !said.ok {
        return Err(format!("{pod}: {}{}", said.err, said.out));
    }
    let reads = serde_json::Deserializer::from_str(&said.out).into_iter::<ReplicaRead>();
    let reads: Result<Vec<ReplicaRead>, _> = reads.collect();
    let reads = reads.map_err(|error| format!("{pod}: {error}"))?;
    let held = names.iter().zip(reads).map(|(key, read)| Held { key: key.clone(), read });
    Ok(held.collect())
}
