//! What becomes of the shop: instances come, are replaced one at a time, are killed and stood in for; what keys ask for beside
//! that. What a key means is decided by `keys`, what an instance is by `instance`. Cold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use super::app::Switch;
use super::heard;
use super::instance::{self, Instance};
use super::keys::{Act, Selection};
use super::rules;
use super::world::{Order, World};

/// One that is to come has so much time.
const COME_WITHIN: Duration = Duration::from_secs(30);
/// From one look at those who come to the next.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Somebody else comes for one that was killed, as a scheduler would see to it.
const STAND_IN_AFTER: Duration = Duration::from_secs(3);
/// From one key of `--keys` to the next.
const KEY_EVERY: Duration = Duration::from_secs(1);

/// Everybody comes at the same time.
pub async fn open(world: &Arc<World>) -> Result<(), String> {
    instance::write_token(&world.stage).map_err(|error| format!("cannot start: {error}"))?;
    let places = 0..world.shop.places.len();
    let all: Vec<_> = places.map(|index| begin(world, index)).collect::<Result<_, _>>()?;
    ready(world, &all).await?;
    for (index, instance) in all.into_iter().enumerate() {
        take_place(world, index, instance);
    }
    Ok(())
}

/// Does what keys ask for, until the world ends.
pub async fn follow(world: Arc<World>, mut orders: Receiver<Order>) {
    while let Some(Order { act, selection, .. }) = orders.recv().await {
        match act {
            Act::Turn(switch) => turn(&world, &selection, switch),
            Act::Trace => trace(&world, &selection),
            Act::Restart { all } => restart(&world, (!all).then_some(selection)),
            Act::Kill => kill(&world, &selection),
            Act::Control => turn_control(&world),
            Act::Lane => swing_lane(&world),
            Act::Look | Act::End => {}
        }
    }
}

/// Presses these keys once traffic flows.
pub async fn play(world: Arc<World>, keys: String) {
    let _work = world.work();
    while world.ledger().totals().answered == 0 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    for key in keys.chars() {
        tokio::time::sleep(KEY_EVERY).await;
        world.press(key);
    }
}

fn begin(world: &World, index: usize) -> Result<Arc<Instance>, String> {
    let place = &world.shop.places[index];
    let name = world.shop.name(place.service);
    let started = Instance::start(&world.stage, world.mesh.xds, place.role, name);
    started.map(Arc::new).map_err(|error| format!("an instance cannot be started: {error}"))
}

/// Comes when control has told callers of all of them.
async fn ready(world: &World, all: &[Arc<Instance>]) -> Result<(), String> {
    let began = Instant::now();
    loop {
        heard::hear(world).await;
        let is_ready = |one: &&Arc<Instance>| world.heard().phases.get(&one.name).is_some_and(|phase| phase == "ready");
        let Some(late) = all.iter().find(|one| !is_ready(one)) else { return Ok(()) };
        if let Some(lost) = all.iter().find(|one| one.has_ended()) {
            return Err(format!("{} has ended: {}", lost.name, lost.last_words()));
        }
        if began.elapsed() > COME_WITHIN {
            return Err(format!("{} is not ready after {COME_WITHIN:?}: {}", late.name, late.last_words()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn come(world: &Arc<World>, index: usize) -> Result<Arc<Instance>, String> {
    let next = begin(world, index)?;
    ready(world, std::slice::from_ref(&next)).await?;
    Ok(next)
}

/// From here on somebody looks after it. Returns who was there before.
fn take_place(world: &Arc<World>, index: usize, instance: Arc<Instance>) -> Option<Arc<Instance>> {
    let before = world.shop.places[index].put(Some(instance.clone()));
    let world = world.clone();
    tokio::spawn(async move {
        let how = instance.ended().await;
        if !instance.goes() && !world.is_ending() {
            world.say(&format!("the sidecar of {} has ended ({how})", instance.name));
            instance.kill().await;
            stand_in(&world, index, &instance).await;
        }
    });
    before
}

/// The one that was killed is missed, and somebody else comes for it.
async fn stand_in(world: &Arc<World>, index: usize, lost: &Instance) {
    let (_work, place) = (world.work(), &world.shop.places[index]);
    if place.instance().is_some_and(|there| there.name == lost.name) {
        place.put(None);
    }
    tokio::time::sleep(STAND_IN_AFTER).await;
    lost.app.turn(Switch::Ended);
    // A restart may have brought somebody.
    while place.instance().is_none() && !world.is_ending() {
        match come(world, index).await {
            Ok(next) => {
                world.say(&format!("{} stands in for {}", next.name, lost.name));
                if let Some(before) = take_place(world, index, next) {
                    let _ = leave(world, before).await;
                }
            }
            Err(problem) => {
                world.say(&format!("nobody stands in for {} so far: {problem}", lost.name));
                tokio::time::sleep(STAND_IN_AFTER).await;
            }
        }
    }
}

/// One goes, as the kubelet lets it: the `preStop` hook, then the end of both its halves, for which nobody has to wait.
async fn leave(world: &Arc<World>, instance: Arc<Instance>) -> Result<(), String> {
    let drained = instance.drain().await;
    heard::hear(world).await;
    let world = world.clone();
    tokio::spawn(async move {
        let _work = world.work();
        instance.end().await;
    });
    drained
}

/// Another one comes, and then this one goes.
async fn replace(world: &Arc<World>, index: usize) -> Result<(), String> {
    let next = come(world, index).await?;
    match take_place(world, index, next) {
        Some(before) => leave(world, before).await,
        None => Ok(()),
    }
}

/// Replaces the chosen ones, or all, one at a time.
fn restart(world: &Arc<World>, selection: Option<Selection>) {
    let chosen: Vec<usize> =
        (0..world.shop.places.len()).filter(|index| selection.is_none_or(|selection| selection.has(*index))).collect();
    let name = selection.map_or("everybody".into(), |selection| selection.name());
    if world.heard().gone_since.is_some() {
        return world.say(&format!("you: {name} cannot be restarted without control (c brings it back)"));
    }
    if !world.begin_restart(chosen.len()) {
        return world.say("you: a restart is under way already");
    }
    world.say(&format!("you: {name} restarts, one at a time"));
    let (world, work) = (world.clone(), world.work());
    tokio::spawn(async move {
        let (began, before) = (Instant::now(), world.ledger().totals().failed);
        for index in &chosen {
            if let Err(problem) = replace(&world, *index).await {
                world.say(&format!("the restart of {name} has stopped: {problem}"));
                world.end_restart();
                return;
            }
            world.count_restarted();
        }
        let (took, failed) = (began.elapsed().as_secs_f64(), world.ledger().totals().failed - before);
        world.say(&format!("{name} restarted: {} in {took:.1} s, {failed} requests failed meanwhile", chosen.len()));
        world.end_restart();
        drop(work);
    });
}

fn turn(world: &World, selection: &Selection, switch: Switch) {
    world.chosen(selection).for_each(|place| place.turn(switch));
    world.say(&format!("you: {} is {}", selection.name(), switch.word()));
}

fn trace(world: &World, selection: &Selection) {
    let all: Vec<_> = world.chosen(selection).filter_map(|place| place.instance()).collect();
    let forgets = !all.iter().all(|instance| instance.app.forgets_trace());
    all.iter().for_each(|instance| instance.app.forget_trace(forgets));
    let calls = world.chosen(selection).any(|place| place.role.next.is_some());
    let does = match (forgets, calls) {
        (true, true) => "passes no trace on: its calls leave their lane",
        (true, false) => "passes no trace on, and calls nobody",
        (false, _) => "passes its trace on again",
    };
    world.say(&format!("you: {} {does}", selection.name()));
}

fn kill(world: &Arc<World>, selection: &Selection) {
    let index = (0..world.shop.places.len()).find(|index| {
        let is_there = || world.shop.places[*index].instance().is_some();
        selection.has(*index) && is_there()
    });
    let Some((index, lost)) = index.and_then(|index| Some((index, world.shop.places[index].instance()?))) else {
        return world.say(&format!("you: {} has nobody to kill", selection.name()));
    };
    world.say(&format!("you: {} is killed; somebody comes for it in {} s", lost.name, STAND_IN_AFTER.as_secs()));
    world.shop.places[index].trouble();
    let (world, work) = (world.clone(), world.work());
    tokio::spawn(async move {
        lost.kill().await;
        stand_in(&world, index, &lost).await;
        drop(work);
    });
}

fn turn_control(world: &World) {
    world.say(match world.mesh.turn_control() {
        true => "you: control comes back",
        false => "you: control is killed; all go on with what they know (c brings it back)",
    });
}

/// By the file of rules, in which everything else stays as it is.
fn swing_lane(world: &World) {
    let swung = std::fs::read_to_string(&world.rules).ok().and_then(|text| rules::swing(&text));
    let Some((text, percentage)) = swung else {
        return world.say("you: the rules have no percentage of lane green");
    };
    // Visitors who are put out of a lane are not in a wrong one.
    world.settle_later();
    let draft = world.rules.with_extension("draft");
    // A reader sees it as it was, or as it is.
    let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &world.rules));
    world.say(&match written {
        Ok(()) => format!("you: {percentage} of 100 others are in lane green"),
        Err(error) => format!("you: the rules cannot be written: {error}"),
    });
}
