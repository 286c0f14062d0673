//! `-m limit`: a token bucket.

use std::fmt;

use super::named;
use crate::options::Words;

named! {
    /// Unit of a rate.
    RateUnit {
        /// Per day.
        Day = "day",
        /// Per hour.
        Hour = "hour",
        /// Per minute.
        Minute = "min",
        /// Per second.
        Second = "sec",
    }
}

impl RateUnit {
    /// Credit per unit of time: `XT_LIMIT_SCALE` (10,000) times the seconds.
    const fn scale(self) -> u32 {
        match self {
            Self::Day => 864_000_000,
            Self::Hour => 36_000_000,
            Self::Minute => 600_000,
            Self::Second => 10_000,
        }
    }
}

/// The options of `-m limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitMatch {
    /// Packets a unit.
    pub rate: u32,
    /// The unit.
    pub per: RateUnit,
    /// Packets that may come at once; 5 where nothing is said.
    pub burst: u32,
}

/// `XT_LIMIT_BURST`
const DEFAULT_BURST: u32 = 5;

impl LimitMatch {
    /// The kernel keeps the time between packets, iptables-save recomputes a rate from it (`print_rate` in
    /// `libxt_limit.c`): 60/min comes back as 1/sec.
    pub(crate) fn normalise(&mut self) {
        let period = self.per.scale() / self.rate.max(1);
        if period == 0 {
            return;
        }
        let mut best = RateUnit::Day;
        for unit in [RateUnit::Hour, RateUnit::Minute, RateUnit::Second] {
            let scale = unit.scale();
            if period > scale || scale / period < scale % period {
                break;
            }
            best = unit;
        }
        self.rate = best.scale() / period;
        self.per = best;
    }

    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, " -m limit --limit {}/{}", self.rate, self.per)?;
        if self.burst == DEFAULT_BURST { Ok(()) } else { write!(f, " --limit-burst {}", self.burst) }
    }

    pub(crate) fn parse(words: &mut Words<'_, '_>) -> Option<Self> {
        // iptables' own default rate: 3/hour.
        let mut found = Self { rate: 3, per: RateUnit::Hour, burst: DEFAULT_BURST };
        while let Some(option) = words.option() {
            match (option.name, option.negated) {
                ("--limit", false) => {
                    let (rate, unit) = words.value()?.split_once('/')?;
                    found.rate = rate.parse().ok().filter(|rate| *rate > 0)?;
                    found.per = unit_named(unit)?;
                }
                ("--limit-burst", false) => found.burst = words.value()?.parse().ok()?,
                _ => return None,
            }
        }
        Some(found)
    }
}

fn unit_named(text: &str) -> Option<RateUnit> {
    // Any beginning of the long name will do.
    let long =
        [(RateUnit::Second, "second"), (RateUnit::Minute, "minute"), (RateUnit::Hour, "hour"), (RateUnit::Day, "day")];
    long.into_iter().find(|(_, name)| !text.is_empty() && name.starts_with(text)).map(|(unit, _)| unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rewritten_as_iptables_save_prints_them() {
        for ((rate, per), expected) in [
            ((60, RateUnit::Minute), (1, RateUnit::Second)),
            ((90, RateUnit::Minute), (90, RateUnit::Minute)),
            ((7, RateUnit::Hour), (7, RateUnit::Hour)),
            ((100, RateUnit::Second), (100, RateUnit::Second)),
            ((24, RateUnit::Day), (1, RateUnit::Hour)),
        ] {
            let mut limit = LimitMatch { rate, per, burst: 5 };
            limit.normalise();
            assert_eq!((limit.rate, limit.per), expected, "{rate}/{per}");
        }
    }
}
