//! Label and field selectors, as far as the operator and the simulated controllers use them.

use serde_json::Value;

/// Does an object match `labelSelector` (`a=b,c!=d,e`) and `fieldSelector` (`metadata.name=x`)?
pub fn matches(object: &Value, labels: &str, fields: &str) -> bool {
    let label = |name: &str| object["metadata"]["labels"].get(name).and_then(Value::as_str);
    let field = |name: &str| object.pointer(&format!("/{}", name.replace('.', "/")));
    all(labels, label) && all(fields, |name| field(name).and_then(Value::as_str))
}

fn all<'a>(selector: &str, value: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        if let Some((name, wanted)) = term.split_once("!=") {
            value(name) != Some(wanted)
        } else if let Some((name, wanted)) = term.split_once('=') {
            value(name) == Some(wanted.trim_start_matches('='))
        } else if term.contains(['(', ' ', '!']) {
            panic!("the fake API server does not know the selector `{term}`")
        } else {
            value(term).is_some()
        }
    })
}

/// Does an object match the `matchLabels` of a selector object? One without any matches nothing
/// here, so that a budget written wrongly protects nobody instead of everybody.
pub fn matches_object(object: &Value, selector: &Value) -> bool {
    let Some(wanted) = selector.get("matchLabels").and_then(Value::as_object) else { return false };
    let labels = &object["metadata"]["labels"];
    !wanted.is_empty() && wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}
