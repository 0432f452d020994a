//! The kinds that the fake API server serves, and how the path of a request names one.

/// One served kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version of the group.
    pub version: &'static str,
    /// Last segment of a collection's path.
    pub plural: &'static str,
    /// `kind` of an object.
    pub name: &'static str,
    /// Whether the collection stands in a namespace.
    pub namespaced: bool,
    /// Whether `status` is written through its own path only.
    pub has_status: bool,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    name: &'static str,
    has_status: bool,
) -> Kind {
    Kind { group, version, plural, name, namespaced: true, has_status }
}

/// Everything that is served.
pub const KINDS: &[Kind] = &[
    kind("", "v1", "pods", "Pod", true),
    kind("", "v1", "services", "Service", true),
    kind("", "v1", "configmaps", "ConfigMap", false),
    kind("", "v1", "secrets", "Secret", false),
    kind("", "v1", "serviceaccounts", "ServiceAccount", false),
    kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    kind("apps", "v1", "statefulsets", "StatefulSet", true),
    kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", false),
    kind("coordination.k8s.io", "v1", "leases", "Lease", false),
    kind("events.k8s.io", "v1", "events", "Event", false),
    kind("kvasir.dev", "v1alpha1", "kvclusters", "KVCluster", true),
    Kind { namespaced: false, ..kind("", "v1", "nodes", "Node", true) },
];

/// The kind with this plural name.
pub fn by_plural(plural: &str) -> Kind {
    let found = KINDS.iter().find(|kind| kind.plural == plural);
    *found.unwrap_or_else(|| panic!("the fake API server does not serve {plural}"))
}

impl Kind {
    /// `apiVersion` of an object.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for all of them, and for kinds that have none.
    pub namespace: String,
    /// The object; none for the collection.
    pub name: Option<String>,
    /// What stands behind the name: `status`, `scale`, `eviction`; empty for the object itself.
    pub subresource: String,
}

/// Reads `/api/v1/...` and `/apis/GROUP/VERSION/...`; none for a path that is not served.
pub fn target(path: &str) -> Option<Target> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, None, ""),
        [plural, name] => (*plural, Some((*name).to_owned()), ""),
        [plural, name, sub] => (*plural, Some((*name).to_owned()), *sub),
        _ => return None,
    };
    let kind = *KINDS.iter().find(|kind| {
        (kind.group, kind.version, kind.plural) == (group, version, plural)
            && (kind.namespaced || namespace.is_empty())
    })?;
    if kind.namespaced && namespace.is_empty() && name.is_some() {
        return None;
    }
    Some(Target {
        kind,
        namespace: namespace.to_owned(),
        name,
        subresource: subresource.to_owned(),
    })
}
