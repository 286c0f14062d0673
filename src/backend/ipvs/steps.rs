//! The order of a plan: make before break.

use super::Op;

/// Steps by their place in the order.
#[derive(Debug, Default)]
pub struct Steps {
    pub settings: Vec<Op>,
    pub recording: Vec<Op>,
    pub rules: Vec<Op>,
    pub first_servers: Vec<Op>,
    pub ranges: Vec<Op>,
    pub servers: Vec<Op>,
    pub bindings: Vec<Op>,
    pub diverting: Vec<Op>,
    pub undiverting: Vec<Op>,
    pub less: Vec<Op>,
    pub unbinding: Vec<Op>,
    pub gone_servers: Vec<Op>,
    pub unrecording: Vec<Op>,
}

impl Steps {
    /// The plan.
    pub fn in_order(self) -> Vec<Op> {
        let groups = [
            self.settings,
            self.recording,
            self.rules,
            self.first_servers,
            self.ranges,
            self.servers,
            self.bindings,
            self.diverting,
            self.undiverting,
            self.less,
            self.unbinding,
            self.gone_servers,
            self.unrecording,
        ];
        let mut all = Vec::with_capacity(groups.iter().map(Vec::len).sum());
        groups.into_iter().for_each(|group| all.extend(group));
        all
    }
}
