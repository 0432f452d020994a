//! A thousand nodes: time, shares and movement.

use super::*;

/// Prints how long a plan took; shares to the slot, movement no more than what has to come in.
fn timed(cluster: &Cluster, goal: &Goal, what: &str) -> Cluster {
    let started = std::time::Instant::now();
    let planned = plan(cluster, goal).unwrap();
    let took = started.elapsed();
    let after = held(&planned.target);
    let total = cluster.table.len() as u64 * 3;
    let (low, high) = (total / after.len() as u64, total.div_ceil(after.len() as u64));
    assert!(after.values().all(|held| (low..=high).contains(held)), "{what}: uneven");
    let (moved, least) = (planned.moves.len() as u64, planned.least);
    let after = carried_out(cluster, &planned);
    let shape = measure(&after, "dc1").unwrap();
    println!(
        "{what}: {took:?}, {moved} replicas moved, at least {least} had to; partners {:.1} in the \
         mean, {} at most; {:.2} % of pairs cost a quorum",
        shape.partners_mean,
        shape.partners_most,
        100.0 * shape.pairs.chance()
    );
    assert!(moved * 100 <= least * 105, "{what}: {moved} moved, {least} had to");
    if !cfg!(debug_assertions) {
        assert!(took.as_secs() < 5, "{what}: {took:?}");
    }
    after
}

#[test]
fn large_clusters_are_planned_quickly_and_move_little() {
    // In a debug build a smaller cluster, so that the suite stays quick.
    let (nodes, k) = if cfg!(debug_assertions) { (90, 11) } else { (999, 14) };
    let name = |what: &str| format!("{nodes} nodes, {} partitions, {what}", 1 << k);
    let joining = |numbers: std::ops::Range<usize>| {
        Goal::Join(numbers.map(|number| (id(number), plain(number))).collect())
    };
    let cluster = even(nodes, k);
    // One node more in a zone of 30 changes the shares of its zone by two slots, in one of 333 by none.
    if !cfg!(debug_assertions) {
        timed(&cluster, &joining(nodes..nodes + 1), &name("one joins"));
    }
    let grown = timed(&cluster, &joining(nodes..nodes + 3), &name("three join"));
    let back = Goal::Leave((0..3).map(id).collect());
    timed(&grown, &back, &name("three others leave"));
    let doubled = timed(&cluster, &joining(nodes..nodes * 2), &name("as many join"));
    let half = Goal::Leave((0..nodes).map(id).collect());
    timed(&doubled, &half, &name("those of before leave"));
}
