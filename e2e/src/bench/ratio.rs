//! Medians, and ratios within a round. Pure.

/// Median and extremes of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// The spread of some figures; `None` of none.
pub(crate) fn spread(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    Some(Spread { median, min, max })
}

/// The ratio of `subject` to `base` in each round that has both.
pub(crate) fn ratios(rounds: &[Vec<Option<f64>>], subject: usize, base: usize) -> Option<Spread> {
    // A ratio within a round cancels what slowed the whole machine in that round; a ratio of medians does not.
    spread(rounds.iter().filter_map(|round| Some(round[subject]? / round[base]?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two() {
        assert_eq!(spread([]), None);
        assert_eq!(spread([3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(spread([9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(spread([4.0, 1.0, 9.0, 2.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_skip_void_cells() {
        let rounds = vec![
            vec![Some(10.0), Some(5.0)],
            // The machine was twice as slow here: the ratio is what counts.
            vec![Some(20.0), Some(12.0)],
            vec![Some(10.0), None],
            vec![None, Some(1.0)],
            vec![Some(10.0), Some(7.0)],
        ];
        assert_eq!(ratios(&rounds, 1, 0), Some(Spread { median: 0.6, min: 0.5, max: 0.7 }));
        assert_eq!(ratios(&rounds, 0, 0), Some(Spread { median: 1.0, min: 1.0, max: 1.0 }));
        assert_eq!(ratios(&rounds[2..3], 1, 0), None);
    }
}
