//! Our own tools as programs, with mosquitto's on the other side.

use std::process::{Command, Stdio};

use crate::mosquitto::{Stage, are_clients_installed};
use crate::program::{Program, run};

const MQTTCTL: &str = env!("CARGO_BIN_EXE_mqttctl");

fn mqttctl<'a>(arguments: &[&'a str], address: &'a str) -> Vec<&'a str> {
    [arguments, &["-a", address]].concat()
}

#[test]
fn requests_of_ours_are_answered_by_mosquitto_one_after_the_other() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    let address = format!("127.0.0.1:{}", stage.port());
    let format = "ASKED %R %D %p";
    let mut answerer = stage.subscriber(&["-V", "5", "-q", "1", "-t", "ask", "-F", format]);
    let line = ["request", "ask", "--stdin-lines", "-q", "1", "-W", "20"];
    let asker = Program::start(MQTTCTL, &mqttctl(&line, &address), "how late?\nhow far?\n");
    for (question, answer) in [("how late?", "very"), ("how far?", "not very")] {
        answerer.expect(question);
        let asked = answerer.said.iter().rfind(|line| line.contains(question)).unwrap();
        let mut words = asked.split(' ').skip(1);
        let (topic, data) = (words.next().unwrap(), words.next().unwrap());
        let with = |data| ["-D", "publish", "correlation-data", data];
        let answer = ["-V", "5", "-q", "1", "-t", topic, "-m", answer];
        // Somebody else's comes first, and is not taken.
        let wrong = ["-V", "5", "-q", "1", "-t", topic, "-m", "wrong"];
        stage.publish(&[&wrong[..], &with("other")].concat(), "");
        stage.publish(&[&answer[..], &with(data)].concat(), "");
    }

    assert_eq!(asker.finish(), ["very", "not very"]);
}

#[test]
fn a_request_without_a_response_ends_in_time_and_one_that_is_refused_at_once() {
    let stage = Stage::new();
    let address = format!("127.0.0.1:{}", stage.port());
    let end = |line: &[&str]| {
        let ((code, _), said) = Program::start(MQTTCTL, &mqttctl(line, &address), "").end();
        (code, said.join("\n"))
    };

    let (code, said) = end(&["request", "ask", "-m", "x", "-W", "1", "--json"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no response within 1 s"), "{said}");
    let (code, said) = end(&["request", "$SYS/ask", "-m", "x", "-W", "600", "--json"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("\"reason_code\":144"), "{said}");
}

#[test]
fn retained_messages_are_listed_and_removed() {
    let stage = Stage::new();
    let address = format!("127.0.0.1:{}", stage.port());
    let say = |arguments: &[&str]| run(MQTTCTL, &mqttctl(arguments, &address), "");
    for topic in ["old/1", "old/2", "old/keep"] {
        say(&["publish", topic, "-m", topic, "-r", "-q", "1"]);
    }

    let only = ["subscribe", "old/#", "--retained-only", "--idle", "1", "-F", "%t"];
    let mut listed = say(&only);
    say(&["subscribe", "old/#", "-T", "old/keep", "--remove-retained", "--idle", "1"]);
    let left = say(&only);

    listed.sort();
    assert_eq!(listed, ["old/1", "old/2", "old/keep"]);
    assert_eq!(left, ["old/keep"]);
}

#[test]
fn a_session_is_made_without_staying_and_read_later() {
    let stage = Stage::new();
    let address = format!("127.0.0.1:{}", stage.port());
    let say = |arguments: &[&str]| run(MQTTCTL, &mqttctl(arguments, &address), "");
    let session = ["-i", "worker", "--resume", "--session-expiry", "600", "-q", "1"];
    say(&[&["subscribe", "a/#", "b", "-E"], &session[..]].concat());
    for topic in ["a/1", "b", "c"] {
        say(&["publish", topic, "-m", topic, "-q", "1", "--topic-alias", "3", "--count", "2"]);
    }

    let mut said = say(&[&["subscribe", "a/#", "--count", "4"], &session[..]].concat());
    say(&[&["subscribe", "--unsubscribe", "b", "-E"], &session[..]].concat());
    say(&["publish", "b", "-m", "late", "-q", "1"]);
    let rest = say(&[&["subscribe", "a/#", "--idle", "1"], &session[..]].concat());

    said.sort();
    assert_eq!(said, ["a/1", "a/1", "b", "b"]);
    assert_eq!(rest, Vec::<String>::new());
}

#[test]
fn progress_on_standard_error_says_how_much_of_history_came() {
    let stage = Stage::new();
    let address = format!("127.0.0.1:{}", stage.port());
    let numbers: String = (1..=300).map(|number| format!("{number}\n")).collect();
    let publish = mqttctl(&["publish", "past/a", "--stdin-lines", "-q", "1"], &address);
    run(MQTTCTL, &publish, &numbers);
    let both = |line: &[&str]| {
        let output =
            Command::new(MQTTCTL).args(mqttctl(line, &address)).stdin(Stdio::null()).output();
        let output = output.unwrap();
        let [said, aside] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{line:?}: {aside}");
        (said.lines().count(), aside.lines().last().unwrap_or_default().to_owned())
    };
    let from = ["--from", "earliest", "--progress"];

    let (count, aside) = both(&[&["replay", "past/a"], &from[..]].concat());
    assert!(count == 300 && aside.starts_with("300 messages in "), "{count}: {aside}");
    assert!(aside.ends_with("/s 100 %"), "{aside}");
    assert_eq!(
        both(&["replay", "past/none", "--progress"]),
        (0, "0 messages in 0 s, 0/s".to_owned())
    );

    // Half of it, and what there is with a message behind it.
    let (count, aside) = both(&[&["subscribe", "past/a", "-c", "150"], &from[..]].concat());
    assert!(count == 150 && aside.ends_with("/s 50 %"), "{count}: {aside}");
    let whole = ["subscribe", "past/a", "--idle", "2"];
    let (count, aside) = both(&[&whole, &from[..]].concat());
    assert!(count == 300 && aside.ends_with("/s 100 %"), "{count}: {aside}");

    // Of what no history is asked for, and of several replays, nobody knows the whole.
    let several = ["subscribe", "past/a", "past/+", "-c", "450"];
    let (count, aside) = both(&[&several, &from[..]].concat());
    assert!(count == 450 && aside.ends_with("/s"), "{count}: {aside}");
}
