//! Who gets a publish; what is asked of exchanges and of bindings to them, and what partitions say of both to whoever finds the way.

use std::sync::Arc;

use bytes::Bytes;

use crate::model::{ExchangeBinding, ExchangeId, ExchangeSettings, QueueName, TopicPattern};

/// What can be done with exchanges: the meta partition knows them, and the home of a queue what it is bound to.
#[derive(Clone, Debug)]
pub enum ExchangeAction {
    /// Makes one, unless it is there and just so.
    Declare {
        /// Its name.
        name: Bytes,
        /// What it is.
        settings: Arc<ExchangeSettings>,
    },
    /// Refused where there is none of this name.
    Inspect {
        /// Its name.
        name: Bytes,
    },
    /// Ends one.
    Delete {
        /// Its name.
        name: Bytes,
        /// Refused where an exchange is bound to it.
        if_unused: bool,
    },
    /// Ends one that ends with the last binding to it, if no exchange is bound to it; does nothing to any other.
    DeleteUnused(ExchangeId),
    /// Binds one to another, or ends that.
    Bind {
        /// Which routes.
        from: Bytes,
        /// Which gets it.
        to: Bytes,
        /// What it routes by.
        routing_key: Bytes,
        /// What it routes headers by.
        arguments: Bytes,
        /// True binds.
        is_bound: bool,
    },
    /// Binds a queue that lives here, or ends that.
    BindQueue {
        /// Which.
        queue: QueueName,
        /// To what.
        binding: Box<ExchangeBinding>,
        /// True binds.
        is_bound: bool,
    },
}

/// Who in a partition gets a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Who subscribes to its topic, and the queues that are bound to it.
    Topic,
    /// The same, and those of these queues that are there: exchanges that are bound to topics route to them.
    TopicAnd(Arc<[QueueName]>),
    /// Only the queues that are bound to its topic: the message is stored elsewhere, or nowhere else.
    Bound,
    /// The same, and those of these queues that are there.
    BoundAnd(Arc<[QueueName]>),
    /// A queue, which is declared at its first use.
    Queue(QueueName),
    /// Those of these queues that are there. Answered with `Ok(false)` when nobody got it.
    Queues(Arc<[QueueName]>),
}

/// One thing that is so from here on, for whoever finds the way for publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// An exchange is there, or not any more.
    Exchange(ExchangeId, Option<Arc<ExchangeSettings>>),
    /// A binding is there, or not any more.
    Binding {
        /// From where, and what.
        binding: ExchangeBinding,
        /// To where.
        to: RoutedTo,
        /// False when it is over.
        is_bound: bool,
    },
    /// Some queue of the partition is bound to topics, or none any more.
    Topics(TopicPattern, bool),
}

/// Who gets what an exchange routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoutedTo {
    /// A queue of the partition that says so.
    Queue(QueueName),
    /// Another exchange.
    Exchange(ExchangeId),
}
