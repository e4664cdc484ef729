//! The configuration: one typed tree with embedded defaults, complete before anything starts.
//!
//! Precedence: flags, then `FLUXMQ_SECTION__FIELD` variables, then the YAML file, then defaults. Every wrong field is named at
//! once, with what to write instead. Reads one file and nothing else: addresses are not bound, directories not created.

mod error;
mod history;
mod listeners;
mod queues;
mod sections;
mod setting;
mod source;
mod validate;
mod walk;

use std::path::{Path, PathBuf};

pub use error::{ConfigError, FieldProblem};
pub use history::{History, HistoryTopics};
pub use listeners::{
    AmqpListener, ClientCertificates, Listener, Listeners, SecureAmqpListener, SecureWebListener,
    Tls, TlsListener, TlsVersion, Web, WebListener,
};
pub use queues::{DeclaredQueue, OverflowPolicy, QueueLifetime, QueueStart, QueueType, Queues};
pub use sections::{
    Anonymous, Authentication, Authorization, DeniedPublish, DeniedSubscribe, Durability, Limits,
    Log, LogFormat, NameSpace, Partitions, Shards, Statistics, Storage, TlsIdentity,
};
use setting::Location;
use walk::{Checker, Printer, Reader, Section, Walk, paths};
pub use walk::{FieldDescription, described};

/// Everything that can be configured. `Config::default()` is a working broker on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where everything that must survive is kept; created at first start. Default `./data`.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub listeners: Listeners,
    /// Who may connect.
    pub authentication: Authentication,
    /// What clients may do.
    pub authorization: Authorization,
    /// How the log is divided.
    pub partitions: Partitions,
    /// The threads that own partitions.
    pub shards: Shards,
    /// Segments, memory and disk space.
    pub storage: Storage,
    /// What is kept of ordinary topics.
    pub history: History,
    /// The bounds that back-pressure and refusals come from.
    pub limits: Limits,
    /// Name spaces of AMQP beside `/`, which is always there. Default: none.
    pub virtual_hosts: Vec<NameSpace>,
    /// What queues do unless they say otherwise.
    pub queues: Queues,
    /// What the broker counts of itself.
    pub statistics: Statistics,
    /// What the broker says about itself.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: PathBuf::from("./data"),
            listeners: Listeners::default(),
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            partitions: Partitions::default(),
            shards: Shards::default(),
            storage: Storage::default(),
            history: History::default(),
            limits: Limits::default(),
            virtual_hosts: Vec::new(),
            queues: Queues::default(),
            statistics: Statistics::default(),
            log: Log::default(),
        }
    }
}

/// What the command line says; it wins over everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--data`: replaces `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `--mqtt`, any number of times: replaces `listeners.mqtt` as a whole, and the other kinds' defaults.
    pub mqtt_addresses: Vec<String>,
    /// `--amqp`, the same for `listeners.amqp`.
    pub amqp_addresses: Vec<String>,
    /// `--log-level`: replaces `log.level`.
    pub log_level: Option<String>,
}

impl Config {
    /// Reads the file if there is one, lays the environment and the overrides over it, and validates the result.
    ///
    /// The error lists everything that is wrong in all three sources. Variables of others that merely begin with `FLUXMQ_`
    /// (Kubernetes sets `FLUXMQ_SERVICE_HOST` beside a service of that name) are ignored unless they look like a slip.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Config, ConfigError> {
        let environment: Vec<(String, String)> = environment.collect();
        let mut problems = Vec::new();
        let mut tree = match file {
            Some(path) => source::read_file(path, &environment).unwrap_or_else(|problem| {
                problems.push(problem);
                source::Node::empty_map()
            }),
            None => source::Node::empty_map(),
        };
        source::lay_environment_over(&mut tree, &environment, &paths(), &mut problems);
        source::lay_overrides_over(&mut tree, overrides);

        let mut config = Config::default();
        if tree.has_entries("listeners") {
            config.listeners = Listeners::none();
        }
        let mut reader = Reader::new(tree);
        config.fields(&mut reader);
        let origins = reader.finish(&mut problems);
        let unread: Vec<String> = problems.iter().map(|problem| problem.path.clone()).collect();
        for mut problem in config.problems() {
            // What could not be read kept its default: saying more about it would only confuse.
            if !unread.contains(&problem.path) {
                problem.origin = origins.get(&problem.path).cloned();
                problems.push(problem);
            }
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }

    /// Checks every field's bounds and the rules between fields; the error lists all that are broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    /// Returns the whole configuration as YAML that [`Config::load`] reads back to the same values.
    pub fn to_yaml(&self) -> String {
        let mut printer = Printer::default();
        self.clone().fields(&mut printer);
        printer.finish()
    }

    /// Returns the least that `history.bytes_max` may be with so many data partitions, unless it is 0. Whole segments go, and never
    /// the newest: with fewer than two of each partition there would be no telling how much is kept.
    pub fn history_bytes_least(&self, partitions: u16) -> u64 {
        self.storage.segment_bytes_max.saturating_mul(2 * u64::from(partitions))
    }

    fn problems(&self) -> Vec<FieldProblem> {
        let mut checker = Checker::default();
        self.clone().fields(&mut checker);
        let mut problems = checker.finish();
        validate::between_fields(self, &mut problems);
        problems
    }
}

impl Section for Config {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Config {
            data_dir,
            listeners,
            authentication,
            authorization,
            partitions,
            shards,
            storage,
            history,
            limits,
            virtual_hosts,
            queues,
            statistics,
            log,
        } = self;
        walk.leaf("data_dir", &mut Location(data_dir));
        walk.section("listeners", listeners);
        walk.section("authentication", authentication);
        walk.section("authorization", authorization);
        walk.section("partitions", partitions);
        walk.section("shards", shards);
        walk.section("storage", storage);
        walk.section("history", history);
        walk.section("limits", limits);
        walk.list("virtual_hosts", virtual_hosts);
        walk.section("queues", queues);
        walk.section("statistics", statistics);
        walk.section("log", log);
    }
}

#[cfg(test)]
mod tests;
