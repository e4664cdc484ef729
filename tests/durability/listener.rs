//! A subscriber that runs beside the test, and what it must have heard in the end.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use fluxmq::model::QoS;
use tokio::task::JoinHandle;

use crate::ledger::{Heard, Promise, Sent};
use crate::process::PATIENCE;
use crate::rng::Rng;
use crate::subscriber::Subscriber;
use crate::world::World;

/// Missing messages that a failure names.
const MISSING_SHOWN: usize = 5;

/// One running subscriber.
pub struct Listener {
    name: &'static str,
    heard: Arc<Mutex<Heard>>,
    /// To be given to [`World::end`].
    pub task: JoinHandle<()>,
}

impl Listener {
    /// Starts a subscriber and waits until it has subscribed. One of QoS 2 is to hear nothing twice; of a queue it hears everything.
    pub fn start(world: &World, name: &'static str, filter: &str, qos: QoS, rng: Rng) -> Listener {
        let promise = match qos {
            QoS::ExactlyOnce => Promise::ExactlyOnce,
            QoS::AtMostOnce | QoS::AtLeastOnce => Promise::AtLeastOnce,
        };
        let heard = Arc::new(Mutex::new(Heard::new(promise)));
        let cursor = ("cursor".to_owned(), "earliest".to_owned());
        let (ready, subscribed) = channel();
        let subscriber = Subscriber {
            client_id: name.to_owned(),
            filter: filter.to_owned(),
            qos,
            properties: filter.starts_with("$queue/").then_some(cursor).into_iter().collect(),
            rng,
            heard: heard.clone(),
            ready,
        };
        let task = world.spawn(|link| subscriber.run(link));
        subscribed.recv_timeout(PATIENCE).expect("it subscribes");
        Listener { name, heard, task }
    }

    /// Waits until every confirmed message whose topic begins with `prefix` has come; nothing else may have.
    pub fn expect_all(&self, world: &World, sent: &[Sent], prefix: &str) {
        world.wait_until(|_| {
            assert!(!self.task.is_finished(), "{} gave up; see above", self.name);
            let heard = self.heard.lock().unwrap();
            let missing = |sent| heard.missing(sent, |topic: &str| topic.starts_with(prefix));
            let missing: Vec<_> = sent.iter().flat_map(missing).collect();
            match missing.len() {
                0 => Ok(()),
                count => {
                    let first = &missing[..count.min(MISSING_SHOWN)];
                    Err(format!("{}: {count} of {prefix} are missing: {first:?} …", self.name))
                }
            }
        });
        let heard = self.heard.lock().unwrap();
        heard.assert_nothing_invented(self.name, sent);
        eprintln!("{}: {} messages, {} copies", self.name, heard.count(), heard.copies);
    }

    /// Returns how many different messages have come.
    pub fn count(&self) -> usize {
        self.heard.lock().unwrap().count()
    }
}
