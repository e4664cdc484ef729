//! MQTT.js: in Node over TCP and WebSocket, and on a page in headless Chromium.
//!
//! `scenes.mjs` is what all three play: every quality of service both ways, retained messages, wills, sessions, large payloads, requests
//! and responses, shared subscriptions. `FLUXMQ_NODE_MODULES` names the folder that has the package; without it nothing runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use crate::process::{BrokerProcess, Start};
use crate::program::{Program, is_installed, is_there, run};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");
const PAGE: &str = r#"<!doctype html><title>MQTT</title><script src="/mqtt.js"></script><script type="module">
import { play } from "/scenes.mjs";
const broker = new URLSearchParams(location.search).get("broker");
play(mqtt, broker, console.log).catch((error) => console.log(`failed: ${error.stack}`));
</script>"#;
/// What the programs of Chromium are called.
const CHROMIUM: [&str; 2] = ["chromium", "chromium-browser"];
const CHROMIUM_FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
];

/// The folder that has the package, if it is there.
fn node_modules() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("FLUXMQ_NODE_MODULES").unwrap_or_default());
    let is_installed = is_there(&folder.join("mqtt/package.json"), "FLUXMQ_NODE_MODULES");
    is_installed.then_some(folder)
}

/// A broker with a listener for TCP and one for WebSocket, and the addresses of both.
fn start(data: &Path) -> (BrokerProcess, String) {
    let variables = vec![("FLUXMQ_LISTENERS__WS__0__ADDRESS", "127.0.0.1:0".to_owned())];
    let mut broker = BrokerProcess::start_with(data, &Start { variables, ..Start::default() });
    let address = broker.address_of("ws");
    (broker, format!("ws://{address}/mqtt"))
}

fn node_plays(url: &str) {
    let script = format!("{FOLDER}/mqttjs_client.mjs");
    let said = run("node", &[&script, url], "");
    assert_eq!(said.last().map(String::as_str), Some("all scenes: good"), "{}", said.join("\n"));
}

#[test]
fn mqtt_js_plays_every_scene_over_tcp() {
    if !is_installed("node", &["--version"]) || node_modules().is_none() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(data.path());
    node_plays(&format!("mqtt://{}", broker.address()));
}

#[test]
fn mqtt_js_plays_every_scene_over_websocket() {
    if !is_installed("node", &["--version"]) || node_modules().is_none() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let (_broker, url) = start(data.path());
    node_plays(&url);
}

#[test]
fn a_page_in_chromium_plays_every_scene() {
    let found = CHROMIUM.iter().find(|it| crate::program::can_run(it, &["--version"]));
    let chromium = found.unwrap_or(&CHROMIUM[0]);
    let Some(modules) = node_modules().filter(|_| is_installed(chromium, &["--version"])) else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let (_broker, url) = start(data.path());
    let pages = serve(modules.join("mqtt/dist/mqtt.min.js"));

    let profile = tempfile::tempdir().unwrap();
    let profile = format!("--user-data-dir={}", profile.path().display());
    let page = format!("http://{pages}/?broker={url}");
    let mut browser =
        Program::start(chromium, &[&CHROMIUM_FLAGS[..], &[&profile, &page]].concat(), "");
    browser.expect("all scenes: good");
    browser.kill();
}

/// Serves the page and what it loads, for as long as the test lives; returns its address.
fn serve(library: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let library = library.clone();
            // A browser opens connections that it does not use at once.
            std::thread::spawn(move || answer(stream, &library));
        }
    });
    address
}

/// Answers one request.
fn answer(mut stream: TcpStream, library: &Path) -> Option<()> {
    let mut request = String::new();
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    lines.read_line(&mut request).ok()?;
    let path = request.split_whitespace().nth(1)?.split('?').next()?.to_owned();
    let scenes = PathBuf::from(format!("{FOLDER}/scenes.mjs"));
    let read = |path: &Path| -> Option<Vec<u8>> {
        let mut body = Vec::new();
        std::fs::File::open(path).ok()?.read_to_end(&mut body).ok().map(|_| body)
    };
    let (status, kind, body) = match path.as_str() {
        "/" => ("200 OK", "text/html", PAGE.as_bytes().to_vec()),
        "/mqtt.js" => ("200 OK", "text/javascript", read(library)?),
        "/scenes.mjs" => ("200 OK", "text/javascript", read(&scenes)?),
        _ => ("404 Not Found", "text/plain", Vec::new()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}
