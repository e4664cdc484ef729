//! A damaged directory: the broker says what is damaged and what to run, changes nothing, and never starts empty.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fluxmq::model::QoS;

use crate::inspect::{assert_verifies, verify};
use crate::ledger::{Sent, body};
use crate::listener::Listener;
use crate::process::{BrokerProcess, Start};
use crate::publisher::Publisher;
use crate::rng::Rng;
use crate::world::World;

const MESSAGES: u64 = 300;
const TOPIC: &str = "$queue/orders/new";

#[test]
fn a_byte_damaged_in_the_middle_stops_the_next_start_and_says_where() {
    let mut rng = Rng::of_run("refuse");
    let mut world = World::new(rng.fork());
    let sent = publish(&world, rng.fork());
    world.terminate();
    let (path, position) = find(world.data(), &body(TOPIC, MESSAGES / 2));
    let before = files(world.data());
    flip(&path, position);

    for attempt in 1..=2 {
        let ended = BrokerProcess::try_start(world.data(), &Start::default());
        let ended = ended.err().expect("it refuses");

        assert_eq!(ended.code, Some(1), "attempt {attempt}: {}", ended.log);
        let name = path.file_name().unwrap().to_str().unwrap();
        let error = ended.log.lines().find(|line| line.contains(" ERROR ")).unwrap_or_default();
        assert!(error.contains(name), "it names the file: {}", ended.log);
        assert!(error.contains("offsets from "), "it names the offsets: {}", ended.log);
        let command = format!("run 'wal-tools verify {}'", world.data().display());
        assert!(error.contains(&command), "it names the command: {}", ended.log);
    }
    let found = verify(world.data());
    let said = String::from_utf8_lossy(&found.stdout);
    assert_eq!(found.status.code(), Some(2), "{said}");
    assert!(said.contains(path.file_name().unwrap().to_str().unwrap()), "{said}");
    flip(&path, position);
    let after = files(world.data());
    // Other partitions did open, and may have begun a new term.
    let partition = path.parent().unwrap().parent().unwrap();
    for (path, bytes) in before.iter().filter(|(path, _)| path.starts_with(partition)) {
        let now = after.get(path).unwrap_or_else(|| panic!("{} is gone", path.display()));
        assert!(now == bytes, "{} has changed", path.display());
    }

    // What was flipped back is the same directory again: nothing was dropped on the way.
    assert_verifies(world.data(), &[0]);
    world.start();
    let queue = Listener::start(&world, "queue", "$queue/orders/#", QoS::AtLeastOnce, rng.fork());
    queue.expect_all(&world, &[sent], "$queue/");
    world.end(vec![queue.task]);
}

#[test]
fn a_segment_that_is_gone_stops_the_next_start() {
    let mut rng = Rng::of_run("refuse");
    let mut world = World::new(rng.fork());
    publish(&world, rng.fork());
    world.terminate();
    let (path, _) = find(world.data(), &body(TOPIC, 0));
    std::fs::remove_file(&path).unwrap();

    let ended = BrokerProcess::try_start(world.data(), &Start::default());

    let ended = ended.err().expect("it refuses");
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(ended.log.contains(path.file_name().unwrap().to_str().unwrap()), "{}", ended.log);
}

/// Publishes everything and waits until it is confirmed.
fn publish(world: &World, rng: Rng) -> Sent {
    let publisher = Publisher {
        client_id: "publisher".to_owned(),
        topics: vec![TOPIC.to_owned()],
        qos: QoS::AtLeastOnce,
        is_persistent: true,
        count: Some(MESSAGES),
        rng,
        progress: world.progress.clone(),
    };
    let sent = world.join(world.spawn(|link| publisher.run(link)));
    assert_eq!(sent.confirmed.len() as u64, MESSAGES);
    sent
}

/// Returns the segment that holds `bytes`, and where.
fn find(data: &Path, bytes: &[u8]) -> (PathBuf, usize) {
    let holds = |(path, content): (PathBuf, Vec<u8>)| {
        let at = content.windows(bytes.len()).position(|window| window == bytes)?;
        Some((path, at))
    };
    let found: Vec<_> = files(data).into_iter().filter_map(holds).collect();
    assert_eq!(found.len(), 1, "one copy on disk: {found:?}");
    found.into_iter().next().unwrap()
}

fn flip(path: &Path, position: usize) {
    let mut content = std::fs::read(path).unwrap();
    content[position] ^= 0x10;
    std::fs::write(path, content).unwrap();
}

/// Every file below `dir` with what is in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => drop(all.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    all
}
