//! One seed from beginning to end: work, heal, come to rest, check.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::checkers::{Invariant, Violation, delivery, group, queues, stored, views};
use crate::coverage::{Coverage, Point};
use crate::node::{EPOCH_MS, replica};
use crate::plan::{Fault, Plan, REST, SECOND, WORK};
use crate::world::World;

/// How long a group that is well is watched, and how long it has before.
const CALM: u64 = 5 * SECOND;

/// What became of a seed.
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// A partition stands still and says why, as it must: what was lost nobody has any more.
    pub is_stopped: bool,
    pub hash: u64,
    pub coverage: Coverage,
    pub text: Option<String>,
}

/// Runs a seed, with all checkers or one. A panic anywhere is a violation, too.
pub fn run(seed: u64, is_read: bool, armed: Option<Invariant>) -> Outcome {
    let mut world = World::new(Plan::of(seed), is_read, armed);
    if let Err(panic) = caught(|| go(&mut world)) {
        world.violate(Invariant::I25, format!("panic: {panic}"));
    }
    Outcome {
        seed,
        violation: world.violation.clone(),
        is_stopped: world.is_stopped,
        hash: world.trace.hash(),
        coverage: world.coverage.clone(),
        text: world.trace.text().map(str::to_owned),
    }
}

thread_local! {
    /// What the last panic of a run on this thread said; `None` outside of runs.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs something whose panic is a finding: it is not printed, but returned with its place.
fn caught(run: impl FnOnce()) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_caught = SAID.with_borrow_mut(|said| {
                said.as_mut().map(|said| *said = info.to_string().replace('\n', " ")).is_some()
            });
            if !is_caught {
                loud(info);
            }
        }));
    });
    SAID.set(Some(String::new()));
    let ended = catch_unwind(AssertUnwindSafe(run));
    let said = SAID.take().unwrap_or_default();
    ended.map_err(|_| said)
}

fn go(world: &mut World) {
    world.run(WORK);
    if world.violation.is_none() {
        world.heal();
        rest(world);
    }
    if world.violation.is_none() && !world.is_stopped {
        stay_calm(world);
    }
    if world.violation.is_none() {
        check_stored(world);
    }
    if world.violation.is_none() && !world.is_stopped {
        check(world);
    }
    world.count_coverage();
}

/// Waits until everything begun has ended; what has not in time never will. I25.
fn rest(world: &mut World) {
    let end = world.now + REST;
    while world.violation.is_none() {
        world.run(world.now + SECOND / 2);
        match (world.unrest(), world.now < end) {
            (None, _) => return,
            (Some(_), true) => {}
            (Some(_), false) if group::is_stopped_for_good(world) => {
                world.is_stopped = true;
                return;
            }
            (Some(what), false) => {
                world.note_standing();
                let found = world.queues.within_bounds(world);
                world.accept(found);
                world.violate(Invariant::I25, what);
                return;
            }
        }
    }
}

/// Replicas that are not in a group any more must not disturb it: while nothing goes wrong, whoever leads goes on leading. I25.
fn stay_calm(world: &mut World) {
    if !world.plan.faults.iter().any(|(fault, _)| *fault == Fault::Members) {
        return;
    }
    // What was under way when all was healed, as an election whose leader nobody asked anything, has ended by then.
    world.run(world.now + CALM);
    let mut before = group::leaders(world);
    for _ in 0..2 {
        if before.values().any(Option::is_none) {
            world.run(world.now + CALM);
            before = group::leaders(world);
        }
    }
    world.run(world.now + CALM);
    let after = group::leaders(world);
    if before != after && world.violation.is_none() {
        world.violate(Invariant::I25, format!("{before:?} led, and without a reason {after:?}"));
    }
}

/// What is stored is right, whoever serves it.
fn check_stored(world: &mut World) {
    let places = stored::places(&world.ledger);
    let (history, ledger) = (&world.history, &world.ledger);
    let mut found = stored::check(history, ledger, &places, &world.observer, &world.plan);
    let nodes = world.nodes.iter().enumerate();
    found.extend(nodes.map(|(number, node)| world.observer.compare(number, node, ledger)));
    found.into_iter().for_each(|found| world.accept(found));
}

/// What was owed was done.
fn check(world: &mut World) {
    let places = stored::places(&world.ledger);
    let mut found = Vec::new();
    found.extend(delivery::check(world, &places));
    found.extend(views::check(world));
    found.extend(group::check(world));
    found.extend(queues::check(world));
    found.push(world.wills.check());
    found.into_iter().for_each(|found| world.accept(found));
}

impl World {
    /// Says what has not ended yet.
    fn unrest(&self) -> Option<String> {
        if let Some(node) = self.nodes.iter().position(|node| !node.is_up()) {
            return Some(format!("node {node} is down"));
        }
        let unfinished = self.clients.iter().find(|client| !client.is_finished());
        if let Some(client) = unfinished {
            return Some(format!("{} has not finished", client.name));
        }
        if let Some(what) = group::muted(self) {
            return Some(what);
        }
        for (number, node) in self.nodes.iter().enumerate() {
            if let Some((partition, fenced)) = node.fenced.first_key_value() {
                return Some(format!("node {number} p{} {}", partition.0, fenced.status()));
            }
            for (partition, owned) in &node.owned {
                if !self.members_of(*partition).contains(replica(number)) {
                    continue;
                }
                let all = self.ledger.frames(*partition).len() as u64;
                let (applied, log) = (owned.partition.applied().index, owned.partition.log());
                if !owned.partition.is_quiet() || applied < all {
                    let at = format!("applied {applied} of {all}, log from {}", log.first_index());
                    let what = format!("node {number} p{} has not come to rest", partition.0);
                    return Some(format!("{what}: {at} to {}", log.last_index()));
                }
            }
        }
        let worked = self.plan.worked().map(|declared| declared.name.as_str());
        // After a jump back of the clock, log time waits until the clock is there again, and so does what waits for it.
        if !self.observer.has_clock_jumped
            && let Some(what) = self.queues.unfinished(worked)
        {
            return Some(what);
        }
        if let Some(what) = self.queues.unfollowed() {
            return Some(what);
        }
        if let Some(what) = self.replays.unfinished() {
            return Some(what);
        }
        let clock = EPOCH_MS + self.now / 1000;
        if !self.observer.has_clock_jumped
            && let Some(what) = self.wills.unfinished(clock)
        {
            return Some(what);
        }
        // Whoever serves a session may not know yet that its connection's node lost power.
        if let Some(will) = self.wills.undecided() {
            return Some(format!("{will:x}: its connection ended, and it is not due"));
        }
        let places = |id| self.observer.places(id).to_vec();
        let stored = self.history.publishes.iter().map(|publish| (publish.id, places(publish.id)));
        let stored = stored.filter(|(_, places)| !places.is_empty()).collect();
        let found = delivery::at_least_once(self, &stored);
        let found = found.and_then(|()| self.queues.within_bounds(self));
        found.err().map(|violation| violation.to_string())
    }

    fn count_coverage(&mut self) {
        let redelivered = self.history.deliveries.iter().filter(|it| it.dup).count();
        (0..redelivered).for_each(|_| self.coverage.hit(Point::Redelivered));
        let mut holders = std::collections::BTreeMap::new();
        for it in self.history.deliveries.iter().filter(|it| it.entry.is_some()) {
            let before = holders.insert(it.entry.clone(), it.connection);
            if before.is_some_and(|before| before != it.connection) {
                self.coverage.hit(Point::EntryReturned);
            }
        }
        (0..self.observer.segments_sealed).for_each(|_| self.coverage.hit(Point::SegmentRolled));
    }
}
