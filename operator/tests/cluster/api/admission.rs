//! What the API server refuses before it stores: the rules of real kinds that an operator can break.

use serde_json::Value;

use super::failure::{Answer, Failure};
use super::kinds::Kind;

/// Fields of a StatefulSet's spec that may change after its creation.
const MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
    "revisionHistoryLimit",
];

/// Refuses what a real API server would.
pub fn admit(kind: Kind, before: Option<&Value>, after: &Value) -> Answer<()> {
    match kind.name {
        "StatefulSet" => stateful_set(before, after),
        "PersistentVolumeClaim" => claim(before, after),
        _ => Ok(()),
    }
}

fn stateful_set(before: Option<&Value>, after: &Value) -> Answer<()> {
    let spec = &after["spec"];
    let wanted = &spec["selector"]["matchLabels"];
    let labels = &spec["template"]["metadata"]["labels"];
    let selects = wanted.as_object().is_some_and(|wanted| {
        !wanted.is_empty() && wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
    });
    if !selects {
        return Err(Failure::invalid("spec.selector does not match the labels of the template"));
    }
    let Some(before) = before.and_then(|before| before["spec"].as_object()) else { return Ok(()) };
    let fixed = before.iter().filter(|(name, _)| !MUTABLE.contains(&name.as_str()));
    for (name, value) in fixed {
        if spec.get(name) != Some(value) {
            return Err(Failure::invalid(format!("spec.{name} of a StatefulSet is immutable")));
        }
    }
    Ok(())
}

fn claim(before: Option<&Value>, after: &Value) -> Answer<()> {
    let field = "storageClassName";
    match before {
        Some(before) if before["spec"][field] != after["spec"][field] => {
            Err(Failure::invalid("spec.storageClassName of a claim is immutable"))
        }
        _ => Ok(()),
    }
}
