//! Stock clients of AMQP 0.9.1 do their everyday job: amqplib in Node, aio-pika, kombu and Celery for Python, lapin for Rust, and Debian's
//! amqp-tools; `pika` and `cross` have MQTT's at the other end.
//!
//! What each does is in its script, which runs against RabbitMQ as well: declare, bind, publish with confirms, consume with a prefetch,
//! settle in every way, get, returns, headers of all types, dead letters, streams, questions and answers, and coming back when the
//! broker does. `FLUXMQ_LAPIN` names the program that `lapin/` makes: a package of its own, so that nobody else builds lapin.
//! `FLUXMQ_PY_AMQP` is the unpacked source distribution of py-amqp, whose own tests run too.

mod cross;
pub mod pika;
mod tools;

use std::path::{Path, PathBuf};

use crate::process::{BrokerProcess, Start};
use crate::program::{Program, is_installed, is_there, run};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/amqp");

/// A program that plays scenes, and what comes before the address.
struct Client {
    program: String,
    arguments: Vec<String>,
}

impl Client {
    /// A script in Python, if what it imports is installed.
    fn python(script: &str, packages: &str) -> Option<Client> {
        let program = python();
        let is_installed = is_installed(&program, &["-c", &format!("import {packages}")]);
        // No compiled files beside the sources.
        let arguments = vec!["-uB".to_owned(), format!("{FOLDER}/{script}")];
        is_installed.then_some(Client { program, arguments })
    }

    /// The script in Node, if its package is there.
    fn node() -> Option<Client> {
        let modules = std::env::var_os("FLUXMQ_NODE_MODULES").unwrap_or_default();
        let package = PathBuf::from(modules).join("amqplib/package.json");
        let is_installed =
            is_installed("node", &["--version"]) && is_there(&package, "FLUXMQ_NODE_MODULES");
        let arguments = vec![format!("{FOLDER}/amqplib_client.mjs")];
        is_installed.then_some(Client { program: "node".to_owned(), arguments })
    }

    /// The program that `lapin/` makes, if it is there.
    fn lapin() -> Option<Client> {
        let program = std::env::var("FLUXMQ_LAPIN").unwrap_or_default();
        let is_built = is_there(Path::new(&program), "FLUXMQ_LAPIN");
        is_built.then_some(Client { program, arguments: Vec::new() })
    }

    fn start(&self, addresses: &[&str], scene: &str) -> Program {
        let of_client = self.arguments.iter().map(String::as_str);
        let all: Vec<&str> = of_client.chain(addresses.iter().copied()).chain([scene]).collect();
        Program::start(&self.program, &all, "")
    }

    /// Plays scenes, one after the other, against one broker.
    fn play(&self, scenes: &[&str]) {
        let data = tempfile::tempdir().unwrap();
        let mut broker = start(data.path(), "127.0.0.1:0");
        let amqp = broker.address_of("amqp");
        let (host, port) = amqp.rsplit_once(':').unwrap();
        for scene in scenes {
            eprintln!("{scene}");
            self.start(&[host, port], scene).finish();
        }
    }

    /// Plays the scene in which the broker is killed and comes back at its address.
    fn recover(&self) {
        let data = tempfile::tempdir().unwrap();
        let mut broker = start(data.path(), "127.0.0.1:0");
        let amqp = broker.address_of("amqp");
        let (host, port) = amqp.rsplit_once(':').unwrap();
        let mut client = self.start(&[host, port], "recover");
        client.expect("ready");
        broker.kill();
        let _broker = start(data.path(), &amqp);
        client.finish();
    }
}

fn python() -> String {
    std::env::var("FLUXMQ_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// A broker with a listener for AMQP at an address, beside the one for MQTT.
fn start(data: &Path, amqp: &str) -> BrokerProcess {
    let variables = vec![("FLUXMQ_LISTENERS__AMQP__0__ADDRESS", amqp.to_owned())];
    BrokerProcess::start_with(data, &Start { variables, ..Start::default() })
}

#[test]
fn aio_pika_does_its_everyday_job() {
    let Some(client) = Client::python("aio_pika_client.py", "aio_pika") else { return };
    client.play(&["everyday", "properties", "death", "refusals", "stream", "rpc", "cancelled"]);
}

#[test]
fn aio_pika_comes_back_when_its_broker_does() {
    if let Some(client) = Client::python("aio_pika_client.py", "aio_pika") {
        client.recover();
    }
}

#[test]
fn kombu_does_its_everyday_job() {
    let Some(client) = Client::python("kombu_client.py", "kombu, amqp") else { return };
    client.play(&["everyday", "properties", "exchanges", "death", "cancelled", "rpc"]);
}

#[test]
fn kombu_comes_back_when_its_broker_does() {
    if let Some(client) = Client::python("kombu_client.py", "kombu, amqp") {
        client.recover();
    }
}

#[test]
fn amqplib_does_its_everyday_job() {
    let Some(client) = Client::node() else { return };
    client.play(&["everyday", "properties", "death", "refusals", "stream", "rpc"]);
}

#[test]
fn amqplib_comes_back_when_its_broker_does() {
    if let Some(client) = Client::node() {
        client.recover();
    }
}

#[test]
fn lapin_does_its_everyday_job() {
    let Some(client) = Client::lapin() else { return };
    client.play(&["everyday", "properties", "death", "refusals", "stream", "rpc"]);
}

#[test]
fn lapin_comes_back_when_its_broker_does() {
    if let Some(client) = Client::lapin() {
        client.recover();
    }
}

/// Its own tests against a broker, out of its source distribution: those that need no TLS.
#[test]
fn py_amqp_passes_its_integration_tests() {
    let folder = std::env::var("FLUXMQ_PY_AMQP").unwrap_or_default();
    let file = Path::new(&folder).join("t/integration/test_rmq.py");
    let python = python();
    if !is_there(&file, "FLUXMQ_PY_AMQP") || !is_installed(&python, &["-c", "import pytest, vine"])
    {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut broker = start(data.path(), "127.0.0.1:0");
    let amqp = broker.address_of("amqp");
    let (host, port) = amqp.rsplit_once(':').unwrap();
    let (host, port) = (format!("RABBITMQ_HOST={host}"), format!("RABBITMQ_5672_TCP={port}"));
    let of_pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"];
    let tests = ["-k", "plain", "t/integration/test_rmq.py"];
    let with = ["-C", &folder, &host, &port, "PYTHONDONTWRITEBYTECODE=1", &python];
    let said = run("env", &[&with[..], &of_pytest, &tests].concat(), "");
    assert!(said.iter().any(|line| line.starts_with("12 passed")), "{}", said.join("\n"));
}

/// A worker and its client: chains, groups, retries, tasks that wait for their time, failures, and control by broadcast.
#[test]
fn celery_runs_its_tasks() {
    let python = python();
    if !is_installed(&python, &["-c", "import celery"]) {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut broker = start(data.path(), "127.0.0.1:0");
    let address = format!("FLUXMQ_AMQP={}", broker.address_of("amqp"));
    let path = format!("PYTHONPATH={FOLDER}");
    // No compiled files beside the sources.
    let with = [&address[..], &path, "PYTHONDONTWRITEBYTECODE=1", &python];
    let worker = ["-m", "celery", "-A", "celery_app", "worker", "--pool", "solo", "-l", "info"];
    let mut worker = Program::start("env", &[&with[..], &worker].concat(), "");
    worker.expect(" ready.");
    let script = format!("{FOLDER}/celery_client.py");
    Program::start("env", &[&with[..], &["-u", &script]].concat(), "").finish();
    // Its client has told it to end.
    worker.finish();
}
