//! `$SYS`: what the broker says of itself is retained without being stored, and nobody else says it.

use fluxmq::model::{Delivery, QoS, Refusal, RetainHandling};
use fluxmq::partition::Options;
use fluxmq_log::sim_disk::SimDisk;

use crate::world::{World, message, text};

const UPTIME: &str = "$SYS/broker/uptime";
const CLIENTS: &str = "$SYS/broker/clients/connected";

fn world() -> World {
    let mut world = World::with(SimDisk::new(5), 4, Options::default()).expect("the logs recover");
    world.show(&[(UPTIME, "1 seconds"), (CLIENTS, "7")]);
    world
}

fn said(deliveries: &[Delivery]) -> Vec<(String, String, bool)> {
    let one = |it: &Delivery| (it.message.topic.as_str().to_owned(), text(it), it.retain);
    let mut said: Vec<_> = deliveries.iter().map(one).collect();
    said.sort();
    said
}

fn expected(all: &[(&str, &str, bool)]) -> Vec<(String, String, bool)> {
    all.iter()
        .map(|(topic, value, retain)| (topic.to_string(), value.to_string(), *retain))
        .collect()
}

#[test]
fn a_new_subscription_gets_each_value_at_once_and_then_what_changes() {
    let mut world = world();
    let (client, _) = world.open("client", true, 0);

    world.subscribe(client, "$SYS/#", |it| it.subscription_id = 9).expect("subscribes");

    let got = world.deliveries(client);
    assert_eq!(said(&got), expected(&[(CLIENTS, "7", true), (UPTIME, "1 seconds", true)]));
    assert!(got.iter().all(|it| it.qos == QoS::AtMostOnce && it.subscription_ids == [9]));

    world.show(&[(UPTIME, "11 seconds"), (CLIENTS, "7")]);
    let got = said(&world.deliveries(client));
    assert_eq!(got, expected(&[(UPTIME, "11 seconds", false)]), "what did not change is not sent");
}

#[test]
fn a_literal_filter_and_one_below_the_top_get_theirs_and_a_wildcard_at_the_first_level_nothing() {
    let mut world = world();
    let (client, _) = world.open("client", true, 0);

    for filter in ["#", "+/broker/uptime", "+/#"] {
        world.subscribe(client, filter, |_| {}).expect("subscribes");
    }
    world.show(&[(UPTIME, "2 seconds"), (CLIENTS, "8")]);
    assert!(world.deliveries(client).is_empty());

    world.subscribe(client, CLIENTS, |_| {}).expect("subscribes");
    assert_eq!(said(&world.deliveries(client)), expected(&[(CLIENTS, "8", true)]));
    world.subscribe(client, "$SYS/broker/+", |_| {}).expect("subscribes");
    assert_eq!(said(&world.deliveries(client)), expected(&[(UPTIME, "2 seconds", true)]));
}

#[test]
fn mqtt_3_3_1_10_retain_handling_and_retain_as_published_hold_here_too() {
    let mut world = world();
    let (client, _) = world.open("client", true, 0);

    let handling = |handling| {
        move |it: &mut fluxmq::model::command::Subscribe| {
            it.retain_handling = handling;
            it.retain_as_published = true;
        }
    };
    world.subscribe(client, UPTIME, handling(RetainHandling::DontSend)).expect("subscribes");
    assert!(world.deliveries(client).is_empty());
    world.subscribe(client, UPTIME, handling(RetainHandling::SendIfNew)).expect("subscribes");
    assert!(world.deliveries(client).is_empty(), "it is not new");
    world.subscribe(client, CLIENTS, handling(RetainHandling::SendIfNew)).expect("subscribes");
    assert_eq!(said(&world.deliveries(client)), expected(&[(CLIENTS, "7", true)]));
    world.subscribe(client, CLIENTS, handling(RetainHandling::Send)).expect("subscribes");
    assert_eq!(said(&world.deliveries(client)), expected(&[(CLIENTS, "7", true)]));

    world.show(&[(UPTIME, "3 seconds"), (CLIENTS, "7")]);
    assert_eq!(said(&world.deliveries(client)), expected(&[(UPTIME, "3 seconds", true)]));
}

#[test]
fn members_of_a_shared_subscription_take_turns_and_no_local_keeps_nothing_back() {
    let mut world = world();
    let (one, two) = (world.open("one", true, 0).0, world.open("two", true, 0).0);
    for client in [one, two] {
        world.subscribe(client, "$share/g/$SYS/#", |_| {}).expect("subscribes");
    }
    let (three, _) = world.open("three", true, 0);
    world.subscribe(three, "$SYS/#", |it| it.no_local = true).expect("subscribes");
    assert_eq!(world.deliveries(three).len(), 2);

    for second in 2..=5 {
        world.show(&[(UPTIME, &format!("{second} seconds")), (CLIENTS, "7")]);
    }

    let (one, two) = (world.deliveries(one), world.deliveries(two));
    assert_eq!((one.len(), two.len()), (2, 2), "nothing retained, and each change to one of them");
    assert_eq!(world.deliveries(three).len(), 4);
}

#[test]
fn a_session_that_comes_back_gets_changes_only_and_nothing_is_stored() {
    let mut world = world();
    let (client, _) = world.open("client", false, 3600);
    world.subscribe(client, "$SYS/#", |_| {}).expect("subscribes");
    world.close(client, false);
    let bytes = world.log_bytes();
    for second in 2..=50 {
        world.show(&[(UPTIME, &format!("{second} seconds")), (CLIENTS, "7")]);
    }
    assert_eq!(world.log_bytes(), bytes);

    let mut world = world.crash(3);
    let (client, opened) = world.open("client", false, 3600);
    assert!(opened.session_present && world.deliveries(client).is_empty());
    world.show(&[(UPTIME, "1 seconds")]);
    assert_eq!(said(&world.deliveries(client)), expected(&[(UPTIME, "1 seconds", false)]));
    let away: usize = world.partitions.values().map(|it| it.gauges().away.sessions).sum();
    assert_eq!(away, 0);
}

#[test]
fn nobody_publishes_there_and_the_access_list_says_who_reads() {
    let mut world = world();
    let (client, _) = world.open("client", true, 0);
    let refused = world.publish(client, message(UPTIME, "forged", QoS::AtLeastOnce), None);
    assert!(matches!(refused, Some(Err(Refusal::Address(_)))), "{refused:?}");

    world.rules("user operator\ntopic read $SYS/#\nuser guest\ntopic read $SYS/broker/uptime\n");
    let operator = world.open_as("operator", "operator", 0).expect("opens");
    let guest = world.open_as("guest", "guest", 0).expect("opens");
    let stranger = world.open_as("stranger", "stranger", 0).expect("opens");
    for client in [operator, guest] {
        world.subscribe(client, "$SYS/#", |_| {}).expect("subscribes");
    }
    assert!(world.subscribe(stranger, "$SYS/#", |_| {}).is_err());
    assert_eq!(world.deliveries(operator).len(), 2);
    assert_eq!(said(&world.deliveries(guest)), expected(&[(UPTIME, "1 seconds", true)]));
}
