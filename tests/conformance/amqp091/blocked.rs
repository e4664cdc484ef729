//! RabbitMQ, blocked connections: what becomes of publishers and consumers while the broker takes no publishes.

use super::*;
use fluxmq::model::{Effect, Refusal};

impl Stack {
    /// The disk runs full, or has room again, and everybody hears of it.
    fn disk_is_full(&mut self, is_full: bool) {
        let now = self.world.now;
        for end in self.ends.values_mut() {
            let verdict = if is_full { Err(Refusal::DiskFull) } else { Ok(()) };
            end.machine.handle_effect(now, Effect::Publishing(verdict));
        }
        self.world.partitions.values_mut().for_each(|partition| partition.set_disk_full(is_full));
        self.run();
    }
}

/// Publishers are told and wait, also those that had not published before; what they send is stored when it is over, and nothing is lost.
/// Who only consumes goes on.
#[test]
fn connection_blocked_makes_publishers_wait_and_nobody_else() {
    let mut stack = Stack::new();
    let (old, new, consumer) = (stack.client(), stack.client(), stack.client());
    stack.declare(old, "q", |_| {});
    stack.fill(old, "q", &["1", "2"]);
    stack.qos(consumer, 1, false);
    stack.consume(consumer, "q", "c", |_| {});

    stack.disk_is_full(true);

    let blocked = ConnectionBlocked { reason: short("low on disk") };
    assert_eq!(stack.method(old), blocked.clone().into());
    assert_eq!(stack.methods(new), []);
    stack.fill(old, "q", &["3"]);
    stack.fill(new, "q", &["4", "5"]);
    assert_eq!(stack.method(new), blocked.into(), "it has published");
    stack.send(new, 2, ChannelOpen::default());
    assert_eq!(stack.methods(new), [], "it is not read");
    for (tag, body) in [(1, "1"), (2, "2")] {
        let delivered = stack.deliveries(consumer);
        assert_eq!(delivered.len(), 1);
        assert_eq!((delivered[0].tag, &*delivered[0].body), (tag, body));
        stack.ack(consumer, tag);
    }
    assert_eq!(stack.deliveries(consumer), []);

    stack.disk_is_full(false);

    assert_eq!(stack.method(old), ConnectionUnblocked::default().into());
    let unblocked: Method = ConnectionUnblocked::default().into();
    assert_eq!(stack.methods(new), [unblocked, ChannelOpenOk::default().into()]);
    let mut bodies: Vec<String> = Vec::new();
    while let Some(delivered) = stack.deliveries(consumer).pop() {
        bodies.push(delivered.body.clone());
        stack.ack(consumer, delivered.tag);
    }
    bodies.sort();
    assert_eq!(bodies, ["3", "4", "5"]);
}

/// RabbitMQ, `connection.update-secret`: the same user goes on; one that needs no account has no secret that could be wrong.
#[test]
fn connection_update_secret_leaves_the_connection_open() {
    let mut stack = Stack::new();
    let client = stack.client();
    let update = |secret| ConnectionUpdateSecret {
        new_secret: Bytes::from_static(secret),
        reason: short("renewal"),
    };
    for secret in [&b"guest"[..], b"another"] {
        stack.send(client, 0, update(secret));
        assert_eq!(stack.method(client), ConnectionUpdateSecretOk::default().into());
        stack.declare(client, "q", |_| {});
    }
}
