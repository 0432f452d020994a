//! Small clusters for the tests of this crate.

use super::document::{BucketSettings, Document, Member, MemberState, NewCluster};
use super::layout::suggest_bits;
use super::names::TokenSecret;
use crate::id::{ClusterId, NodeId};

/// Node number `number` of every test.
pub(crate) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number + 1; 16])
}

/// A node on a machine, rack and zone of its own.
pub(crate) fn member(number: u8) -> Member {
    Member {
        machine: format!("machine{number}"),
        rack: format!("rack{number}"),
        zone: format!("zone{number}"),
        datacenter: "dc1".into(),
        weight: 100,
        state: MemberState::Active,
    }
}

/// A first document for nodes 0 to `nodes` - 1 with `copies` copies.
pub(crate) fn cluster(nodes: u8, copies: u32) -> Document {
    centers(nodes, copies, 1)
}

/// The same with the nodes dealt out to data centers `dc1` and so on, and `copies` copies in each.
pub(crate) fn centers(nodes: u8, copies: u32, centers: u8) -> Document {
    let name = |number: u8| format!("dc{}", number + 1);
    let member = |number: u8| Member { datacenter: name(number % centers), ..member(number) };
    let all = copies * u32::from(centers);
    let new = NewCluster {
        cluster_id: ClusterId::from_bytes([0xc1; 16]),
        cluster_name: "test".into(),
        seed: 42,
        token_secret: TokenSecret([7; 32]),
        partition_bits: suggest_bits(usize::from(nodes), all).min(5),
        members: (0..nodes).map(|number| (node(number), member(number))).collect(),
        replication: (0..centers).map(|number| (name(number), copies)).collect(),
        defaults: BucketSettings::default(),
    };
    Document::first(new).expect("enough machines").0
}
