//! Publishes, subscribes and measures over MQTT; everything is in `fluxmq::ctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    fluxmq::ctl::main(std::env::args_os())
}
