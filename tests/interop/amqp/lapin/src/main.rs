//! Scenes played by lapin: `lapin-client HOST PORT SCENE`.
//!
//! Ends with 0 when everything was as AMQP 0.9.1 says and RabbitMQ does. Every wait is bounded by the whole.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_lite::StreamExt;
use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
};

const PATIENCE: Duration = Duration::from_secs(60);
const COUNT: usize = 200;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, scene] = &arguments[..] else { bail!("HOST PORT SCENE") };
    let uri = format!("amqp://guest:guest@{host}:{port}/%2f");
    let playing = async {
        match &scene[..] {
            "everyday" => everyday(&uri).await,
            "properties" => properties(&uri).await,
            "death" => death(&uri).await,
            "refusals" => refusals(&uri).await,
            "stream" => stream(&uri).await,
            "rpc" => rpc(&uri).await,
            "recover" => recover(&uri).await,
            other => bail!("there is no scene '{other}'"),
        }
    };
    tokio::time::timeout(PATIENCE, playing).await.context("waited in vain")?
}

async fn connect(uri: &str) -> Result<Connection> {
    Ok(Connection::connect(uri, ConnectionProperties::default()).await?)
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(ShortString::from(*name), value.clone());
    }
    table
}

async fn declare(channel: &Channel, queue: &str, arguments: FieldTable) -> Result<ShortString> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(ShortString::from(queue), options, arguments).await?;
    Ok(queue.name().clone())
}

async fn delete(channel: &Channel, queue: &str) -> Result<()> {
    channel.queue_delete(ShortString::from(queue), QueueDeleteOptions::default()).await?;
    Ok(())
}

/// Publishes and waits for the confirm, where the channel has them.
async fn publish(
    channel: &Channel,
    (exchange, key): (&str, &str),
    body: &[u8],
    properties: BasicProperties,
) -> Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key) = (ShortString::from(exchange), ShortString::from(key));
    Ok(channel.basic_publish(exchange, key, options, body, properties).await?.await?)
}

async fn consume(
    channel: &Channel,
    queue: &str,
    no_ack: bool,
    arguments: FieldTable,
) -> Result<Consumer> {
    let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
    let queue = ShortString::from(queue);
    Ok(channel.basic_consume(queue, ShortString::from(""), options, arguments).await?)
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    Ok(consumer.next().await.context("the consumer is over")??)
}

/// Asks until there is one.
async fn get(channel: &Channel, queue: &str) -> Result<Delivery> {
    let options = BasicGetOptions { no_ack: true };
    loop {
        if let Some(message) = channel.basic_get(ShortString::from(queue), options).await? {
            return Ok(message.delivery);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn number(delivery: &Delivery) -> Result<usize> {
    Ok(std::str::from_utf8(&delivery.data)?.parse()?)
}

/// Declared, bound, published with confirms, consumed with a prefetch, settled in every way, got, returned.
async fn everyday(uri: &str) -> Result<()> {
    let connection = connect(uri).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let exchange = ShortString::from("lapin.work");
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    channel.exchange_declare(exchange.clone(), ExchangeKind::Direct, durable, none()).await?;
    let queue = declare(&channel, "lapin.jobs", none()).await?;
    let key = ShortString::from("job");
    channel
        .queue_bind(
            queue.clone(),
            exchange.clone(),
            key.clone(),
            QueueBindOptions::default(),
            none(),
        )
        .await?;
    let persistent = || BasicProperties::default().with_delivery_mode(2);
    for number in 0..COUNT {
        let body = number.to_string();
        let confirmed =
            publish(&channel, ("lapin.work", "job"), body.as_bytes(), persistent()).await?;
        ensure!(confirmed == Confirmation::Ack(None), "{confirmed:?}");
    }
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(queue.clone(), passive, none()).await?;
    ensure!(found.message_count() as usize == COUNT, "{found:?}");

    channel.basic_qos(10, BasicQosOptions::default()).await?;
    let mut consumer = consume(&channel, "lapin.jobs", false, none()).await?;
    let (mut settled, mut again, mut held) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    while settled.len() < COUNT {
        held.push(next(&mut consumer).await?);
        if held.len() < 10 && settled.len() + held.len() < COUNT {
            continue;
        }
        for delivery in held.drain(..) {
            let number = number(&delivery)?;
            ensure!(delivery.redelivered == again.contains(&number), "{delivery:?}");
            if number % 3 == 0 && again.insert(number) {
                delivery.nack(BasicNackOptions { requeue: true, multiple: false }).await?;
                continue;
            }
            ensure!(settled.insert(number), "{number} comes twice");
            match number % 7 {
                0 => delivery.reject(BasicRejectOptions { requeue: false }).await?,
                _ => delivery.ack(BasicAckOptions::default()).await?,
            };
        }
    }
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    publish(&channel, ("", "lapin.jobs"), b"got", persistent()).await?;
    let got = get(&channel, "lapin.jobs").await?;
    ensure!(got.data == b"got" && got.exchange.as_str().is_empty(), "{got:?}");
    let empty = channel.basic_get(queue.clone(), BasicGetOptions::default()).await?;
    ensure!(empty.is_none(), "{empty:?}");

    let returned = publish(&channel, ("lapin.work", "nobody"), b"back", persistent()).await?;
    match returned {
        Confirmation::Ack(Some(message)) => ensure!(message.reply_code == 312, "{message:?}"),
        other => bail!("{other:?} was due to come back"),
    }
    channel.queue_unbind(queue, exchange.clone(), key, none()).await?;
    delete(&channel, "lapin.jobs").await?;
    channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await?;
    Ok(connection.close(200, ShortString::from("done")).await?)
}

/// Headers of all types and every property come back as they were.
async fn properties(uri: &str) -> Result<()> {
    let connection = connect(uri).await?;
    let channel = connection.create_channel().await?;
    let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(ShortString::from(""), own, FieldTable::default()).await?;
    let mut list = FieldArray::default();
    [AMQPValue::LongInt(1), long("two"), AMQPValue::Void].into_iter().for_each(|it| list.push(it));
    let headers = table(&[
        ("text", long("value")),
        ("yes", AMQPValue::Boolean(true)),
        ("octet", AMQPValue::ShortShortInt(-7)),
        ("unsigned octet", AMQPValue::ShortShortUInt(200)),
        ("short", AMQPValue::ShortInt(-300)),
        ("unsigned short", AMQPValue::ShortUInt(60_000)),
        ("long", AMQPValue::LongInt(-70_000)),
        ("unsigned long", AMQPValue::LongUInt(4_000_000_000)),
        ("long long", AMQPValue::LongLongInt(1 << 40)),
        ("float", AMQPValue::Float(0.25)),
        ("double", AMQPValue::Double(2.5)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("nothing", AMQPValue::Void),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("list", AMQPValue::FieldArray(list)),
        ("table", AMQPValue::FieldTable(table(&[("a", long("b"))]))),
    ]);
    let sent = BasicProperties::default()
        .with_headers(headers)
        .with_content_type("application/json".into())
        .with_content_encoding("gzip".into())
        .with_delivery_mode(2)
        .with_priority(5)
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into())
        .with_expiration("120000".into())
        .with_message_id("m-1".into())
        .with_timestamp(1_700_000_000)
        .with_type("kind".into())
        .with_user_id("guest".into())
        .with_app_id("app".into());
    publish(&channel, ("", queue.name().as_str()), b"body", sent.clone()).await?;
    let received = get(&channel, queue.name().as_str()).await?;
    ensure!(received.properties == sent, "{:?} is not {sent:?}", received.properties);
    Ok(connection.close(200, ShortString::from("done")).await?)
}

/// What lived too long is a dead letter, with its history.
async fn death(uri: &str) -> Result<()> {
    let connection = connect(uri).await?;
    let channel = connection.create_channel().await?;
    declare(&channel, "lapin.letters", FieldTable::default()).await?;
    let arguments = table(&[
        ("x-message-ttl", AMQPValue::LongInt(100)),
        ("x-dead-letter-exchange", long("")),
        ("x-dead-letter-routing-key", long("lapin.letters")),
    ]);
    declare(&channel, "lapin.short", arguments).await?;
    publish(&channel, ("", "lapin.short"), b"late", BasicProperties::default()).await?;
    let letter = get(&channel, "lapin.letters").await?;
    let headers = letter.properties.headers().clone().context("a letter says how it died")?;
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        bail!("{headers:?}")
    };
    let Some(AMQPValue::FieldTable(death)) = deaths.as_slice().first() else { bail!("{deaths:?}") };
    ensure!(death.inner().get("reason") == Some(&long("expired")), "{death:?}");
    ensure!(death.inner().get("queue") == Some(&long("lapin.short")), "{death:?}");
    delete(&channel, "lapin.letters").await?;
    delete(&channel, "lapin.short").await?;
    Ok(connection.close(200, ShortString::from("done")).await?)
}

/// A channel that is refused something is closed, and the connection goes on; a consumer hears that its queue is gone.
async fn refusals(uri: &str) -> Result<()> {
    let connection = connect(uri).await?;
    let (channel, other) = (connection.create_channel().await?, connection.create_channel().await?);
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let name = ShortString::from("lapin.missing");
    let Err(error) = other.queue_declare(name, passive, FieldTable::default()).await else {
        bail!("there is no such queue")
    };
    ensure!(error.to_string().contains("no queue 'lapin.missing'"), "{error}");
    declare(&channel, "lapin.gone", FieldTable::default()).await?;
    let mut consumer = consume(&channel, "lapin.gone", false, FieldTable::default()).await?;
    delete(&connection.create_channel().await?, "lapin.gone").await?;
    ensure!(consumer.next().await.is_none(), "the consumer is cancelled");
    // The connection goes on. lapin does not close one that has a channel which was closed.
    connection.create_channel().await?;
    Ok(())
}

/// A stream is read from wherever its reader says, as often as one likes.
async fn stream(uri: &str) -> Result<()> {
    let connection = connect(uri).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    declare(&channel, "lapin.stream", table(&[("x-queue-type", long("stream"))])).await?;
    for number in 0..COUNT {
        let body = number.to_string();
        publish(&channel, ("", "lapin.stream"), body.as_bytes(), BasicProperties::default())
            .await?;
    }
    channel.basic_qos(50, BasicQosOptions::default()).await?;
    for (offset, first) in
        [(long("first"), 0), (AMQPValue::LongLongInt(120), 120), (long("first"), 0)]
    {
        let from = table(&[("x-stream-offset", offset)]);
        let mut consumer = consume(&channel, "lapin.stream", false, from).await?;
        let mut expected = first;
        while expected < COUNT {
            let delivery = next(&mut consumer).await?;
            delivery.ack(BasicAckOptions::default()).await?;
            if number(&delivery)? >= first {
                ensure!(number(&delivery)? == expected, "{delivery:?} is not {expected}");
                let headers = delivery.properties.headers().clone().unwrap_or_default();
                let said = headers.inner().get("x-stream-offset").cloned();
                ensure!(said == Some(AMQPValue::LongLongInt(expected as i64)), "{said:?}");
                expected += 1;
            }
        }
        channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    }
    delete(&channel, "lapin.stream").await?;
    Ok(connection.close(200, ShortString::from("done")).await?)
}

/// Questions and answers: by a queue of the client's own, and by none.
async fn rpc(uri: &str) -> Result<()> {
    let connection = connect(uri).await?;
    let service = connection.create_channel().await?;
    let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
    service.queue_declare(ShortString::from("lapin.rpc"), options, FieldTable::default()).await?;
    let mut questions = consume(&service, "lapin.rpc", false, FieldTable::default()).await?;
    let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    for name in ["", "amq.rabbitmq.reply-to"] {
        let client = connection.create_channel().await?;
        let reply_to = match name {
            "" => {
                let none = FieldTable::default();
                client.queue_declare(ShortString::from(""), own, none).await?.name().clone()
            }
            name => ShortString::from(name),
        };
        let mut answers = consume(&client, reply_to.as_str(), true, FieldTable::default()).await?;
        for number in 0..COUNT {
            let question = BasicProperties::default()
                .with_reply_to(reply_to.clone())
                .with_correlation_id(ShortString::from(number.to_string()));
            publish(&client, ("", "lapin.rpc"), format!("q{number}").as_bytes(), question).await?;
            let question = next(&mut questions).await?;
            let asked = question.properties.reply_to().clone().context("it asks for an answer")?;
            let id = question.properties.correlation_id().clone().context("it has a number")?;
            let answer = BasicProperties::default().with_correlation_id(id);
            let body = question.data.to_ascii_uppercase();
            publish(&service, ("", asked.as_str()), &body, answer).await?;
            question.ack(BasicAckOptions::default()).await?;
            let answer = next(&mut answers).await?;
            let expected = (format!("Q{number}").into_bytes(), number.to_string());
            let id = answer.properties.correlation_id().clone().context("it has a number")?;
            ensure!((answer.data, id.to_string()) == expected, "{expected:?}");
        }
        client.close(200, ShortString::from("done")).await?;
    }
    Ok(connection.close(200, ShortString::from("done")).await?)
}

/// A connection that recovers comes back when its broker does, with its channel and its consumer.
async fn recover(uri: &str) -> Result<()> {
    let properties =
        ConnectionProperties::default().enable_auto_recover().configure_backoff(|backoff| {
            backoff.with_min_delay(Duration::from_millis(100)).with_max_times(200)
        });
    let connection = Connection::connect(uri, properties).await?;
    let channel = connection.create_channel().await?;
    declare(&channel, "lapin.durable", FieldTable::default()).await?;
    let mut consumer = consume(&channel, "lapin.durable", false, FieldTable::default()).await?;
    publish(&channel, ("", "lapin.durable"), b"before", BasicProperties::default()).await?;
    let before = next(&mut consumer).await?;
    ensure!(before.data == b"before", "{before:?}");
    before.ack(BasicAckOptions::default()).await?;
    println!("ready");
    while connection.status().connected() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let body = b"after";
    while let Err(error) =
        publish(&channel, ("", "lapin.durable"), body, BasicProperties::default()).await
    {
        channel.wait_for_recovery(error.downcast()?).await?;
    }
    loop {
        match consumer.next().await.context("the consumer goes on")? {
            // The acknowledgement of the first may not have arrived when the broker was killed.
            Ok(delivery) => {
                delivery.ack(BasicAckOptions::default()).await?;
                if delivery.data == body {
                    return Ok(());
                }
            }
            Err(error) => channel.wait_for_recovery(error).await?,
        }
    }
}
