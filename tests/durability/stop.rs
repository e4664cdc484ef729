//! SIGTERM: goodbye to everybody, everything on disk, exit code 0.

use fluxmq::client::{Client, ClientError, ConnectOptions, Event, Session};
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::reason::ReasonCode;

use crate::inspect::assert_verifies;
use crate::listener::Listener;
use crate::process::{BrokerProcess, PATIENCE, Start};
use crate::publisher::Publisher;
use crate::rng::Rng;
use crate::world::World;

/// MQTT 5 §3.14.2.1: 0x8B server shutting down.
#[test]
fn clients_are_told_that_the_broker_shuts_down_and_it_exits_with_0() {
    let data = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(data.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (idle, busy) = (connect(&runtime, &broker, "idle"), connect(&runtime, &broker, "busy"));

    let ended = broker.terminate();

    assert_eq!(ended.code, Some(0), "{}", ended.log);
    for client in [idle, busy] {
        let reason =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, last_word(client)).await });
        assert_eq!(reason.expect("the connection ends"), Some(ReasonCode::SERVER_SHUTTING_DOWN));
    }
    assert_verifies(data.path(), &[0]);
}

#[test]
fn what_was_confirmed_before_a_stop_under_load_is_there_after_it() {
    let mut rng = Rng::of_run("stop");
    let mut world = World::new(rng.fork());
    let publishers: Vec<_> = [QoS::AtLeastOnce, QoS::ExactlyOnce]
        .into_iter()
        .enumerate()
        .map(|(index, qos)| {
            let publisher = Publisher {
                client_id: format!("publisher-{index}"),
                topics: vec![format!("$queue/work/{index}")],
                qos,
                is_persistent: true,
                count: None,
                rng: rng.fork(),
                progress: world.progress.clone(),
            };
            world.spawn(|link| publisher.run(link))
        })
        .collect();

    world.wait_for_progress(200, &publishers);
    world.terminate();
    assert_verifies(world.data(), &[0]);
    world.start();
    world.wait_for_progress(200, &publishers);
    world.terminate();
    world.start();
    let sent = world.finish(publishers);
    let queue = Listener::start(&world, "queue", "$queue/work/#", QoS::AtLeastOnce, rng.fork());
    queue.expect_all(&world, &sent, "$queue/");
    world.end(vec![queue.task]);
}

#[test]
fn a_second_broker_on_the_same_directory_refuses_to_start() {
    let data = tempfile::tempdir().unwrap();
    let first = BrokerProcess::start(data.path());

    let second = BrokerProcess::try_start(data.path(), &Start::default());

    let ended = second.err().expect("it refuses");
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(ended.log.contains("another broker runs in this data directory"), "{}", ended.log);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    drop(connect(&runtime, &first, "served"));
    assert_eq!(first.terminate().code, Some(0));
}

fn connect(runtime: &tokio::runtime::Runtime, broker: &BrokerProcess, name: &str) -> Client {
    let options = ConnectOptions { client_id: name.to_owned(), ..ConnectOptions::default() };
    let connecting = async {
        let mut session = Session::default();
        Client::connect(broker.address(), &options, &mut session, PATIENCE).await
    };
    runtime.block_on(connecting).unwrap().0
}

/// Returns the reason of the DISCONNECT that ends the connection, `None` when it ends otherwise.
async fn last_word(mut client: Client) -> Option<ReasonCode> {
    loop {
        match client.next().await {
            Ok(Event::Connected(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(ClientError::Disconnected { reason, .. }) => return Some(reason),
            Err(_) => return None,
        }
    }
}
