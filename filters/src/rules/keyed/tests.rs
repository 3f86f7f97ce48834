//! Tests of the table.

use super::*;
use crate::rules::tests::Dice;

fn hash(dice: &mut Dice) -> Hash {
    Hash { place: dice.roll(), mark: dice.roll() | 1 }
}

#[test]
fn words_stay_those_of_their_value() {
    let mut dice = Dice(3);
    let keyed = Keyed::new(100_000, 2);
    let hashes: Vec<Hash> = (0..50_000).map(|_| hash(&mut dice)).collect();
    for round in 0..3u64 {
        for (index, hash) in hashes.iter().enumerate() {
            let add = |words: &mut [u64]| {
                assert_eq!(words, [round * index as u64, round]);
                words[0] += index as u64;
                words[1] += 1;
            };
            assert!(!keyed.with(*hash, |_| false, add).1);
        }
    }
    assert_eq!(keyed.len(), 50_000);
}

#[test]
fn places_that_collide_are_told_apart_by_the_mark() {
    let keyed = Keyed::new(100, 1);
    for mark in 1..=50 {
        keyed.with(Hash { place: 5, mark }, |_| false, |words| words[0] = mark);
    }
    for mark in 1..=50 {
        assert_eq!(keyed.peek(Hash { place: 5, mark }, |words| words[0]), mark);
    }
    assert_eq!(keyed.peek(Hash { place: 5, mark: 51 }, |words| words[0]), 0);
}

#[test]
fn newcomers_share_when_it_is_full_and_take_over_what_lapsed() {
    for values_max in [1usize, 10, 1000, 50_000] {
        let mut dice = Dice(values_max as u64);
        let keyed = Keyed::new(values_max, 1);
        let mut overflows = 0;
        let offered = values_max * 4;
        for _ in 0..offered {
            overflows += usize::from(keyed.with(hash(&mut dice), |word| word[0] == 0, |word| word[0] = 1).1);
        }
        assert_eq!(keyed.len() + overflows, offered);
        assert!((values_max..=values_max * 5 / 4).contains(&keyed.len()), "{} of {values_max}", keyed.len());
        // From now on the live ones are those with a 2: all are dead, and as many newcomers find room.
        let mut late = 0;
        for _ in 0..values_max / 2 {
            late += usize::from(keyed.with(hash(&mut dice), |word| word[0] != 2, |word| word[0] = 2).1);
        }
        // A search may have been made just before, and the next one has some patience.
        assert!(late <= values_max / 7 + 64, "{late} of {values_max}");
    }
}

#[test]
fn values_that_come_and_go_need_no_more_room_than_those_that_are_there() {
    let mut dice = Dice(9);
    let keyed = Keyed::new(1_000_000, 1);
    for now in 0..200_000u64 {
        let (_, is_overflow) = keyed.with(hash(&mut dice), |word| word[0] + 100 < now, |word| word[0] = now);
        assert!(!is_overflow);
    }
    assert!(keyed.len() < 5_000, "{}", keyed.len());
}

#[test]
fn a_million_values_fit_into_96_mib() {
    for words in 1..=3 {
        let measured = allocation_counter::measure(|| {
            let mut dice = Dice(1);
            let keyed = Keyed::new(1_000_000, words);
            for _ in 0..1_000_000 {
                assert!(!keyed.with(hash(&mut dice), |_| false, |words| words[0] = 1).1);
            }
            assert_eq!(keyed.len(), 1_000_000);
        });
        assert!(measured.bytes_max <= 96 << 20, "{words} words: {} bytes", measured.bytes_max);
    }
}
