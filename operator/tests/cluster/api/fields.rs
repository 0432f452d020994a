//! Who owns which field: server-side apply, as far as an operator can tell the difference.
//!
//! A field is named by its path in the notation of `managedFields` (`f:spec`, `k:{"name":"x"}`,
//! `.` for an item as such). Lists whose items have a key are merged item by item; every other
//! list is one value. What a manager applied before and leaves out now is removed unless another
//! manager owns it; what another manager owns with another value is a conflict unless forced.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// A field's name, segment by segment.
pub type Path = Vec<String>;

/// Lists that are merged by key, and the keys.
const KEYED: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("imagePullSecrets", &["name"]),
    ("ownerReferences", &["uid"]),
    ("conditions", &["type"]),
    ("ports", &["containerPort", "port", "protocol"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("nodeStatuses", &["id"]),
    ("racks", &["name"]),
];

/// The key of an item of the list called `list`; none where the list is one value.
fn key_of(list: &str, item: &Value) -> Option<String> {
    let (_, keys) = KEYED.iter().find(|(name, _)| *name == list)?;
    let item = item.as_object()?;
    let key: Map<String, Value> =
        keys.iter().filter_map(|key| Some(((*key).to_owned(), item.get(*key)?.clone()))).collect();
    (!key.is_empty()).then(|| format!("k:{}", Value::Object(key)))
}

/// Is this list merged item by item?
fn keyed(list: &str, items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| key_of(list, item).is_some())
}

/// Every leaf below `value`, with its value. An item of a keyed list is a leaf too.
pub fn leaves(value: &Value) -> BTreeMap<Path, Value> {
    let mut out = BTreeMap::new();
    collect(value, "", &mut Vec::new(), &mut out);
    out
}

fn collect(value: &Value, name: &str, path: &mut Path, out: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                path.push(format!("f:{field}"));
                collect(value, field, path, out);
                path.pop();
            }
        }
        Value::Array(items) if keyed(name, items) => {
            for item in items {
                path.push(key_of(name, item).expect("looked at above"));
                path.push(".".to_owned());
                out.insert(path.clone(), Value::Null);
                path.pop();
                collect(item, "", path, out);
                path.pop();
            }
        }
        value => {
            out.insert(path.clone(), value.clone());
        }
    }
}

/// Leaves out every null, as the API server does with what a client applies.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        value => value.clone(),
    }
}

/// Puts `applied` over `live`.
pub fn merge(live: &Value, applied: &Value) -> Value {
    merge_named(live, applied, "")
}

fn merge_named(live: &Value, applied: &Value, name: &str) -> Value {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            let mut out = live.clone();
            for (field, value) in applied {
                let merged = match live.get(field) {
                    Some(old) => merge_named(old, value, field),
                    None => value.clone(),
                };
                out.insert(field.clone(), merged);
            }
            Value::Object(out)
        }
        (Value::Array(live), Value::Array(applied))
            if keyed(name, live) && keyed(name, applied) =>
        {
            let mut out = live.clone();
            for item in applied {
                let key = key_of(name, item);
                match out.iter_mut().find(|old| key_of(name, old) == key) {
                    Some(old) => *old = merge_named(old, item, ""),
                    None => out.push(item.clone()),
                }
            }
            Value::Array(out)
        }
        (_, applied) => applied.clone(),
    }
}

/// Takes the field at `path` out, and what becomes empty by it.
pub fn remove(value: &mut Value, path: &[String]) {
    remove_named(value, path, "");
}

fn remove_named(value: &mut Value, path: &[String], name: &str) {
    let [head, rest @ ..] = path else { return };
    match value {
        Value::Object(fields) => {
            let Some(field) = head.strip_prefix("f:") else { return };
            if rest.is_empty() {
                fields.remove(field);
            } else if let Some(inner) = fields.get_mut(field) {
                remove_named(inner, rest, field);
                if is_empty(inner) {
                    fields.remove(field);
                }
            }
        }
        Value::Array(items) if head.starts_with("k:") => {
            let at = items.iter().position(|item| key_of(name, item).as_ref() == Some(head));
            let Some(at) = at else { return };
            if rest == ["."] {
                items.remove(at);
            } else {
                remove_named(&mut items[at], rest, "");
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// The paths as a `fieldsV1` tree.
pub fn tree(paths: &BTreeSet<Path>) -> Value {
    let mut root = json!({});
    for path in paths {
        let mut at = &mut root;
        for segment in path {
            at = at
                .as_object_mut()
                .expect("built of objects")
                .entry(segment.clone())
                .or_insert_with(|| json!({}));
        }
    }
    root
}

/// The paths of a `fieldsV1` tree.
pub fn paths(tree: &Value) -> BTreeSet<Path> {
    fn walk(tree: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
        match tree.as_object() {
            Some(fields) if !fields.is_empty() => {
                for (segment, below) in fields {
                    path.push(segment.clone());
                    walk(below, path, out);
                    path.pop();
                }
            }
            _ => {
                out.insert(path.clone());
            }
        }
    }
    let mut out = BTreeSet::new();
    if tree.as_object().is_some_and(|tree| !tree.is_empty()) {
        walk(tree, &mut Vec::new(), &mut out);
    }
    out
}

/// One manager's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Who.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// Through which subresource.
    pub subresource: String,
    /// What.
    pub fields: BTreeSet<Path>,
}

/// Reads `metadata.managedFields`.
pub fn owners(object: &Value) -> Vec<Owned> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries
        .into_iter()
        .flatten()
        .map(|entry| Owned {
            manager: text(entry, "manager"),
            operation: text(entry, "operation"),
            subresource: text(entry, "subresource"),
            fields: paths(&entry["fieldsV1"]),
        })
        .collect()
}

/// Writes `metadata.managedFields`.
pub fn set_owners(object: &mut Value, owners: &[Owned]) {
    let api_version = object["apiVersion"].clone();
    let entries: Vec<Value> = owners
        .iter()
        .filter(|owned| !owned.fields.is_empty())
        .map(|owned| {
            let mut entry = json!({
                "manager": owned.manager, "operation": owned.operation,
                "apiVersion": api_version, "fieldsType": "FieldsV1",
                "fieldsV1": tree(&owned.fields),
            });
            if !owned.subresource.is_empty() {
                entry["subresource"] = json!(owned.subresource);
            }
            entry
        })
        .collect();
    object["metadata"]["managedFields"] = Value::Array(entries);
}

/// Fields of other managers that an apply would change: manager and path.
pub type Conflicts = Vec<(String, String)>;

/// Applies `wanted` (identity and null fields taken out) as `manager`.
pub fn apply(
    live: &Value,
    wanted: &Value,
    (manager, subresource): (&str, &str),
    force: bool,
) -> Result<Value, Conflicts> {
    let mut owners = owners(live);
    let wanted_leaves = leaves(wanted);
    let live_leaves = leaves(live);
    let mine = |owned: &Owned| {
        owned.manager == manager && owned.operation == "Apply" && owned.subresource == subresource
    };
    let before = owners.iter().find(|owned| mine(owned)).map(|owned| owned.fields.clone());
    let mut conflicts = Conflicts::new();
    for owned in owners.iter_mut().filter(|owned| !mine(owned)) {
        let taken: Vec<Path> = owned
            .fields
            .iter()
            .filter(|path| {
                let wanted = wanted_leaves.get(*path);
                wanted.is_some_and(|value| live_leaves.get(*path) != Some(value))
            })
            .cloned()
            .collect();
        for path in taken {
            if !force {
                conflicts.push((owned.manager.clone(), path.join(".")));
            }
            owned.fields.remove(&path);
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut out = live.clone();
    // An item of a keyed list goes before the fields below it: without its key it is not found.
    let mut before: Vec<Path> = before.into_iter().flatten().collect();
    before.sort_by_key(|path| path.last().is_none_or(|last| last != "."));
    for path in before {
        let others = owners.iter().filter(|owned| !mine(owned));
        let kept = others.flat_map(|owned| &owned.fields).any(|other| *other == path);
        if !wanted_leaves.contains_key(&path) && !kept {
            remove(&mut out, &path);
        }
    }
    let mut out = merge(&out, wanted);
    let fields: BTreeSet<Path> = wanted_leaves.into_keys().collect();
    match owners.iter_mut().find(|owned| mine(owned)) {
        Some(owned) => owned.fields = fields,
        None => owners.push(Owned {
            manager: manager.to_owned(),
            operation: "Apply".to_owned(),
            subresource: subresource.to_owned(),
            fields,
        }),
    }
    set_owners(&mut out, &owners);
    Ok(out)
}

/// Notes that `manager` wrote `after` over `before` by a plain write: it owns what changed.
pub fn note_update(before: &Value, after: &mut Value, manager: &str, subresource: &str) {
    let mut owners = owners(before);
    let old = leaves(before);
    let is_body = |path: &Path| {
        let top = path.first().map(String::as_str);
        let second = path.get(1).map(String::as_str);
        let marks = ["f:labels", "f:annotations", "f:ownerReferences", "f:finalizers"];
        match top {
            Some("f:apiVersion" | "f:kind") => false,
            Some("f:metadata") => second.is_some_and(|second| marks.contains(&second)),
            _ => true,
        }
    };
    let now = leaves(after);
    let changed: BTreeSet<Path> = now
        .iter()
        .filter(|(path, value)| is_body(path) && old.get(*path) != Some(value))
        .map(|(path, _)| path.clone())
        .collect();
    for owned in &mut owners {
        owned.fields.retain(|path| !changed.contains(path) && now.contains_key(path));
    }
    let mine = |owned: &&mut Owned| {
        owned.manager == manager && owned.operation == "Update" && owned.subresource == subresource
    };
    match owners.iter_mut().find(mine) {
        Some(owned) => owned.fields.extend(changed),
        None => owners.push(Owned {
            manager: manager.to_owned(),
            operation: "Update".to_owned(),
            subresource: subresource.to_owned(),
            fields: changed,
        }),
    }
    set_owners(after, &owners);
}
