//! The caller outside the mesh, as an external balancer is: it asks each instance of the first service whether it is ready,
//! sends to those that are, in turn, and keeps connections until it is told to close them. Hot.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::callers::{Client, Door, Load, WAITING_MAX, hand_out, note_failed};
use super::chain::Why;
use super::tally::Caller;
use super::wire::{Broken, Wire};

/// It looks so often who is ready, and waits so long for the answer.
const LOOK_EACH: Duration = Duration::from_millis(500);
const LOOK_MAX: Duration = Duration::from_millis(400);
/// Requests that it has under way.
const UNDER_WAY_MAX: usize = 50;

/// Asks so many times a second until all is over.
pub(super) async fn outside(load: Arc<Load>, per_second: f64) {
    let ready = Rc::new(RefCell::new(look(&load).await));
    let (teller, over) = oneshot::channel::<()>();
    let (of_looker, of_load) = (ready.clone(), load.clone());
    let looker = tokio::task::spawn_local(async move {
        tokio::pin!(over);
        let mut next = Instant::now() + LOOK_EACH;
        while timeout_at(next.into(), &mut over).await.is_err() {
            let found = look(&of_load).await;
            *of_looker.borrow_mut() = found;
            next += LOOK_EACH;
        }
    });
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let hands_out = async {
        hand_out(&load, per_second, 11, &sender).await;
        drop(sender);
    };
    tokio::join!(hands_out, ask(&load, &ready, receiver));
    drop(teller);
    let _ = looker.await;
}

async fn ask(load: &Arc<Load>, ready: &RefCell<Vec<Door>>, mut receiver: mpsc::Receiver<Instant>) {
    let idle: Rc<RefCell<Vec<Client>>> = Rc::default();
    let mut under_way = JoinSet::new();
    let mut turn = 0_usize;
    while let Some(due) = receiver.recv().await {
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= UNDER_WAY_MAX {
            under_way.join_next().await;
        }
        let doors = ready.borrow();
        idle.borrow_mut().retain(|client| doors.iter().any(|door| door.name == client.name));
        turn = turn.wrapping_add(1);
        let Some(door) = doors.get(turn % doors.len().max(1)) else {
            note_failed(load, load.number(), Caller::Outside, "nobody", Why::Nobody);
            continue;
        };
        let kept = idle.borrow().iter().rposition(|client| client.name == door.name);
        let mut client = match kept {
            Some(place) => idle.borrow_mut().remove(place),
            None => Client::new(load, Caller::Outside, &door.name, door.serves, 2_000 + turn as u64),
        };
        let idle = idle.clone();
        under_way.spawn_local(async move {
            client.ask(due).await;
            idle.borrow_mut().push(client);
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// Who is ready, each asked on a connection of its own.
async fn look(load: &Load) -> Vec<Door> {
    let doors = load.doors();
    let is_ready = async |door: &Door| {
        let mut wire = Wire::connect(door.probe).await?;
        wire.send(b"GET /ready HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n").await?;
        Ok::<_, Broken>(wire.read().await?.status() == 200)
    };
    let looks = doors.iter().map(|door| timeout(LOOK_MAX, is_ready(door)));
    let found = futures_util::future::join_all(looks).await;
    let is_ready = found.into_iter().map(|found| matches!(found, Ok(Ok(true))));
    doors.into_iter().zip(is_ready).filter_map(|(door, is_ready)| is_ready.then_some(door)).collect()
}
