//! Who owns a key, what the bucket's settings say, and where to send first. Pure: a function of the
//! view and the request.

use std::sync::Arc;

use bytes::Bytes;
use kvasir_core::handoff::Bench;
use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, LevelError, Tally};
use kvasir_core::ring::{BucketSettings, Mode, Owner, Partition, Seat};
use kvasir_core::version::{Actor, Context, Token};
use kvasir_storage::key::TableKey;

use super::request::{CoordinateError, Durability, Showing};
use crate::peer::Route;
use crate::replica::{Formed, View};

/// Everything that the document and the member list say about one request.
#[derive(Debug)]
pub struct Plan {
    /// The instant this plan was made in.
    pub view: Arc<View>,
    formed: Arc<Formed>,
    /// The bucket.
    pub bucket: Bytes,
    /// The key.
    pub key: Bytes,
    /// Ring position.
    pub hash: u64,
    /// Where the engine keeps it.
    pub table_key: TableKey,
    /// What each frame names so that a stale coordinator is noticed.
    pub route: Route,
    /// With what the data of this request is stamped: the generation from before any was read or minted.
    pub stamp: u64,
    /// Who stores writes: this node first if it does, then by liveness, own data center first.
    pub owners: Vec<Owner>,
    /// Who answers reads, in the same order: one for each slot that can count.
    pub readers: Vec<Owner>,
    /// The bucket's settings.
    pub settings: BucketSettings,
}

impl Plan {
    /// # Errors
    /// [`CoordinateError::NotFormed`], [`CoordinateError::NotServing`].
    pub fn new(view: Arc<View>, bucket: &Bytes, key: &Bytes) -> Result<Self, CoordinateError> {
        let formed = view.formed.clone().ok_or(CoordinateError::NotFormed)?;
        let (hash, partition) = formed.ring.locate(bucket, key);
        Self::at((view, formed), bucket, key, (hash, partition))
    }

    /// The plan of a whole partition, for requests that name no key: its key is empty, its hash the first
    /// of the partition.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_partition(
        view: Arc<View>,
        bucket: &Bytes,
        partition: Partition,
    ) -> Result<Self, CoordinateError> {
        let formed = view.formed.clone().ok_or(CoordinateError::NotFormed)?;
        let first = partition.range().0;
        let mut plan = Self::at((view, formed), bucket, &Bytes::new(), (first, partition))?;
        // One order for all partitions, another one for each node that asks: few nodes are asked by each,
        // and not the same ones by all.
        let me = plan.view.me;
        plan.readers.sort_by_key(|o| {
            let (away, rank) = (o.datacenter != plan.view.datacenter, plan.view.rank(o.node));
            (o.node != me, away, rank, o.node < me, o.node)
        });
        Ok(plan)
    }

    fn at(
        (view, formed): (Arc<View>, Arc<Formed>),
        bucket: &Bytes,
        key: &Bytes,
        (hash, partition): (u64, Partition),
    ) -> Result<Self, CoordinateError> {
        if let Some(reason) = &view.retired {
            return Err(CoordinateError::NotServing { reason: reason.clone() });
        }
        let ring = &formed.ring;
        let (version, entry_hash) =
            ring.version(partition).ok_or_else(|| CoordinateError::NotServing {
                reason: "the cluster document names no owner of this key".to_string(),
            })?;
        let mut owners = ring.owners(partition).to_vec();
        let seats = ring.seats(partition).iter();
        let reader = |seat: &Seat| {
            seat.reader.map(|node| Owner { node, datacenter: seat.datacenter.clone() })
        };
        let mut readers: Vec<Owner> = seats.filter_map(reader).collect();
        for list in [&mut owners, &mut readers] {
            // A stable sort keeps the document's order among equals.
            list.sort_by_key(|o| {
                (o.node != view.me, o.datacenter != view.datacenter, view.rank(o.node))
            });
        }
        let route = Route { partition, version, entry_hash };
        let settings = ring.document().settings(bucket).clone();
        let table_key = TableKey::new(hash, bucket, key);
        let (bucket, key) = (bucket.clone(), key.clone());
        let stamp = view.generation;
        Ok(Self {
            stamp,
            view,
            formed,
            bucket,
            key,
            hash,
            table_key,
            route,
            owners,
            readers,
            settings,
        })
    }

    /// The same request, planned by what is known now.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn anew(&self, view: Arc<View>) -> Result<Self, CoordinateError> {
        Self::new(view, &self.bucket, &self.key)
    }

    /// The hash of a key of the bucket.
    pub fn hash_of(&self, key: &[u8]) -> u64 {
        self.formed.ring.locate(&self.bucket, key).0
    }

    /// Whether the last write wins in the bucket.
    pub fn last_write_wins(&self) -> bool {
        self.settings.mode == Mode::LastWriteWins
    }

    /// How the bucket's mode shows a set.
    pub fn showing(&self) -> Showing {
        if self.last_write_wins() { Showing::LastWriteWins } else { Showing::Siblings }
    }

    /// Whether stand-ins count: asked for, else as the bucket says.
    pub fn sloppy(&self, asked: Option<bool>) -> bool {
        asked.unwrap_or(self.settings.sloppy)
    }

    /// Who may stand in for owners of the key: nodes that are held for alive.
    pub fn bench(&self) -> Bench {
        let partition = self.route.partition;
        Bench::new(&self.formed.ring, partition, |node| self.view.rank(node) == 0)
    }

    /// Whether this node holds a copy of the key that answers reads: then it coordinates.
    pub fn owns(&self) -> bool {
        self.readers.iter().any(|o| o.node == self.view.me)
    }

    /// Whether this node stores writes of the key, be it read or not.
    pub fn stores(&self) -> bool {
        self.owners.iter().any(|o| o.node == self.view.me)
    }

    /// The tenure under which a node holds a copy of the key, or comes to hold one.
    pub fn tenure(&self, node: NodeId) -> Option<u64> {
        self.formed.ring.document().entry(self.route.partition)?.tenure(node)
    }

    /// Whether a member is in another data center than this node.
    pub fn is_far(&self, node: NodeId) -> bool {
        let member = self.formed.ring.document().members.get(&node);
        member.is_some_and(|member| member.datacenter != self.view.datacenter)
    }

    /// What counts once each.
    pub fn seats(&self) -> &[Seat] {
        self.formed.ring.seats(self.route.partition)
    }

    /// The first of the owners that share a slot with this one: they count as one.
    pub fn slot_of(&self, owner: NodeId) -> NodeId {
        let seat = self.seats().iter().find(|seat| seat.writers.contains(&owner));
        seat.and_then(|seat| seat.writers.first().copied()).unwrap_or(owner)
    }

    /// Whether a copy shares its slot with another, or counts alone.
    pub fn shares_slot(&self, owner: NodeId) -> bool {
        self.seats().iter().any(|seat| seat.writers.len() > 1 && seat.writers.contains(&owner))
    }

    /// An empty tally of who stored, slot by slot.
    ///
    /// # Errors
    /// The level cannot be met by them.
    pub fn tally(&self, level: Level) -> Result<Tally, LevelError> {
        self.tally_in(level, &self.view.datacenter)
    }

    /// The same, as a coordinator in this data center counts.
    ///
    /// # Errors
    /// The level cannot be met by them.
    pub fn tally_in(&self, level: Level, datacenter: &str) -> Result<Tally, LevelError> {
        let slots: Vec<(Vec<NodeId>, &str)> =
            self.seats().iter().map(|s| (s.writers.clone(), s.datacenter.as_str())).collect();
        Tally::over(level, &slots, datacenter)
    }

    /// An empty tally of who was read, slot by slot.
    ///
    /// # Errors
    /// The level cannot be met by them.
    pub fn read_tally(&self, level: Level) -> Result<Tally, LevelError> {
        let reader = |seat: &Seat| seat.reader.into_iter().collect();
        let slots: Vec<(Vec<NodeId>, &str)> =
            self.seats().iter().map(|s| (reader(s), s.datacenter.as_str())).collect();
        Tally::over(level, &slots, &self.view.datacenter)
    }

    /// What the client has seen.
    ///
    /// # Errors
    /// [`CoordinateError::BadToken`].
    pub fn context(&self, token: Option<&str>) -> Result<Context, CoordinateError> {
        let Some(token) = token else { return Ok(Context::new()) };
        let cluster = self.formed.ring.document().cluster_id;
        Token::decode(&self.formed.token_key, cluster, self.hash, token)
            .map_err(|e| CoordinateError::BadToken { reason: e.to_string() })
    }

    /// The token that covers exactly `context`.
    ///
    /// # Errors
    /// It would not fit into a header.
    pub fn token(&self, context: &Context) -> Result<String, CoordinateError> {
        let cluster = self.formed.ring.document().cluster_id;
        Token::encode(&self.formed.token_key, cluster, self.hash, context)
            .map_err(|e| CoordinateError::BadToken { reason: e.to_string() })
    }

    /// Whether the token of a write over `seen` will fit into a header, asked before anything is stored.
    ///
    /// # Errors
    /// It will not.
    pub fn token_fits(&self, seen: &Context) -> Result<(), CoordinateError> {
        // No dot takes more bytes than this one.
        let longest = Actor { tag: u64::MAX, serial: u64::MAX }.dot(u64::MAX);
        let mut context = seen.clone();
        context.insert(longest);
        self.token(&context).map(drop)
    }

    /// The durability of a write: asked for, else the bucket's.
    pub fn durability(&self, asked: Option<Durability>) -> Durability {
        asked.unwrap_or(self.settings.durability)
    }
}
