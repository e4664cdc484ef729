//! QoS 2: sessions on both sides, half steps resumed; every message once, in order, whenever the broker was killed.

use fluxmq::model::QoS;

use crate::inspect::assert_verifies;
use crate::listener::Listener;
use crate::publisher::Publisher;
use crate::rng::Rng;
use crate::world::{World, kills};

const PUBLISHERS: usize = 3;
/// Topics enough to have one in every partition.
const LAST_TOPICS: u64 = 24;

#[test]
fn a_qos_2_message_comes_exactly_once_across_kills() {
    let mut rng = Rng::of_run("exactly once");
    let mut world = World::new(rng.fork());
    let listener = Listener::start(&world, "once", "once/#", QoS::ExactlyOnce, rng.fork());
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|index| {
            let topics = vec![format!("once/{index}/a"), format!("once/{index}/b")];
            let publisher = publisher(format!("publisher-{index}"), topics, &world, rng.fork());
            world.spawn(|link| publisher.run(link))
        })
        .collect();

    world.kill_under_load(kills(), &publishers);
    let mut sent = world.finish(publishers);
    for sent in &sent {
        assert_eq!(sent.confirmed.len() as u64, sent.count, "every publish is finished");
    }
    listener.expect_all(&world, &sent, "once/");
    // Whatever would still come a second time comes before what is published last.
    world.kill();
    assert_verifies(world.data(), &[0, 1]);
    world.start();
    let topics = (0..LAST_TOPICS).map(|index| format!("once/last/{index}")).collect();
    let mut last = publisher("last".to_owned(), topics, &world, rng.fork());
    last.count = Some(LAST_TOPICS);
    let last = world.spawn(|link| last.run(link));
    sent.push(world.join(last));
    listener.expect_all(&world, &sent, "once/");
    let total: u64 = sent.iter().map(|sent| sent.count).sum();
    assert_eq!(listener.count() as u64, total);
    world.end(vec![listener.task]);
    world.terminate();
    assert_verifies(world.data(), &[0]);
}

fn publisher(client_id: String, topics: Vec<String>, world: &World, rng: Rng) -> Publisher {
    Publisher {
        client_id,
        topics,
        qos: QoS::ExactlyOnce,
        is_persistent: true,
        count: None,
        rng,
        progress: world.progress.clone(),
    }
}
