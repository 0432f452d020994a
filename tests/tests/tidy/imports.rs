//! The import table: which room may name which other room, and a reader of `use` and path syntax that
//! finds every arrow. A back arrow fails; so does a room that the table does not know.

use std::collections::BTreeSet;
use std::path::Path;

use syn::visit::Visit;

use crate::Source;

/// One room: its name (the first path segment under `src/`) and the rooms it may import.
type Row = (&'static str, &'static [&'static str]);

/// `kvasir-core`: ids and limits below, the protocols side by side above them, never each other except as listed.
const CORE: &[Row] = &[
    ("id", &[]),
    ("limits", &[]),
    ("explore", &[]),
    ("flow", &[]),
    ("version", &["id", "limits"]),
    ("ring", &["id", "limits", "version", "quorum"]),
    ("consensus", &["id", "limits", "ring"]),
    ("gossip", &["id", "limits", "ring", "reclaim"]),
    ("quorum", &["id", "limits"]),
    ("handoff", &["id", "ring"]),
    ("list", &["id", "limits", "version"]),
    ("merkle", &["id", "ring", "version"]),
    ("reclaim", &["id", "version"]),
    ("admin_api", &["id", "limits", "version", "ring", "gossip", "quorum"]),
];

/// `kvasir-storage`: keys, tickets and the two seams at the bottom; the store on top.
const STORAGE: &[Row] = &[
    ("guard", &[]),
    ("striped", &[]),
    ("durability", &[]),
    ("maintenance", &[]),
    ("ticket", &[]),
    ("stats", &[]),
    ("key", &[]),
    ("error", &["ticket"]),
    ("health", &["error", "guard"]),
    ("disk", &["maintenance"]),
    ("observer", &["key"]),
    ("sealed", &["error"]),
    ("spans", &[]),
    ("meta", &["error", "disk", "sealed"]),
    ("memtable", &["guard", "key"]),
    (
        "log",
        &[
            "error",
            "key",
            "ticket",
            "disk",
            "durability",
            "guard",
            "health",
            "stats",
            "sealed",
            "meta",
        ],
    ),
    ("cache", &["striped"]),
    ("table", &["error", "key", "disk", "cache", "sealed", "striped"]),
    ("options", &["error", "table"]),
    ("merge", &["error", "memtable", "table"]),
    ("manifest", &["error", "disk", "meta", "options", "sealed", "spans"]),
    (
        "levels",
        &[
            "error",
            "key",
            "disk",
            "maintenance",
            "options",
            "memtable",
            "merge",
            "manifest",
            "table",
            "spans",
        ],
    ),
    ("compaction", &["error", "disk", "options", "merge", "manifest", "table", "levels", "spans"]),
    (
        "store",
        &[
            "error",
            "key",
            "ticket",
            "disk",
            "durability",
            "guard",
            "health",
            "maintenance",
            "observer",
            "options",
            "stats",
            "sealed",
            "meta",
            "log",
            "memtable",
            "merge",
            "manifest",
            "table",
            "levels",
            "compaction",
            "spans",
        ],
    ),
];

/// `kvasir`: DESIGN section 2, `main -> cli/http/resp/admin -> coordinator -> replica/tasks -> peer`.
const NODE: &[Row] = &[
    ("config", &[]),
    ("planted", &[]),
    ("pressure", &[]),
    ("seam", &["planted"]),
    ("faults", &["seam"]),
    ("peer", &["seam", "config", "pressure"]),
    ("replica", &["seam", "planted", "config", "peer"]),
    ("tasks", &["seam", "planted", "config", "peer", "replica"]),
    ("coordinator", &["seam", "planted", "config", "peer", "replica"]),
    ("http", &["seam", "config", "pressure", "coordinator"]),
    ("admin", &["seam", "config", "pressure", "coordinator", "http", "peer", "replica", "tasks"]),
    (
        "serve",
        &[
            "seam",
            "planted",
            "config",
            "pressure",
            "faults",
            "peer",
            "replica",
            "tasks",
            "coordinator",
            "http",
            "admin",
        ],
    ),
    ("cli", &["config"]),
    ("dev", &["config", "faults", "cli"]),
    ("main", &["config", "faults", "serve", "cli", "dev"]),
];

/// `kvasir-operator`: observe (reads only) -> plan (pure) -> apply (the only writer), DESIGN section 11.
const OPERATOR: &[Row] = &[
    ("crd", &[]),
    ("snapshot", &["crd"]),
    ("render", &["crd", "snapshot"]),
    ("plan", &["crd", "snapshot", "render"]),
    ("node_admin", &[]),
    ("observe", &["crd", "snapshot", "render", "node_admin"]),
    ("apply", &["crd", "snapshot", "render", "plan", "node_admin", "observe"]),
    ("events", &["crd"]),
    ("metrics", &[]),
    ("lease", &[]),
    ("server", &["metrics"]),
    ("pass", &["crd", "snapshot", "plan", "observe", "apply", "events", "metrics"]),
    ("controller", &["crd", "snapshot", "render", "apply", "metrics", "pass"]),
    (
        "main",
        &[
            "snapshot",
            "render",
            "node_admin",
            "apply",
            "lease",
            "metrics",
            "server",
            "pass",
            "controller",
        ],
    ),
    ("bin", &["crd"]),
];

/// Crates and the other crates of this workspace that they may name.
const CRATES: &[(&str, &str, &[Row], &[&str])] = &[
    ("node/core/src/", "kvasir_core", CORE, &[]),
    ("node/storage/src/", "kvasir_storage", STORAGE, &[]),
    ("node/src/", "kvasir", NODE, &["kvasir_core", "kvasir_storage"]),
    ("operator/src/", "kvasir_operator", OPERATOR, &["kvasir_core"]),
];

/// Every violation of the table, one line each.
pub fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for (root, name, table, crates) in CRATES {
        for source in sources.iter().filter(|s| s.path.starts_with(root)) {
            let room = room_of(root, &source.path);
            if room == "lib" || source.path.ends_with("tests.rs") {
                continue;
            }
            let Some((_, allowed)) = table.iter().find(|(r, _)| *r == room) else {
                found.push(format!(
                    "{}: room `{room}` of {name} is not in the import table",
                    source.path
                ));
                continue;
            };
            for arrow in arrows(root, source) {
                match arrow {
                    Arrow::Room(to) => {
                        let known = table.iter().any(|(r, _)| *r == to);
                        if known && to != room && !allowed.contains(&to.as_str()) {
                            found.push(format!("{}: `{room}` must not import `{to}`", source.path));
                        }
                    }
                    Arrow::Crate(to) => {
                        // A bin names its own library.
                        if to != *name && !crates.contains(&to.as_str()) {
                            found.push(format!("{}: {name} must not import {to}", source.path));
                        }
                    }
                }
            }
        }
    }
    found
}

fn room_of(root: &str, path: &str) -> String {
    let inner = path.strip_prefix(root).unwrap_or(path);
    let first = inner.split('/').next().unwrap_or(inner);
    first.trim_end_matches(".rs").to_string()
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Arrow {
    Room(String),
    Crate(String),
}

struct Paths {
    module: Vec<String>,
    arrows: BTreeSet<Arrow>,
    own: &'static str,
}

fn arrows(root: &str, source: &Source) -> BTreeSet<Arrow> {
    let own = CRATES.iter().find(|(r, ..)| *r == root).map_or("", |(_, name, ..)| name);
    let inner = source.path.strip_prefix(root).unwrap_or(&source.path);
    let mut module: Vec<String> = Path::new(inner)
        .with_extension("")
        .iter()
        .map(|s| s.to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|m| m == "mod" || m == "lib" || m == "main") {
        module.pop();
    }
    let mut visitor = Paths { module, arrows: BTreeSet::new(), own };
    visitor.visit_file(&source.syntax);
    visitor.arrows
}

impl Paths {
    fn add(&mut self, segments: &[String]) {
        let Some(first) = segments.first() else { return };
        match first.as_str() {
            "crate" => {
                if let Some(room) = segments.get(1) {
                    self.arrows.insert(Arrow::Room(room.clone()));
                }
            }
            "super" => {
                let ups = segments.iter().take_while(|s| *s == "super").count();
                if ups >= self.module.len()
                    && let Some(room) = segments.get(ups)
                {
                    self.arrows.insert(Arrow::Room(room.clone()));
                }
            }
            name if name == self.own => {
                if let Some(room) = segments.get(1) {
                    self.arrows.insert(Arrow::Room(room.clone()));
                }
            }
            name if name.starts_with("kvasir") => {
                self.arrows.insert(Arrow::Crate(name.to_string()));
            }
            _ => {}
        }
    }

    fn tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let mut path = prefix.to_vec();
        match tree {
            syn::UseTree::Path(p) => {
                path.push(p.ident.to_string());
                self.tree(&path, &p.tree);
            }
            syn::UseTree::Name(n) => {
                path.push(n.ident.to_string());
                self.add(&path);
            }
            syn::UseTree::Rename(r) => {
                path.push(r.ident.to_string());
                self.add(&path);
            }
            syn::UseTree::Glob(_) => self.add(&path),
            syn::UseTree::Group(g) => {
                for item in &g.items {
                    self.tree(prefix, item);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !crate::is_test(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !crate::is_test(&item.attrs) {
            let name = item.ident.to_string();
            self.module.push(name);
            syn::visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !crate::is_test(&item.attrs) {
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.add(&segments);
        }
        syn::visit::visit_path(self, path);
    }
}
