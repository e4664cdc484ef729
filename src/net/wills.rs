//! The task behind [`WillPublisher`]: its requests to the shards, their events to it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::auth::Authority;
use crate::broker::{Broker, Passing, WillPublisher};
use crate::net::mailbox::Mailbox;

/// Publishes wills for as long as it is polled. Nothing is lost when it is not: what is due is told again to the next one.
/// `authority` is the rules in force.
pub async fn publish_wills(broker: Arc<Broker>, authority: watch::Receiver<Arc<Authority>>) {
    let mailbox = Arc::new(Mailbox::own());
    let mut caller = broker.connect(mailbox.clone());
    let mut publisher = WillPublisher::new(broker.placement(), authority.borrow().clone());
    let mut requests = Vec::new();
    loop {
        while let Some(request) = publisher.poll_request() {
            requests.push(request);
        }
        if !requests.is_empty() {
            broker.submit(&mut caller, &mut requests, &mut Passing::default()).await;
        }
        let events = mailbox.receive().await;
        publisher.handle_authority(authority.borrow().clone());
        for (from, event) in events {
            publisher.handle_event(from, event);
        }
    }
}
