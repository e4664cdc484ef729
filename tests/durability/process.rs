//! A broker as users have it: the binary, a data directory, a port, signals and an exit code.
//!
//! The child is killed by its pid when the value is dropped. What it logged is kept, and printed when the test fails.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[path = "../kept/mod.rs"]
#[allow(dead_code, reason = "simulated disks are kept by other suites")]
mod kept;

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of the log that a failed test prints.
const LINES_SHOWN: usize = 60;

/// A running broker.
pub struct BrokerProcess {
    child: Child,
    address: String,
    log: Log,
    data: PathBuf,
}

/// How a broker ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Everything it said.
    pub log: String,
}

/// What to start it with, beside the data directory.
#[derive(Clone, Debug)]
pub struct Start {
    /// The address to listen on; empty leaves it to the file.
    pub listen: String,
    /// The file to read.
    pub config: Option<PathBuf>,
    /// Open files that it may have.
    pub open_files: Option<u64>,
    /// `FLUXMQ_…` variables, in addition to those of the test's own environment.
    pub variables: Vec<(&'static str, String)>,
}

impl Default for Start {
    fn default() -> Start {
        Start {
            listen: "127.0.0.1:0".to_owned(),
            config: None,
            open_files: None,
            variables: Vec::new(),
        }
    }
}

impl BrokerProcess {
    /// Starts a broker with the defaults and waits until it listens. Panics with its log if it does not.
    pub fn start(data: &Path) -> BrokerProcess {
        Self::start_with(data, &Start::default())
    }

    /// Starts a broker and waits until it listens. Panics with its log if it does not.
    pub fn start_with(data: &Path, start: &Start) -> BrokerProcess {
        match Self::try_start(data, start) {
            Ok(broker) => broker,
            Err(ended) => panic!(
                "the broker ended with {:?} instead of listening:\n{}",
                ended.code, ended.log
            ),
        }
    }

    /// Starts a broker and waits until it listens, or has ended by itself.
    pub fn try_start(data: &Path, start: &Start) -> Result<BrokerProcess, Ended> {
        let (mut child, mut log) = spawn(data, start);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match log.next(deadline) {
                Ok(line) => {
                    if let Some(address) = listening(&line) {
                        let data = data.to_owned();
                        return Ok(BrokerProcess { child, address, log, data });
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let (_, _) = (child.kill(), child.wait());
                    panic!("the broker neither listens nor ends:\n{}", log.text());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = wait(&mut child, deadline).expect("it closed its standard error");
                    return Err(Ended { code: status.code(), log: log.text() });
                }
            }
        }
    }

    /// Starts a broker and kills it after `life`, wherever it is by then.
    pub fn start_and_kill(data: &Path, start: &Start, life: Duration) {
        let (mut child, _log) = spawn(data, start);
        std::thread::sleep(life);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Where it listens, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens for another kind of connection, as its log names it.
    pub fn address_of(&mut self, protocol: &str) -> String {
        self.addresses_of(protocol, 1).remove(0)
    }

    /// Where its first `count` listeners of a kind are, in the order of the configuration.
    pub fn addresses_of(&mut self, protocol: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let protocol = format!("protocol=\"{protocol}\"");
        let of_it = |line: &str| listening(line).filter(|_| line.contains(&protocol));
        loop {
            let found: Vec<String> = self.log.text().lines().filter_map(of_it).collect();
            if found.len() >= count {
                return found;
            }
            self.log.next(deadline).expect("it says where it listens");
        }
    }

    /// Its process.
    #[allow(dead_code, reason = "tests/listeners uses it")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many lines of its log say so.
    #[allow(dead_code, reason = "tests/listeners uses it")]
    pub fn says(&self, words: &str) -> usize {
        self.log.text().lines().filter(|line| line.contains(words)).count()
    }

    /// Waits until `count` lines of its log say so.
    #[allow(dead_code, reason = "tests/listeners uses it")]
    pub fn expect(&mut self, words: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.says(words) < count {
            let next = self.log.next(deadline);
            assert!(next.is_ok(), "{} of {count} lines say '{words}'", self.says(words));
        }
    }

    /// Sends SIGHUP.
    #[allow(dead_code, reason = "tests/listeners uses it")]
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success(), "cannot signal process {pid}");
    }

    /// Bytes of memory that it occupies.
    #[cfg(target_os = "linux")]
    #[allow(dead_code, reason = "tests/interop uses it")]
    pub fn resident_bytes(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib << 10
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end with SIGTERM and returns how it did.
    pub fn terminate(mut self) -> Ended {
        self.ask_to_end();
        self.wait()
    }

    /// Sends SIGTERM and comes back at once.
    pub fn ask_to_end(&mut self) {
        self.signal("-TERM");
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> Ended {
        let status = wait(&mut self.child, Instant::now() + PATIENCE);
        let status =
            status.unwrap_or_else(|| panic!("the broker does not end:\n{}", self.log.text()));
        Ended { code: status.code(), log: self.log.rest() }
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        let (_, _) = (self.child.kill(), self.child.wait());
        kept::keep_directory(&self.data);
        if std::thread::panicking() {
            let text = self.log.text();
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(LINES_SHOWN);
            eprintln!("--- the broker said:\n{}\n---", lines[from..].join("\n"));
        }
    }
}

fn spawn(data: &Path, start: &Start) -> (Child, Log) {
    let program = env!("CARGO_BIN_EXE_fluxmq");
    let mut command = match start.open_files {
        None => Command::new(program),
        Some(count) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {count} && exec \"$0\" \"$@\""), program]);
            shell
        }
    };
    if !start.listen.is_empty() {
        command.args(["--mqtt", &start.listen]);
    }
    if let Some(config) = &start.config {
        command.arg("--config").arg(config);
    }
    let mut child = command
        .arg("--data")
        .arg(data)
        .envs(start.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    (child, Log::follow(stderr))
}

/// Waits for the end of a process, `None` when the deadline comes first.
pub fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the address in the line that says where the broker listens.
fn listening(line: &str) -> Option<String> {
    let (_, fields) = line.split_once(" listening ")?;
    let address = fields.split_whitespace().find_map(|field| field.strip_prefix("address="))?;
    Some(address.to_owned())
}

/// Standard error of a process, read by a thread so that the process never waits for us.
struct Log {
    lines: Receiver<()>,
    text: Arc<Mutex<String>>,
    seen: usize,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    fn follow(source: impl std::io::Read + Send + 'static) -> Log {
        let (sender, lines) = channel();
        let text = Arc::new(Mutex::new(String::new()));
        let kept = text.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                let mut text = kept.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
                drop(text);
                let _ = sender.send(());
            }
        });
        Log { lines, text, seen: 0, reader: Some(reader) }
    }

    /// Waits for the next line.
    fn next(&mut self, deadline: Instant) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
        let text = self.text();
        let line = text.lines().nth(self.seen).expect("announced after it was written");
        self.seen += 1;
        Ok(line.to_owned())
    }

    /// Everything up to the end of the stream: the process has ended.
    fn rest(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }
}
