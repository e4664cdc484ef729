//! Debian's amqp-tools: a shell's way to a queue, and MQTT at the other end of it.

use super::start;
use crate::mosquitto::are_clients_installed;
use crate::program::{Program, is_installed, run};

/// The tools, at one broker.
struct Tools {
    port: String,
}

impl Tools {
    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let account = ["--username=guest", "--password=guest"];
        [&["-s", "127.0.0.1", &self.port], &account[..], arguments].concat()
    }

    fn run(&self, tool: &str, arguments: &[&str], input: &str) -> Vec<String> {
        run(tool, &self.arguments(arguments), input)
    }

    /// Runs one that is to fail, with a word of why.
    fn fail(&self, tool: &str, arguments: &[&str], expected: &str) {
        let ((code, name), said) = Program::start(tool, &self.arguments(arguments), "").end();
        assert!(code.is_some_and(|code| code != 0), "{name} ends with {code:?}");
        let said = said.join("\n");
        assert!(said.contains(expected), "{name}:\n{said}");
    }
}

/// A broker and the tools for it, if they are installed; and where MQTT is.
fn with_tools(play: impl FnOnce(Tools, &str)) {
    if !is_installed("amqp-publish", &["--help"]) {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut broker = start(data.path(), "127.0.0.1:0");
    let amqp = broker.address_of("amqp");
    let (_, port) = amqp.rsplit_once(':').unwrap();
    play(Tools { port: format!("--port={port}") }, &broker.address_of("mqtt"));
}

#[test]
fn amqp_tools_work_through_a_queue() {
    with_tools(|tools, _| {
        assert_eq!(tools.run("amqp-declare-queue", &["-q", "tools", "-d"], ""), ["tools"]);
        let publish = ["-r", "tools", "-p", "-l", "-C", "text/plain", "-H", "key: value"];
        tools.run("amqp-publish", &publish, "one\ntwo\nthree\n");
        assert_eq!(tools.run("amqp-get", &["-q", "tools"], ""), ["one"]);
        let consume = ["-q", "tools", "-c", "2", "-p", "1", "cat"];
        assert_eq!(tools.run("amqp-consume", &consume, ""), ["two", "three"]);
        // Nothing is left, which is its exit code.
        tools.fail("amqp-get", &["-q", "tools"], "");
        tools.run("amqp-publish", &["-r", "tools", "-b", "four"], "");
        tools.fail("amqp-delete-queue", &["-q", "tools", "-e"], "406");
        assert_eq!(tools.run("amqp-delete-queue", &["-q", "tools"], ""), ["1"]);
        tools.fail("amqp-get", &["-q", "tools"], "404");
        tools.fail("amqp-publish", &["-e", "missing", "-r", "x", "-b", "y"], "404");
    });
}

#[test]
fn amqp_tools_and_mosquitto_publish_to_each_other() {
    if !are_clients_installed() {
        return;
    }
    with_tools(|tools, mqtt| {
        let (host, port) = mqtt.rsplit_once(':').unwrap();
        let at = ["-h", host, "-p", port];
        assert_eq!(tools.run("amqp-declare-queue", &["-q", "tools", "-d"], ""), ["tools"]);
        let publish = ["-t", "$queue/tools", "-q", "1", "-m", "21.5"];
        run("mosquitto_pub", &[&at[..], &publish].concat(), "");
        assert_eq!(tools.run("amqp-consume", &["-q", "tools", "-c", "1", "cat"], ""), ["21.5"]);

        // Line by line even into a pipe.
        let print = ["-oL", "mosquitto_sub", "-d", "-t", "site/#", "-C", "1", "-F", "%t %p"];
        let mut subscriber = Program::start("stdbuf", &[&print[..], &at].concat(), "");
        subscriber.expect("Subscribed (mid");
        tools.run("amqp-publish", &["-e", "amq.topic", "-r", "site.2.temp", "-b", "19"], "");
        let said = subscriber.finish();
        assert!(said.iter().any(|line| line == "site/2/temp 19"), "{}", said.join("\n"));
    });
}
