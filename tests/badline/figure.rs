//! What a scenario found: figures, each beside its bound where it has one.

use std::fmt;

/// One figure.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    bound: Bound,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    /// It is only shown.
    None,
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    pub(crate) fn shown(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            bound: Bound::None,
        }
    }

    pub(crate) fn at_most(self, bound: f64) -> Self {
        let bound = Bound::AtMost(bound);
        Self { bound, ..self }
    }

    pub(crate) fn at_least(self, bound: f64) -> Self {
        let bound = Bound::AtLeast(bound);
        Self { bound, ..self }
    }

    /// How many there are of what there must be none.
    pub(crate) fn none(what: impl Into<String>, count: usize) -> Self {
        Self::shown(what, count as f64, "").at_most(0.0)
    }

    /// What must be so.
    pub(crate) fn must(what: impl Into<String>, is_so: bool) -> Self {
        Self::shown(what, f64::from(u8::from(is_so)), "").at_least(1.0)
    }

    pub(crate) fn holds(&self) -> bool {
        match self.bound {
            Bound::None => true,
            Bound::AtMost(bound) => self.value <= bound,
            Bound::AtLeast(bound) => self.value >= bound,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what, value, unit, ..
        } = self;
        let digits = if value.fract() == 0.0 { 0 } else { 2 };
        write!(f, "{what}: {value:.digits$}{unit}")?;
        match self.bound {
            Bound::None => {}
            Bound::AtMost(bound) => write!(f, " (at most {bound}{unit})")?,
            Bound::AtLeast(bound) => write!(f, " (at least {bound}{unit})")?,
        }
        match self.holds() {
            true => Ok(()),
            false => write!(f, "  ✗"),
        }
    }
}

/// The middle one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
