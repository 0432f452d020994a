//! `node/ADMIN_API.md` and the types of the admin API say the same.

use std::collections::BTreeSet;

use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::routes::{Access, ROUTES};
use kvasir_core::admin_api::{
    InitRequest, OperationPlan, OperationRequest, OperationStatus, Probe, RepairStatus,
    ReplicaRead, Status,
};

const PAGE: &str = include_str!("../../ADMIN_API.md");

/// Rows of the tables whose header begins with this cell, as trimmed cells.
fn rows(first_cell: &str) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    };
    let mut found = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('|') && cells(line)[0] == first_cell {
            let body = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
            found.extend(body.map(cells));
        }
    }
    found
}

/// The JSON blocks of the page, with elisions made readable.
fn examples() -> Vec<String> {
    let blocks = PAGE.split("```json\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn example<T: serde::de::DeserializeOwned>(marker: &str) -> T {
    let node = "0b3f6c1e-6a52-4d0e-8a43-5f6e2d1c7b90";
    let found = examples().into_iter().find(|block| block.contains(marker)).expect(marker);
    let json = found
        .replace("7c1d...", node)
        .replace("0b3f...", node)
        .replace("5d9c2b1a-...", node)
        .replace("9f2c...", "9f2c");
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{marker}: {error}\n{json}"))
}

#[test]
fn every_route_is_on_the_page_with_its_rule() {
    let listed: BTreeSet<(String, String, bool)> = rows("route")
        .into_iter()
        .map(|row| {
            let built = !row[2].contains("501");
            (row[0].trim_matches('`').to_owned(), row[1].to_owned(), built)
        })
        .collect();
    let expected = ROUTES
        .iter()
        .map(|route| {
            let access = if route.access == Access::Open { "open" } else { "token" };
            (format!("{} {}", route.method, route.path), access.to_owned(), route.built)
        })
        .collect();
    assert_eq!(listed, expected);
    for route in ROUTES {
        let heading = PAGE.lines().any(|line| {
            line.starts_with("## ") && line.contains(&format!("{} {}`", route.method, route.path))
        });
        assert!(heading, "{} {} has no section", route.method, route.path);
    }
}

#[test]
fn every_code_is_on_the_page_with_its_status() {
    let listed: BTreeSet<(String, u16)> = rows("code")
        .into_iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[1].parse().expect("a status")))
        .collect();
    let expected =
        code::ALL.iter().map(|(code, status, _)| ((*code).to_owned(), *status)).collect();
    assert_eq!(listed, expected);
    for (row, number) in rows("answer").into_iter().map(|row| (row[1], row[0])) {
        for name in row.split(',').map(|name| name.trim().trim_matches('`')) {
            let known = code::ALL.iter().find(|(code, _, _)| *code == name);
            let agrees =
                name.is_empty() || known.is_some_and(|known| known.1.to_string() == number);
            assert!(agrees, "{number} {name}");
        }
    }
}

#[test]
fn the_examples_are_what_the_types_read() {
    example::<Probe>("\"checks\"");
    let status: Status = example("\"answeredBy\"");
    assert_eq!(status.partitions.total, 64);
    example::<InitRequest>("\"clusterName\": \"prod\",\n  \"replication\"");
    let posted: OperationRequest = example("{\"id\": \"join-4\", \"kind\": \"join\"");
    posted.validate().expect("the example fits its kind");
    assert_eq!(example::<OperationStatus>("\"postedEpoch\"").request, posted);
    example::<OperationPlan>("\"baseEpoch\"");
    example::<RepairStatus>("\"comparisonsTotal\"");
    example::<ReplicaRead>("\"keyHash\"");
}
