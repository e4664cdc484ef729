//! mosquitto_pub and mosquitto_sub: every version and quality of service, retained messages, wills.

use crate::process::BrokerProcess;
use crate::program::{Program, is_installed, run};

/// The versions mosquitto's clients speak, as they name them.
pub const VERSIONS: [&str; 3] = ["31", "311", "5"];
/// What a subscriber prints of a message: topic, QoS, retained, payload.
pub const FORMAT: &str = "GOT %t %q %r %p";

/// Returns true when both clients are there.
pub fn are_clients_installed() -> bool {
    let programs = [("mosquitto_pub", &[][..]), ("mosquitto_sub", &[]), ("stdbuf", &["--version"])];
    programs.iter().all(|(program, arguments)| is_installed(program, arguments))
}

/// A broker on an empty directory, and how mosquitto's clients reach it.
pub struct Stage {
    /// `None` between a kill and a start.
    broker: Option<BrokerProcess>,
    /// Removed after the broker is gone.
    pub data: tempfile::TempDir,
}

impl Stage {
    /// Starts a broker.
    pub fn new() -> Stage {
        let data = tempfile::tempdir().unwrap();
        let broker = Some(BrokerProcess::start(data.path()));
        Stage { data, broker }
    }

    /// Kills the broker with SIGKILL and starts it again.
    pub fn kill_and_start(&mut self) {
        self.kill();
        self.restart();
    }

    /// Starts the broker that was killed.
    pub fn restart(&mut self) {
        self.broker = Some(BrokerProcess::start(self.data.path()));
    }

    /// Kills the broker with SIGKILL.
    pub fn kill(&mut self) {
        self.broker.take().unwrap().kill();
    }

    /// Starts a subscriber that says what it does, and waits for its subscription.
    pub fn subscriber(&self, arguments: &[&str]) -> Program {
        let mut subscriber = self.start("mosquitto_sub", arguments, "");
        subscriber.expect("Subscribed (mid");
        subscriber
    }

    /// Starts one of the clients, with the messages of each as [`FORMAT`] and what it does printed.
    pub fn start(&self, program: &str, arguments: &[&str], input: &str) -> Program {
        let port = self.port();
        // Line by line even into a pipe: the test waits for what they say.
        let mut all = vec!["-oL", program, "-p", &port, "-d"];
        if program == "mosquitto_sub" {
            all.extend(["-F", FORMAT]);
        }
        all.extend(arguments);
        Program::start("stdbuf", &all, input)
    }

    /// Publishes with mosquitto_pub.
    pub fn publish(&self, arguments: &[&str], input: &str) {
        let port = self.port();
        run("mosquitto_pub", &[&["-p", &port], arguments].concat(), input);
    }

    /// The broker's port.
    pub fn port(&self) -> String {
        let address = self.broker.as_ref().unwrap().address();
        address.rsplit_once(':').unwrap().1.to_owned()
    }
}

/// Returns the messages among the lines of a subscriber.
pub fn messages(lines: &[String]) -> Vec<&str> {
    lines.iter().filter_map(|line| line.strip_prefix("GOT ")).collect()
}

#[test]
fn every_version_and_quality_of_service_goes_through_in_order() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let topic = format!("stock/{version}/{qos}");
            let filter = format!("{topic}/#");
            let subscriber =
                stage.subscriber(&["-V", version, "-q", qos, "-t", &filter, "-C", "5"]);

            stage.publish(&["-V", version, "-q", qos, "-t", &topic, "-l"], "a\nb\nc\nd\ne\n");

            let lines = subscriber.finish();
            let expected = ["a", "b", "c", "d", "e"].map(|body| format!("{topic} {qos} 0 {body}"));
            assert_eq!(messages(&lines), expected, "version {version}, QoS {qos}");
        }
    }
}

#[test]
fn a_version_hears_what_another_publishes() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    for (speaks, hears) in [("31", "5"), ("5", "311"), ("311", "31")] {
        let topic = format!("mixed/{speaks}");
        let subscriber = stage.subscriber(&["-V", hears, "-q", "2", "-t", &topic, "-C", "1"]);

        stage.publish(&["-V", speaks, "-q", "1", "-t", &topic, "-m", "x"], "");

        let lines = subscriber.finish();
        assert_eq!(messages(&lines), [format!("{topic} 1 0 x")], "{speaks} to {hears}");
    }
}

#[test]
fn a_retained_message_survives_a_kill_greets_subscribers_and_can_be_removed() {
    if !are_clients_installed() {
        return;
    }
    let mut stage = Stage::new();
    for version in VERSIONS {
        let topic = format!("kept/{version}");
        stage.publish(&["-V", version, "-q", "1", "-r", "-t", &topic, "-m", "old"], "");
        stage.publish(&["-V", version, "-q", "1", "-r", "-t", &topic, "-m", "new"], "");
        stage.kill_and_start();

        let greeted = stage.start("mosquitto_sub", &["-V", version, "-t", &topic, "-C", "1"], "");
        let lines = greeted.finish();
        assert_eq!(messages(&lines), [format!("{topic} 0 1 new")], "version {version}");

        stage.publish(&["-V", version, "-q", "1", "-r", "-t", &topic, "-n"], "");
        let subscriber = stage.subscriber(&["-V", version, "-t", &topic, "-C", "1"]);
        stage.publish(&["-V", version, "-q", "1", "-t", &topic, "-m", "live"], "");
        let lines = subscriber.finish();
        assert_eq!(messages(&lines), [format!("{topic} 0 0 live")], "version {version}");
    }
}

#[test]
fn a_will_is_published_when_a_client_dies_and_not_when_it_leaves() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    for version in VERSIONS {
        let topic = format!("will/{version}");
        let will = ["--will-topic", &topic, "--will-payload", "dead", "--will-qos", "1"];
        let with_will = [&["-V", version, "-t", "unused"][..], &will].concat();
        let subscriber = stage.subscriber(&["-V", version, "-q", "1", "-t", &topic, "-C", "2"]);

        // mosquitto_pub says goodbye when it is done.
        let leaving = [&["-V", version, "-t", "unused", "-m", "x"][..], &will].concat();
        stage.publish(&leaving, "");
        stage.publish(&["-V", version, "-q", "1", "-t", &topic, "-m", "left"], "");
        stage.subscriber(&with_will).kill();

        let lines = subscriber.finish();
        let expected = [format!("{topic} 1 0 left"), format!("{topic} 1 0 dead")];
        assert_eq!(messages(&lines), expected, "version {version}");
    }
}

#[test]
fn the_brokers_statistics_greet_subscribers_of_every_version_under_mosquittos_names() {
    if !are_clients_installed() {
        return;
    }
    let stage = Stage::new();
    stage.publish(&["-q", "1", "-r", "-t", "kept", "-m", "x"], "");
    for version in VERSIONS {
        let arguments = ["-V", version, "-t", "$SYS/#"];
        let mut subscriber = stage.start("mosquitto_sub", &arguments, "");
        // In the order of their names: the last one.
        subscriber.expect("GOT $SYS/broker/version 0 1 ");

        let lines = subscriber.stop();
        for name in [
            "version",
            "uptime",
            "clients/connected",
            "clients/total",
            "clients/disconnected",
            "clients/maximum",
            "messages/received",
            "messages/sent",
            "messages/stored",
            "publish/messages/dropped",
            "bytes/received",
            "subscriptions/count",
            "retained messages/count",
            "retained/count",
            "load/messages/received/1min",
        ] {
            let begins = format!("$SYS/broker/{name} 0 1 ");
            let values = messages(&lines).into_iter().filter(|line| line.starts_with(&begins));
            assert!(values.count() >= 1, "version {version} does not get {name}: {lines:?}");
        }
    }
}
