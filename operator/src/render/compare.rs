//! Whether an object that is there still is what was rendered.
//!
//! The API server fills in defaults and others add fields of their own, so equality is no test:
//! what was rendered must be in there, unchanged. What an older rendering had and a newer one has
//! not is seen by the hash in the annotation. When nothing differs, nothing is written.

use serde_json::Value;

use super::{names, overlay};

/// Whether the object must be applied again.
pub fn differs(live: &Value, rendered: &Value) -> bool {
    let hash = |object: &Value| object["metadata"]["annotations"][names::RENDERED].clone();
    hash(live) != hash(rendered) || !covers("", live, rendered)
}

/// Whether everything in `wanted` is in `live`. An empty value that is wanted may be absent: the
/// API server drops those.
fn covers(field: &str, live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            let amount = matches!(field, "requests" | "limits");
            match live.get(key) {
                Some(there) if amount => same_amount(there, value),
                Some(there) => covers(key, there, value),
                None => is_empty(value),
            }
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            let key = overlay::key_of(field);
            if wanted.iter().all(|item| item.get(key).is_some()) {
                wanted.iter().all(|item| {
                    live.iter().any(|there| there[key] == item[key] && covers("", there, item))
                })
            } else {
                live.len() == wanted.len()
                    && live.iter().zip(wanted).all(|(there, item)| covers("", there, item))
            }
        }
        (live, wanted) => live == wanted || (live.is_null() && is_empty(wanted)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn same_amount(one: &Value, other: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let (one, other) = (text(one), text(other));
    one == other || amount(&one).is_some_and(|one| Some(one) == amount(&other))
}

/// A quantity in thousandths; none when it is not one that this operator takes.
pub fn amount(text: &str) -> Option<u128> {
    let cut = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(cut);
    let scale: u128 = match unit {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        "Ei" => 1_000 << 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut value = whole.parse::<u128>().ok()?.checked_mul(scale)?;
    let mut digit_scale = scale;
    for digit in fraction.chars() {
        digit_scale /= 10;
        value = value.checked_add(u128::from(digit.to_digit(10)?) * digit_scale)?;
    }
    Some(value)
}
