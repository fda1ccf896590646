//! Alternating rounds, and what is said of them.
//!
//! The machines are shared and noisy, so no figure stands alone. A floor is measured right before and right after each round
//! of ours, and the round's ratio is to the mean of the two: what slows the machine down for longer than a round slows both.
//! The median of the rounds' ratios then takes no notice of the few rounds in which it slowed only one.

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// The median of some values, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// What was measured in alternating rounds, `S` being one round's result.
#[derive(Debug)]
pub(crate) struct Rounds<S> {
    /// For each floor, one round more than there are of ours.
    floors: Vec<Vec<S>>,
    ours: Vec<S>,
}

/// One figure of ours beside the same of a floor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) floor: Spread,
    pub(crate) ours: Spread,
    /// Ours to the floor's, round by round.
    pub(crate) ratio: Spread,
}

/// One round of something.
pub(crate) type Subject<'a, S> = dyn FnMut() -> Result<S> + 'a;

/// Measures `rounds` rounds of ours between rounds of every floor; the floors are first and last.
///
/// # Errors
/// That of the first subject that fails.
pub(crate) fn alternate<S>(
    rounds: usize,
    floors: &mut [&mut Subject<'_, S>],
    ours: &mut Subject<'_, S>,
) -> Result<Rounds<S>> {
    let mut measured = Rounds { floors: floors.iter().map(|_| Vec::new()).collect(), ours: Vec::new() };
    let mut measure_floors = |into: &mut Vec<Vec<S>>| -> Result<()> {
        for (floor, results) in floors.iter_mut().zip(into) {
            results.push(floor()?);
        }
        Ok(())
    };
    measure_floors(&mut measured.floors)?;
    for _ in 0..rounds {
        measured.ours.push(ours()?);
        measure_floors(&mut measured.floors)?;
    }
    Ok(measured)
}

impl<S> Rounds<S> {
    /// Compares one figure of ours with that of the `floor`th floor.
    ///
    /// # Errors
    /// When there is no such floor, no round, or a figure that is not above zero.
    pub(crate) fn compare(&self, floor: usize, figure: impl Fn(&S) -> f64) -> Result<Comparison> {
        let of = |results: &[S]| -> Vec<f64> { results.iter().map(&figure).collect() };
        let floor = of(self.floors.get(floor).context("no such floor was measured")?);
        let ours = of(&self.ours);
        ensure!(floor.iter().chain(&ours).all(|v| *v > 0.0), "a round measured nothing");
        let around =
            floor.iter().zip(floor.iter().skip(1)).map(|(before, after)| f64::midpoint(*before, *after));
        let ratios: Vec<f64> = ours.iter().zip(around).map(|(ours, floor)| ours / floor).collect();
        Ok(Comparison { floor: Spread::of(&floor)?, ours: Spread::of(&ours)?, ratio: Spread::of(&ratios)? })
    }

    /// One figure of ours that no floor has.
    ///
    /// # Errors
    /// When there was no round.
    pub(crate) fn ours(&self, figure: impl Fn(&S) -> f64) -> Result<Spread> {
        Spread::of(&self.ours.iter().map(figure).collect::<Vec<_>>())
    }
}

impl Spread {
    /// Of at least one value. The median of an even number of values is the mean of the two in the middle.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn of(values: &[f64]) -> Result<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            anyhow::bail!("nothing was measured");
        };
        let (low, high) = (sorted.get((sorted.len() - 1) / 2), sorted.get(sorted.len() / 2));
        let median = low.zip(high).map_or(*min, |(low, high)| f64::midpoint(*low, *high));
        Ok(Self { median, min: *min, max: *max })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_median_takes_no_notice_of_what_lies_far_out() {
        let odd = Spread::of(&[3.0, 1000.0, 1.0]).unwrap();
        assert_eq!(odd, Spread { median: 3.0, min: 1.0, max: 1000.0 });
        let even = Spread::of(&[4.0, 2.0, 1.0, 1000.0]).unwrap();
        assert_eq!(even, Spread { median: 3.0, min: 1.0, max: 1000.0 });
        let one = Spread::of(&[5.0]).unwrap();
        assert_eq!(one, Spread { median: 5.0, min: 5.0, max: 5.0 });
        assert!(Spread::of(&[]).is_err());
    }

    #[test]
    fn every_floor_is_measured_first_and_last_and_between() {
        let order = RefCell::new(String::new());
        let note = |letter| {
            let order = &order;
            move || {
                order.borrow_mut().push(letter);
                Ok(1.0)
            }
        };
        let rounds = alternate(3, &mut [&mut note('a'), &mut note('b')], &mut note('o')).unwrap();
        assert_eq!(*order.borrow(), "aboaboaboab");
        assert_eq!(rounds.compare(1, |v| *v).unwrap().ratio, Spread { median: 1.0, min: 1.0, max: 1.0 });
        assert!(rounds.compare(2, |v| *v).is_err());
    }

    #[test]
    fn a_machine_that_slows_down_does_not_change_the_ratio() {
        // Everything takes longer and longer; ours always twice as long as the floor does at that time.
        let rounds = Rounds { floors: vec![vec![1.0, 3.0, 5.0, 7.0]], ours: vec![4.0, 8.0, 12.0] };
        let compared = rounds.compare(0, |v| *v).unwrap();
        assert_eq!(compared.ratio, Spread { median: 2.0, min: 2.0, max: 2.0 });
        assert_eq!((compared.floor.median, compared.ours.median), (4.0, 8.0));
    }

    #[test]
    fn a_round_that_measured_nothing_is_an_error() {
        let rounds = Rounds { floors: vec![vec![0.0, 1.0]], ours: vec![1.0] };
        assert!(rounds.compare(0, |v| *v).is_err());
    }

    #[test]
    fn the_first_failure_ends_it() {
        let mut broken = || -> Result<f64> { anyhow::bail!("wrong answer") };
        assert!(alternate(3, &mut [&mut || Ok(1.0)], &mut broken).is_err());
    }
}
