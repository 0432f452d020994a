//! A write that comes from another data center, by its stamp: it is the coordinator's, not the
//! forwarder's, that says whether it is too old, here and at everybody to whom it is passed on.

use std::collections::BTreeMap;

use kvasir_core::handoff::Cap;
use kvasir_core::id::ClusterId;
use kvasir_core::ring::{
    BucketSettings, Document, Member, MemberState, NewCluster, Sealed, TokenSecret,
};
use kvasir_core::version::{Actor, Context, Minter, Sibling, Stamp};
use kvasir_storage::{MemoryDisk, NoObserver, Store, StoreOptions, Threads};
use tokio::task::LocalSet;

use super::*;
use crate::coordinator::Learned;
use crate::peer::memory_net::MemoryNet;
use crate::peer::{Class, Me, PeerStats, Peers, PoolLimits, Told};
use crate::planted::Planted;
use crate::replica::{Formed, Replica, StandIns, Trees, Views};
use crate::seam::Clock;

/// This node's generation.
const NOW: u64 = 5;

struct Still;

impl Clock for Still {
    fn wall_ms(&self) -> u64 {
        1_800_000_000_000
    }
}

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// Nodes 1 and 2 hold the copies of `here`, node 3 that of `there`.
fn document() -> Document {
    let place = |number: u8| Member {
        machine: format!("m{number}"),
        rack: String::new(),
        zone: String::new(),
        datacenter: if number == 3 { "there" } else { "here" }.into(),
        weight: 1,
        state: MemberState::Active,
    };
    let new = NewCluster {
        cluster_id: ClusterId::from_bytes([1; 16]),
        cluster_name: "test".into(),
        seed: 1,
        token_secret: TokenSecret([1; 32]),
        partition_bits: 0,
        members: (1..=3).map(|number| (id(number), place(number))).collect(),
        replication: BTreeMap::from([("here".into(), 2), ("there".into(), 1)]),
        defaults: BucketSettings::default(),
    };
    Document::first(new).expect("machines enough").0
}

fn store(dir: &str) -> Arc<Store> {
    let threads = Arc::new(Threads::start(1).unwrap());
    let disk = Arc::new(MemoryDisk::new());
    Store::open(StoreOptions::new(dir), disk, threads, Arc::new(NoObserver)).unwrap()
}

/// Node 1 at generation [`NOW`], which can reach nobody.
fn forwarder() -> Handler {
    let parts = (store("store"), Arc::new(Trees::off()));
    let minter = Arc::new(Minter::new(1));
    let replica = Arc::new(Replica::new(parts, minter, Arc::new(Still), Planted::default()));
    replica.generation().reached(NOW);
    let formed = Some(Arc::new(Formed::new(Sealed::new(document()))));
    let view = View { formed, generation: NOW, ..View::blank(id(1), "here") };
    let cap = Cap { max_bytes: 1_000 };
    let standins = StandIns::new(store("standins"), Arc::clone(&replica), cap, cap);
    let net = MemoryNet::new().host("one");
    let me = Me::new(Hello::blank(id(1), 1, 1));
    let peers = Peers::new(net, me, PoolLimits::default(), Arc::new(PeerStats::default()), 1);
    let coordinate = Rc::new(Coordinate {
        replica: Arc::clone(&replica),
        views: Arc::new(Views::new(view)),
        standins: Arc::new(standins),
        peers: Rc::new(peers),
        learned: Learned::new(Arc::default()),
        fetch: Rc::new(|_, _| {}),
        planted: Planted::default(),
    });
    Handler {
        coordinate,
        control: ControlHandle::new().0,
        holder: Arc::new(Holder::new(replica, 1)),
        moving: Arc::new(Moving::new(1 << 20, None)),
        http: Arc::new(HttpStats::default()),
        pace: Arc::new(Mutex::new(Pace::new(1 << 20))),
        started: Instant::now(),
        served: Arc::default(),
    }
}

/// Has the forwarder store a write of node 3 under this stamp, and pass it on to node 2.
async fn relayed(handler: &Handler, key: &'static str, generation: u64) -> Reply {
    let (bucket, key) = (Bytes::from_static(b"b"), Bytes::from_static(key.as_bytes()));
    let dot = Actor { tag: 9, serial: 0 }.dot(1);
    let delta = SiblingSet::delta(Context::new(), dot, Sibling::value(Stamp(1), "v"));
    let relay = Relay {
        bucket,
        key,
        delta: delta.encode().into(),
        durability: Durability::Memory,
        others: vec![id(2)],
        soon: false,
    };
    let deadline = Instant::now() + Duration::from_secs(2);
    let head = Incoming { deadline, class: Class::Data, route: Some(route()), generation };
    handler.handle(id(3), Request::Relay(relay), head).await
}

fn route() -> Route {
    let document = document();
    let (version, entry_hash) = (document.table[0].version, document.table[0].entry_hash());
    Route { partition: Partition { k: 0, index: 0 }, version, entry_hash }
}

async fn holds(handler: &Handler, key: &str) -> bool {
    let hash = document();
    let hash = kvasir_core::ring::key_hash(hash.seed, b"b", key.as_bytes());
    let key = TableKey::new(hash, b"b", key.as_bytes());
    !handler.coordinate.replica.read(&key).await.expect("a sound disk").is_empty()
}

#[tokio::test]
async fn a_relayed_write_of_an_old_generation_is_refused_and_passed_on_to_nobody() {
    let local = LocalSet::new();
    let story = async {
        let handler = forwarder();
        let reply = relayed(&handler, "old", NOW - 2).await;
        assert_eq!(reply, Reply::Refused(Refusal::OldGeneration { generation: NOW }));
        assert!(!holds(&handler, "old").await, "what is refused is not stored");
        // The one before is taken, and what is passed on keeps it, though this node is at a later one.
        let Reply::Relayed(told) = relayed(&handler, "late", NOW - 1).await else { panic!() };
        assert!(told.contains(&(id(1), Told::Stored)), "{told:?}");
        assert!(holds(&handler, "late").await);
        let (bucket, key) = (Bytes::from_static(b"b"), Bytes::from_static(b"late"));
        let asked = ((&bucket, &key), (route(), NOW - 1), [id(2)]);
        let plan = handler.coordinate.relaying(asked.0, asked.1, &asked.2).unwrap();
        assert_eq!((plan.stamp, plan.view.generation), (NOW - 1, NOW));
    };
    local.run_until(story).await;
}
