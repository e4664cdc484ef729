//! QoS 1: what was confirmed reaches a session and a queue, in each publisher's order, whenever the broker was killed.

use fluxmq::model::QoS;

use crate::inspect::assert_verifies;
use crate::listener::Listener;
use crate::publisher::Publisher;
use crate::rng::Rng;
use crate::world::{World, kills};

const PUBLISHERS: usize = 4;

#[test]
fn what_was_confirmed_with_qos_1_survives_kills() {
    let mut rng = Rng::of_run("at least once");
    let mut world = World::new(rng.fork());
    let session = Listener::start(&world, "session", "load/#", QoS::AtLeastOnce, rng.fork());
    let queue = Listener::start(&world, "queue", QUEUE, QoS::AtLeastOnce, rng.fork());
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|index| {
            let publisher = publisher(index, &world, rng.fork());
            world.spawn(|link| publisher.run(link))
        })
        .collect();

    world.kill_under_load(kills(), &publishers);
    let sent = world.finish(publishers);
    session.expect_all(&world, &sent, "load/");
    queue.expect_all(&world, &sent, "$queue/");
    world.end(vec![session.task, queue.task]);
    world.kill();
    assert_verifies(world.data(), &[0, 1]);
    world.start();
    world.terminate();
    assert_verifies(world.data(), &[0]);
}

#[test]
fn a_group_that_comes_last_reads_the_whole_queue_from_its_beginning() {
    let mut rng = Rng::of_run("late group");
    let mut world = World::new(rng.fork());
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|index| {
            let publisher = publisher(index, &world, rng.fork());
            world.spawn(|link| publisher.run(link))
        })
        .collect();

    world.kill_under_load(1, &publishers);
    let sent = world.finish(publishers);
    world.terminate();
    assert_verifies(world.data(), &[0]);
    world.start();
    let late = Listener::start(&world, "late", QUEUE, QoS::AtLeastOnce, rng.fork());
    late.expect_all(&world, &sent, "$queue/");
    world.end(vec![late.task]);
}

const QUEUE: &str = "$queue/work/#";

/// Half of the publishers repeat what a lost connection left open, the others do not.
fn publisher(index: usize, world: &World, rng: Rng) -> Publisher {
    Publisher {
        client_id: format!("publisher-{index}"),
        topics: vec![
            format!("load/{index}/a"),
            format!("$queue/work/{index}"),
            format!("load/{index}/b"),
        ],
        qos: QoS::AtLeastOnce,
        is_persistent: index.is_multiple_of(2),
        count: None,
        rng,
        progress: world.progress.clone(),
    }
}
