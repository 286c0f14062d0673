//! A cold start, some service ports at a time: each piece is made as a whole, so that its service ports are served while
//! those behind it are still to come, and no plan of the whole node is ever in memory. Pure.

use super::Op;
use super::observed::Observed;
use super::plan::{Context, Planner, is_first};
use super::steps::Steps;
use crate::backend::Ahead;
use crate::desired::Desired;
use std::ops::Bound;

/// Service ports of a piece.
const PIECE: usize = if cfg!(test) { 2 } else { 500 };

/// Service ports for which pieces are worthwhile.
const WORTHWHILE: usize = if cfg!(test) { 3 } else { 1000 };

/// The next steps that may be carried out before the rest is known: `default/kubernetes` first, as a new node needs its API
/// server before anything else. Beside another mode that serves, too: as long as that one translates, nothing reaches what is
/// made here.
pub fn ahead(context: Context, desired: &Desired, observed: &Observed, ahead: &mut Ahead) -> Option<Vec<Op>> {
    let rules = desired.rules.as_deref().filter(|_| !desired.retiring)?;
    if ahead.pieces == 0 {
        // What stands there in good part is compared as a whole.
        if desired.ports.len() < WORTHWHILE || observed.servers.len() > desired.ports.len() / 2 {
            return None;
        }
        ahead.covers = observed.is_empty();
    }
    if ahead.ended {
        return None;
    }
    ahead.pieces += 1;
    let mut steps = Steps::default();
    let mut planner = Planner { context, observed, rules, steps: &mut steps };
    if ahead.pieces == 1 {
        planner.helpers();
        planner.additions(desired.ports.iter().filter(|(key, _)| is_first(key)));
        return Some(steps.in_order());
    }
    let from = ahead.last.take().map_or(Bound::Unbounded, Bound::Excluded);
    let rest = || desired.ports.range((from.clone(), Bound::Unbounded));
    planner.additions(rest().take(PIECE));
    ahead.last = rest().nth(PIECE - 1).map(|(key, _)| key.clone());
    ahead.ended = ahead.last.is_none();
    Some(steps.in_order())
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::super::{Op, VipBinding};
    use super::*;
    use crate::commands::bench::Synthetic;
    use crate::desired::{Builder, NodeFacts, Touched};
    use crate::model::IpFamily;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn context() -> Context {
        Context {
            family: IpFamily::V4,
            binding: VipBinding::Route,
            now: Instant::now(),
            drain_timeout: Duration::ZERO,
            missing: Arc::default(),
        }
    }

    fn desired(services: u32) -> Desired {
        let cluster = Synthetic { services, endpoints: 2 };
        let mut builder = Builder::new(Arc::new(cluster.settings(true)));
        builder.update(&cluster.snapshot(), &NodeFacts::default(), Instant::now());
        builder.desired().get(IpFamily::V4).clone()
    }

    /// Carries the pieces out; how many steps each had, and how far it went.
    fn pieces(desired: &Desired, observed: &mut Observed) -> (Vec<usize>, Ahead) {
        let (mut state, mut sizes) = (Ahead::default(), Vec::new());
        while let Some(ops) = ahead(context(), desired, observed, &mut state) {
            sizes.push(ops.len());
            ops.iter().for_each(|op| observed.acknowledge(op));
        }
        (sizes, state)
    }

    #[test]
    fn pieces_from_nothing_leave_nothing_to_do() {
        for services in [3, 4, 7] {
            let (desired, mut observed) = (desired(services), Observed::default());
            let (sizes, state) = pieces(&desired, &mut observed);
            assert!(sizes.len() > services as usize / PIECE && state.covers, "{sizes:?}");
            assert_eq!(observed.servers.len(), services as usize);
            assert_eq!(plan(context(), &desired, &observed, Touched::All), [], "{services} services");
        }
    }

    #[test]
    fn what_was_there_before_is_left_to_the_plan_as_a_whole() {
        let (before, desired) = (desired(2), desired(7));
        let mut observed = Observed::default();
        for op in plan(context(), &before, &observed.clone(), Touched::All) {
            observed.acknowledge(&op);
        }
        let (_, state) = pieces(&desired, &mut observed);
        assert!(state.ended && !state.covers);
        assert_eq!(plan(context(), &desired, &observed, Touched::All), []);
        let more: Vec<Op> = plan(context(), &before, &observed, Touched::All);
        assert!(!more.is_empty(), "five services have to go");
        let few = self::desired(2);
        assert!(ahead(context(), &few, &Observed::default(), &mut Ahead::default()).is_none(), "not worthwhile");
        let retiring = Desired { retiring: true, ..desired };
        assert!(ahead(context(), &retiring, &Observed::default(), &mut Ahead::default()).is_none());
    }
}
