//! `-m statistic`: a rule that matches at random, or every n-th time. kube-proxy's balancing.

use std::fmt;

use super::bang;
use crate::options::Words;

/// A probability as the kernel keeps it: a fraction of 2³¹.
///
/// ```
/// use iptables::Probability;
/// assert_eq!(Probability::one_in(3).to_string(), "0.33333333349");
/// assert_eq!(Probability::one_in(2).to_string(), "0.50000000000");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probability(u32);

const WHOLE: u32 = 1 << 31;

impl Probability {
    /// Always.
    pub const ALWAYS: Self = Self(WHOLE);

    /// One in `count`, rounded through the ten decimals that kube-proxy writes (`computeProbability`), so that both
    /// give the kernel the same number. 0 counts as 1.
    #[must_use]
    pub fn one_in(count: u32) -> Self {
        Self::share(1, count.into())
    }

    /// `part` in `whole`, rounded as [`Self::one_in`] rounds. Of nothing it is all.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "ten decimals are kept")]
    pub fn share(part: u32, whole: u64) -> Self {
        let text = format!("{:.10}", f64::from(part.max(1)) / whole.max(1) as f64);
        text.parse().map_or(Self::ALWAYS, Self::from_f64)
    }

    /// The nearest fraction; outside 0 to 1 the nearer end.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=2^31 before")]
    pub fn from_f64(probability: f64) -> Self {
        let scaled = (probability * f64::from(WHOLE)).round();
        if scaled.is_nan() { Self(0) } else { Self(scaled.clamp(0.0, f64::from(WHOLE)) as u32) }
    }

    /// Between 0 and 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.11}", self.as_f64())
    }
}

/// The options of `-m statistic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// `--mode random --probability P`
    Random {
        /// How often the rule matches.
        probability: Probability,
        /// How often it does not.
        negated: bool,
    },
    /// `--mode nth --every N --packet P`
    Nth {
        /// Length of the cycle.
        every: u32,
        /// Which packet of the cycle, from 0.
        packet: u32,
        /// All the others.
        negated: bool,
    },
}

impl Statistic {
    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str(" -m statistic --mode ")?;
        match *self {
            Self::Random { probability, negated } => {
                f.write_str("random")?;
                bang(f, negated)?;
                write!(f, " --probability {probability}")
            }
            Self::Nth { every, packet, negated } => {
                f.write_str("nth")?;
                bang(f, negated)?;
                write!(f, " --every {every} --packet {packet}")
            }
        }
    }

    pub(crate) fn parse(words: &mut Words<'_, '_>) -> Option<Self> {
        let mut mode = None;
        let (mut every, mut packet, mut random, mut negated) = (None, 0, None, false);
        while let Some(option) = words.option() {
            negated |= option.negated;
            let value = words.value()?;
            match option.name {
                "--mode" if !option.negated => mode = Some(value),
                "--probability" => random = Some(value.parse::<f64>().ok().filter(|p| (0.0..=1.0).contains(p))?),
                "--every" => every = Some(value.parse().ok()?),
                "--packet" if !option.negated => packet = value.parse().ok()?,
                _ => return None,
            }
        }
        match mode? {
            "random" if every.is_none() => Some(Self::Random { probability: Probability::from_f64(random?), negated }),
            "nth" if random.is_none() => Some(Self::Nth { every: every?, packet, negated }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ladder_step_survives_its_text() {
        for count in 1..5_000 {
            let probability = Probability::one_in(count);
            assert_eq!(Probability::from_f64(probability.to_string().parse().unwrap()), probability, "1/{count}");
        }
        assert_eq!(Probability::one_in(7).to_string(), "0.14285714272");
        assert_eq!(Probability::one_in(1).to_string(), "1.00000000000");
        assert_eq!(Probability::share(3, 6), Probability::one_in(2));
        assert_eq!(Probability::share(3, 4).to_string(), "0.75000000000");
        assert_eq!(Probability::share(7, 7), Probability::ALWAYS);
        assert_eq!(Probability::from_f64(f64::NAN).as_f64(), 0.0);
    }
}
