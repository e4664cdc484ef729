//! Queues that end with a term: whoever leads next ends them, once for all replicas.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::queue::Lifetime;
use fluxmq::model::record::queue_id;
use fluxmq::model::{QueueName, QueueSettings, Token};
use fluxmq::partition::ReplicaId;
use fluxmq::partition::request::{ConnectionId, Event, QueueAction, QueueRequest, Request};

use crate::cluster::Cluster;

const OWNER: u64 = 7;
const LIFETIMES: [(&str, Lifetime); 3] =
    [("kept", Lifetime::Durable), ("brief", Lifetime::Transient), ("mine", Lifetime::Owned)];

fn declare(cluster: &mut Cluster, to: ReplicaId, queue: &'static str, lifetime: Lifetime) {
    let settings = QueueSettings { lifetime, ..QueueSettings::default() };
    let queue = QueueName::new(Bytes::from_static(queue.as_bytes())).expect("a name");
    let action = QueueAction::Declare(Arc::new(settings));
    cluster.ask_for(OWNER, to, Request::Queue(QueueRequest { token: Token(1), queue, action }));
}

fn queues(cluster: &Cluster, at: ReplicaId) -> Vec<&'static str> {
    let views = cluster.partition(at).views();
    let names = LIFETIMES.into_iter().map(|(name, _)| name);
    names.filter(|name| views.queues.get(queue_id(name.as_bytes())).is_some()).collect()
}

fn resignations(cluster: &Cluster, of: ReplicaId) -> usize {
    let heard = cluster.replicas[&of].heard.0.iter();
    let told = |to: &ConnectionId, event: &Event| {
        *to == ConnectionId(OWNER) && matches!(event, Event::Resigned(_))
    };
    heard.filter(|(to, event)| told(to, event)).count()
}

#[test]
fn another_leader_ends_what_ends_with_a_term_and_its_owner_is_told() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    for (queue, lifetime) in LIFETIMES {
        declare(&mut cluster, old, queue, lifetime);
    }
    cluster.settle();
    cluster.ticks(3);
    for replica in cluster.voters.clone() {
        assert_eq!(queues(&cluster, replica), ["kept", "brief", "mine"], "a follower ends nothing");
    }

    cluster.isolate(old);
    cluster.ticks(40);
    let new = cluster.leader().expect("the majority elects another");
    assert_ne!(new, old);
    assert_eq!(queues(&cluster, new), ["kept"]);
    cluster.heal();
    cluster.ticks(10);

    assert_eq!(resignations(&cluster, old), 1, "it reads nothing, and has lost its queue");
    for replica in cluster.voters.clone() {
        assert_eq!(queues(&cluster, replica), ["kept"]);
    }
    cluster.assert_identical();

    // The same replica again, which was the leader before: it forgot whose they were, and ends what the other has now.
    declare(&mut cluster, new, "mine", Lifetime::Owned);
    cluster.settle();
    assert_eq!(queues(&cluster, new), ["kept", "mine"]);
    cluster.partition_mut(new).transfer_leadership(old).expect("it may be asked");
    cluster.settle();
    cluster.ticks(3);
    assert_eq!(cluster.leader(), Some(old));
    assert_eq!(queues(&cluster, old), ["kept"]);
    cluster.assert_identical();
}
