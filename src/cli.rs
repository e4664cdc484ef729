//! The broker's command line, and what it says when it starts.

use std::path::PathBuf;

use clap::Parser;
use fluxmq::config::{Anonymous, Config, Durability, Overrides};

/// FluxMQ: a storage-centric, durable log broker.
///
/// Without arguments it listens on this machine only, for MQTT on port 1883 and AMQP on 5672, and keeps its data in ./data.
#[derive(Debug, Parser)]
#[command(name = "fluxmq", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// YAML file to read; without it, embedded defaults and FLUXMQ_… variables.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for everything that must survive [data_dir].
    #[arg(short, long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Listens for MQTT here, and nowhere by default; repeat for several [listeners.mqtt].
    #[arg(short, long, value_name = "ADDRESS")]
    pub mqtt: Vec<String>,
    /// Listens for AMQP 0.9.1 here, and nowhere by default; repeat for several [listeners.amqp].
    #[arg(long, value_name = "ADDRESS")]
    pub amqp: Vec<String>,
    /// off, error, warn, info, debug, trace, or a filter such as info,fluxmq::raft=debug [log.level].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Checks the configuration, prints what is in effect as YAML, and exits.
    #[arg(long)]
    pub check: bool,
}

const AFTER_HELP: &str = "\
Flags win over FLUXMQ_SECTION__FIELD variables, those over the file, the file over defaults.

Exit codes: 0 stopped as asked · 1 failed · 2 the arguments or the configuration are wrong

Examples:
  fluxmq                                    a broker for this machine
  fluxmq --data /var/lib/fluxmq --mqtt 0.0.0.0:1883 --amqp 0.0.0.0:5672
  fluxmq --config fluxmq.yaml --check       what would be used
  FLUXMQ_LIMITS__INFLIGHT_MAX=128 fluxmq    one field";

impl Arguments {
    /// Returns what the arguments say about the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            data_dir: self.data.clone(),
            mqtt_addresses: self.mqtt.clone(),
            amqp_addresses: self.amqp.clone(),
            log_level: self.log_level.clone(),
        }
    }
}

/// Says where data is, who can reach the broker, and what a confirmed publish has survived; one line each, no end of line.
pub fn banner(config: &Config) -> String {
    let sockets = || config.listeners.sockets();
    let beyond_loopback = sockets().any(|(_, socket)| !socket.address.ip().is_loopback());
    let listeners = sockets().map(|(path, socket)| {
        let kind = path.split('.').nth(1).unwrap_or_default();
        format!("{kind}://{}", socket.address)
    });
    let has_users = config.authentication.users_file.is_some();
    let anonymous = match config.authentication.anonymous {
        Anonymous::Auto if has_users => "refused: there is a users file",
        Anonymous::Auto | Anonymous::Loopback if beyond_loopback => {
            "from this machine only; clients elsewhere are refused, though listeners are reachable"
        }
        Anonymous::Auto | Anonymous::Loopback => "from this machine only",
        Anonymous::UnsafeAlways if beyond_loopback => {
            "UNSAFE: everybody who reaches a listener, without asking who they are"
        }
        Anonymous::UnsafeAlways => "everybody who reaches a listener (all are on loopback)",
        Anonymous::Never => "refused everywhere",
    };
    let durability = match config.storage.durability {
        Durability::QuorumSync => "what is confirmed is flushed to disk",
        Durability::QuorumMem => {
            "UNSAFE: what is confirmed is in memory, and flushed within 10 ms; a power cut loses the last of it"
        }
    };
    [
        format!("FluxMQ {}", env!("CARGO_PKG_VERSION")),
        format!("data: {}", config.data_dir.display()),
        format!("listeners: {}", listeners.collect::<Vec<_>>().join(", ")),
        format!("anonymous clients: {anonymous}"),
        format!("durability: {durability}"),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use fluxmq::config::Listener;

    use super::*;

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn arguments_become_overrides() {
        let arguments = Arguments::parse_from([
            "fluxmq",
            "--data",
            "/d",
            "--mqtt",
            "127.0.0.1:1",
            "--mqtt",
            "127.0.0.1:2",
            "--amqp",
            "127.0.0.1:3",
            "--log-level",
            "debug",
        ]);

        assert_eq!(
            arguments.overrides(),
            Overrides {
                data_dir: Some(PathBuf::from("/d")),
                mqtt_addresses: vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()],
                amqp_addresses: vec!["127.0.0.1:3".to_owned()],
                log_level: Some("debug".to_owned()),
            }
        );
        assert!(!arguments.check);
    }

    #[test]
    fn an_unknown_flag_and_a_stray_argument_are_refused() {
        assert!(Arguments::try_parse_from(["fluxmq", "--prot", "1"]).is_err());
        assert!(Arguments::try_parse_from(["fluxmq", "fluxmq.yaml"]).is_err());
    }

    #[test]
    fn the_banner_of_the_defaults_says_where_who_and_how_sure() {
        let expected = format!(
            "FluxMQ {}\n\
             data: ./data\n\
             listeners: mqtt://127.0.0.1:1883, mqtt://[::1]:1883, ws://127.0.0.1:8083, ws://[::1]:8083, \
             amqp://127.0.0.1:5672, amqp://[::1]:5672\n\
             anonymous clients: from this machine only\n\
             durability: what is confirmed is flushed to disk",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(banner(&Config::default()), expected);
    }

    #[test]
    fn the_banner_names_what_is_unsafe() {
        let mut config = Config::default();
        config.listeners.mqtt.push(Listener::at("0.0.0.0:1884".parse().unwrap()));
        let reachable = banner(&config);
        config.authentication.anonymous = Anonymous::UnsafeAlways;
        let unsafe_everywhere = banner(&config);

        assert!(reachable.contains("mqtt://[::1]:1883, mqtt://0.0.0.0:1884"), "{reachable}");
        assert!(reachable.contains("clients elsewhere are refused"), "{reachable}");
        assert!(!reachable.contains("UNSAFE"), "{reachable}");
        assert_eq!(unsafe_everywhere.matches("UNSAFE").count(), 1, "{unsafe_everywhere}");
        config.storage.durability = Durability::QuorumMem;
        assert!(banner(&config).contains("durability: UNSAFE: "), "{}", banner(&config));
    }
}
