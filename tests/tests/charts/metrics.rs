//! Alerts and dashboards ask for metrics that exist, with labels that they have.

use std::collections::{BTreeMap, BTreeSet};

use super::{charts, text};

/// Labels that a scrape of pods adds to every series; `le` is that of histograms.
const ADDED: &[&str] = &["namespace", "pod", "kvasir_dev_cluster", "le"];

/// Name -> labels, from the page that lists every metric of a node.
fn listed() -> BTreeMap<String, BTreeSet<String>> {
    let page = text(&charts().join("../node/METRICS.md"));
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.replace('`', "").trim().to_string()));
    let mut found = BTreeMap::new();
    for row in cells.map(Iterator::collect::<Vec<_>>).filter(|row| row.len() >= 4) {
        let labels = row[2].split(',').map(|label| label.trim().to_string());
        let labels: BTreeSet<String> = labels.filter(|label| !label.is_empty()).collect();
        if row[1] == "histogram" {
            for suffix in ["_bucket", "_sum", "_count"] {
                found.insert(format!("{}{suffix}", row[0]), labels.clone());
            }
        }
        found.insert(row[0].clone(), labels);
    }
    found
}

/// Every metric that a text names, with the labels in the braces that follow it.
fn named(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("kvasir_") {
        let before = text[..at].chars().next_back();
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') || ADDED.contains(&name) {
            continue;
        }
        let mut labels = BTreeSet::new();
        if let Some(braces) = rest[end..].strip_prefix('{') {
            let inner = braces.replace("{{- $series }}", "");
            let inner = &inner[..inner.find('}').expect("a closing brace")];
            for pair in inner.split(',').filter(|pair| !pair.trim().is_empty()) {
                let name = pair.split(['=', '!']).next().expect("a label").trim();
                labels.insert(name.to_string());
            }
        }
        found.push((name.to_string(), labels));
    }
    found
}

#[test]
fn every_metric_that_is_asked_for_exists_with_its_labels() {
    let listed = listed();
    assert!(listed.len() > 50, "METRICS.md was not read: {listed:?}");
    for (file, least) in [("templates/prometheusrule.yaml", 15), ("files/dashboard.json", 20)] {
        let asked = named(&text(&charts().join("kvasir-cluster").join(file)));
        assert!(asked.len() >= least, "{file} names only {} metrics", asked.len());
        for (name, labels) in asked {
            let known = listed.get(&name).unwrap_or_else(|| panic!("{file}: no metric {name}"));
            for label in labels {
                let label = label.trim_start_matches(' ');
                let there = ADDED.contains(&label) || known.contains(label);
                assert!(there, "{file}: {name} has no label {label}");
            }
        }
    }
}
