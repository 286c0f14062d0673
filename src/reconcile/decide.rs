//! The first snapshot is large: while the last of its Services are decided on, the kernel writes the first.

use crate::desired::{Builder, Change, Desired, Extent, NodeFacts};
use crate::model::{IpFamily, PerFamily, Snapshot};
use std::panic::resume_unwind;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

/// Services for which a thread is worthwhile.
const WORTHWHILE: usize = if cfg!(test) { 3 } else { 1000 };

/// Takes a snapshot in. Where next to nothing was desired before, `begin` is told of one family from time to time, on the calling thread,
/// for as long as it returns true ([`Dataplane::begin`](crate::backend::Dataplane::begin)). Deciding is done on a thread of its
/// own then, which touches no kernel and has come to its end when this returns.
pub fn decide(
    builder: &mut Builder,
    (snapshot, facts): (&Snapshot, &NodeFacts),
    now: Instant,
    family: Option<IpFamily>,
    begin: impl FnMut(IpFamily, &Desired, &Extent) -> bool,
) -> Change {
    let first = builder.begins_with(snapshot) && snapshot.services.len() >= WORTHWHILE;
    let change = family.filter(|_| first).and_then(|family| beside(builder, (snapshot, facts), now, family, begin));
    change.unwrap_or_else(|| builder.update(snapshot, facts, now))
}

/// `None` if there can be no further thread.
fn beside(
    builder: &mut Builder,
    (snapshot, facts): (&Snapshot, &NodeFacts),
    now: Instant,
    family: IpFamily,
    mut begin: impl FnMut(IpFamily, &Desired, &Extent) -> bool,
) -> Option<Change> {
    let (told, heard) = channel();
    // Whoever listened may have heard enough.
    let tell =
        move |desired: &PerFamily<Desired>, extent: Extent| drop(told.send((desired.get(family).clone(), extent)));
    thread::scope(|scope| {
        let deciding = thread::Builder::new().name("decide".to_owned());
        let deciding = deciding.spawn_scoped(scope, || builder.update_telling(snapshot, facts, now, tell)).ok()?;
        while let Ok(first) = heard.recv() {
            let (desired, extent) = heard.try_iter().last().unwrap_or(first);
            if !begin(family, &desired, &extent) {
                break;
            }
        }
        drop(heard);
        Some(deciding.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
