//! From many measurements to a few figures.

use serde::Serialize;

/// What many measurements say together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Half of them are below.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The most.
    pub(crate) max: f64,
}

impl Figures {
    /// `None` of no measurements.
    pub(crate) fn of(mut measured: Vec<f64>) -> Option<Self> {
        measured.sort_by(f64::total_cmp);
        let (min, max) = (*measured.first()?, *measured.last()?);
        let middle = measured.len() / 2;
        let median = match measured.len() % 2 {
            1 => measured[middle],
            _ => f64::midpoint(measured[middle - 1], measured[middle]),
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wild_measurement_moves_no_median() {
        assert_eq!(Figures::of(vec![]), None);
        let figures = Figures::of(vec![3.0, 900.0, 1.0]).unwrap();
        assert_eq!(figures, Figures { median: 3.0, min: 1.0, max: 900.0 });
        assert_eq!(Figures::of(vec![2.0, -1.0, 4.0, 1.0]).unwrap().median, 1.5);
    }
}
