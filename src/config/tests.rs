//! What a configuration accepts, refuses and says.

use std::collections::BTreeSet;

use super::*;

#[test]
fn no_source_at_all_is_a_working_broker_on_loopback() {
    let config = Config::load(None, std::iter::empty(), &Overrides::default()).unwrap();

    assert_eq!(config, Config::default());
    assert_eq!(config.data_dir, PathBuf::from("./data"));
    let listeners = config.listeners.sockets();
    let listeners: Vec<_> =
        listeners.map(|(path, socket)| format!("{path} {}", socket.address)).collect();
    assert_eq!(
        listeners,
        [
            "listeners.mqtt.0 127.0.0.1:1883",
            "listeners.mqtt.1 [::1]:1883",
            "listeners.ws.0 127.0.0.1:8083",
            "listeners.ws.1 [::1]:8083",
            "listeners.amqp.0 127.0.0.1:5672",
            "listeners.amqp.1 [::1]:5672",
        ]
    );
    assert_eq!(config.authentication.anonymous, Anonymous::Auto);
    assert_eq!(config.limits.packet_bytes_max, 1_048_576);
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file = "data_dir: /file\nlimits: { inflight_max: 8, packet_bytes_max: 2 MiB }\n\
                log: { level: warn, format: json }";
    let variables = [("FLUXMQ_LIMITS__INFLIGHT_MAX", "9"), ("FLUXMQ_LOG__LEVEL", "debug")];
    let overrides = Overrides { log_level: Some("trace".to_owned()), ..Overrides::default() };

    let config = load(file, &variables, &overrides).unwrap();

    assert_eq!(config.data_dir, PathBuf::from("/file"));
    assert_eq!(config.limits.packet_bytes_max, 2 << 20);
    assert_eq!(config.limits.inflight_max, 9);
    assert_eq!(config.log, Log { level: "trace".to_owned(), format: LogFormat::Json });
    assert_eq!(config.limits.connect_timeout_s, 10);
}

#[test]
fn every_wrong_field_is_named_at_once_with_its_place_and_a_remedy() {
    let file = "\
data_dirr: /x
listeners:
  mqtt:
    - address: localhost:1883
authentication: { anonymous: always }
partitions: { data: 2000 }
storage:
  segment_bytes_max: 70000
limits:
  inflight_max: 70000
  conections_max: 5
  connect_timeout_s: -1
  auto_create: false
queues: 7
log: { format: [text] }
";
    let variables =
        [("FLUXMQ_LOG__LEVEL", "inof"), ("FLUXMQ_LIMITS_INFLIGHT_MAX", "3"), ("FLUXMQ_X__Y", "1")];

    let error = load(file, &variables, &Overrides::default()).unwrap_err();

    let said: BTreeSet<String> =
        error.to_string().lines().map(|line| line.replace(&path_of(&error), "F")).collect();
    let expected = [
        "FLUXMQ_LIMITS_INFLIGHT_MAX: no field has this name; did you mean 'FLUXMQ_LIMITS__INFLIGHT_MAX'?",
        "FLUXMQ_LOG__LEVEL: log.level: 'inof' is not a level; write off, error, warn, info, debug or trace, and target=level after commas",
        "FLUXMQ_X__Y: x: unknown key; known here: data_dir, listeners, authentication, authorization, partitions, shards, storage, history, limits, virtual_hosts, queues, statistics, log",
        "F:1:1: data_dirr: unknown key; did you mean 'data_dir'?",
        "F:4:7: listeners.mqtt.0.address: 'localhost:1883' is not an IP address with a port; write an address such as 127.0.0.1:1883, 0.0.0.0:1883 or [::]:1883",
        "F:5:19: authentication.anonymous: 'always' is not known here; write unsafe_always to let everybody in who reaches a listener",
        "F:6:15: partitions.data: 2000 is too large; write 0 to 1024",
        "F:8:3: storage.segment_bytes_max: 70000 holds less than two of the largest packets; write at least 2097152 or lower limits.packet_bytes_max",
        "storage.segment_bytes_min: 4194304 is above storage.segment_bytes_max; write at most 70000",
        "F:10:3: limits.inflight_max: 70000 is too large; write 1 to 65535",
        "F:11:3: limits.conections_max: unknown key; did you mean 'connections_max'?",
        "F:12:3: limits.connect_timeout_s: '-1' is not a whole number; write 1 to 300",
        "F:13:3: limits.auto_create: unknown key; did you mean 'queues.auto_create'?",
        "F:14:1: queues: '7' is a value, not a section; write its fields below it",
        "F:15:8: log.format: takes one value; write text or json",
    ];
    assert_eq!(said, expected.iter().map(|line| (*line).to_owned()).collect());
}

#[test]
fn a_file_expands_variables_with_defaults() {
    let file = "data_dir: ${DATA:-/var/lib/fluxmq}\nlimits:\n  inflight_max: ${INFLIGHT}";

    let config = load(file, &[("INFLIGHT", "12")], &Overrides::default()).unwrap();

    assert_eq!(config.data_dir, PathBuf::from("/var/lib/fluxmq"));
    assert_eq!(config.limits.inflight_max, 12);
}

#[test]
fn a_variable_without_value_or_default_is_refused_where_it_stands() {
    let error = load("\ndata_dir: ${NOWHERE}", &[], &Overrides::default()).unwrap_err();

    assert_eq!(error.problems.len(), 1);
    let origin = error.problems[0].origin.as_deref().unwrap();
    assert!(origin.ends_with(":2:11"), "{origin}");
    assert!(error.to_string().contains("NOWHERE"), "{error}");
}

#[test]
fn a_key_that_is_written_twice_is_refused() {
    let error = load("data_dir: a\ndata_dir: b\n", &[], &Overrides::default()).unwrap_err();

    assert!(error.to_string().contains("data_dir"), "{error}");
}

#[test]
fn an_empty_file_and_empty_sections_are_the_defaults() {
    for file in ["", "# nothing\n", "limits:\nlog: {}\n", "---\n"] {
        assert_eq!(load(file, &[], &Overrides::default()), Ok(Config::default()), "{file:?}");
    }
}

#[test]
fn a_missing_file_is_an_error_and_not_the_defaults() {
    let missing = Path::new("does/not/exist.yaml");

    let error = Config::load(Some(missing), std::iter::empty(), &Overrides::default()).unwrap_err();

    assert_eq!(error.problems[0].origin.as_deref(), Some("does/not/exist.yaml"));
}

#[test]
fn listeners_come_from_variables_by_number_or_as_a_list() {
    let by_number = [
        ("FLUXMQ_LISTENERS__MQTT__0__ADDRESS", "127.0.0.1:1"),
        ("FLUXMQ_LISTENERS__MQTT__1__ADDRESS", "[::1]:2"),
    ];
    let as_list = [("FLUXMQ_LISTENERS__MQTT", "[{address: '127.0.0.1:1'}, {address: '[::1]:2'}]")];

    let first = load("", &by_number, &Overrides::default()).unwrap();
    let second = load("", &as_list, &Overrides::default()).unwrap();

    let addresses: Vec<String> =
        first.listeners.mqtt.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:1", "[::1]:2"]);
    assert_eq!(first, second);
}

#[test]
fn a_gap_in_a_list_is_refused() {
    let variables = [("FLUXMQ_LISTENERS__MQTT__3__ADDRESS", "127.0.0.1:1")];

    let error = load("", &variables, &Overrides::default()).unwrap_err();

    assert!(error.to_string().contains("without gaps"), "{error}");
}

#[test]
fn mqtt_flags_replace_the_whole_list() {
    let file = "listeners: { mqtt: [{address: '127.0.0.1:1'}, {address: '127.0.0.1:2'}] }";
    let overrides =
        Overrides { mqtt_addresses: vec!["0.0.0.0:9".to_owned()], ..Overrides::default() };

    let config = load(file, &[], &overrides).unwrap();

    assert_eq!(config.listeners.mqtt, [Listener::at("0.0.0.0:9".parse().unwrap())]);
}

/// Whoever says where one kind listens starts nothing else by default: two brokers of one machine meet on no port.
#[test]
fn a_flag_replaces_the_default_listeners_of_all_kinds() {
    let address = vec!["127.0.0.1:9".to_owned()];
    let mqtt = Overrides { mqtt_addresses: address.clone(), ..Overrides::default() };
    let amqp = Overrides { amqp_addresses: address, ..Overrides::default() };
    let other = vec!["127.0.0.1:8".to_owned()];
    let both = Overrides { amqp_addresses: other, ..mqtt.clone() };

    let kinds = |overrides: &Overrides| {
        let listeners = load("", &[], overrides).unwrap().listeners;
        let sockets = listeners.sockets().map(|(path, _)| path);
        sockets.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kinds(&mqtt), "listeners.mqtt.0");
    assert_eq!(kinds(&amqp), "listeners.amqp.0");
    assert_eq!(kinds(&both), "listeners.mqtt.0 listeners.amqp.0");
}

#[test]
fn variables_that_a_kubernetes_service_named_fluxmq_sets_are_not_ours() {
    let variables = [
        ("FLUXMQ_SERVICE_HOST", "10.0.0.1"),
        ("FLUXMQ_SERVICE_PORT_MQTT", "1883"),
        ("FLUXMQ_PORT_1883_TCP_ADDR", "10.0.0.1"),
    ];

    assert_eq!(load("", &variables, &Overrides::default()), Ok(Config::default()));
}

#[test]
fn the_effective_configuration_reads_back_to_itself() {
    let data_dir = PathBuf::from("/a \"b\" ${HOME}/#c");
    let mut config = Config { data_dir, ..Config::default() };
    config.listeners.mqtt.push(Listener::at("[::]:1884".parse().unwrap()));
    config.limits.packet_bytes_max = 5000;
    config.limits.connect_packet_bytes_max = 5000;
    config.queues.auto_create = false;

    let again = load(&config.to_yaml(), &[], &Overrides::default());

    assert_eq!(again, Ok(config));
}

#[test]
fn validate_finds_what_code_put_there() {
    let mut config = Config::default();
    config.partitions.data = 2000;
    config.limits.deliveries_buffered_max = 1;
    config.limits.connect_packet_bytes_max = 2 << 20;
    config.listeners.mqtt = vec![Listener::default(), Listener::default()];

    let error = config.validate().unwrap_err();

    let paths: Vec<&str> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "partitions.data",
            "listeners.mqtt.1.address",
            "history.bytes_max",
            "limits.connect_packet_bytes_max",
            "limits.deliveries_buffered_max"
        ]
    );
}

#[test]
fn history_needs_two_segments_of_each_partition_or_no_limit() {
    let with = |bytes_max: u64| {
        let mut config = Config::default();
        config.partitions.data = 3;
        config.storage.segment_bytes_max = 64 << 20;
        config.history.bytes_max = bytes_max;
        config.validate().map_err(|error| error.problems[0].to_string())
    };

    let least = 3 * 2 * (64 << 20);
    assert_eq!((with(0), with(least)), (Ok(()), Ok(())));
    let error = with(least - 1).unwrap_err();
    assert!(error.contains("history.bytes_max") && error.contains(&least.to_string()), "{error}");
}

#[test]
fn topics_are_history_for_a_shorter_time_than_others_and_not_for_a_longer_one() {
    let with = |age_max_s: u32, topics: u32| {
        let text = format!(
            "history:\n  age_max_s: {age_max_s}\n  topics:\n    - filter: a/#\n      age_max_s: {topics}\n"
        );
        load(&text, &[], &Overrides::default()).map_err(|error| error.problems[0].to_string())
    };
    let read = with(60, 59).unwrap().history.topics;
    assert_eq!(read, [HistoryTopics { filter: "a/#".to_owned(), age_max_s: 59 }]);
    assert!(with(0, 100_000).is_ok(), "everything else is kept for ever");
    let error = with(60, 60).unwrap_err();
    assert!(error.contains("history.topics.0.age_max_s") && error.contains("stream"), "{error}");
    let error = with(60, 0).unwrap_err();
    assert!(error.contains("history.topics.0.age_max_s"), "{error}");
}

#[test]
fn the_documentation_has_every_field_with_its_default_and_what_it_accepts() {
    let page = include_str!("../../docs/operating/configuration.md");

    for field in described() {
        let row = format!("| `{}` | `{}` | {} |", field.path, field.default, field.accepts);
        assert!(page.contains(&row), "docs/operating/configuration.md lacks this row:\n{row}");
    }
}

#[test]
fn the_example_in_the_documentation_is_a_valid_file() {
    let page = include_str!("../../docs/operating/configuration.md");
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();

    let config = load(example, &[], &Overrides::default()).unwrap();

    assert_ne!(config, Config::default());
}

fn load(
    file: &str,
    variables: &[(&str, &str)],
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fluxmq.yaml");
    std::fs::write(&path, file).unwrap();
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Config::load(Some(&path), variables, overrides)
}

/// Returns the file's path as the problems of the file begin with it.
fn path_of(error: &ConfigError) -> String {
    let mut origins = error.problems.iter().filter_map(|problem| problem.origin.as_deref());
    let origin = origins.find(|origin| origin.contains(".yaml")).unwrap_or_default();
    origin.split(".yaml").next().map(|stem| format!("{stem}.yaml")).unwrap_or_default()
}
