//! Tests of whose turn it is.

use super::*;
use crate::rules::tests::Dice;

fn waiter(task: u64) -> Waiter {
    Waiter { worker: 0, task }
}

/// Who is granted, in order, as tasks.
fn granted(queue: &mut Queue, now_ns: u64) -> Vec<u64> {
    std::iter::from_fn(|| queue.grant(now_ns)).map(|waiter| waiter.task).collect()
}

#[test]
fn callers_take_turns_and_each_is_served_in_order() {
    let mut queue = Queue::default();
    for (caller, task) in [(1, 10), (1, 11), (1, 12), (1, 13), (2, 20), (3, 30), (2, 21), (1, 14)] {
        queue.push(caller, waiter(task), 100);
    }
    assert_eq!(granted(&mut queue, 0), [10, 20, 30, 11, 21, 12, 13, 14]);
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn who_left_or_waited_too_long_is_passed_over() {
    let mut queue = Queue::default();
    let places: Vec<Place> = (0..6).map(|task| queue.push(task % 2, waiter(task), 100 + task)).collect();
    assert_eq!(queue.remove(places[2]), Some(Standing::Waiting { until_ns: 102 }));
    assert_eq!(queue.remove(places[2]), None, "once");
    assert_eq!(queue.waiting(), 5);
    assert_eq!(granted(&mut queue, 103), [4, 3, 5]);
    let standings: Vec<_> = places.iter().map(|place| queue.remove(*place)).collect();
    let (expired, granted) = (Some(Standing::Expired), Some(Standing::Granted));
    assert_eq!(standings, [expired, expired, None, granted, granted, granted]);
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn callers_that_come_and_leave_take_no_memory() {
    let mut queue = Queue::default();
    let stays = queue.push(0, waiter(0), 100);
    for task in 1..100_000 {
        let place = queue.push(task, waiter(task), 100);
        queue.remove(place);
    }
    assert!(queue.turns.len() < 2 * SWEEP_MIN && queue.lines.len() < 2 * SWEEP_MIN && queue.entries.len() < 4);
    assert_eq!(granted(&mut queue, 0), [0]);
    assert_eq!(queue.remove(stays), Some(Standing::Granted));
}

#[test]
fn any_order_of_events_keeps_the_sums_right() {
    let mut dice = Dice(11);
    let mut queue = Queue::default();
    let mut places = Vec::new();
    for now_ns in 0..50_000 {
        match dice.roll() % 4 {
            0 | 1 => places.push(queue.push(dice.roll() % 7, waiter(now_ns), now_ns + dice.roll() % 200)),
            2 if !places.is_empty() => {
                let index = dice.roll() as usize % places.len();
                assert!(queue.remove(places.swap_remove(index)).is_some());
            }
            _ => {
                queue.grant(now_ns);
            }
        }
        let is_waiting = |place: &&Place| matches!(queue.standing(**place), Some(Standing::Waiting { .. }));
        if now_ns % 100 == 0 {
            assert_eq!(places.iter().filter(is_waiting).count(), queue.waiting());
        }
    }
}
