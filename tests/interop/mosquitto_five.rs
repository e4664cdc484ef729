//! mosquitto's clients on what 5.0 adds and what is large: mosquitto_rr, properties, shared subscriptions, unsubscribing.

use crate::mosquitto::{Stage, are_clients_installed, messages};
use crate::program::is_installed;

#[test]
fn a_request_of_mosquitto_rr_gets_its_response() {
    if !are_clients_installed() || !is_installed("mosquitto_rr", &[]) {
        return;
    }
    let stage = Stage::new();
    let said_by_the_question = "ASKED %R %D %p";
    let mut answerer =
        stage.subscriber(&["-V", "5", "-t", "ask", "-C", "1", "-F", said_by_the_question]);
    let question = ["-V", "5", "-t", "ask", "-e", "answers/7", "-m", "how late?", "-q", "1"];
    let correlation = ["-D", "publish", "correlation-data", "nr-7", "-W", "20"];
    let asker = stage.start("mosquitto_rr", &[&question[..], &correlation].concat(), "");

    answerer.expect("ASKED answers/7 nr-7 how late?");
    let answer = ["-V", "5", "-t", "answers/7", "-m", "very", "-q", "1"];
    let correlation = ["-D", "publish", "correlation-data", "nr-7"];
    stage.publish(&[&answer[..], &correlation].concat(), "");

    let said = asker.finish();
    assert!(said.iter().any(|line| line == "very"), "{}", said.join("\n"));
}

#[test]
fn properties_arrive_as_they_were_published() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    let format = "HAS %C|%F|%R|%D|%P|%S";
    let identifier = ["-D", "subscribe", "subscription-identifier", "77"];
    let options = ["-V", "5", "-t", "props/#", "-q", "1", "-C", "1", "-F", format];
    let subscriber = stage.subscriber(&[&options[..], &identifier].concat());

    let properties = [
        ["content-type", "text/plain"],
        ["payload-format-indicator", "1"],
        ["response-topic", "answers"],
        ["correlation-data", "nr-7"],
    ];
    let mut arguments = vec!["-V", "5", "-t", "props/x", "-q", "1", "-m", "x"];
    for [name, value] in properties {
        arguments.extend(["-D", "publish", name, value]);
    }
    for [key, value] in [["b", "1"], ["a", "2"]] {
        arguments.extend(["-D", "publish", "user-property", key, value]);
    }
    stage.publish(&arguments, "");

    let said = subscriber.finish();
    let expected = "HAS text/plain|1|answers|nr-7|b:1 a:2|77";
    assert!(said.iter().any(|line| line == expected), "{}", said.join("\n"));
}

#[test]
fn a_large_payload_arrives_whole() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    let payload = "0123456789abcdef".repeat(60 << 10);
    for version in ["311", "5"] {
        let subscriber = stage.subscriber(&[
            "-V", version, "-t", "large", "-q", "2", "-C", "1", "-F", "BYTES %l", "-N",
        ]);
        stage.publish(&["-V", version, "-t", "large", "-q", "2", "-s"], &payload);
        let said = subscriber.finish().join("\n");
        assert!(said.contains(&format!("BYTES {}", payload.len())), "{version}: {said}");
    }
}

#[test]
fn what_was_unsubscribed_is_not_heard() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    for version in ["31", "311", "5"] {
        let mut subscriber = stage
            .subscriber(&["-V", version, "-t", "a", "-t", "b", "-U", "a", "-q", "1", "-C", "1"]);
        subscriber.expect("received UNSUBACK");
        stage.publish(&["-V", version, "-t", "a", "-q", "1", "-m", "no"], "");
        stage.publish(&["-V", version, "-t", "b", "-q", "1", "-m", "yes"], "");
        let said = subscriber.finish();
        assert_eq!(messages(&said), ["b 1 0 yes"], "version {version}");
    }
}
