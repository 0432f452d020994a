//! A thousand members: what gossip costs and how fast a death is known.

use super::*;

/// DESIGN's figure: a death known everywhere within 15 s, at most 50 KB/s a node.
#[test]
fn a_thousand_members() {
    const SIZE: u32 = 1_000;
    let mut net = Network::formed(1_000, SIZE, GossipConfig::default());
    net.run(6);
    (net.measure, net.sent) = (true, (0, 0));
    net.run(2);
    net.measure = false;
    let per_second = net.sent.0 / 2 / u64::from(SIZE);
    let messages = net.sent.1 as f64 / 2.0 / f64::from(SIZE);
    net.kill(500);
    let suspected = net.seconds_until(60, |net| net.all_others_see(500, |s| s != Status::Alive));
    let down = net.seconds_until(60, |net| net.all_others_see(500, |s| s == Status::Down));
    println!(
        "1,000 members: {per_second} bytes and {messages:.1} messages sent per node and second; a \
         death suspected by all after {suspected} s and down for all after {} s",
        suspected + down
    );
    assert!(per_second <= 35_000, "{per_second} bytes a second sent, as many received");
    assert!(suspected + down <= 15, "down for all after {} s", suspected + down);
    assert_eq!(net.changes_to(Status::Down), SIZE as usize - 1, "nobody else was called down");
}
