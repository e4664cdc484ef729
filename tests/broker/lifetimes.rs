//! How long queues are there, and what is told of them to who knows them by name: counts, refusals, what ends with them.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::broker::Placement;
use fluxmq::model::queue::{DeadLetterTarget, DeadLetters, Lifetime, Overflow};
use fluxmq::model::{
    Command, Credit, Effect, Filter, Outcome, QoS, QueueCommand, QueueName, QueueRefusal,
    QueueSettings, Refusal,
};
use fluxmq::partition::request::{ConnectionId, Counts, QueueAction};

use crate::consumers::{consume as consume_as, get, stop};
use crate::world::{World, message, text, with_one_and_four};

const ONCE: QoS = QoS::AtLeastOnce;
const DELETE: QueueCommand = QueueCommand::Delete { if_unused: false, if_empty: false };

fn settings(with: impl Fn(&mut QueueSettings)) -> QueueSettings {
    let mut settings = QueueSettings::default();
    with(&mut settings);
    settings
}

fn declare(settings: &QueueSettings) -> QueueCommand {
    QueueCommand::Declare(Arc::new(settings.clone()))
}

fn open(world: &mut World, client: &str) -> ConnectionId {
    world.open(client, true, 0).0
}

fn consume(world: &mut World, client: &str, queue: &str) -> ConnectionId {
    let member = open(world, client);
    let filter = format!("$share/default/$queue/{queue}");
    world.subscribe(member, &filter, |_| {}).expect("joins");
    member
}

fn fill(world: &mut World, publisher: ConnectionId, queue: &str, count: usize) {
    for number in 0..count {
        let message = message(&format!("$queue/{queue}"), number.to_string(), ONCE);
        assert_eq!(world.publish(publisher, message, None), Some(Ok(true)));
    }
}

fn counts(messages: u64, consumers: u64) -> Result<Counts, Refusal> {
    Ok(Counts { messages, consumers })
}

fn refused(refusal: QueueRefusal) -> Result<Counts, Refusal> {
    Err(refusal.into())
}

fn missing(queue: &str) -> Result<Counts, Refusal> {
    refused(QueueRefusal::Missing { queue: queue.to_owned() })
}

fn exists(world: &mut World, queue: &str) -> bool {
    world.manage(queue, QueueAction::Stats).is_ok()
}

/// Ends a connection as its task does: what it holds is let go, and then it is forgotten.
fn end(world: &mut World, connection: ConnectionId) {
    world.close(connection, false);
    world.vanish(connection);
}

#[test]
fn what_waits_is_counted_and_what_is_out_or_settled_is_not() {
    with_one_and_four(|mut world| {
        world.client_limits.credit = 4;
        let client = open(&mut world, "client");
        let jobs = QueueSettings::default();
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), missing("jobs"));
        assert_eq!(world.queue(client, "jobs", declare(&jobs)), counts(0, 0));
        fill(&mut world, client, "jobs", 10);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(10, 0));

        let member = consume(&mut world, "member", "jobs");
        let out = world.deliveries(member);
        assert_eq!(out.len(), 4);
        assert_eq!(world.queue(client, "jobs", declare(&jobs)), counts(6, 1), "it is there");
        world.settle(member, out[0].id, Outcome::Accepted);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(5, 1));
        end(&mut world, member);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(9, 0), "back");

        let mut world = world.crash(3);
        let client = open(&mut world, "client");
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(9, 0));
        assert_eq!(world.queue(client, "jobs", DELETE), counts(9, 0));
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), missing("jobs"));
    });
}

/// Nothing is flushed between what is published and what is asked: the answer knows of it all the same.
#[test]
fn what_was_published_before_is_counted_though_it_is_not_stored_yet() {
    with_one_and_four(|mut world| {
        let client = open(&mut world, "client");
        world.queue(client, "jobs", declare(&QueueSettings::default())).unwrap();
        fill(&mut world, client, "jobs", 1);
        let publish = |world: &mut World, number: u64| {
            let message = Arc::new(message("$queue/jobs", number.to_string(), ONCE));
            let token = fluxmq::model::Token(1_000_000 + number);
            world.say(client, Command::Publish { token, message, packet_id: None });
        };

        (0..3).for_each(|number| publish(&mut world, number));
        world.turn(false);
        publish(&mut world, 3);
        let inspected = world.say_queue(client, "jobs", QueueCommand::Inspect);
        let purged = world.say_queue(client, "jobs", QueueCommand::Purge);
        publish(&mut world, 4);
        let again = world.say_queue(client, "jobs", QueueCommand::Inspect);
        let kept = QueueCommand::Delete { if_unused: false, if_empty: true };
        let kept = world.say_queue(client, "jobs", kept);
        let deleted = world.say_queue(client, "jobs", DELETE);
        let over = world.say_queue(client, "jobs", QueueCommand::Inspect);
        world.run();

        let answer = |world: &mut World, token| world.queue_answer(client, token).unwrap();
        assert_eq!(answer(&mut world, inspected), counts(5, 0));
        assert_eq!(answer(&mut world, purged), counts(5, 0));
        assert_eq!(answer(&mut world, again), counts(1, 0));
        let queue = "jobs".to_owned();
        let not_empty = QueueRefusal::NotEmpty { queue, messages: 1 };
        assert_eq!(answer(&mut world, kept), refused(not_empty));
        assert_eq!(answer(&mut world, deleted), counts(1, 0));
        assert_eq!(answer(&mut world, over), missing("jobs"));
    });
}

#[test]
fn purging_leaves_what_is_out_to_who_has_it() {
    for priority_max in [0, 9] {
        with_one_and_four(|mut world| {
            world.client_limits.credit = 3;
            let jobs = settings(|it| it.priority_max = priority_max);
            world.declare("jobs", jobs);
            let client = open(&mut world, "client");
            fill(&mut world, client, "jobs", 300);
            let member = consume(&mut world, "member", "jobs");
            let out = world.deliveries(member);
            assert_eq!(out.iter().map(text).collect::<Vec<_>>(), ["0", "1", "2"]);
            world.settle(member, out[0].id, Outcome::Accepted);
            assert_eq!(text(&world.deliveries(member)[0]), "3");

            assert_eq!(world.queue(client, "jobs", QueueCommand::Purge), counts(296, 0));
            assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(0, 1));
            assert_eq!(world.stats("jobs").messages, 3, "1, 2 and 3 are out");
            world.settle(member, out[1].id, Outcome::Released);
            assert_eq!(text(&world.deliveries(member)[0]), "1", "it comes again");
            world.settle(member, out[2].id, Outcome::Accepted);
            assert_eq!(world.deliveries(member), []);
            fill(&mut world, client, "jobs", 1);
            assert_eq!(text(&world.deliveries(member)[0]), "0", "what comes after stays");

            world.snapshot();
            let mut world = world.crash(5);
            let member = consume(&mut world, "member", "jobs");
            let mut left = world.drain(member);
            left.sort_unstable();
            assert_eq!(left, ["0", "1", "3"], "and the rest is gone for good");
        });
    }
}

#[test]
fn a_queue_is_deleted_unused_or_empty_if_that_is_asked_for() {
    with_one_and_four(|mut world| {
        let client = open(&mut world, "client");
        world.queue(client, "jobs", declare(&QueueSettings::default())).unwrap();
        fill(&mut world, client, "jobs", 2);
        let member = consume(&mut world, "member", "jobs");
        world.deliveries(member);
        let queue = || "jobs".to_owned();
        let delete = |if_unused, if_empty| QueueCommand::Delete { if_unused, if_empty };

        let in_use = QueueRefusal::InUse { queue: queue(), members: 1 };
        assert_eq!(world.queue(client, "jobs", delete(true, true)), refused(in_use));
        end(&mut world, member);
        let not_empty = QueueRefusal::NotEmpty { queue: queue(), messages: 2 };
        assert_eq!(world.queue(client, "jobs", delete(true, true)), refused(not_empty));
        assert_eq!(world.queue(client, "jobs", QueueCommand::Purge), counts(2, 0));
        assert_eq!(world.queue(client, "jobs", delete(true, true)), counts(0, 0));
        for command in [DELETE, QueueCommand::Purge, QueueCommand::Inspect] {
            assert_eq!(world.queue(client, "jobs", command), missing("jobs"));
        }
    });
}

#[test]
fn with_a_queue_goes_all_that_was_of_it() {
    with_one_and_four(|mut world| {
        let bound = settings(|it| {
            it.bindings = vec![Filter::new(Bytes::from_static(b"site/#")).unwrap()];
        });
        world.declare("jobs", bound.clone());
        let client = open(&mut world, "client");
        let member = consume(&mut world, "member", "jobs");
        fill(&mut world, client, "jobs", 3);
        let out = world.deliveries(member);
        assert_eq!(out.len(), 3);

        assert_eq!(world.queue(client, "jobs", DELETE), counts(0, 0), "all were out");
        // What comes now is for nobody, and what was out is over, whatever is said of it.
        world.publish(client, message("site/1", "captured by nobody", ONCE), None);
        world.settle(member, out[0].id, Outcome::Released);
        world.settle(member, out[1].id, Outcome::Rejected);
        world.pass(60_000);
        assert_eq!(world.deliveries(member), []);
        assert!(!exists(&mut world, "jobs") && !exists(&mut world, "$dlq/jobs"));

        let mut world = world.crash(7);
        assert!(!exists(&mut world, "jobs"));
        let client = open(&mut world, "client");
        world.declare("jobs", bound.clone());
        let stats = world.stats("jobs");
        assert_eq!((stats.messages, stats.end.0, stats.groups.len()), (0, 0, 0), "another queue");
        world.publish(client, message("site/1", "captured", ONCE), None);
        let member = consume(&mut world, "member", "jobs");
        assert_eq!(world.drain(member), ["captured"]);
    });
}

/// Without a flush between them: the second queue of the name is not the first one, and its members are not the first one's.
#[test]
fn a_queue_that_is_declared_while_its_name_is_let_go_is_a_new_one() {
    with_one_and_four(|mut world| {
        let client = open(&mut world, "client");
        world.queue(client, "jobs", declare(&QueueSettings::default())).unwrap();
        let old = consume(&mut world, "old", "jobs");
        fill(&mut world, client, "jobs", 2);
        assert_eq!(world.deliveries(old).len(), 2);
        let member = open(&mut world, "member");
        let subscribe = fluxmq::model::command::Subscribe {
            filter: Filter::new(Bytes::from_static(b"$share/default/$queue/jobs")).unwrap(),
            qos: ONCE,
            no_local: false,
            retain_as_published: false,
            retain_handling: fluxmq::model::RetainHandling::Send,
            subscription_id: 0,
            position: None,
            reports_end: false,
            group: None,
            settle_explicit: false,
        };

        let deleted = world.say_queue(client, "jobs", DELETE);
        let other = settings(|it| {
            it.deliveries_max = 3;
            it.limits.messages_max = Some(1);
            it.limits.overflow = Overflow::RejectPublish;
        });
        let declared = world.say_queue(client, "jobs", declare(&other));
        world.turn(false);
        let token = fluxmq::model::Token(99);
        let subscriptions = vec![subscribe];
        world.say(member, Command::Subscribe { token, subscriptions });
        world.turn(false);
        let message = Arc::new(message("$queue/jobs", "new", ONCE));
        let token = fluxmq::model::Token(100);
        world.say(client, Command::Publish { token, message, packet_id: None });
        world.run();

        assert_eq!(world.queue_answer(client, deleted), Some(counts(0, 0)));
        assert_eq!(world.queue_answer(client, declared), Some(counts(0, 0)));
        assert_eq!(world.drain(member), ["new"]);
        assert_eq!(world.deliveries(old), []);
        let stats = world.stats("jobs");
        assert_eq!((stats.settings.deliveries_max, stats.end.0), (3, 1));
        assert_eq!((stats.groups.len(), stats.groups[0].committed.0), (1, 1));
        assert_eq!(stats.groups[0].members, 1);
        let mut world = world.crash(11);
        assert_eq!(world.stats("jobs").groups[0].committed.0, 1);
    });
}

/// A letter is on its way to another partition when its queue ends: it is stored there, and ends nothing in the queue that comes after.
#[test]
fn a_letter_of_a_queue_that_is_gone_ends_no_entry_of_the_next() {
    let placement = Placement::new(4);
    let home =
        |queue: &str| placement.queue(&QueueName::new(Bytes::from(queue.to_owned())).unwrap());
    let target = (0..).map(|number| format!("failed-{number}"));
    let target = target.into_iter().find(|target| home(target) != home("jobs")).unwrap();
    let mut world = World::new(4);
    let grave = QueueName::new(Bytes::from(target.clone())).unwrap();
    let jobs = settings(|it| {
        it.dead_letters = DeadLetters {
            target: DeadLetterTarget::Queue(grave.clone()),
            ..DeadLetters::default()
        };
    });
    world.declare(&target, QueueSettings::default());
    world.declare("jobs", jobs.clone());
    let client = open(&mut world, "client");
    fill(&mut world, client, "jobs", 1);
    let member = consume(&mut world, "member", "jobs");
    let out = world.deliveries(member);
    world.slow = Some(home(&target));
    world.settle(member, out[0].id, Outcome::Rejected);

    assert_eq!(world.queue(client, "jobs", DELETE), counts(0, 0));
    assert_eq!(world.queue(client, "jobs", declare(&jobs)), counts(0, 0));
    let early = consume(&mut world, "early", "jobs");
    end(&mut world, early);
    fill(&mut world, client, "jobs", 1);
    world.slow = None;
    world.run();

    assert_eq!(world.stats(&target).messages, 1, "the letter arrived");
    let member = consume(&mut world, "another", "jobs");
    assert_eq!(world.drain(member), ["0"], "and the new queue has what came to it");
}

#[test]
fn a_transient_queue_ends_with_a_restart() {
    with_one_and_four(|mut world| {
        let transient = settings(|it| {
            it.lifetime = Lifetime::Transient;
            it.bindings = vec![Filter::new(Bytes::from_static(b"site/#")).unwrap()];
        });
        world.declare("brief", transient.clone());
        world.declare("kept", QueueSettings::default());
        let client = open(&mut world, "client");
        fill(&mut world, client, "brief", 2);
        fill(&mut world, client, "kept", 2);
        world.pass(3_600_000);
        assert_eq!(world.queue(client, "brief", QueueCommand::Inspect), counts(2, 0));
        world.snapshot();

        let mut world = world.crash(13);
        let client = open(&mut world, "client");
        // Asked before anything of the new term is flushed.
        assert_eq!(world.queue(client, "brief", QueueCommand::Inspect), missing("brief"));
        assert_eq!(world.queue(client, "kept", QueueCommand::Inspect), counts(2, 0));
        world.publish(client, message("site/1", "to nobody", ONCE), None);
        assert_eq!(world.queue(client, "brief", declare(&transient)), counts(0, 0));
        world.publish(client, message("site/1", "captured", ONCE), None);
        let member = consume(&mut world, "member", "brief");
        assert_eq!(world.drain(member), ["captured"]);

        let mut world = world.crash(17);
        assert!(!exists(&mut world, "brief") && exists(&mut world, "kept"));
    });
}

#[test]
fn an_owned_queue_is_for_its_connection_alone() {
    with_one_and_four(|mut world| {
        let owned = settings(|it| it.lifetime = Lifetime::Owned);
        let (owner, other) = (open(&mut world, "owner"), open(&mut world, "other"));
        assert_eq!(world.queue(owner, "mine", declare(&owned)), counts(0, 0));
        assert_eq!(world.queue(owner, "mine", declare(&owned)), counts(0, 0), "just so");
        fill(&mut world, other, "mine", 3);

        let locked = || refused(QueueRefusal::Locked { queue: "mine".to_owned() });
        let commands = [
            declare(&owned),
            declare(&QueueSettings::default()),
            QueueCommand::Inspect,
            QueueCommand::Purge,
            DELETE,
        ];
        for command in commands {
            assert_eq!(world.queue(other, "mine", command.clone()), locked(), "{command:?}");
        }
        let refusal = world.subscribe(other, "$share/default/$queue/mine", |_| {}).unwrap_err();
        assert_eq!(refusal.to_string(), "queue 'mine' belongs to another connection");
        assert!(world.manage("mine", QueueAction::Purge).is_err(), "nor is it an administrator's");
        assert_eq!(world.stats("mine").messages, 3, "who may see that it is there");

        world.subscribe(owner, "$share/default/$queue/mine", |_| {}).unwrap();
        let (queue, group) = (name("mine"), name("default"));
        let outcome = Outcome::Accepted;
        let token = fluxmq::model::Token(77);
        let settle = Command::SettleEntry { token, queue, group, offset: 0, outcome };
        world.command(other, settle);
        let confirmed = world.take(other, |effect| match effect {
            Effect::Confirm { result, .. } => Some(result.clone()),
            _ => None,
        });
        assert_eq!(confirmed.unwrap().unwrap_err().to_string(), refusal.to_string());
        assert_eq!(world.drain(owner), ["0", "1", "2"]);
        assert_eq!(world.queue(owner, "mine", DELETE), counts(0, 0));
        assert_eq!(world.queue(other, "mine", declare(&owned)), counts(0, 0), "now it is");
        assert_eq!(world.queue(owner, "mine", DELETE), locked());
    });
}

fn name(text: &str) -> QueueName {
    QueueName::new(Bytes::from(text.to_owned())).unwrap()
}

#[test]
fn an_owned_queue_ends_with_its_connection_however_that_ends() {
    with_one_and_four(|mut world| {
        let owned = settings(|it| it.lifetime = Lifetime::Owned);
        let other = open(&mut world, "other");
        for ends in [end as fn(&mut World, ConnectionId), World::vanish] {
            let owner = open(&mut world, "owner");
            world.queue(owner, "mine", declare(&owned)).unwrap();
            world.queue(owner, "also-mine", declare(&owned)).unwrap();
            world.queue(owner, "everybodys", declare(&QueueSettings::default())).unwrap();
            fill(&mut world, other, "mine", 2);

            ends(&mut world, owner);

            assert_eq!(world.queue(other, "mine", QueueCommand::Inspect), missing("mine"));
            assert_eq!(world.queue(other, "also-mine", DELETE), missing("also-mine"));
            assert_eq!(world.queue(other, "everybodys", QueueCommand::Inspect), counts(0, 0));
        }
        let owner = open(&mut world, "owner");
        world.queue(owner, "mine", declare(&owned)).unwrap();
        let mut world = world.crash(19);
        let other = open(&mut world, "other");
        assert_eq!(world.queue(other, "mine", declare(&owned)), counts(0, 0), "its name is free");
        assert_eq!(world.stats("mine").end.0, 0);
    });
}

/// The connection is gone before its declaration is stored: nobody is left to own the queue.
#[test]
fn a_queue_whose_owner_is_gone_before_it_is_stored_ends_with_it() {
    with_one_and_four(|mut world| {
        let owned = settings(|it| it.lifetime = Lifetime::Owned);
        let owner = open(&mut world, "owner");
        world.say_queue(owner, "mine", declare(&owned));
        world.turn(false);
        world.vanish(owner);

        let other = open(&mut world, "other");
        assert_eq!(world.queue(other, "mine", QueueCommand::Inspect), missing("mine"));
        let mut world = world.crash(23);
        assert!(!exists(&mut world, "mine"));
    });
}

#[test]
fn an_auto_delete_queue_ends_when_the_last_of_its_consumers_leaves() {
    with_one_and_four(|mut world| {
        let fleeting = settings(|it| it.auto_delete = true);
        let client = open(&mut world, "client");
        world.queue(client, "jobs", declare(&fleeting)).unwrap();
        fill(&mut world, client, "jobs", 2);
        world.pass(3_600_000);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(2, 0), "none yet");

        let one = consume(&mut world, "one", "jobs");
        let two = open(&mut world, "two");
        world.subscribe(two, "$share/other/$queue/jobs", |_| {}).unwrap();
        end(&mut world, one);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(2, 1));

        // A restart is not leaving: those who consumed come back.
        let mut world = world.crash(29);
        let client = open(&mut world, "client");
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(2, 0));
        let (one, two) = (consume(&mut world, "one", "jobs"), consume(&mut world, "two", "jobs"));
        world.vanish(one);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect).unwrap().consumers, 1);
        let token = fluxmq::model::Token(55);
        let filters = vec![Filter::new(Bytes::from_static(b"$share/default/$queue/jobs")).unwrap()];
        world.command(two, Command::Unsubscribe { token, filters });
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), missing("jobs"));
        let mut world = world.crash(31);
        assert!(!exists(&mut world, "jobs"));
    });
}

fn expiring() -> QueueSettings {
    settings(|it| it.expires_ms = Some(60_000))
}

/// Lets time pass in steps of a second, as ticks do.
fn pass(world: &mut World, millis: u64) {
    (0..millis / 1000).for_each(|_| world.pass(1000));
}

#[test]
fn a_queue_expires_so_long_after_its_last_use() {
    with_one_and_four(|mut world| {
        let client = open(&mut world, "client");
        world.queue(client, "jobs", declare(&expiring())).unwrap();
        fill(&mut world, client, "jobs", 1);
        pass(&mut world, 40_000);
        fill(&mut world, client, "jobs", 1);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(2, 0));
        pass(&mut world, 19_000);
        assert!(
            exists(&mut world, "jobs"),
            "59 seconds, and neither publishing nor counting is use"
        );
        pass(&mut world, 1_000);
        assert!(!exists(&mut world, "jobs"));

        world.queue(client, "jobs", declare(&expiring())).unwrap();
        pass(&mut world, 59_000);
        assert_eq!(world.queue(client, "jobs", declare(&expiring())), counts(0, 0));
        pass(&mut world, 59_000);
        let (one, two) = (consume(&mut world, "one", "jobs"), consume(&mut world, "two", "jobs"));
        pass(&mut world, 600_000);
        end(&mut world, one);
        pass(&mut world, 600_000);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(0, 1));
        end(&mut world, two);
        pass(&mut world, 59_000);
        assert!(exists(&mut world, "jobs"));
        pass(&mut world, 1_000);
        assert!(!exists(&mut world, "jobs"));
    });
}

#[test]
fn a_restart_does_not_give_a_queue_more_time_but_for_consumers_it_ended() {
    for is_snapshot in [false, true] {
        with_one_and_four(|mut world| {
            let client = open(&mut world, "client");
            for queue in ["unused", "left", "read"] {
                world.queue(client, queue, declare(&expiring())).unwrap();
            }
            pass(&mut world, 20_000);
            let member = consume(&mut world, "member", "left");
            pass(&mut world, 10_000);
            end(&mut world, member);
            consume(&mut world, "reader", "read");
            pass(&mut world, 20_000);
            if is_snapshot {
                world.snapshot();
            }

            // A restart takes a second: 51 since the declaration, 21 since one was left, none since the other was read.
            let mut world = world.crash(37);
            let alive =
                |world: &mut World| ["unused", "left", "read"].map(|queue| exists(world, queue));
            pass(&mut world, 8_000);
            assert_eq!(alive(&mut world), [true, true, true], "59, 29 and 8 seconds");
            pass(&mut world, 1_000);
            assert_eq!(alive(&mut world), [false, true, true], "60, 30 and 9 seconds");
            pass(&mut world, 29_000);
            assert_eq!(alive(&mut world), [false, true, true], "59 and 38 seconds");
            pass(&mut world, 1_000);
            assert_eq!(alive(&mut world), [false, false, true], "60 and 39 seconds");
            pass(&mut world, 20_000);
            assert_eq!(alive(&mut world), [false, false, true], "59 seconds");
            pass(&mut world, 1_000);
            assert_eq!(alive(&mut world), [false, false, false]);
            let mut world = world.crash(41);
            assert_eq!(alive(&mut world), [false, false, false]);
        });
    }
}

#[test]
fn a_declaration_that_says_something_else_is_refused_with_what_is() {
    with_one_and_four(|mut world| {
        let client = open(&mut world, "client");
        let jobs = settings(|it| {
            it.lifetime = Lifetime::Transient;
            it.expires_ms = Some(5_000);
        });
        world.queue(client, "jobs", declare(&jobs)).unwrap();
        let others = [
            ("lifetime", QueueSettings { lifetime: Lifetime::Durable, ..jobs.clone() }),
            ("lifetime", QueueSettings { lifetime: Lifetime::Owned, ..jobs.clone() }),
            ("auto_delete", QueueSettings { auto_delete: true, ..jobs.clone() }),
            ("expires", QueueSettings { expires_ms: Some(6_000), ..jobs.clone() }),
            ("expires", QueueSettings { expires_ms: None, ..jobs.clone() }),
        ];
        for (setting, other) in others {
            let (queue, current) = ("jobs".to_owned(), Arc::new(jobs.clone()));
            let differs = QueueRefusal::Differs { queue, setting, current };
            assert_eq!(world.queue(client, "jobs", declare(&other)), refused(differs));
        }
        let nothing = settings(|it| it.expires_ms = Some(0));
        let refusal = world.queue(client, "other", declare(&nothing)).unwrap_err();
        assert!(refusal.to_string().contains("expires_ms must not be 0"), "{refusal}");
        assert_eq!(world.queue(client, "jobs", declare(&jobs)), counts(0, 0));
    });
}

#[test]
fn who_changes_a_queue_needs_the_right_to_ask_for_it() {
    let mut world = World::new(4);
    world.rules(
        "user maker\ntopic write $management/queue/+/declare\ntopic write $management/queue/jobs/delete\n\
         user reader\ntopic read $queue/jobs/#\ntopic write $management/queue/jobs/purge\n",
    );
    let maker = world.open_as("maker", "maker", 0).unwrap();
    let reader = world.open_as("reader", "reader", 0).unwrap();
    let denied = || Err(Refusal::NotAuthorized);
    let plain = declare(&QueueSettings::default());

    assert_eq!(world.queue(reader, "jobs", plain.clone()), denied());
    assert_eq!(world.queue(maker, "jobs", plain.clone()), counts(0, 0));
    assert_eq!(world.queue(maker, "other", plain), counts(0, 0));
    assert_eq!(world.queue(maker, "jobs", QueueCommand::Inspect), denied());
    assert_eq!(world.queue(maker, "jobs", QueueCommand::Purge), denied());
    assert_eq!(world.queue(reader, "jobs", QueueCommand::Inspect), counts(0, 0));
    assert_eq!(world.queue(reader, "jobs", QueueCommand::Purge), counts(0, 0));
    assert_eq!(world.queue(reader, "jobs", DELETE), denied());
    assert_eq!(world.queue(maker, "other", DELETE), denied());
    assert_eq!(world.queue(maker, "jobs", DELETE), counts(0, 0));
}

/// Takes the consumers that a connection was told are over.
fn ended(world: &mut World, id: ConnectionId) -> Vec<u32> {
    let effects = world.take_effects(id);
    let ended = effects.iter().filter_map(|effect| match effect {
        Effect::ConsumerEnded { consumer } => Some(*consumer),
        _ => None,
    });
    ended.collect()
}

#[test]
fn consumers_hear_that_their_queue_is_gone_and_others_do_not() {
    with_one_and_four(|mut world| {
        world.declare("jobs", QueueSettings::default());
        world.declare("other", QueueSettings::default());
        let [reading, stopped, getting] =
            ["reading", "stopped", "getting"].map(|client| open(&mut world, client));
        fill(&mut world, reading, "jobs", 4);
        let got = get(&mut world, getting, (1, "jobs")).unwrap().unwrap();
        consume_as(&mut world, stopped, (2, "jobs"), Credit::Window(1)).unwrap();
        let out_at_stopped = world.deliveries(stopped);
        stop(&mut world, stopped, 2);
        consume_as(&mut world, reading, (3, "jobs"), Credit::Window(1)).unwrap();
        consume_as(&mut world, reading, (4, "other"), Credit::Window(1)).unwrap();
        let out_at_reading = world.deliveries(reading);
        let (queue, if_empty) = ("jobs".to_owned(), false);
        let unused = QueueCommand::Delete { if_unused: true, if_empty };
        let in_use = QueueRefusal::InUse { queue, members: 1 };
        assert_eq!(world.queue(getting, "jobs", unused), refused(in_use));

        assert_eq!(world.queue(getting, "jobs", DELETE), counts(1, 0), "three are out");
        assert_eq!(ended(&mut world, reading), [3]);
        assert_eq!(ended(&mut world, stopped), [0; 0], "it was over before");
        assert_eq!(ended(&mut world, getting), [0; 0]);

        world.declare("jobs", QueueSettings::default());
        fill(&mut world, getting, "jobs", 3);
        world.settle(reading, out_at_reading[0].id, Outcome::Accepted);
        world.settle(stopped, out_at_stopped[0].id, Outcome::Released);
        world.settle(getting, got.delivery.id, Outcome::Rejected);
        end(&mut world, reading);
        assert_eq!(world.queue(getting, "jobs", QueueCommand::Inspect), counts(3, 0), "all of it");
        let mut world = world.crash(43);
        let getting = open(&mut world, "getting");
        assert_eq!(world.queue(getting, "jobs", QueueCommand::Inspect), counts(3, 0));
    });
}

#[test]
fn asking_for_entries_is_no_consumer_and_stopping_one_is_its_end() {
    with_one_and_four(|mut world| {
        world.declare("jobs", settings(|it| it.auto_delete = true));
        let client = open(&mut world, "client");
        fill(&mut world, client, "jobs", 3);
        let got = get(&mut world, client, (1, "jobs")).unwrap().unwrap();
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(2, 0));
        world.settle(client, got.delivery.id, Outcome::Released);
        get(&mut world, client, (1, "jobs")).unwrap().unwrap();
        end(&mut world, client);

        let client = open(&mut world, "client");
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(3, 0));
        consume_as(&mut world, client, (2, "jobs"), Credit::Window(2)).unwrap();
        consume_as(&mut world, client, (3, "jobs"), Credit::Window(1)).unwrap();
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(0, 2));
        stop(&mut world, client, 2);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), counts(0, 1));
        stop(&mut world, client, 3);
        assert_eq!(world.queue(client, "jobs", QueueCommand::Inspect), missing("jobs"));
        assert_eq!(ended(&mut world, client), [0; 0], "it has ended them itself");
    });
}

#[test]
fn asking_for_an_entry_is_use_also_where_there_is_none() {
    with_one_and_four(|mut world| {
        let client = open(&mut world, "client");
        world.queue(client, "jobs", declare(&expiring())).unwrap();
        for _ in 0..3 {
            pass(&mut world, 59_000);
            assert_eq!(get(&mut world, client, (1, "jobs")), Ok(None));
        }
        pass(&mut world, 30_000);
        let mut world = world.crash(47);
        pass(&mut world, 28_000);
        assert!(exists(&mut world, "jobs"), "59 seconds");
        let client = open(&mut world, "client");
        consume_as(&mut world, client, (2, "jobs"), Credit::Window(1)).unwrap();
        pass(&mut world, 600_000);
        stop(&mut world, client, 2);
        pass(&mut world, 59_000);
        assert!(exists(&mut world, "jobs"));
        pass(&mut world, 1_000);
        assert!(!exists(&mut world, "jobs"));
    });
}

#[test]
fn an_owned_queue_gives_its_entries_to_its_connection_alone() {
    with_one_and_four(|mut world| {
        let owned = settings(|it| it.lifetime = Lifetime::Owned);
        let (owner, other) = (open(&mut world, "owner"), open(&mut world, "other"));
        world.queue(owner, "mine", declare(&owned)).unwrap();
        fill(&mut world, other, "mine", 2);
        let locked = Refusal::from(QueueRefusal::Locked { queue: "mine".to_owned() });

        let refused = consume_as(&mut world, other, (1, "mine"), Credit::Window(1));
        assert_eq!(refused, Err(locked.clone()));
        assert_eq!(get(&mut world, other, (2, "mine")), Err(locked));

        consume_as(&mut world, owner, (1, "mine"), Credit::Window(1)).unwrap();
        assert_eq!(text(&world.deliveries(owner)[0]), "0");
        let got = get(&mut world, owner, (2, "mine")).unwrap().unwrap();
        assert_eq!(text(&got.delivery), "1");
    });
}
