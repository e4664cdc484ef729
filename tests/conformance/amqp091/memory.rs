//! What a client that does not read costs, however many consumers it has (docs/protocol/amqp091.md, ADR 0057).

use super::*;

fn names(count: usize) -> Vec<&'static str> {
    (0..count).map(|number| name(format!("q{number}"))).collect()
}

fn name(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

impl Stack {
    /// A client that consumes each of the queues, and reads nothing of what comes.
    fn deaf(&mut self, queues: &[&'static str]) -> ConnectionId {
        let client = self.client();
        for queue in queues {
            self.declare(client, queue, |_| {});
            self.consume(client, queue, queue, |_| {});
        }
        let end = self.end(client);
        end.reads = 0;
        end.machine.handle_congestion(true);
        client
    }

    /// Publishes one message of so many bytes to each queue.
    fn fill_all(&mut self, id: ConnectionId, queues: &[&'static str], bytes: usize) {
        let body = "x".repeat(bytes);
        for queue in queues {
            self.fill(id, queue, &[&body]);
        }
    }

    /// The client reads one message; returns whose it is.
    fn read_one(&mut self, id: ConnectionId) -> Option<ShortString> {
        self.end(id).reads = 1;
        turn(&mut self.world, id, self.ends.get_mut(&id).expect("it dialled"));
        self.end(id).reads = 0;
        self.run();
        match self.methods(id).pop()? {
            Method::BasicDeliver(deliver) => Some(deliver.consumer_tag),
            other => panic!("{other:?} is no delivery"),
        }
    }
}

/// Two hundred consumers have together what a few have, and all of it comes when their client reads.
#[test]
fn consumers_of_a_client_that_does_not_read_are_bounded_together() {
    const BYTES: usize = 32 << 10;
    // What they have in each of the four partitions, a message more, and what carries them.
    const BOUND: usize = 4 * ((1 << 20) + 2 * BYTES);
    let mut stack = Stack::new();
    let queues = names(200);
    let client = stack.deaf(&queues);
    let publisher = stack.client();
    stack.fill_all(publisher, &queues, BYTES);

    let held = stack.end(client).machine.held_bytes();
    assert!(held <= BOUND, "{held} of {} bytes are in memory", 200 * BYTES);
    assert!(held >= BOUND / 2, "it is used: {held}");

    let end = stack.end(client);
    end.machine.handle_congestion(false);
    end.reads = usize::MAX;
    stack.run();
    assert_eq!(stack.deliveries(client).len(), 200);
}

/// A client that reads slowly hears of each of its consumers before it hears of one again that had its turn.
#[test]
fn consumers_of_a_client_that_reads_slowly_take_turns() {
    let mut stack = Stack::new();
    // All in one partition, which has room for four of their messages at a time.
    let queues: Vec<&'static str> =
        (0..12).map(|number| name(format!("{{one}}{number}"))).collect();
    let client = stack.deaf(&queues);
    let publisher = stack.client();
    (0..3).for_each(|_| stack.fill_all(publisher, &queues, 256 << 10));

    let mut heard: BTreeMap<ShortString, usize> = BTreeMap::new();
    for _ in 0..12 {
        let tag = stack.read_one(client).expect("there is more");
        *heard.entry(tag).or_default() += 1;
    }
    assert_eq!(heard.len(), 12, "each has come");
    while let Some(tag) = stack.read_one(client) {
        *heard.entry(tag).or_default() += 1;
    }
    assert!(heard.values().all(|count| *count == 3), "{heard:?}");
}
