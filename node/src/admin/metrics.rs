//! The metrics page, written from plain figures at scrape.
//!
//! Nothing counts in Prometheus types: each room keeps plain numbers, and this module is the only one
//! that knows their metric names. `node/METRICS.md` lists every name; a test holds the two together.
//! Rules: base units, `_total` on counters, small label sets, never a key, value or client address.

mod clients;
mod operations;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use super::backend::{Figures, GossipFigures, RingFigures};
use crate::coordinator;
use crate::peer::PeerStats;
use crate::replica::{MoveFigures, Shelves};
use crate::tasks::{RepairFigures, Unfit};
use kvasir_core::gossip;
use kvasir_storage::StoreStats;

/// Everything as Prometheus text.
///
/// # Errors
/// A name or label that the format cannot carry: a defect, since all of them stand in this file.
pub fn page(figures: &Figures) -> Result<String, prometheus::Error> {
    let mut families = gather(figures);
    let process = Registry::new();
    process.register(Box::new(ProcessCollector::for_self()))?;
    families.extend(process.gather());
    TextEncoder::new().encode_to_string(&families)
}

/// The families of this node, in the order of METRICS.md.
fn gather(figures: &Figures) -> Vec<MetricFamily> {
    let mut page = Page(Vec::new());
    page.node(figures);
    page.gossip(&figures.gossip);
    page.http(&figures.http);
    page.pressure(&figures.pressure, &figures.bounds);
    page.peers(&figures.peers);
    page.ring(&figures.ring);
    page.handoff(&figures.shelves);
    page.repair(&figures.repair);
    page.moves(&figures.moves);
    page.operations(&figures.operations);
    page.reclaim(figures);
    page.coordination(&figures.coordination);
    page.store(&figures.store);
    page.0
}

struct Page(Vec<MetricFamily>);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// Adds a family; one without a value yet is left out, since the format has no form for it.
    fn family(&mut self, name: &str, kind: MetricType, help: &str, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("kvasir_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    fn gauges(&mut self, name: &str, help: &str, values: &[(Labels<'_>, f64)]) {
        let metrics = values.iter().map(|(labels, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(*value);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_gauge(gauge);
            metric
        });
        self.family(name, MetricType::GAUGE, help, metrics.collect());
    }

    fn counters(&mut self, name: &str, help: &str, values: &[(Labels<'_>, u64)]) {
        let metrics = values.iter().map(|(labels, value)| {
            let mut counter = Counter::default();
            counter.set_value(*value as f64);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_counter(counter);
            metric
        });
        self.family(name, MetricType::COUNTER, help, metrics.collect());
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.gauges(name, help, &[(&[], value.into())]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, &[(&[], value)]);
    }

    /// A counter of time.
    fn seconds(&mut self, name: &str, help: &str, seconds: f64) {
        let mut counter = Counter::default();
        counter.set_value(seconds);
        let mut metric = Metric::from_label(Vec::new());
        metric.set_counter(counter);
        self.family(name, MetricType::COUNTER, help, vec![metric]);
    }

    fn repair(&mut self, repair: &RepairFigures) {
        let (known, tree) = (&repair.known, &repair.tree);
        let bytes = "Bytes of anti-entropy, heads of frames included.";
        let directions: [(Labels<'_>, u64); 2] = [
            (&[("direction", "sent")], repair.sent_bytes),
            (&[("direction", "received")], repair.received_bytes),
        ];
        self.counters("repair_bytes_total", bytes, &directions);
        let keys = "Keys that anti-entropy changed on this node or on the other.";
        self.counter("repair_keys_total", keys, repair.mended);
        let results: [(Labels<'_>, u64); 2] = [
            (&[("result", "through")], repair.through),
            (&[("result", "ended_early")], repair.failed),
        ];
        self.counters("repair_comparisons_total", "Comparisons with another node.", &results);
        let seconds = known.oldest_ms as f64 / 1_000.0;
        let oldest = "Age of the oldest comparison of a pair of replicas.";
        self.gauge("repair_oldest_comparison_seconds", oldest, seconds);
        let ages: Vec<(String, f64)> = repair
            .ages
            .iter()
            .map(|(partition, age_ms)| (partition.to_string(), *age_ms as f64 / 1_000.0))
            .collect();
        let labels: Vec<[(&str, &str); 1]> =
            ages.iter().map(|(partition, _)| [("partition", partition.as_str())]).collect();
        let ages = ages.iter().zip(&labels).map(|((_, age), labels)| (&labels[..], *age));
        let help = "Age of the oldest comparison of a partition with another of its owners.";
        self.gauges("repair_partition_age_seconds", help, &ages.collect::<Vec<_>>());
        let paused = f64::from(u8::from(repair.paused));
        for (name, help, value) in [
            ("repair_never_compared", "Pairs of replicas never compared.", known.never as f64),
            ("repair_differing_partitions", "Partitions known to differ.", known.differing as f64),
            ("repair_urgent_nodes", "Nodes to be compared with first.", known.urgent as f64),
            ("repair_paused", "1 while anti-entropy is paused.", paused),
            ("repair_tree_bytes", "Memory of the hash tree.", tree.memory_bytes as f64),
            ("repair_tree_max_bytes", "Bound of that memory.", tree.memory_max_bytes as f64),
            ("repair_tree_doubtful_chunks", "Parts in doubt.", tree.doubtful_chunks as f64),
        ] {
            self.gauge(name, help, value);
        }
        for (name, help, value) in [
            ("repair_tree_changes_total", "Changes brought to the tree.", tree.changes),
            ("repair_tree_rebuilt_chunks_total", "Parts read anew.", tree.rebuilt_chunks),
            ("repair_tree_checked_chunks_total", "Parts compared.", tree.checked_chunks),
            ("repair_tree_wrong_leaves_total", "Wrong leaves mended.", tree.wrong_leaves),
        ] {
            self.counter(name, help, value);
        }
    }

    fn moves(&mut self, moves: &MoveFigures) {
        let both = |(taken, given): (u64, u64)| -> [([(&'static str, &'static str); 1], u64); 2] {
            [([("direction", "taken")], taken), ([("direction", "given")], given)]
        };
        let (taken, given) = (moves.taken, moves.given);
        for (name, help, values) in [
            ("moves_bytes_total", "Bytes of copies that moved.", (taken.0, given.0)),
            ("moves_pieces_total", "Pieces of copies that moved.", (taken.1, given.1)),
        ] {
            let rows = both(values);
            self.counters(name, help, &rows.each_ref().map(|(label, value)| (&label[..], *value)));
        }
        for (name, help, values) in [
            ("moves_slots", "Slots that this node takes over or gives.", moves.slots),
            ("moves_rate_bytes", "Bytes of copies that may move in a second.", moves.rates),
        ] {
            let rows = both(values);
            let rows = rows.each_ref().map(|(label, value)| (&label[..], *value as f64));
            self.gauges(name, help, &rows);
        }
        let results: [(Labels<'_>, u64); 2] =
            [(&[("result", "whole")], moves.copied), (&[("result", "stopped")], moves.stopped)];
        self.counters("moves_copies_total", "Copies that ended, by how.", &results);
        let bad = "Pieces that did not arrive as they were read.";
        self.counter("moves_bad_pieces_total", bad, moves.bad_pieces);
        let seconds = moves.copying_ms as f64 / 1_000.0;
        self.seconds("moves_copying_seconds_total", "Time that copies took.", seconds);
        let removed = "Copies that were handed over and removed.";
        self.counter("moves_removed_copies_total", removed, moves.removed);
        let leaving = "Copies on their way to others, or handed over and not removed yet.";
        self.gauge("moves_leaving_copies", leaving, moves.leaving as f64);
    }

    fn node(&mut self, figures: &Figures) {
        let node = figures.node.to_string();
        let labels: Labels<'_> = &[
            ("node", &node),
            ("version", &figures.version),
            ("datacenter", &figures.datacenter),
            ("zone", &figures.zone),
            ("rack", &figures.rack),
        ];
        self.gauges("node_info", "1, with what this node is as labels.", &[(labels, 1.0)]);
        let members = figures.members;
        self.gauges(
            "gossip_members",
            "Members that gossip knows, by what it thinks of them.",
            &[
                (&[("state", "alive")], members.alive as f64),
                (&[("state", "suspect")], members.suspect as f64),
                (&[("state", "down")], members.down as f64),
            ],
        );
        self.counter(
            "clock_stamps_ahead_total",
            "Stamps heard that were over a minute ahead of this clock, and not followed.",
            figures.stamps_ahead,
        );
        let lead = figures.stamps_lead_ms as f64 / 1_000.0;
        self.gauge("clock_lead_seconds", "How far own stamps are ahead of the wall clock.", lead);
        let failed = u8::from(figures.store_failed);
        self.gauge("storage_failed", "1 after a failed sync ended acknowledgements.", failed);
        let labels = Unfit::CODES.map(|code| [("reason", code)]);
        let rows = labels.each_ref().map(|label| {
            let holds = figures.unfit == Some(label[0].1);
            (&label[..], f64::from(u8::from(holds)))
        });
        self.gauges("node_unfit", "1 for the reason why the node serves no data.", &rows);
        if let Some(free) = figures.disk_free_bytes {
            self.gauge("disk_free_bytes", "Bytes free on the volume.", free as f64);
        }
    }

    fn gossip(&mut self, figures: &GossipFigures) {
        let counters = &figures.counters;
        let help = "How much this node doubts itself, 0 to 4; it waits longer before it judges.";
        self.gauge("gossip_doubt", help, figures.doubt);
        for (name, help, value) in [
            ("sent", "Gossip messages handed out to be sent.", counters.sent),
            ("received", "Gossip messages that came in.", counters.received),
            ("pings", "Questions to members that were silent.", counters.pings),
            ("probes", "Questions to others about members that were silent.", counters.probes),
            ("relayed", "Signs of life passed on to who had asked for them.", counters.relayed),
            ("refutations", "Answers to those who believed this node down.", counters.refutations),
        ] {
            self.counter(&format!("gossip_{name}_total"), help, value);
        }
        let labels = gossip::Refusal::ALL.map(|reason| {
            let count = counters.refused.get(&reason).copied().unwrap_or(0);
            ([("reason", reason.name())], count)
        });
        let rows = labels.each_ref().map(|(label, count)| (&label[..], *count));
        self.counters("gossip_refused_total", "Gossip that was not taken, by reason.", &rows);
        let labels = gossip::Alarm::ALL.map(|alarm| {
            let count = counters.alarms.get(&alarm).copied().unwrap_or(0);
            ([("reason", alarm.name())], count)
        });
        let rows = labels.each_ref().map(|(label, count)| (&label[..], *count));
        self.counters("gossip_alarms_total", "What a person has to look at, by reason.", &rows);
        let labels = gossip::Status::ALL.map(|to| {
            let changes = counters.changes.iter().filter(|((_, status), _)| *status == to);
            ([("to", to.name())], changes.map(|(_, count)| count).sum())
        });
        let rows = labels.each_ref().map(|(label, count)| (&label[..], *count));
        let help = "Changes of what is thought of a member, by what it is thought to be since.";
        self.counters("gossip_changes_total", help, &rows);
    }

    fn peers(&mut self, stats: &PeerStats) {
        let read = |count: &AtomicU64| count.load(Relaxed);
        let help = "Connections between nodes open now, both directions.";
        self.gauge("peer_connections", help, read(&stats.open) as f64);
        let help = "Calls to other nodes that wait for their answers.";
        self.gauge("peer_calls_waiting", help, read(&stats.calls_open) as f64);
        let help = "Bytes of the messages of those calls.";
        self.gauge("peer_calls_waiting_bytes", help, read(&stats.calls_open_bytes) as f64);
        for (name, help, count) in [
            ("peer_dialed_total", "Connections opened to other nodes.", &stats.dialed),
            (
                "peer_dial_failures_total",
                "Connections that could not be opened.",
                &stats.dial_failed,
            ),
            ("peer_accepted_total", "Connections accepted from other nodes.", &stats.accepted),
            ("peer_sent_frames_total", "Frames sent to other nodes.", &stats.frames_out),
            ("peer_sent_bytes_total", "Bytes sent to other nodes.", &stats.bytes_out),
            ("peer_writes_total", "Writes that carried the sent frames.", &stats.writes),
            ("peer_received_frames_total", "Frames received.", &stats.frames_in),
            ("peer_received_bytes_total", "Bytes received.", &stats.bytes_in),
            ("peer_calls_total", "Calls to other nodes begun.", &stats.calls),
            ("peer_call_failures_total", "Calls that ended without a reply.", &stats.calls_failed),
            ("peer_queue_full_total", "Messages refused by a full queue.", &stats.queue_full),
            ("peer_overloaded_total", "Requests of other nodes refused.", &stats.overloaded),
            (
                "peer_repeated_requests_total",
                "Requests that came twice and were worked on once.",
                &stats.repeated,
            ),
            ("peer_notices_dropped_total", "Notices dropped.", &stats.notices_dropped),
            ("peer_bad_bodies_total", "Bodies that did not decode.", &stats.bad_bodies),
            ("peer_bad_frames_total", "Connections ended by broken frames.", &stats.bad_frames),
        ] {
            self.counter(name, help, read(count));
        }
        let goodbyes: Vec<_> = stats.goodbyes().map(|(code, n)| ([("reason", code)], n)).collect();
        let rows: Vec<(Labels<'_>, u64)> = goodbyes.iter().map(|(l, n)| (&l[..], *n)).collect();
        let help = "Connections between nodes refused or ended, by cause.";
        self.counters("peer_goodbyes_total", help, &rows);
    }

    fn ring(&mut self, ring: &RingFigures) {
        let partitions = &ring.partitions;
        let help = "Epoch of the newest cluster document; 0 before the cluster is formed.";
        self.gauge("ring_epoch", help, ring.epoch as f64);
        self.gauge("ring_members", "Members that the document names.", ring.members as f64);
        self.gauges(
            "ring_partitions",
            "Partitions by state; one may be in several.",
            &[
                (&[("state", "whole")], partitions.whole.into()),
                (&[("state", "under_replicated")], partitions.under_replicated.into()),
                (&[("state", "no_quorum")], partitions.no_quorum.into()),
                (&[("state", "no_owner")], partitions.no_owner.into()),
                (&[("state", "unreadable")], partitions.unreadable.into()),
                (&[("state", "unwritable")], partitions.unwritable.into()),
                (&[("state", "moving")], partitions.moving.into()),
                (&[("state", "shared_machine")], partitions.shared_machine.into()),
            ],
        );
        let help = "Partition replicas that this node owns.";
        self.gauge("ring_owned_partitions", help, ring.owned_partitions as f64);
        let help = "This node's share of all partition replicas.";
        self.gauge("ring_owned_ratio", help, ring.owned_ratio);
    }

    fn handoff(&mut self, shelves: &Shelves) {
        let (copies, hints) = shelves.held();
        for (name, help, value) in [
            ("copies", "Stand-in copies held for owners that were down.", copies.entries),
            ("copy_bytes", "Bytes of stand-in copies.", copies.bytes),
            ("hints", "Hints held for owners that missed a write.", hints.entries),
            ("hint_bytes", "Bytes of hints.", hints.bytes),
        ] {
            self.gauge(&format!("handoff_{name}"), help, value as f64);
        }
        let help = "1 while what is kept for others cannot be counted.";
        self.gauge(
            "handoff_uncountable",
            help,
            f64::from(u8::from(shelves.uncountable().is_some())),
        );
        for (name, help, count) in [
            ("copies_refused", "Stand-in copies refused at the cap.", &shelves.copies_refused),
            ("hints_overflowed", "Hints dropped at the cap.", &shelves.hints_overflowed),
            ("hints_expired", "Hints dropped for their age.", &shelves.hints_expired),
            (
                "copies_returned",
                "Stand-in copies that every owner stored.",
                &shelves.copies_handed_back,
            ),
            ("hints_returned", "Hints whose owner caught up.", &shelves.hints_handed_back),
            ("taken_back", "Sets that others handed back to this node.", &shelves.taken_back),
        ] {
            self.counter(&format!("handoff_{name}_total"), help, count.load(Relaxed));
        }
    }

    fn reclaim(&mut self, figures: &Figures) {
        let reclaim = &figures.reclaim;
        for (name, help, value) in [
            ("generation", "Generation that this node reached.", reclaim.generation),
            (
                "tombstones",
                "Tombstones seen by the last pass over the partitions that this node led.",
                reclaim.tombstones,
            ),
            ("waiting", "Keys of which all owners confirmed what may go.", reclaim.waiting),
        ] {
            self.gauge(&format!("reclaim_{name}"), help, value as f64);
        }
        self.counter("reclaim_erased_total", "Tombstones erased on this node.", reclaim.erased);
        let help = "Rows of ended writers dropped from causal contexts on this node.";
        self.counter("reclaim_folded_rows_total", help, reclaim.folded_rows);
        let help = "Batches of tombstones that came to nothing and are begun anew.";
        self.counter("reclaim_void_total", help, figures.reclaim_void);
        let ids: Vec<(String, &str)> =
            reclaim.held_up_by.iter().map(|h| (h.node.to_string(), h.why.as_str())).collect();
        let labels: Vec<[(&str, &str); 2]> =
            ids.iter().map(|(node, why)| [("node", node.as_str()), ("why", *why)]).collect();
        let values: Vec<(Labels<'_>, f64)> = labels.iter().map(|l| (&l[..], 1.0)).collect();
        let help = "1 for each member without whose word nothing more is erased.";
        self.gauges("reclaim_held_up", help, &values);
    }

    fn coordination(&mut self, figures: &coordinator::Figures) {
        for (name, help, count) in [
            ("reads_hedged", "Reads that asked one owner more than needed.", &figures.hedged),
            (
                "read_hedges_withheld",
                "Reads that asked nobody more for want of budget.",
                &figures.hedges_withheld,
            ),
            ("reads_differing", "Reads whose owners did not hold the same.", &figures.differing),
            ("read_repairs", "Sets sent to owners that lacked something.", &figures.repairs),
            ("forwards", "Requests handed to a node that owns the key.", &figures.forwarded),
            (
                "covering_rounds",
                "Writes made again to cover what a replica held above them.",
                &figures.covering_rounds,
            ),
            (
                "cross_center_writes",
                "Frames that took a write to another data center.",
                &figures.crossings,
            ),
            (
                "relays_given_up",
                "Times that a forwarder in another data center failed, was slow or left an owner out.",
                &figures.relays_given_up,
            ),
        ] {
            self.counter(&format!("coordinator_{name}_total"), help, count.load(Relaxed));
        }
    }

    fn store(&mut self, stats: &StoreStats) {
        for (name, help, value) in [
            ("memtable_bytes", "Bytes in memtables.", stats.memtable_bytes),
            ("memtables_waiting", "Frozen memtables not flushed yet.", stats.immutable_memtables),
            ("table_bytes", "Bytes of all tables.", stats.table_bytes),
            ("compaction_debt_bytes", "Bytes above the targets.", stats.compaction_debt_bytes),
            ("cache_bytes", "Bytes held by the block cache.", stats.cache_bytes),
            ("resident_bytes", "Indexes and filters beside the cache.", stats.resident_bytes),
            ("log_bytes", "Bytes of log segments.", stats.log_bytes),
            ("waiting_updates", "Updates waiting for memory, log or key.", stats.waiting_updates),
            ("waiting_reads", "Lookups waiting for the disk.", stats.waiting_reads),
            ("damaged_tables", "Damaged tables not in quarantine yet.", stats.damaged_tables),
            ("lost_ranges", "Key ranges that lost data to damage.", stats.lost_ranges),
            ("scrub_tables_left", "Tables left in this scrub round.", stats.scrub_tables_left),
        ] {
            self.gauge(&format!("storage_{name}"), help, value as f64);
        }
        let waits = stats.log_job_ms as f64 / 1e3;
        self.gauge("storage_log_wait_seconds", "Seconds that the log waits for the disk.", waits);
        // A family without rows cannot be written: before the first flush level 0 has no table.
        let levels: Vec<String> =
            (0..stats.tables_by_level.len().max(1)).map(|l| l.to_string()).collect();
        let labels: Vec<_> = levels.iter().map(|level| [("level", level.as_str())]).collect();
        for (name, help, values) in [
            ("storage_tables", "Tables by level.", &stats.tables_by_level),
            ("storage_level_bytes", "Bytes of tables by level.", &stats.bytes_by_level),
        ] {
            let values = values.iter().copied().chain(std::iter::repeat(0));
            let rows: Vec<(Labels<'_>, f64)> =
                labels.iter().zip(values).map(|(l, n)| (&l[..], n as f64)).collect();
            self.gauges(name, help, &rows);
        }
        for (name, help, value) in store_counters(stats) {
            self.counter(&format!("storage_{name}_total"), help, value);
        }
    }
}

fn store_counters(stats: &StoreStats) -> [(&'static str, &'static str, u64); 26] {
    [
        ("memtable_hits", "Lookups answered by a memtable.", stats.memtable_hits),
        ("table_reads", "Tables probed by lookups.", stats.table_reads),
        ("filter_negatives", "Tables that a Bloom filter excluded.", stats.filter_negatives),
        ("filter_false_positives", "Tables probed in vain.", stats.filter_false_positives),
        ("cache_hits", "Blocks found in the cache.", stats.cache_hits),
        ("cache_misses", "Blocks not found in the cache.", stats.cache_misses),
        ("pool_reads", "Lookups that needed a reader of the pool.", stats.pool_reads),
        ("log_syncs", "Syncs of the log.", stats.log_syncs),
        ("log_batches", "Batches written to the log.", stats.log_batches),
        ("log_written_bytes", "Bytes written to the log.", stats.log_bytes_written),
        ("flushes", "Memtables flushed.", stats.flushes),
        ("compactions", "Compactions finished.", stats.compactions),
        ("table_moves", "Compactions that moved tables unwritten.", stats.table_moves),
        ("background_pauses", "Pauses of background work.", stats.background_pauses),
        ("blocks_read", "Blocks read from table files.", stats.blocks_read),
        ("flush_written_bytes", "Bytes written by flushes.", stats.flush_bytes_written),
        (
            "compaction_written_bytes",
            "Bytes written by compactions.",
            stats.compaction_bytes_written,
        ),
        ("stalls", "Updates that had to wait for room.", stats.stalls),
        ("refused", "Updates refused because too many waited.", stats.refused),
        ("background_errors", "Background jobs that failed.", stats.background_errors),
        ("quarantined_tables", "Tables put into quarantine.", stats.quarantined_tables),
        ("scrub_rounds", "Scrub rounds finished.", stats.scrub_rounds),
        ("scrub_bytes", "Bytes read by the scrub.", stats.scrub_bytes),
        ("scrub_damages", "Damaged places that the scrub found.", stats.scrub_damages),
        ("replayed_records", "Records replayed from the log at start.", stats.replayed_records),
        (
            "torn_dropped_bytes",
            "Bytes of a torn log tail dropped at start.",
            stats.torn_bytes_dropped,
        ),
    ]
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
