//! Marks: every second this member raises its own, stores it with those it remembers of others, and
//! spreads it. After a start it asks the others what they remember; if they remember more than the
//! volume holds, the volume was put back and votes are recovered first (DESIGN section 5).

use std::rc::Rc;
use std::time::Duration;

use kvasir_core::consensus::message::Marks;
use kvasir_core::consensus::{Mark, Message, Readiness};

use super::control::Control;
use super::{ballots, gossip, set_aside};

/// Why a node whose own mark is behind serves nothing.
const PUT_BACK: &str = "the volume was put back to an older state, so acknowledged writes may be missing from \
    it. Its copies are made anew from those of others: see `kvasir status`";

const BEAT: Duration = Duration::from_secs(1);

/// While starting, the others are asked this often.
const EAGER: Duration = Duration::from_millis(200);
/// How long a starting node waits for the others before it serves what it has.
const START_PATIENCE_MS: u64 = 2_000;

/// Runs until the node stops.
pub(super) async fn run(control: Rc<Control>) {
    loop {
        if control.failed.borrow().is_some() {
            return;
        }
        beat(&control).await;
        control.look_at_room().await;
        let readiness = control.acceptor.lock().await.readiness();
        match readiness {
            Readiness::NotMember => {}
            Readiness::Ready => {
                if !set_aside::settle(&control).await {
                    return;
                }
            }
            Readiness::Unheard(missing) => {
                tracing::debug!(missing, "asking the others for the mark they remember");
                ask_around(&control).await;
            }
            Readiness::Recovering => {
                if !set_aside::set_aside(&control, PUT_BACK).await {
                    return;
                }
                ask_around(&control).await;
                ballots::recover(&control).await;
            }
        }
        let heard = !matches!(
            control.acceptor.lock().await.readiness(),
            Readiness::Unheard(_) | Readiness::Recovering
        );
        if control.starting.get() && (heard || control.now_ms() >= START_PATIENCE_MS) {
            control.starting.set(false);
            gossip::publish(&control);
            // Whether the others left this node behind is looked at before anybody asks it much.
            control.enforced.notify_one();
        }
        tokio::time::sleep(if control.starting.get() { EAGER } else { BEAT }).await;
    }
}

async fn beat(control: &Control) {
    let marks = heard(control);
    let mut acceptor = control.acceptor.lock().await;
    let changed = acceptor.remember(&marks);
    let raised = acceptor.beat();
    if (changed || raised.is_some()) && !ballots::store_marks(control, &acceptor).await {
        return;
    }
    if let Some(mark) = raised {
        control.gossip.borrow_mut().set_mark(mark.count);
    }
}

/// What gossip says of the others' marks.
fn heard(control: &Control) -> Marks {
    let now = control.now_ms();
    let gossip = control.gossip.borrow();
    gossip
        .members(now)
        .into_iter()
        .filter(|m| !m.me)
        .map(|m| {
            let epoch = m.document.map_or(0, |d| d.epoch);
            (m.id, Mark { count: m.remembered_mark, epoch })
        })
        .collect()
}

async fn ask_around(control: &Rc<Control>) {
    let (mark, others) = {
        let acceptor = control.acceptor.lock().await;
        let me = control.identity.node;
        let members = acceptor.newest().map(|d| d.members.keys().copied().collect::<Vec<_>>());
        let others: Vec<_> = members.unwrap_or_default().into_iter().filter(|m| *m != me).collect();
        (acceptor.state().own_mark(), others)
    };
    let send = others.into_iter().map(|other| (other, Message::MarkQuery { mark })).collect();
    let mut answers = ballots::exchange(control, send);
    while let Some((from, message)) = answers.recv().await {
        ballots::feed(control, from, message).await;
        let readiness = control.acceptor.lock().await.readiness();
        if readiness == Readiness::Recovering && !set_aside::set_aside(control, PUT_BACK).await {
            return;
        }
    }
}
