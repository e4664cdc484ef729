//! The broker: arguments and configuration in, a running server out.
//!
//! Exit codes: 0 stopped as asked, 1 failed, 2 the arguments or the configuration are wrong.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use cli::{Arguments, banner};
use fluxmq::config::Config;
use fluxmq::server::Server;
use fluxmq::telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config =
        match Config::load(arguments.config.as_deref(), environment, &arguments.overrides()) {
            Ok(config) => config,
            Err(error) => {
                eprintln!("fluxmq: the configuration is wrong:\n{error}");
                return ExitCode::from(2);
            }
        };
    if arguments.check {
        return match std::io::stdout().write_all(config.to_yaml().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if let Err(error) = telemetry::install(&config.log) {
        eprintln!("fluxmq: {error}");
        return ExitCode::from(2);
    }
    raise_open_files();
    for line in banner(&config).lines() {
        tracing::info!("{line}");
    }
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the broker until it is told to stop.
fn start(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::start(&config)?;
        // Before anybody is told that there is a broker: whoever reads that line may ask it to stop.
        let (stop, reload) = (told_to_stop(), told_to_reload());
        for (address, protocol) in server.addresses()? {
            tracing::info!(%address, protocol, "listening");
        }
        server.run(stop, reload).await
    })
}

/// Takes as many open files as the system lets a process have: what is usual for a shell is little for a broker.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::info!(%error, ?current, "the limit of open files stays as it is");
    }
}

/// Listens for SIGHUP from here on; every one of them is a change.
fn told_to_reload() -> tokio::sync::watch::Receiver<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (told, receiver) = tokio::sync::watch::channel(());
    let hangup = signal(SignalKind::hangup());
    tokio::spawn(async move {
        let Ok(mut hangup) = hangup else {
            tracing::warn!(
                "cannot listen for SIGHUP: certificates are only reloaded when their files change"
            );
            return;
        };
        while hangup.recv().await.is_some() {
            told.send_replace(());
        }
    });
    receiver
}

/// Listens for signals from here on; completes when the process is asked to end.
fn told_to_stop() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
            tracing::warn!("cannot listen for signals: the broker only ends when it is killed");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
