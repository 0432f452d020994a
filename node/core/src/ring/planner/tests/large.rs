//! A thousand nodes: time, shares and movement.

use super::*;

/// Prints how long a plan took; shares to the slot, movement no more than what has to come in.
fn timed(cluster: &Cluster, goal: &Goal, what: &str) -> Cluster {
    let started = std::time::Instant::now();
    let planned = plan(cluster, goal).unwrap();
    let took = started.elapsed();
    let (before, after) = (held(&owners(cluster)), held(&planned.target));
    let total = cluster.table.len() as u64 * 3;
    let (low, high) = (total / after.len() as u64, total.div_ceil(after.len() as u64));
    assert!(after.values().all(|held| (low..=high).contains(held)), "{what}: uneven");
    let had = |node| before.get(node).copied().unwrap_or(0);
    let arrive: u64 = after.keys().map(|node| low.saturating_sub(had(node))).sum();
    let go: u64 = before
        .iter()
        .map(|(node, had)| had - (*had).min(after.get(node).map_or(0, |_| high)))
        .sum();
    let (moved, least) = (planned.moves.len() as u64, arrive.max(go));
    println!("{what}: {took:?}, {moved} replicas moved, at least {least} had to");
    assert!(moved * 100 <= least * 105, "{what}: {moved} moved, {least} had to");
    if !cfg!(debug_assertions) {
        assert!(took.as_secs() < 5, "{what}: {took:?}");
    }
    carried_out(cluster, &planned)
}

#[test]
fn large_clusters_are_planned_quickly_and_move_little() {
    // In a debug build a smaller cluster, so that the suite stays quick.
    let (nodes, k) = if cfg!(debug_assertions) { (240, 12) } else { (999, 14) };
    let name = |what: &str| format!("{nodes} nodes, {} partitions, {what}", 1 << k);
    let joining = |numbers: std::ops::Range<usize>| {
        Goal::Join(numbers.map(|number| (id(number), plain(number))).collect())
    };
    let cluster = even(nodes, k);
    let grown = timed(&cluster, &joining(nodes..nodes + 3), &name("three join"));
    let back = Goal::Leave((0..3).map(id).collect());
    timed(&grown, &back, &name("three others leave"));
    let doubled = timed(&cluster, &joining(nodes..nodes * 2), &name("as many join"));
    let half = Goal::Leave((0..nodes).map(id).collect());
    timed(&doubled, &half, &name("those of before leave"));
}
