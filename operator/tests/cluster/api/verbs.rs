//! What a request does to the store: the verbs of the Kubernetes API.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::admission;
use super::failure::{Answer, Failure};
use super::fields;
use super::kinds::{Kind, Target, by_plural};
use super::selector;
use super::store::{Key, Store};

/// One request, read.
#[derive(Debug, Clone)]
pub struct Request {
    /// GET, POST, PUT, PATCH or DELETE.
    pub method: String,
    /// What it is about.
    pub target: Target,
    /// Its parameters.
    pub query: BTreeMap<String, String>,
    /// Of the body.
    pub content_type: String,
    /// The body; null when there is none.
    pub body: Value,
}

impl Request {
    /// A parameter; empty when it is not given.
    pub fn param(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Does it start a watch?
    pub fn is_watch(&self) -> bool {
        self.method == "GET" && matches!(self.param("watch"), "true" | "1")
    }

    /// The verb as a Role names it.
    pub fn verb(&self) -> &'static str {
        match (self.method.as_str(), &self.target.name) {
            ("GET", _) if self.is_watch() => "watch",
            ("GET", Some(_)) => "get",
            ("GET", None) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            _ => "deletecollection",
        }
    }

    /// The object that it names.
    pub fn key(&self) -> Answer<Key> {
        let name = self.target.name.clone();
        let name = name.or_else(|| self.body["metadata"]["name"].as_str().map(str::to_owned));
        let name = name.or_else(|| {
            let prefix = self.body["metadata"]["generateName"].as_str()?;
            Some(format!("{prefix}{:x}", stable(&self.body.to_string())))
        });
        let name = name.ok_or_else(|| Failure::new(400, "BadRequest", "no name"))?;
        let Target { kind, namespace, .. } = self.target.clone();
        Ok(Key { kind, namespace, name })
    }

    fn manager(&self) -> &str {
        match self.param("fieldManager") {
            "" => "unknown",
            manager => manager,
        }
    }
}

/// FNV-1a: a number that is the same in every run.
pub fn stable(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Does what a request asks for. Watches are served elsewhere.
pub fn perform(store: &mut Store, request: &Request) -> Answer<Value> {
    match (request.verb(), request.target.subresource.as_str()) {
        ("get", "scale") => scale_of(store.find(&request.key()?)?),
        ("get", _) => get(store, request),
        ("list", _) => Ok(list(store, request)),
        ("create", "eviction") => evict(store, request),
        ("create", "") => create(store, request),
        ("update" | "patch", "scale") => set_scale(store, request),
        ("update", "" | "status") => update(store, request, request.body.clone()),
        ("patch", "" | "status") => patch(store, request),
        ("delete", "") => delete(store, &request.key()?, &request.body),
        _ => Err(Failure::new(405, "MethodNotAllowed", "the fake API server does not do that")),
    }
}

fn get(store: &Store, request: &Request) -> Answer<Value> {
    let key = request.key()?;
    if request.param("resourceVersion") == "0" {
        let cached = store.list_at(key.kind, &key.namespace, store.visible());
        let found = cached.into_iter().find(|(other, _)| *other == key);
        let missing = || Failure::not_found(key.kind.plural, &key.name);
        return found.map(|(_, object)| object).ok_or_else(missing);
    }
    store.find(&key).cloned()
}

fn list(store: &Store, request: &Request) -> Value {
    let Target { kind, namespace, .. } = &request.target;
    let cached = request.param("resourceVersion") == "0";
    let revision = if cached { store.visible() } else { store.revision() };
    let all = if cached {
        store.list_at(*kind, namespace, revision)
    } else {
        store.list(*kind, namespace)
    };
    let (labels, names) = (request.param("labelSelector"), request.param("fieldSelector"));
    let items: Vec<Value> = all
        .into_iter()
        .map(|(_, object)| object)
        .filter(|object| selector::matches(object, labels, names))
        .collect();
    json!({
        "kind": format!("{}List", kind.name), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": items,
    })
}

fn create(store: &mut Store, request: &Request) -> Answer<Value> {
    let key = request.key()?;
    let mut object = fields::without_nulls(&request.body);
    if key.kind.has_status
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("status");
    }
    keep_as_data(&mut object);
    admission::admit(key.kind, None, &object)?;
    let before = json!({"apiVersion": key.kind.api_version()});
    fields::note_update(&before, &mut object, request.manager(), "");
    store.create(key, object)
}

/// `stringData` of a Secret is kept as `data`.
fn keep_as_data(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    for (name, text) in texts {
        let bytes = text.as_str().unwrap_or_default().as_bytes().to_vec();
        object["data"][name] = json!(ByteString(bytes));
    }
}

/// Refuses a write that was made on another version or another object of the same name.
fn check_identity(live: &Value, metadata: &Value) -> Answer<()> {
    for field in ["resourceVersion", "uid"] {
        let asked = metadata[field].as_str().unwrap_or_default();
        if !asked.is_empty() && live["metadata"][field] != asked {
            return Err(Failure::conflict(format!(
                "Operation cannot be fulfilled on {}: {field} is {}, not {asked}",
                live["metadata"]["name"], live["metadata"][field]
            )));
        }
    }
    Ok(())
}

/// A whole object put in place of the live one: its body, or its status.
fn update(store: &mut Store, request: &Request, object: Value) -> Answer<Value> {
    let key = request.key()?;
    let live = store.find(&key)?.clone();
    check_identity(&live, &object["metadata"])?;
    let object = fields::without_nulls(&object);
    let subresource = request.target.subresource.as_str();
    let mut after = if subresource == "status" {
        let mut after = live.clone();
        after["status"] = object["status"].clone();
        after
    } else {
        let mut after = object;
        keep_status(key.kind, &live, &mut after);
        after
    };
    admission::admit(key.kind, Some(&live), &after)?;
    fields::note_update(&live, &mut after, request.manager(), subresource);
    store.replace(&key, after)
}

fn keep_status(kind: Kind, live: &Value, after: &mut Value) {
    if !kind.has_status {
        return;
    }
    let Some(fields) = after.as_object_mut() else { return };
    match live.get("status") {
        Some(status) => fields.insert("status".to_owned(), status.clone()),
        None => fields.remove("status"),
    };
}

fn patch(store: &mut Store, request: &Request) -> Answer<Value> {
    match request.content_type.as_str() {
        "application/apply-patch+yaml" => apply(store, request),
        "application/merge-patch+json" => {
            let live = store.find(&request.key()?)?.clone();
            check_identity(&live, &request.body["metadata"])?;
            let mut after = live;
            merge_patch(&mut after, &request.body);
            update(store, request, after)
        }
        other => Err(Failure::new(415, "UnsupportedMediaType", other)),
    }
}

/// RFC 7386.
fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("made above").remove(name);
        } else {
            merge_patch(&mut target[name.as_str()], value);
        }
    }
}

fn apply(store: &mut Store, request: &Request) -> Answer<Value> {
    let key = request.key()?;
    let subresource = request.target.subresource.as_str();
    if request.param("fieldManager").is_empty() {
        return Err(Failure::new(400, "BadRequest", "an apply names its fieldManager"));
    }
    let asked = &request.body["metadata"];
    let live = store.get(&key).cloned();
    match &live {
        Some(live) => check_identity(live, asked)?,
        None if subresource == "status" => store.find(&key).map(|_| ())?,
        None if asked.get("uid").is_some_and(|uid| uid != "") => {
            return Err(Failure::conflict("uid mismatch: the object does not exist"));
        }
        None => {}
    }
    let mut wanted = fields::without_nulls(&request.body);
    strip_identity(&mut wanted, key.kind, subresource);
    let start = live.clone().unwrap_or_else(|| json!({"apiVersion": key.kind.api_version()}));
    let force = request.param("force") == "true";
    let after = fields::apply(&start, &wanted, (request.manager(), subresource), force);
    let after = after.map_err(|conflicts| {
        let all: Vec<String> =
            conflicts.iter().map(|(who, what)| format!("{who}: {what}")).collect();
        Failure::conflict(format!("Apply failed with conflicts: {}", all.join(", ")))
    })?;
    admission::admit(key.kind, live.as_ref(), &after)?;
    match live {
        Some(_) => store.replace(&key, after),
        None => store.create(key, after),
    }
}

/// Leaves only what an apply may set through this path.
fn strip_identity(wanted: &mut Value, kind: Kind, subresource: &str) {
    let Some(fields) = wanted.as_object_mut() else { return };
    fields.remove("apiVersion");
    fields.remove("kind");
    if subresource == "status" {
        fields.retain(|name, _| name == "status");
        return;
    }
    if kind.has_status {
        fields.remove("status");
    }
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| {
            ["labels", "annotations", "ownerReferences", "finalizers"].contains(&name.as_str())
        });
        if metadata.is_empty() {
            fields.remove("metadata");
        }
    }
}

/// Deletes one object under the preconditions of `options`. A pod that runs stays until its
/// kubelet has stopped it.
pub fn delete(store: &mut Store, key: &Key, options: &Value) -> Answer<Value> {
    let live = store.find(key)?.clone();
    check_identity(&live, &options["preconditions"])?;
    if options["propagationPolicy"] == "Orphan" {
        orphan(store, &live["metadata"]["uid"])?;
    }
    let runs = key.kind == by_plural("pods") && live["spec"].get("nodeName").is_some();
    store.mark_deleted(key, runs && options["gracePeriodSeconds"] != 0)?;
    Ok(success(&live))
}

fn success(object: &Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 200,
        "details": {"name": object["metadata"]["name"], "uid": object["metadata"]["uid"]},
    })
}

/// Takes the owner out of all that it owns.
fn orphan(store: &mut Store, owner: &Value) -> Answer<()> {
    let owned: Vec<(Key, Value)> =
        store.all().map(|(key, object)| (key.clone(), object.clone())).collect();
    for (key, mut object) in owned {
        let Some(list) = object.pointer_mut("/metadata/ownerReferences") else { continue };
        let Some(list) = list.as_array_mut() else { continue };
        let before = list.len();
        list.retain(|reference| reference["uid"] != *owner);
        if list.len() != before {
            store.replace(&key, object)?;
        }
    }
    Ok(())
}

/// Evicts a pod unless a disruption budget forbids it.
fn evict(store: &mut Store, request: &Request) -> Answer<Value> {
    let key = request.key()?;
    let pod = store.find(&key)?.clone();
    let budgets = store.list(by_plural("poddisruptionbudgets"), &key.namespace);
    let ready = |pod: &Value| condition(pod, "Ready");
    for (budget, object) in budgets {
        if !selector::matches_object(&pod, &object["spec"]["selector"]) || !ready(&pod) {
            continue;
        }
        let pods = store.list(key.kind, &key.namespace);
        let guarded: Vec<&Value> = pods
            .iter()
            .map(|(_, pod)| pod)
            .filter(|pod| selector::matches_object(pod, &object["spec"]["selector"]))
            .collect();
        let healthy = guarded.iter().filter(|pod| ready(pod)).count() as u64;
        let expected = guarded.len() as u64;
        let spec = &object["spec"];
        let needed = match (spec["minAvailable"].as_u64(), spec["maxUnavailable"].as_u64()) {
            (Some(least), _) => least,
            (None, Some(most)) => expected.saturating_sub(most),
            (None, None) => expected,
        };
        if healthy <= needed {
            let message = format!("Cannot evict pod: it would violate the budget {}", budget.name);
            return Err(Failure::new(429, "TooManyRequests", message));
        }
    }
    delete(store, &key, &request.body["deleteOptions"])
}

/// Is a condition of an object true?
pub fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let mut found = conditions.into_iter().flatten().filter(|entry| entry["type"] == kind);
    found.any(|entry| entry["status"] == "True")
}

/// Where the scale subresource of a kind looks.
fn scale_path(object: &Value) -> &'static str {
    if object["kind"] == "KVCluster" { "nodes" } else { "replicas" }
}

fn scale_of(object: &Value) -> Answer<Value> {
    let path = scale_path(object);
    Ok(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"],
            "uid": object["metadata"]["uid"],
            "resourceVersion": object["metadata"]["resourceVersion"],
        },
        "spec": {"replicas": object["spec"][path]},
        "status": {"replicas": object["status"][path], "selector": object["status"]["selector"]},
    }))
}

fn set_scale(store: &mut Store, request: &Request) -> Answer<Value> {
    let key = request.key()?;
    let live = store.find(&key)?.clone();
    check_identity(&live, &request.body["metadata"])?;
    let mut after = live.clone();
    after["spec"][scale_path(&live)] = request.body["spec"]["replicas"].clone();
    admission::admit(key.kind, Some(&live), &after)?;
    fields::note_update(&live, &mut after, request.manager(), "scale");
    scale_of(&store.replace(&key, after)?)
}
