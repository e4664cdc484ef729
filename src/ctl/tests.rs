//! The tools against a small broker over loopback: what is sent, what is printed, which exit code.

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::client::tiny_broker::{Behaviour, TinyBroker};
use crate::model::QoS;
use crate::protocol::mqtt::property::Property;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{ConnAck, Packet, Publish, Version};

#[test]
fn the_definition_of_the_arguments_is_consistent() {
    <Arguments as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn help_and_version_are_answers_and_everything_unknown_is_wrong_usage() {
    let code = |line: &str| main(words(line));
    assert_eq!(format!("{:?}", code("mqttctl --version")), format!("{:?}", ExitCode::SUCCESS));
    assert_eq!(format!("{:?}", code("mqttctl publish --help")), format!("{:?}", ExitCode::SUCCESS));
    for line in [
        "mqttctl",
        "mqttctl publsh",
        "mqttctl publish t",
        "mqttctl publish -m x",
        "mqttctl publish t -m x -n",
        "mqttctl publish t -m x -q 3",
        "mqttctl publish t -m x -V 6",
        "mqttctl publish t -m x -U novalue",
        "mqttctl publish t -m x --resume",
        "mqttctl publish t -m x --disconnect-session-expiry 5",
        "mqttctl subscribe t --unsubscribe-property a=b",
        "mqttctl publish t -m x --will-retain",
        "mqttctl publish t -m x -a h:1 --port 2",
        "mqttctl subscribe",
        "mqttctl subscribe a --format xml",
        "mqttctl subscribe a --exit-after-subscribe --count 1",
        "mqttctl subscribe a --no-retained --retained-only",
        "mqttctl subscribe a --filter-out a#",
        "mqttctl request a",
        "mqttctl request a -m x --count 0",
        "mqttctl request a -m x --all --count 2",
        "mqttctl publish t -m x --topic-alias 0",
        "mqttctl publish t -m x -i a --client-id-prefix b",
        "mqttctl publish t -m x --tls-version 1.1",
        "mqttctl bench --size 8",
        "mqttctl bench --seconds 0",
        "mqttctl queue",
        "mqttctl queue declare",
        "mqttctl queue declare jobs --type lifo",
        "mqttctl queue declare jobs --from 7",
        "mqttctl queue declare jobs --backoff soon",
        "mqttctl queue list -V 3.1.1",
        "mqttctl group seek jobs workers",
        "mqttctl group show jobs",
    ] {
        assert_eq!(format!("{:?}", code(line)), format!("{:?}", ExitCode::from(3)), "{line}");
    }
}

#[test]
fn an_address_is_written_in_any_usual_way() {
    for (line, host, port, layers) in [
        ("", "127.0.0.1", 1883, ""),
        ("-a broker:1884", "broker", 1884, ""),
        ("-a mqtt://broker:1884/", "broker", 1884, ""),
        ("-a broker", "broker", 1883, ""),
        ("-a [::1]:1884", "::1", 1884, ""),
        ("-a [::1]", "::1", 1883, ""),
        ("-H ::1 -p 7", "::1", 7, ""),
        ("--host broker --port 7", "broker", 7, ""),
        ("--url mqtts://broker", "broker", 8883, "tls"),
        ("--tls -H broker", "broker", 8883, "tls"),
        ("--cafile ca.pem -a broker", "broker", 8883, "tls"),
        ("--tls-version 1.2 -a broker", "broker", 8883, "tls"),
        ("--ws", "127.0.0.1", 8083, "/mqtt"),
        ("--ws --insecure -p 9 --ws-path /bus", "127.0.0.1", 9, "tls/bus"),
        ("--url ws://broker/bus", "broker", 80, "/bus"),
        ("--url wss://broker", "broker", 443, "tls/mqtt"),
    ] {
        let arguments = publish_arguments(&format!("mqttctl publish t -m x {line}"));
        let endpoint = arguments.connection.url().unwrap().endpoint;
        let tls = if endpoint.tls.is_some() { "tls" } else { "" };
        let found = format!("{tls}{}", endpoint.web_path.unwrap_or_default());
        assert_eq!((&*endpoint.host, endpoint.port, &*found), (host, port, layers), "{line}");
    }
}

#[test]
fn credentials_of_a_url_give_way_to_flags() {
    let of = |line: &str| {
        let line = format!("mqttctl publish t -m x --url mqtt://u:p@broker {line}");
        let options = publish_arguments(&line).connection.options().unwrap();
        (options.username.unwrap(), options.password.unwrap())
    };

    assert_eq!(of(""), ("u".to_owned(), Bytes::from_static(b"p")));
    assert_eq!(of("-u me -P secret"), ("me".to_owned(), Bytes::from_static(b"secret")));
}

#[test]
fn a_will_has_every_property() {
    let line = "mqttctl publish t -m x --will-topic w --will-delay 4 --will-expiry 5 --will-utf8 \
                --will-content-type text/plain --will-response-topic r --will-correlation-data c \
                --will-property a=b --max-packet-size 77";

    let options = publish_arguments(line).connection.options().unwrap();

    let expected = [
        Property::WillDelay(4),
        Property::PayloadFormat(true),
        Property::MessageExpiry(5),
        Property::ContentType(Bytes::from_static(b"text/plain")),
        Property::ResponseTopic(Bytes::from_static(b"r")),
        Property::CorrelationData(Bytes::from_static(b"c")),
        Property::User(Bytes::from_static(b"a"), Bytes::from_static(b"b")),
    ];
    assert_eq!(options.will.unwrap().properties, expected.into_iter().collect());
    assert_eq!(options.packet_bytes_max, 77);
}

#[test]
fn flags_become_what_connect_says() {
    let line = "mqttctl publish t -m x -V 5 -i me --resume --session-expiry 9 -k 7 -u u -P p \
                --will-topic w --will-message gone --will-qos 1 --will-retain --will-delay 4 \
                --connect-property a=b=c";

    let options = publish_arguments(line).connection.options().unwrap();

    assert_eq!((options.version, options.clean_start), (Version::V5, false));
    assert_eq!((options.session_expiry_s, options.keep_alive_s), (9, 7));
    assert_eq!(options.password.as_deref(), Some(&b"p"[..]));
    assert_eq!(options.user_properties, [("a".to_owned(), "b=c".to_owned())]);
    let will = options.will.unwrap();
    assert_eq!((will.topic.as_str(), will.qos, will.retain), ("w", QoS::AtLeastOnce, true));
    assert_eq!(will.properties, [Property::WillDelay(4)].into_iter().collect());
}

#[test]
fn a_password_is_proved_under_a_nonce_of_each_connection() {
    let options = || {
        let line = "mqttctl publish t -m x -a mqtt://alice:pencil@broker --scram";
        publish_arguments(line).connection.options().unwrap()
    };
    let (one, other) = (options(), options());
    assert_eq!(one.username.as_deref(), Some("alice"));
    assert!(one.scram_nonce.is_some() && one.scram_nonce != other.scram_nonce);
}

#[test]
fn a_password_comes_from_the_first_line_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "s3cret\nrest\n").unwrap();
    let line = format!("mqttctl publish t -m x -u u --password-file {}", path.display());

    let options = publish_arguments(&line).connection.options().unwrap();

    assert_eq!(options.password.as_deref(), Some(&b"s3cret"[..]));
}

#[tokio::test]
async fn a_message_is_published_with_everything_that_was_said_about_it() {
    let broker = TinyBroker::start(Behaviour::default()).await;
    let said = run_on(
        &broker,
        "mqttctl publish a/b -m hi -q 2 -r -U k=v -U k=w --content-type text/plain -e 5 --utf8 --json",
    )
    .await
    .unwrap();

    let publishes = broker.publishes();
    let properties = [
        Property::PayloadFormat(true),
        Property::MessageExpiry(5),
        Property::ContentType(Bytes::from_static(b"text/plain")),
        Property::User(Bytes::from_static(b"k"), Bytes::from_static(b"v")),
        Property::User(Bytes::from_static(b"k"), Bytes::from_static(b"w")),
    ];
    assert_eq!(publishes.len(), 1);
    assert_eq!((&publishes[0].topic[..], &publishes[0].payload[..]), (&b"a/b"[..], &b"hi"[..]));
    assert_eq!((publishes[0].qos, publishes[0].retain), (QoS::ExactlyOnce, true));
    assert_eq!(publishes[0].properties, properties.into_iter().collect());
    assert!(matches!(broker.received().last(), Some(Packet::PubRel(_) | Packet::Disconnect(_))));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["published"], &said["refused"]), (&Value::from(1), &Value::from(0)));
}

#[tokio::test]
async fn many_messages_go_through_a_small_window_in_order() {
    let broker = TinyBroker::start(Behaviour::default()).await;
    let lines: Vec<u8> = (0..300).flat_map(|line| format!("{line}\n").into_bytes()).collect();
    let arguments =
        publish_arguments(&on(&broker, "mqttctl publish t --stdin-lines -q 1 --inflight 3"));

    let source = publish::Source::Lines(publish::read_lines(std::io::Cursor::new(lines)));
    let summary = publish::publish(&arguments, source).await.unwrap();

    assert_eq!((summary.published_count, summary.refused_count), (300, 0));
    let payloads: Vec<String> = broker
        .publishes()
        .iter()
        .map(|publish| String::from_utf8(publish.payload.to_vec()).unwrap())
        .collect();
    assert_eq!(payloads, (0..300).map(|line| line.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn qos_0_messages_have_left_when_publish_ends() {
    let broker = TinyBroker::start(Behaviour::default()).await;

    run_on(&broker, "mqttctl publish t -m x --count 2000").await.unwrap();
    all_until_disconnect(&broker).await;

    assert_eq!(broker.publishes().len(), 2_000);
}

#[tokio::test]
async fn a_refused_publish_is_exit_code_1_and_says_the_reason() {
    let publish_reason = ReasonCode::QUOTA_EXCEEDED;
    let broker = TinyBroker::start(Behaviour { publish_reason, ..Behaviour::default() }).await;

    let error = run_on(&broker, "mqttctl publish t -m x -q 1").await.unwrap_err();

    assert_eq!(error.exit_code(), 1);
    assert_eq!(error.to_string(), "publish refused: 0x97 quota exceeded");
    assert_eq!(error.to_json()["exit_code"], 1);
    assert_eq!(error.to_json()["reason_code"], 0x97);
}

#[tokio::test]
async fn publish_counts_what_the_broker_answered_by_reason_code() {
    let publish_reason = ReasonCode::NO_MATCHING_SUBSCRIBERS;
    let broker = TinyBroker::start(Behaviour { publish_reason, ..Behaviour::default() }).await;

    let said = run_on(&broker, "mqttctl publish t -m x -q 1 --count 3 --json").await.unwrap();

    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["reason_codes"], serde_json::json!({ "0x10": 3 }));
    assert_eq!((&said["published"], &said["no_subscribers"]), (&Value::from(3), &Value::from(3)));
}

#[tokio::test]
async fn an_alias_stands_for_the_topic_from_the_second_message_on() {
    let properties = [Property::TopicAliasMaximum(5)].into_iter().collect();
    let connack = ConnAck { properties, ..ConnAck::default() };
    let broker = TinyBroker::start(Behaviour { connack, ..Behaviour::default() }).await;

    run_on(&broker, "mqttctl publish a/b -m x -q 1 --count 3 --topic-alias 5").await.unwrap();
    let above = run_on(&broker, "mqttctl publish a/b -m x --topic-alias 6").await.unwrap_err();
    let none = TinyBroker::start(Behaviour::default()).await;
    let refused = run_on(&none, "mqttctl publish a/b -m x --topic-alias 1").await.unwrap_err();

    let publishes = broker.publishes();
    let topics: Vec<&[u8]> = publishes.iter().map(|publish| &publish.topic[..]).collect();
    assert_eq!(topics, [&b"a/b"[..], b"", b""]);
    let alias = [Property::TopicAlias(5)].into_iter().collect();
    assert!(publishes.iter().all(|publish| publish.properties == alias));
    assert_eq!(above.to_string(), "the broker takes topic aliases up to 5");
    assert_eq!(refused.to_string(), "the broker takes no topic aliases");
}

#[tokio::test]
async fn no_connection_and_a_lost_one_are_exit_code_2() {
    let nobody = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let connack = ConnAck { reason: ReasonCode::NOT_AUTHORIZED, ..ConnAck::default() };
    let refusing = TinyBroker::start(Behaviour { connack, ..Behaviour::default() }).await;
    let dropping =
        TinyBroker::start(Behaviour { publishes_max: Some(2), ..Behaviour::default() }).await;

    let absent = run_line(&format!("mqttctl publish t -m x -a {nobody}")).await.unwrap_err();
    let refused = run_on(&refusing, "mqttctl subscribe t").await.unwrap_err();
    let lost = run_on(&dropping, "mqttctl publish t -m x -q 1 --count 5").await.unwrap_err();

    assert_eq!([&absent, &refused, &lost].map(CtlError::exit_code), [2, 2, 2]);
    assert!(refused.to_string().contains("not authorized"), "{refused}");
}

#[tokio::test]
async fn properties_need_version_5_and_are_wrong_usage_before() {
    let broker = TinyBroker::start(Behaviour::default()).await;

    for line in [
        "mqttctl publish t -m x -V 3.1.1 -U a=b",
        "mqttctl subscribe t -V 3.1.1 --from earliest",
        "mqttctl subscribe t -V 3.1 --group g",
        "mqttctl subscribe t -V 3.1.1 --session-expiry 9",
        "mqttctl subscribe t -V 3.1.1 --max-packet-size 1000",
        "mqttctl subscribe t -V 3.1.1 --no-problem-information",
        "mqttctl publish t -m x -V 3.1.1 --topic-alias 1",
        "mqttctl request t -m x -V 3.1.1",
        "mqttctl request t -m x -V 3.1.1 --response-topic r --correlation-data c",
        "mqttctl publish t -m x -V 3.1.1 --connect-property a=b",
        "mqttctl publish t -m x -V 3.1 --will-topic w --will-delay 1",
        "mqttctl publish t -m x -V 3.1.1 -u u -P p --scram",
        "mqttctl publish t -m x --scram",
        "mqttctl publish t -m x -V 3.1.1 --disconnect-property a=b",
        "mqttctl subscribe -V 3.1.1 t --unsubscribe u --unsubscribe-property a=b",
        "mqttctl publish t -m x -V 3.1.1 --will-topic w --will-property a=b",
    ] {
        assert_eq!(run_on(&broker, line).await.unwrap_err().exit_code(), 3, "{line}");
    }
    let line = "mqttctl publish t -m x -V 3.1.1 --will-topic w --will-utf8 --will-expiry 3";
    let said = run_on(&broker, line).await.unwrap_err().to_string();
    assert_eq!(said, "only MQTT 5 has --will-expiry, --will-utf8: leave -V out, or these");
}

#[tokio::test]
async fn subscribe_prints_counts_and_acknowledges() {
    let broker = TinyBroker::start(stored(&["one", "two", "three"])).await;

    let said = run_on(&broker, "mqttctl subscribe a/# -q 1 -v --count 2").await.unwrap();

    assert_eq!(said, "a/b one\na/b two\n");
    let packets = all_until_disconnect(&broker).await;
    let acknowledged = packets.iter().filter(|packet| matches!(packet, Packet::PubAck(_)));
    assert_eq!(acknowledged.count(), 2, "the third was not printed");
}

#[tokio::test]
async fn subscribe_says_where_to_read_from_in_the_words_of_each_kind_of_filter() {
    let broker = TinyBroker::start(stored(&["x", "y"])).await;
    let line = "mqttctl subscribe a/# $queue/q --from=-15m --group g -U more=1 -q 1 --count 2 \
                --no-local --retained never --json";

    let said = run_on(&broker, line).await.unwrap();

    let mut asked = Vec::new();
    for packet in broker.received() {
        if let Packet::Subscribe(subscribe) = packet {
            let user = subscribe.properties.iter().map(|property| match property {
                Property::User(key, value) => {
                    format!("{}={}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value))
                }
                other => panic!("{other:?}"),
            });
            let filter = String::from_utf8_lossy(&subscribe.filters[0].filter).into_owned();
            asked.push((filter, user.collect::<Vec<_>>().join(" ")));
            assert!(subscribe.filters[0].no_local);
        }
    }
    let expected = [
        ("a/#".to_owned(), "replay-from=-15m consumer-group=g more=1".to_owned()),
        ("$queue/q".to_owned(), "cursor=-15m consumer-group=g more=1".to_owned()),
    ];
    assert_eq!(asked, expected);
    let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!((&first["topic"], &first["payload"]), (&Value::from("a/b"), &Value::from("x")));
}

#[tokio::test]
async fn a_refused_subscription_is_exit_code_1() {
    let subscribe_reason = ReasonCode::TOPIC_FILTER_INVALID;
    let broker = TinyBroker::start(Behaviour { subscribe_reason, ..Behaviour::default() }).await;

    let error = run_on(&broker, "mqttctl subscribe a/#").await.unwrap_err();

    assert_eq!(error.exit_code(), 1);
    assert_eq!(error.to_string(), "'a/#' refused: 0x8F topic filter invalid");
}

#[tokio::test]
async fn too_few_messages_in_time_are_exit_code_1_and_silence_ends_a_replay() {
    let broker = TinyBroker::start(stored(&["one"])).await;

    let late = run_on(&broker, "mqttctl subscribe a/# --count 2 --timeout 1").await.unwrap_err();
    let idle = run_on(&broker, "mqttctl subscribe a/# --idle 1").await.unwrap();

    assert_eq!((late.exit_code(), late.to_string()), (1, "1 of 2 messages within 1 s".to_owned()));
    assert_eq!(idle, "one\n");
}

#[tokio::test]
async fn what_is_filtered_out_is_acknowledged_and_neither_printed_nor_counted() {
    let mut behaviour = stored(&["one", "two", "three"]);
    behaviour.stored[1].topic = Bytes::from_static(b"a/secret/x");
    let broker = TinyBroker::start(behaviour).await;

    let line = "mqttctl subscribe a/# -q 1 --count 2 --filter-out +/secret/#";
    let said = run_on(&broker, line).await.unwrap();

    assert_eq!(said, "one\nthree\n");
    let packets = all_until_disconnect(&broker).await;
    let acknowledged = packets.iter().filter(|packet| matches!(packet, Packet::PubAck(_)));
    assert_eq!(acknowledged.count(), 3);
}

#[tokio::test]
async fn retained_messages_are_left_out_or_all_there_is_or_removed() {
    let mut behaviour = stored(&["kept", "live", "later"]);
    behaviour.stored[0].retain = true;
    let broker = TinyBroker::start(behaviour).await;

    let without = run_on(&broker, "mqttctl subscribe a/# --no-retained --count 2").await.unwrap();
    let only = run_on(&broker, "mqttctl subscribe a/# --retained-only").await.unwrap();
    assert_eq!((&*without, &*only), ("live\nlater\n", "kept\n"));
    assert_eq!(broker.publishes(), []);

    let removed = "mqttctl subscribe a/# --retained-only --remove-retained";
    assert_eq!(run_on(&broker, removed).await.unwrap(), "kept\n");
    let publishes = broker.publishes();
    assert_eq!(publishes.len(), 1);
    assert_eq!((&publishes[0].topic[..], publishes[0].payload.len()), (&b"a/b"[..], 0));
    assert_eq!((publishes[0].qos, publishes[0].retain), (QoS::AtLeastOnce, true));
}

#[tokio::test]
async fn a_removal_that_is_refused_is_exit_code_1() {
    let mut behaviour = stored(&["kept"]);
    behaviour.stored[0].retain = true;
    behaviour.publish_reason = ReasonCode::NOT_AUTHORIZED;
    let broker = TinyBroker::start(behaviour).await;

    let line = "mqttctl subscribe a/# --remove-retained --count 1";
    let error = run_on(&broker, line).await.unwrap_err();

    assert_eq!(error.to_string(), "a retained message is not removed: 0x87 not authorized");
    assert_eq!(error.exit_code(), 1);
}

#[tokio::test]
async fn a_session_is_prepared_and_left() {
    let broker = TinyBroker::start(stored(&["one"])).await;

    let line = "mqttctl subscribe a/# b --unsubscribe old/# --unsubscribe older -i me --resume -E \
                --unsubscribe-property why=moved --session-expiry 60 --disconnect-session-expiry 5 \
                --disconnect-property by=hand --disconnect-property a=b";
    assert_eq!(run_on(&broker, line).await.unwrap(), "");

    let packets = all_until_disconnect(&broker).await;
    let [
        Packet::Connect(_),
        Packet::Unsubscribe(old),
        Packet::Subscribe(a),
        Packet::Subscribe(b),
        Packet::Disconnect(left),
    ] = &packets[..]
    else {
        panic!("{packets:?}")
    };
    let user = |key, value| Property::User(Bytes::from_static(key), Bytes::from_static(value));
    assert_eq!(old.properties, [user(b"why", b"moved")].into_iter().collect());
    let said = [Property::SessionExpiry(5), user(b"by", b"hand"), user(b"a", b"b")];
    assert_eq!(left.properties, said.into_iter().collect());
    assert_eq!(old.filters, [Bytes::from_static(b"old/#"), Bytes::from_static(b"older")]);
    assert_eq!((&a.filters[0].filter[..], &b.filters[0].filter[..]), (&b"a/#"[..], &b"b"[..]));
}

#[tokio::test]
async fn bench_counts_what_it_sent_and_what_arrived() {
    let broker = TinyBroker::start(Behaviour::default()).await;
    let line = "mqttctl bench -x 2 -y 3 --topics 4 -q 2 --count 200 --inflight 8 --size 64 --json";

    let said: Value = serde_json::from_str(&run_on(&broker, line).await.unwrap()).unwrap();

    assert_eq!(said["confirmed"], 400);
    assert_eq!((&said["expected"], &said["received"]), (&Value::from(1_200), &Value::from(1_200)));
    for none in ["missing", "duplicates", "out_of_order", "refused", "unconfirmed"] {
        assert_eq!(said[none], 0, "{none}");
    }
    assert_eq!(said["publish_latency_us"]["count"], 400);
    assert_eq!(said["delivery_latency_us"]["count"], 1_200);
}

#[tokio::test]
async fn bench_stops_by_itself_and_complains_about_what_is_missing() {
    let broker = TinyBroker::start(Behaviour::default()).await;
    let line = "mqttctl bench --filter elsewhere/# --count 50 --drain 1";

    let error = run_on(&broker, line).await.unwrap_err();

    assert_eq!(error.exit_code(), 1);
    assert_eq!(error.to_string(), "50 confirmed messages did not arrive");
}

#[tokio::test]
async fn bench_keeps_to_its_rate_and_time() {
    let broker = TinyBroker::start(Behaviour::default()).await;
    let line = "mqttctl bench -y 0 --rate 50 --seconds 1 --json";

    let said: Value = serde_json::from_str(&run_on(&broker, line).await.unwrap()).unwrap();

    // 50 are due within the second; a slow machine may miss the last ones.
    let sent = said["sent"].as_u64().unwrap();
    assert!((20..=50).contains(&sent), "{sent}");
    assert_eq!(said["expected"], 0);
}

/// Waits until the client has said goodbye; returns everything it said.
async fn all_until_disconnect(broker: &TinyBroker) -> Vec<Packet> {
    for _ in 0..1_000_000 {
        let packets = broker.received();
        if matches!(packets.last(), Some(Packet::Disconnect(_))) {
            return packets;
        }
        tokio::task::yield_now().await;
    }
    panic!("DISCONNECT did not arrive");
}

fn stored(payloads: &[&'static str]) -> Behaviour {
    let publish = |payload: &&'static str| Publish {
        topic: Bytes::from_static(b"a/b"),
        ..crate::client::scripted::publish(0, QoS::AtLeastOnce, payload)
    };
    Behaviour { stored: payloads.iter().map(publish).collect(), ..Behaviour::default() }
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn on(broker: &TinyBroker, line: &str) -> String {
    format!("{line} -a {}", broker.address)
}

fn publish_arguments(line: &str) -> publish::Arguments {
    match Arguments::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{error}")).command {
        Command::Publish(arguments) => arguments,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn run_on(broker: &TinyBroker, line: &str) -> Result<String, CtlError> {
    run_line(&on(broker, line)).await
}

/// Runs a command and returns what it printed.
async fn run_line(line: &str) -> Result<String, CtlError> {
    let arguments =
        Arguments::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{error}"));
    let (json, mut output) = (arguments.json, Vec::new());
    arguments.command.run(json, &mut output).await?;
    Ok(String::from_utf8(output).unwrap())
}
