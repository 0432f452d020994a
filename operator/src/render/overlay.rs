//! `spec.podTemplate` over the template that the operator makes.

use serde_json::Value;

/// Puts `over` on top of `base`: objects field by field, lists whose elements have names element
/// by element, everything else replaced.
pub fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(key) {
                    Some(there) => lay(key, there, value),
                    None => {
                        base.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

fn lay(field: &str, base: &mut Value, over: &Value) {
    let (Value::Array(there), Value::Array(given)) = (&mut *base, over) else {
        return overlay(base, over);
    };
    let key = key_of(field);
    let named = |list: &[Value]| list.iter().all(|item| item.get(key).is_some());
    if !named(there) || !named(given) {
        *base = over.clone();
        return;
    }
    for item in given {
        match there.iter_mut().find(|old| old[key] == item[key]) {
            Some(old) => overlay(old, item),
            None => there.push(item.clone()),
        }
    }
}

/// The field by which Kubernetes tells the elements of a list apart.
pub fn key_of(field: &str) -> &'static str {
    match field {
        "volumeMounts" => "mountPath",
        "ownerReferences" => "uid",
        _ => "name",
    }
}
