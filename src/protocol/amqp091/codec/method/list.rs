//! The methods of AMQP 0.9.1 and of RabbitMQ's extensions, written out: class, number, fields in their order.
//!
//! Reserved fields are read, forgotten, and written empty. A method of RabbitMQ's says so; all others are of the specification.

use bytes::Bytes;

use super::super::DecodeError;
use super::super::field::{Field, Reader, Reserved, ShortString, Writer};
use super::super::table::Table;

methods! {
    /// The server begins.
    10 10 ConnectionStart "connection.start" {
        /// 0.
        version_major: u8,
        /// 9.
        version_minor: u8,
        /// What the server is and can do.
        server_properties: Table,
        /// SASL mechanisms, with spaces between.
        mechanisms: Bytes,
        /// Locales, with spaces between.
        locales: Bytes,
    }
    /// The client chooses a mechanism.
    10 11 ConnectionStartOk "connection.start-ok" {
        /// What the client is and can do.
        client_properties: Table,
        /// One of those offered.
        mechanism: ShortString,
        /// What the mechanism begins with.
        response: Bytes,
        /// One of those offered.
        locale: ShortString,
    }
    /// The mechanism goes on.
    10 20 ConnectionSecure "connection.secure" {
        /// For the client.
        challenge: Bytes,
    }
    /// The client's answer.
    10 21 ConnectionSecureOk "connection.secure-ok" {
        /// To the challenge.
        response: Bytes,
    }
    /// What the server allows.
    10 30 ConnectionTune "connection.tune" {
        /// The highest number of a channel; 0 is no limit.
        channel_max: u16,
        /// Bytes of a frame; 0 is no limit.
        frame_max: u32,
        /// Seconds; 0 is none.
        heartbeat: u16,
    }
    /// What the client takes of it.
    10 31 ConnectionTuneOk "connection.tune-ok" {
        /// The highest number of a channel; 0 is no limit.
        channel_max: u16,
        /// Bytes of a frame; 0 is no limit.
        frame_max: u32,
        /// Seconds; 0 is none.
        heartbeat: u16,
    }
    /// Enters a virtual host.
    10 40 ConnectionOpen "connection.open" {
        /// Which.
        virtual_host: ShortString,
        /// Once capabilities.
        reserved_1: Reserved<ShortString>,
        /// Once: insist.
        reserved_2: Reserved<bool>,
    }
    /// The connection is open.
    10 41 ConnectionOpenOk "connection.open-ok" {
        /// Once known hosts.
        reserved_1: Reserved<ShortString>,
    }
    /// Ends the connection.
    10 50 ConnectionClose "connection.close" {
        /// Why.
        reply_code: u16,
        /// Why, in words.
        reply_text: ShortString,
        /// The class of the method that was wrong, or 0.
        class_id: u16,
        /// The method that was wrong, or 0.
        method_id: u16,
    }
    /// It has ended.
    10 51 ConnectionCloseOk "connection.close-ok" {}
    /// The server takes no publishes for now. RabbitMQ's.
    10 60 ConnectionBlocked "connection.blocked" {
        /// Why.
        reason: ShortString,
    }
    /// It does again. RabbitMQ's.
    10 61 ConnectionUnblocked "connection.unblocked" {}
    /// The client's credentials are new. RabbitMQ's.
    10 70 ConnectionUpdateSecret "connection.update-secret" {
        /// The new secret.
        new_secret: Bytes,
        /// Why.
        reason: ShortString,
    }
    /// They are taken. RabbitMQ's.
    10 71 ConnectionUpdateSecretOk "connection.update-secret-ok" {}

    /// Opens a channel.
    20 10 ChannelOpen "channel.open" {
        /// Once out of band.
        reserved_1: Reserved<ShortString>,
    }
    /// It is open.
    20 11 ChannelOpenOk "channel.open-ok" {
        /// Once its id.
        reserved_1: Reserved<Bytes>,
    }
    /// Stops or starts what flows to the peer.
    20 20 ChannelFlow "channel.flow" {
        /// True lets it flow.
        active: bool,
    }
    /// It does as asked.
    20 21 ChannelFlowOk "channel.flow-ok" {
        /// True when it flows.
        active: bool,
    }
    /// Ends a channel.
    20 40 ChannelClose "channel.close" {
        /// Why.
        reply_code: u16,
        /// Why, in words.
        reply_text: ShortString,
        /// The class of the method that was wrong, or 0.
        class_id: u16,
        /// The method that was wrong, or 0.
        method_id: u16,
    }
    /// It has ended.
    20 41 ChannelCloseOk "channel.close-ok" {}

    /// Asks for rights as 0.8 did. Clients that still do are answered.
    30 10 AccessRequest "access.request" {
        /// Whose.
        realm: ShortString,
        /// Alone.
        exclusive: bool,
        /// Passively.
        passive: bool,
        /// To consume.
        active: bool,
        /// To publish.
        write: bool,
        /// To read.
        read: bool,
    }
    /// A ticket that means nothing.
    30 11 AccessRequestOk "access.request-ok" {
        /// 1.
        ticket: u16,
    }

    /// Makes an exchange, or asks whether it is there.
    40 10 ExchangeDeclare "exchange.declare" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Which.
        exchange: ShortString,
        /// Its type.
        kind: ShortString,
        /// Only asks.
        passive: bool,
        /// It outlives the broker.
        durable: bool,
        /// It ends with its last binding. RabbitMQ's.
        auto_delete: bool,
        /// Nobody publishes to it but other exchanges. RabbitMQ's.
        internal: bool,
        /// No answer is wanted.
        no_wait: bool,
        /// What else is said about it.
        arguments: Table,
    }
    /// It is there.
    40 11 ExchangeDeclareOk "exchange.declare-ok" {}
    /// Ends an exchange.
    40 20 ExchangeDelete "exchange.delete" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Which.
        exchange: ShortString,
        /// Only without bindings.
        if_unused: bool,
        /// No answer is wanted.
        no_wait: bool,
    }
    /// It is gone.
    40 21 ExchangeDeleteOk "exchange.delete-ok" {}
    /// What one exchange gets goes to another too. RabbitMQ's.
    40 30 ExchangeBind "exchange.bind" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Where it goes.
        destination: ShortString,
        /// Where it comes from.
        source: ShortString,
        /// What of it.
        routing_key: ShortString,
        /// No answer is wanted.
        no_wait: bool,
        /// What of it, by headers.
        arguments: Table,
    }
    /// It does. RabbitMQ's.
    40 31 ExchangeBindOk "exchange.bind-ok" {}
    /// It does no more. RabbitMQ's.
    40 40 ExchangeUnbind "exchange.unbind" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Where it went.
        destination: ShortString,
        /// Where it came from.
        source: ShortString,
        /// As bound.
        routing_key: ShortString,
        /// No answer is wanted.
        no_wait: bool,
        /// As bound.
        arguments: Table,
    }
    /// The binding is gone. RabbitMQ's.
    40 51 ExchangeUnbindOk "exchange.unbind-ok" {}

    /// Makes a queue, or asks whether it is there.
    50 10 QueueDeclare "queue.declare" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Which; empty for a name of the server's.
        queue: ShortString,
        /// Only asks.
        passive: bool,
        /// It outlives the broker.
        durable: bool,
        /// It is this connection's alone, and ends with it.
        exclusive: bool,
        /// It ends with its last consumer.
        auto_delete: bool,
        /// No answer is wanted.
        no_wait: bool,
        /// What else is said about it.
        arguments: Table,
    }
    /// It is there.
    50 11 QueueDeclareOk "queue.declare-ok" {
        /// Its name.
        queue: ShortString,
        /// Messages that are ready.
        message_count: u32,
        /// Consumers.
        consumer_count: u32,
    }
    /// What an exchange gets goes to a queue.
    50 20 QueueBind "queue.bind" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Where it goes.
        queue: ShortString,
        /// Where it comes from.
        exchange: ShortString,
        /// What of it.
        routing_key: ShortString,
        /// No answer is wanted.
        no_wait: bool,
        /// What of it, by headers.
        arguments: Table,
    }
    /// It does.
    50 21 QueueBindOk "queue.bind-ok" {}
    /// Takes everything out that is ready.
    50 30 QueuePurge "queue.purge" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Which.
        queue: ShortString,
        /// No answer is wanted.
        no_wait: bool,
    }
    /// It is out.
    50 31 QueuePurgeOk "queue.purge-ok" {
        /// How many they were.
        message_count: u32,
    }
    /// Ends a queue.
    50 40 QueueDelete "queue.delete" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Which.
        queue: ShortString,
        /// Only without consumers.
        if_unused: bool,
        /// Only without messages.
        if_empty: bool,
        /// No answer is wanted.
        no_wait: bool,
    }
    /// It is gone.
    50 41 QueueDeleteOk "queue.delete-ok" {
        /// Messages that went with it.
        message_count: u32,
    }
    /// What an exchange gets goes to a queue no more.
    50 50 QueueUnbind "queue.unbind" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Where it went.
        queue: ShortString,
        /// Where it came from.
        exchange: ShortString,
        /// As bound.
        routing_key: ShortString,
        /// As bound.
        arguments: Table,
    }
    /// The binding is gone.
    50 51 QueueUnbindOk "queue.unbind-ok" {}

    /// How much may be out at a time.
    60 10 BasicQos "basic.qos" {
        /// Bytes; 0 is no limit.
        prefetch_size: u32,
        /// Messages; 0 is no limit.
        prefetch_count: u16,
        /// For the channel as a whole, in RabbitMQ's reading; otherwise for each consumer that comes after.
        global: bool,
    }
    /// It is so.
    60 11 BasicQosOk "basic.qos-ok" {}
    /// Consumes a queue.
    60 20 BasicConsume "basic.consume" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Which.
        queue: ShortString,
        /// The consumer's name; empty for one of the server's.
        consumer_tag: ShortString,
        /// Not what this connection published.
        no_local: bool,
        /// Delivered is acknowledged.
        no_ack: bool,
        /// Alone.
        exclusive: bool,
        /// No answer is wanted.
        no_wait: bool,
        /// What else is said about it.
        arguments: Table,
    }
    /// Deliveries follow.
    60 21 BasicConsumeOk "basic.consume-ok" {
        /// The consumer's name.
        consumer_tag: ShortString,
    }
    /// Ends a consumer; from the server where its queue is gone (RabbitMQ's).
    60 30 BasicCancel "basic.cancel" {
        /// Which.
        consumer_tag: ShortString,
        /// No answer is wanted.
        no_wait: bool,
    }
    /// It has ended.
    60 31 BasicCancelOk "basic.cancel-ok" {
        /// Which.
        consumer_tag: ShortString,
    }
    /// Publishes the content that follows.
    60 40 BasicPublish "basic.publish" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Where; empty for the default exchange.
        exchange: ShortString,
        /// What routes it.
        routing_key: ShortString,
        /// It comes back when it is routed nowhere.
        mandatory: bool,
        /// It comes back when nobody takes it now.
        immediate: bool,
    }
    /// The content that follows was routed nowhere.
    60 50 BasicReturn "basic.return" {
        /// Why.
        reply_code: u16,
        /// Why, in words.
        reply_text: ShortString,
        /// As published.
        exchange: ShortString,
        /// As published.
        routing_key: ShortString,
    }
    /// The content that follows is for a consumer.
    60 60 BasicDeliver "basic.deliver" {
        /// Which.
        consumer_tag: ShortString,
        /// Its number in the channel.
        delivery_tag: u64,
        /// It was delivered before, perhaps.
        redelivered: bool,
        /// As published.
        exchange: ShortString,
        /// As published.
        routing_key: ShortString,
    }
    /// Asks for one message.
    60 70 BasicGet "basic.get" {
        /// Once a ticket.
        reserved_1: Reserved<u16>,
        /// Of which queue.
        queue: ShortString,
        /// Delivered is acknowledged.
        no_ack: bool,
    }
    /// The content that follows is it.
    60 71 BasicGetOk "basic.get-ok" {
        /// Its number in the channel.
        delivery_tag: u64,
        /// It was delivered before, perhaps.
        redelivered: bool,
        /// As published.
        exchange: ShortString,
        /// As published.
        routing_key: ShortString,
        /// Messages that are ready behind it.
        message_count: u32,
    }
    /// There is none.
    60 72 BasicGetEmpty "basic.get-empty" {
        /// Once a cluster's id.
        reserved_1: Reserved<ShortString>,
    }
    /// Deliveries are done; from the server: publishes are (RabbitMQ's).
    60 80 BasicAck "basic.ack" {
        /// Which; 0 with `multiple` is all.
        delivery_tag: u64,
        /// And everything before.
        multiple: bool,
    }
    /// A delivery is not done.
    60 90 BasicReject "basic.reject" {
        /// Which.
        delivery_tag: u64,
        /// It is to be delivered again.
        requeue: bool,
    }
    /// Delivers again what is not acknowledged. Without an answer.
    60 100 BasicRecoverAsync "basic.recover-async" {
        /// To anybody.
        requeue: bool,
    }
    /// Delivers again what is not acknowledged.
    60 110 BasicRecover "basic.recover" {
        /// To anybody.
        requeue: bool,
    }
    /// It does.
    60 111 BasicRecoverOk "basic.recover-ok" {}
    /// Deliveries are not done; from the server: publishes are not. RabbitMQ's.
    60 120 BasicNack "basic.nack" {
        /// Which; 0 with `multiple` is all.
        delivery_tag: u64,
        /// And everything before.
        multiple: bool,
        /// They are to be delivered again.
        requeue: bool,
    }

    /// Publishes are answered from here on. RabbitMQ's.
    85 10 ConfirmSelect "confirm.select" {
        /// No answer is wanted.
        no_wait: bool,
    }
    /// They are. RabbitMQ's.
    85 11 ConfirmSelectOk "confirm.select-ok" {}

    /// The channel works in transactions from here on.
    90 10 TxSelect "tx.select" {}
    /// It does.
    90 11 TxSelectOk "tx.select-ok" {}
    /// Makes what was done so.
    90 20 TxCommit "tx.commit" {}
    /// It is so.
    90 21 TxCommitOk "tx.commit-ok" {}
    /// Forgets what was done.
    90 30 TxRollback "tx.rollback" {}
    /// It is forgotten.
    90 31 TxRollbackOk "tx.rollback-ok" {}
}
