//! Lanes on one worker: what an address does about a request's lane, and what the ready instances of a lane can bear.
//! Which lane it is, `filters::lane` decides; which endpoints that means, the cluster. Hot.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use config::Snapshot;
use config::snapshot::lanes::{Isolation, LaneGroup, LaneRole};
use filters::Head;
use filters::lane;

use crate::view::ClusterView;

/// How long what a lane can bear is remembered.
const BEARS_KEPT: Duration = Duration::from_millis(250);
/// A share that was lowered grows again only after this long: who comes and goes must not take clients with it.
const CALM: Duration = Duration::from_secs(5);

/// A lane as requests know it.
pub(crate) struct LaneView {
    pub(crate) name: Arc<str>,
    group: Arc<LaneGroup>,
}

impl LaneView {
    /// Whether a request in it may not leave it.
    pub(crate) fn is_strict(&self) -> bool {
        self.group.isolation == Isolation::Strict
    }

    /// The namespace that it never leaves.
    pub(crate) fn namespace(&self) -> &str {
        &self.group.namespace
    }
}

/// All lanes of a snapshot, and what each of its addresses does about them.
pub(crate) struct Lanes {
    /// In the order of the snapshot.
    groups: Vec<GroupLanes>,
    all: Vec<Arc<LaneGroup>>,
}

struct GroupLanes {
    lanes: Vec<Rc<LaneView>>,
    /// What each lane can bear.
    bears: RefCell<Vec<Bears>>,
    looked_at: Cell<Duration>,
}

/// The largest share (0 to 1) of requests that a lane is given.
#[derive(Debug, Clone, Copy)]
struct Bears {
    share: f64,
    /// When it was last no more than this.
    at: Duration,
}

/// What a share by ready instances is made from.
#[derive(Clone, Copy)]
pub(crate) struct Ready<'v> {
    pub(crate) clusters: &'v [Rc<ClusterView>],
    pub(crate) now: Duration,
    /// Where this process stands.
    pub(crate) zone: Option<&'v str>,
}

/// What an address found out about a request.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) lane: Option<Rc<LaneView>>,
    /// The value of a `Set-Cookie` for the answer: a sticky key that was made here.
    pub(crate) issue: Option<Box<[u8]>>,
    /// Header and baggage said different things.
    pub(crate) differs: bool,
}

impl Lanes {
    /// Those of a snapshot; what lanes bear is taken over from the lanes before.
    pub(crate) fn new(snapshot: &Snapshot, before: Option<&Lanes>) -> Lanes {
        let group = |group: &Arc<LaneGroup>| {
            let known = before.and_then(|before| {
                let is_same = |known: &&GroupLanes| known.lanes.first().is_some_and(|lane| lane.group == *group);
                before.groups.iter().find(is_same)
            });
            let lane = |index: usize| Rc::new(LaneView { name: group.lanes[index].name.clone(), group: group.clone() });
            GroupLanes {
                lanes: (0..group.lanes.len()).map(lane).collect(),
                bears: RefCell::new(known.map_or_else(Vec::new, |known| known.bears.borrow().clone())),
                looked_at: Cell::new(Duration::ZERO),
            }
        };
        Lanes { groups: snapshot.lane_groups.iter().map(group).collect(), all: snapshot.lane_groups.clone() }
    }

    /// Whether nobody knows of lanes.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What an address does with a request: believes it, or decides for it; and what goes on says the outcome.
    pub(crate) fn enter(&self, role: &LaneRole, head: &mut Head, client: IpAddr, dice: u64, ready: Ready<'_>) -> Found {
        match role {
            LaneRole::Strip => {
                lane::strip(head, &self.all);
                Found::default()
            }
            LaneRole::Inherit(groups) => {
                let inherited = lane::inherit(groups, head);
                let found = inherited.lane.and_then(|(group, index)| self.find(&groups[group], index));
                Found { lane: found, issue: None, differs: inherited.differs }
            }
            LaneRole::Decide(group) => {
                lane::strip(head, &self.all);
                let guard = |index: usize| self.bears(group, index, ready);
                let decision = lane::decide(group, head, client, dice, guard);
                let issue = decision.issue.map(|issue| {
                    let mut answer = Head::default();
                    issue.set(&mut answer);
                    answer.get("set-cookie").unwrap_or_default().into()
                });
                let lane = decision.lane.and_then(|index| self.find(group, index));
                if let Some(index) = decision.lane {
                    lane::tag(head, group, index);
                }
                Found { lane, issue, differs: false }
            }
        }
    }

    /// Takes out of an answer what only the mesh should know.
    pub(crate) fn leave(&self, role: &LaneRole, answer: &mut Head) {
        if !matches!(role, LaneRole::Inherit(_)) && !self.is_empty() {
            lane::strip(answer, &self.all);
        }
    }

    fn group(&self, group: &Arc<LaneGroup>) -> Option<&GroupLanes> {
        let index = self.all.iter().position(|known| Arc::ptr_eq(known, group) || known.name == group.name)?;
        self.groups.get(index)
    }

    fn find(&self, group: &Arc<LaneGroup>, index: usize) -> Option<Rc<LaneView>> {
        self.group(group)?.lanes.get(index).cloned()
    }

    /// The largest share of requests that a lane's ready instances bear: of all services that have it, the least.
    fn bears(&self, group: &Arc<LaneGroup>, index: usize, ready: Ready<'_>) -> f64 {
        let Ready { clusters, now, zone } = ready;
        let Some(lanes) = self.group(group) else { return 0.0 };
        let mut bears = lanes.bears.borrow_mut();
        if bears.len() != lanes.lanes.len() || now.saturating_sub(lanes.looked_at.get()) >= BEARS_KEPT {
            lanes.looked_at.set(now);
            let of_cluster = |lane: &LaneView, cluster: &Rc<ClusterView>| {
                let place = cluster.lane(lane)?;
                let (lane, base) = (cluster.ready_weight(place, now, zone), cluster.ready_weight(0, now, zone));
                Some(if lane == 0.0 { 0.0 } else { lane / (lane + base) })
            };
            let share_now = |lane: &Rc<LaneView>| {
                let shares = clusters.iter().filter_map(|cluster| of_cluster(lane, cluster));
                shares.fold(1.0, f64::min)
            };
            let next = |(place, lane): (usize, &Rc<LaneView>)| calm(bears.get(place).copied(), share_now(lane), now);
            *bears = lanes.lanes.iter().enumerate().map(next).collect();
        }
        bears.get(index).map_or(0.0, |bears| bears.share)
    }
}

/// What a lane is given: less at once, more only when that has held for a while.
fn calm(before: Option<Bears>, share: f64, now: Duration) -> Bears {
    match before {
        Some(before) if share > before.share && now.saturating_sub(before.at) < CALM => before,
        _ => Bears { share, at: now },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fall_at_once_and_grow_when_it_is_calm() {
        let s = Duration::from_secs;
        let mut bears = None;
        // When, what is ready, and what is given.
        for (at, share, expected) in [
            (0, 0.5, 0.5),
            (1, 0.2, 0.2),
            (2, 0.5, 0.2),
            (5, 0.5, 0.2),
            (6, 0.5, 0.5),
            (7, 0.5, 0.5),
            (8, 0.0, 0.0),
            (9, 0.1, 0.0),
            (10, 0.0, 0.0),
            (14, 0.1, 0.0),
            (15, 0.1, 0.1),
        ] {
            bears = Some(calm(bears, share, s(at)));
            assert_eq!(bears.map(|bears| bears.share), Some(expected), "at {at}");
        }
    }
}
