//! What a local cluster consists of: ports, names, folders and configuration of each node. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kvasir_core::admin_api::InitRequest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::failure::Failure;

/// Name of a local cluster.
const CLUSTER: &str = "dev";
/// Peers listen on the HTTP port plus this.
const PEER_OFFSET: u16 = 100;
/// The admin API listens on the HTTP port plus this.
const ADMIN_OFFSET: u16 = 200;
/// More nodes than this would run into the ports of the next role.
pub const NODES_MAX: u16 = 100;
/// Most data centers that a cluster may have.
const DATACENTERS_MAX: u16 = kvasir_core::ring::check::MAX_DATACENTERS as u16;

/// The shape of a cluster, kept in its folder. Nodes come and go; a number is given once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Nodes that there are or were: they have the numbers below.
    pub nodes: u16,
    /// Copies of everything in each data center.
    pub n: u16,
    /// Number of zones of each data center; 0 for none.
    pub zones: u16,
    /// Number of data centers; the nodes are dealt out to them in turn.
    #[serde(default = "one")]
    pub datacenters: u16,
    /// Whether the cluster was formed.
    pub formed: bool,
    /// Nodes that left.
    #[serde(default)]
    pub removed: BTreeSet<u16>,
}

fn one() -> u16 {
    1
}

/// One node of a local cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Counted from 0.
    pub number: u16,
    /// Port of the client API.
    pub http: u16,
    /// Port for other nodes.
    pub peer: u16,
    /// Port of the admin API.
    pub admin: u16,
    /// Its zone; empty for none.
    pub zone: String,
    /// Its data center.
    pub datacenter: String,
    /// Its folder: configuration, log file, data.
    pub folder: PathBuf,
}

impl Shape {
    /// How many nodes there are.
    pub fn present(&self) -> u16 {
        self.nodes.saturating_sub(self.removed.len() as u16)
    }

    /// Checks that the numbers fit each other.
    pub fn check(&self) -> Result<(), Failure> {
        let Self { n, zones, datacenters, .. } = *self;
        let nodes = self.present();
        let refuse = |what: String| {
            let next = "kvasir dev --nodes 3 --n 3";
            Err(Failure::usage(what, next))
        };
        if nodes == 0 || self.nodes > NODES_MAX {
            return refuse(format!("--nodes {nodes}: there can be 1 to {NODES_MAX}"));
        }
        if datacenters == 0 || datacenters > nodes.min(DATACENTERS_MAX) {
            return refuse(format!(
                "--datacenters {datacenters}: there can be 1 to {}, each with a node of its own",
                nodes.min(DATACENTERS_MAX)
            ));
        }
        let (each, here) = match nodes / datacenters {
            each if datacenters == 1 => (each, String::new()),
            each => (each, " in a data center".to_owned()),
        };
        if n == 0 || n > each {
            return refuse(format!(
                "--n {n}: every copy is on a node of its own, and there are {each} nodes{here}"
            ));
        }
        if zones > each {
            return refuse(format!("--zones {zones}: there are only {each} nodes{here}"));
        }
        Ok(())
    }

    /// The nodes, those that left among them, with ports from `base` on and folders under `folder`.
    pub fn plan(&self, base: u16, folder: &Path) -> Result<Vec<NodePlan>, Failure> {
        if base.checked_add(ADMIN_OFFSET + self.nodes).is_none() {
            return Err(Failure::usage(
                format!("--base-port {base}: the ports would go beyond 65535"),
                "kvasir dev --base-port 8100",
            ));
        }
        let node = |number: u16| NodePlan {
            number,
            http: base + number,
            peer: base + PEER_OFFSET + number,
            admin: base + ADMIN_OFFSET + number,
            zone: match self.zones {
                0 => String::new(),
                zones => format!("zone-{}", number / self.datacenters % zones),
            },
            datacenter: datacenter(number % self.datacenters),
            folder: folder.join(format!("node-{number}")),
        };
        Ok((0..self.nodes).map(node).collect())
    }

    /// What forms the cluster.
    pub fn init(&self, nodes: &[NodePlan]) -> InitRequest {
        InitRequest {
            cluster_name: CLUSTER.to_owned(),
            replication: (0..self.datacenters)
                .map(|number| (datacenter(number), u32::from(self.n)))
                .collect(),
            partition_bits: None,
            nodes: nodes.iter().map(NodePlan::peer_address).collect(),
            defaults: None,
        }
    }
}

impl NodePlan {
    /// Base URL of the client API.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Base URL of the admin API.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }

    /// Where other nodes reach it.
    pub fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.peer)
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.yaml")
    }

    /// Its configuration: what differs from the defaults.
    pub fn configuration(&self, all: &[NodePlan]) -> Result<String, Failure> {
        let seeds: Vec<String> =
            all.iter().filter(|node| *node != self).map(NodePlan::peer_address).collect();
        let configuration = json!({
            "node": {
                "data_dir": self.folder.join("data"),
                "seeds": seeds,
                "machine": format!("dev-{}", self.number),
                "rack": self.zone,
                "zone": self.zone,
                "datacenter": self.datacenter,
            },
            "http": {"listen": format!("127.0.0.1:{}", self.http)},
            "peer": {"listen": self.peer_address()},
            "admin": {"listen": format!("127.0.0.1:{}", self.admin)},
        });
        serde_yaml::to_string(&configuration).map_err(|error| {
            Failure::error(
                format!("node {}: its configuration has no YAML form: {error}", self.number),
                "choose a folder whose name is plain text with --keep DIR",
            )
        })
    }
}

/// The name of a data center, counted from 0.
fn datacenter(number: u16) -> String {
    format!("dc{}", number + 1)
}

/// The URLs of all nodes, separated by commas.
pub fn joined(nodes: &[NodePlan], url: fn(&NodePlan) -> String) -> String {
    nodes.iter().map(url).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shape(nodes: u16, n: u16, zones: u16) -> Shape {
        let removed = BTreeSet::new();
        Shape { nodes, n, zones, datacenters: 1, formed: false, removed }
    }

    #[test]
    fn nodes_are_dealt_out_to_data_centers() {
        let two = |nodes, n, zones| Shape { datacenters: 2, ..shape(nodes, n, zones) };
        let six = two(6, 3, 3);
        six.check().unwrap();
        let nodes = six.plan(8100, Path::new("d")).unwrap();
        let places: Vec<_> = nodes.iter().map(|n| (&n.datacenter[..], &n.zone[..])).collect();
        let zones = ["zone-0", "zone-1", "zone-2"];
        let expected: Vec<_> = zones.iter().flat_map(|z| [("dc1", *z), ("dc2", *z)]).collect();
        assert_eq!(places, expected);
        let replication = BTreeMap::from([("dc1".to_owned(), 3), ("dc2".to_owned(), 3)]);
        assert_eq!(six.init(&nodes).replication, replication);
        assert!(nodes[5].configuration(&nodes).unwrap().contains("datacenter: dc2"));
        for bad in [two(6, 4, 0), two(5, 3, 0), two(6, 3, 4), two(1, 1, 0)] {
            assert_eq!(bad.check().unwrap_err().exit.code(), 2, "{bad:?}");
        }
        for centers in [0, 17] {
            let bad = Shape { datacenters: centers, ..shape(20, 1, 0) };
            assert_eq!(bad.check().unwrap_err().exit.code(), 2, "{bad:?}");
        }
    }

    #[test]
    fn the_shape_of_an_older_cluster_has_one_data_center() {
        let text = r#"{"nodes": 3, "n": 3, "zones": 0, "formed": true}"#;
        assert_eq!(serde_json::from_str::<Shape>(text).unwrap().datacenters, 1);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (nodes, n, zones) in [(0, 1, 0), (101, 3, 0), (3, 4, 0), (3, 0, 0), (3, 3, 4)] {
            assert_eq!(shape(nodes, n, zones).check().unwrap_err().exit.code(), 2);
        }
        shape(100, 3, 5).check().unwrap();
        let left = Shape { removed: BTreeSet::from([1]), ..shape(3, 3, 0) };
        assert_eq!((left.present(), left.check().is_err()), (2, true));
        let grown = Shape { nodes: 4, ..left };
        grown.check().unwrap();
        assert_eq!(grown.plan(8100, Path::new("d")).unwrap()[3].http, 8103);
        assert!(shape(3, 3, 0).plan(65_400, Path::new("d")).is_err());
    }

    #[test]
    fn ports_and_names_are_those_of_the_contract() {
        let nodes = shape(3, 3, 2).plan(8100, Path::new("d")).unwrap();
        let ports: Vec<_> = nodes.iter().map(|n| (n.http, n.peer, n.admin)).collect();
        assert_eq!(ports, [(8100, 8200, 8300), (8101, 8201, 8301), (8102, 8202, 8302)]);
        let zones: Vec<_> = nodes.iter().map(|n| n.zone.as_str()).collect();
        assert_eq!(zones, ["zone-0", "zone-1", "zone-0"]);
        assert_eq!(
            joined(&nodes, NodePlan::http_url),
            "http://127.0.0.1:8100,http://127.0.0.1:8101,http://127.0.0.1:8102"
        );
        let init = shape(3, 2, 0).init(&nodes);
        assert_eq!(init.nodes, ["127.0.0.1:8200", "127.0.0.1:8201", "127.0.0.1:8202"]);
        assert_eq!(init.replication, BTreeMap::from([("dc1".to_owned(), 2)]));
    }
    #[test]
    fn a_node_understands_its_configuration() {
        let nodes = shape(3, 3, 3).plan(8100, Path::new("d")).unwrap();
        let text = nodes[1].configuration(&nodes).unwrap();
        let config = crate::config::parse("generated", &text, &[], std::iter::empty()).unwrap();
        assert_eq!(config.node.seeds, ["127.0.0.1:8200", "127.0.0.1:8202"]);
        assert_eq!(config.node.machine, "dev-1");
        assert_eq!(config.node.zone, "zone-1");
        assert_eq!(config.node.data_dir, Path::new("d/node-1/data"));
        assert_eq!(config.http.listen, "127.0.0.1:8101");
        assert_eq!(config.admin.listen, "127.0.0.1:8301");
    }
}
