//! The one binary: servers, a development mode and the tools around them.
//!
//! Layout: `cli.rs` has every command and option as data, `settings.rs` reads configuration files, `servers.rs` and `dev.rs` run servers,
//! `send.rs`, `tail.rs`, `topic.rs`, `dlq.rs` and `bench.rs` are clients, `check_store.rs` looks at a stopped store. `printer.rs` alone writes for people. The work itself is in
//! the crates beside this one; here is nothing that a library user would need.

mod bench;
mod check_store;
mod cli;
mod connect;
mod dev;
mod dlq;
mod host;
mod lag;
mod printer;
mod send;
mod servers;
mod settings;
mod tail;
mod text;
mod topic;

use clap::Parser;
use cli::Command;
use std::fmt::Display;
use std::process::ExitCode;

/// Why a command did not do its work: one message, then exit code 1.
pub struct Failure(String);

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments = cli::Cli::parse_from(cli::with_command_of_name(arguments));
    let done = match arguments.command {
        Command::Dev(arguments) => dev::run(arguments),
        Command::Namesrv(arguments) => servers::namesrv(&arguments),
        Command::Broker(arguments) => servers::broker(arguments),
        Command::Proxy(arguments) => servers::proxy(arguments),
        Command::Send(arguments) => send::run(arguments),
        Command::Tail(arguments) => tail::run(arguments),
        Command::Topic(command) => topic::run(command),
        Command::Dlq(command) => dlq::run(command),
        Command::Lag(arguments) => lag::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::CheckStore(arguments) => return check_store::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            printer::error(&format!("ferromq: {message}"));
            ExitCode::FAILURE
        }
    }
}
