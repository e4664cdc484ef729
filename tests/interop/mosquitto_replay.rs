//! mosquitto's clients read what was published before they came: history, then live, also around a broker that is killed.

use std::collections::BTreeSet;

use crate::mosquitto::{Stage, VERSIONS, are_clients_installed, messages};
use crate::program::{Program, run};

fn lines(range: std::ops::RangeInclusive<usize>) -> String {
    range.map(|number| format!("{number}\n")).collect()
}

#[test]
fn every_version_replays_what_a_killed_broker_had_and_goes_on_live() {
    if !are_clients_installed() {
        return;
    }
    let mut stage = Stage::new();
    stage.publish(&["-q", "1", "-t", "past/a", "-l"], &lines(1..=150));
    stage.publish(&["-q", "2", "-t", "past/b/c", "-l"], &lines(1..=150));
    stage.publish(&["-q", "1", "-t", "other", "-l"], &lines(1..=10));
    stage.kill_and_start();

    for (round, version) in VERSIONS.into_iter().enumerate() {
        let replay = ["-V", version, "-q", "2", "-t", "$replay/earliest/past/#"];
        let live = format!("live{round}");
        let count = (301 + round).to_string();
        let mut subscriber = stage.subscriber(&[&replay[..], &["-C", &count]].concat());
        subscriber.expect_count("GOT past/", 300);

        stage.publish(&["-q", "1", "-t", "past/d", "-m", &live], "");

        let said = subscriber.finish();
        let of = |topic: &str| -> Vec<String> {
            let prefix = format!("{topic} ");
            let got = messages(&said).into_iter();
            got.filter(|it| it.starts_with(&prefix)).map(str::to_owned).collect()
        };
        let expected = |topic: &str, qos: u8| -> Vec<String> {
            (1..=150).map(|number| format!("{topic} {qos} 0 {number}")).collect()
        };
        assert_eq!(of("past/a"), expected("past/a", 1), "version {version}");
        assert_eq!(of("past/b/c"), expected("past/b/c", 2), "version {version}");
        let tail: Vec<_> = (0..=round).map(|round| format!("past/d 1 0 live{round}")).collect();
        assert_eq!(of("past/d"), tail, "version {version}");
        assert_eq!(messages(&said).len(), 301 + round, "nothing else: version {version}");
    }
}

#[test]
fn a_replay_says_where_each_message_is() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    stage.publish(&["-q", "1", "-t", "past", "-l"], &lines(1..=20));

    let from = ["-D", "SUBSCRIBE", "user-property", "replay-from", "last=3"];
    let options = ["-V", "5", "-t", "past", "-C", "3", "-F", "HAS %p|%P"];
    let said = stage.start("mosquitto_sub", &[&options[..], &from].concat(), "").finish();

    let got: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix("HAS ")).collect();
    let numbers: Vec<&str> = got.iter().filter_map(|line| line.split('|').next()).collect();
    assert_eq!(numbers, ["18", "19", "20"]);
    for line in got {
        for name in ["x-stream-offset:", "x-stream-partition:", "x-stream-timestamp:"] {
            assert!(line.contains(name), "{line}");
        }
    }
}

#[test]
fn mqttctl_replays_what_was_stored_when_it_began_and_ends() {
    if !are_clients_installed() {
        return;
    }
    let mut stage = Stage::new();
    stage.publish(&["-q", "1", "-t", "past/a", "-l"], &lines(1..=300));
    stage.publish(&["-q", "1", "-r", "-t", "past/b", "-m", "kept"], "");
    stage.publish(&["-q", "1", "-t", "other", "-l"], &lines(1..=10));
    stage.kill_and_start();
    let port = stage.port();
    let replay = |arguments: &[&str]| -> Program {
        let mut all = vec!["replay", "-p", &port];
        all.extend(arguments);
        Program::start(env!("CARGO_BIN_EXE_mqttctl"), &all, "")
    };

    let said = replay(&["past/#", "-v"]).finish();
    let of_a: Vec<&String> = said.iter().filter(|line| line.starts_with("past/a ")).collect();
    let expected: Vec<String> = (1..=300).map(|number| format!("past/a {number}")).collect();
    assert_eq!(of_a, expected.iter().collect::<Vec<_>>());
    assert_eq!(said.iter().filter(|line| *line == "past/b kept").count(), 1);
    assert_eq!(said.len(), 301, "nothing else");

    let json = replay(&["past/a", "--from", "last=1", "--json"]).finish();
    let message: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(message["payload"], "300");
    let pairs = message["properties"]["user"].as_array().unwrap();
    let time = pairs.iter().find(|pair| pair[0] == "x-stream-timestamp").unwrap();
    let until = format!("timestamp={}", time[1].as_str().unwrap());
    assert!(replay(&["past/a", "--to", &until]).finish().contains(&"300".to_owned()));
    assert_eq!(replay(&["past/a", "--to", "timestamp=1"]).finish(), Vec::<String>::new());
    assert_eq!(replay(&["past/nothing"]).finish(), Vec::<String>::new());

    for (arguments, code) in [
        (&["past/#", "--from", "soon"][..], 1),
        (&["$queue/orders"], 3),
        (&["past/a", "--to", "soon"], 3),
        (&["past/a", "-V", "3.1.1"], 3),
    ] {
        let ((found, name), said) = replay(arguments).end();
        assert_eq!(found, Some(code), "{name}: {said:?}");
    }
    let subscribe = ["subscribe", "-p", &port, "past/a", "--from", "last=2", "--count", "2"];
    assert_eq!(run(env!("CARGO_BIN_EXE_mqttctl"), &subscribe, ""), ["299", "300"]);
}

#[test]
fn a_replay_that_a_kill_interrupts_goes_on_in_its_session() {
    if !are_clients_installed() {
        return;
    }
    let mut stage = Stage::new();
    stage.publish(&["-q", "1", "-t", "past", "-l"], &lines(1..=3000));
    let session = ["-V", "311", "-q", "1", "-c", "-i", "reader", "-t", "$replay/resume/past"];
    let mut reader = stage.start("mosquitto_sub", &session, "");
    reader.expect_count("GOT past", 500);

    stage.kill();
    let first = reader.stop();
    stage.restart();
    let last = stage.start("mosquitto_sub", &[&session[..], &["-W", "5"]].concat(), "");
    let second = last.end().1;

    let numbers = |said: &[String]| -> Vec<usize> {
        let payload = |it: &str| it.rsplit(' ').next().unwrap().parse().unwrap();
        messages(said).into_iter().map(payload).collect()
    };
    let (first, second) = (numbers(&first), numbers(&second));
    assert!(first.len() >= 500 && first.len() < 3000, "{}", first.len());
    assert!(first.is_sorted() && second.is_sorted(), "each in order");
    let all: BTreeSet<usize> = first.iter().chain(&second).copied().collect();
    assert_eq!(all, (1..=3000).collect(), "nothing is left out");
    // What was settled lately may come again at QoS 1, the history before it not.
    let again = first.len() + second.len() - 3000;
    assert!(again <= 1024, "{again} came twice");
}
