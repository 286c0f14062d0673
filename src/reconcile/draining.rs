//! What drains in the kernel: who left is known for as long as its connections may go on, and as a rule it had none.

use super::round::Reconciler;
use crate::backend::Dataplane;
use crate::desired::{Builder, ServicePortKey};
use crate::model::IpFamily;

/// The service ports of which something drains in the kernel, as far as is believed.
pub fn still_draining<'a>(
    builder: &'a Builder,
    plane: &'a dyn Dataplane,
    family: IpFamily,
) -> impl Iterator<Item = &'a ServicePortKey> {
    let desired = builder.desired().get(family);
    let left = builder.draining(family).iter();
    left.filter(move |(_, port)| plane.still_drains(family, desired, port)).map(|(key, _)| key)
}

impl Reconciler {
    /// Whether the kernel has anything that drains, and whoever left may be what does.
    pub(super) fn drains(&self, family: IpFamily) -> bool {
        self.status.families.get(family).endpoints > 0 && !self.builder.draining(family).is_empty()
    }

    /// The service ports of which something drains in the mode that serves.
    pub(super) fn still_draining(&self, family: IpFamily) -> impl Iterator<Item = &ServicePortKey> {
        let serving = self.planes.serving(family).into_iter();
        serving.flat_map(move |plane| still_draining(&self.builder, plane, family))
    }

    /// Whether endpoints drain of which nothing is wanted any more: what an earlier run left when their Service changed.
    pub(super) fn has_orphans(&self, family: IpFamily) -> bool {
        self.status.families.get(family).endpoints > 0 && self.still_draining(family).next().is_none()
    }
}
