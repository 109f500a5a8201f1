//! The command line. It holds no rules: every command is a request to the HTTP API, of the daemon
//! if one runs, else of a router in this process over the same home directory.

mod audit;
mod backup;
mod bundle;
mod client;
mod events;
mod exec;
mod grant;
mod job;
mod listener;
mod node;
mod output;
mod plugin;
mod policy;
mod project;
mod run;
mod serve;
mod simulate;
mod system;
mod token;
mod trigger;

use crate::daemon::log_to_stderr;
use crate::invalid::Invalid;
use crate::settings::LogFormat;
use crate::trigger::Zone;
use clap::{CommandFactory, Parser, Subcommand};
use client::Client;
use output::Output;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run untrusted WebAssembly tasks on a schedule, safely.
#[derive(Debug, Parser)]
#[command(name = "sandclock", max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// Where jobs, plugins and history are kept.
    #[arg(long, global = true, env = "SANDCLOCK_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// A database to keep them in instead, shared with other nodes, such as
    /// `postgres://user:password@host/database`. The variable keeps the password out of `ps`.
    #[arg(long, global = true, env = "SANDCLOCK_STORE", value_name = "URL", hide_env_values = true)]
    store: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Print the version.
    #[arg(short = 'V', long)]
    version: bool,
    /// With --version: the time-zone data in use too.
    #[arg(long, requires = "version")]
    verbose: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// Reads the arguments of this process, or prints help and ends it.
    pub fn read() -> Self {
        // Reading an argument may read a time zone.
        crate::zoneinfo::use_newer();
        Cli::parse()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, build, register and list plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Call a function once, now, in the sandbox.
    Exec(exec::ExecArgs),
    /// Add jobs, look at them, pause, run and remove them.
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Look at runs and what they wrote; cancel them.
    #[command(subcommand)]
    Run(run::RunCommand),
    /// Tell webhooks and plugins of events.
    #[command(subcommand)]
    Listener(listener::ListenerCommand),
    /// Look at the nodes that share a store.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Store secrets that plugins can be granted.
    #[command(subcommand)]
    Secret(grant::SecretCommand),
    /// Make and remove tokens for the API over TCP.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print an address that signs a browser in to the web page.
    Open,
    /// Show who did what.
    Audit(audit::AuditArgs),
    /// Explain triggers.
    #[command(subcommand)]
    Trigger(trigger::TriggerCommand),
    /// Show what happened, and what happens.
    Events(events::EventsArgs),
    /// Show what would run, with the real scheduler on a virtual clock.
    Simulate(simulate::SimulateArgs),
    /// Write plugins and jobs as one file.
    Export(bundle::ExportArgs),
    /// Read plugins and jobs from a file, checked one by one.
    Import(bundle::ImportArgs),
    /// Make plugins and jobs what a file declares, showing a plan first.
    Apply(bundle::ApplyArgs),
    /// Run the daemon: fire jobs until stopped.
    Serve(serve::ServeArgs),
    /// Have the daemon fire nothing until it is resumed; runs that go on are left to end.
    Pause,
    /// Have the daemon fire again.
    Resume,
    /// Say what runs where.
    Status,
    /// Say what keeps plugins in on this machine, each thing tried.
    Doctor,
    /// Write everything that is kept as one file, also while the daemon works.
    Backup(backup::BackupArgs),
    /// Begin a home from a backup.
    Restore(backup::RestoreArgs),
    /// Have the daemon let runs end and stop.
    Shutdown,
    /// Start anew from the last automatic export when the database is damaged; the damaged files
    /// are kept.
    Recover,
    /// Print shell completions.
    Completions { shell: clap_complete::Shell },
}

/// Why a command failed: its exit code and one line for the user.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// The command could not do what it was asked.
    fn failed(text: impl Into<String>) -> Self {
        Failure { code: 1, text: text.into() }
    }
}

/// A bad value on the command line is a usage error.
impl From<Invalid> for Failure {
    fn from(error: Invalid) -> Self {
        Failure { code: 2, text: error.to_string() }
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Invalid(invalid) => invalid.into(),
            error => Failure::failed(error.chain()),
        }
    }
}

type Done<T = ExitCode> = Result<T, Failure>;

/// Prints a failure as one line and gives its exit code.
pub fn fail(failure: &Failure) -> ExitCode {
    eprintln!("sandclock: {}", crate::invalid::printable(&failure.text.replace('\n', " "), 4000));
    ExitCode::from(failure.code)
}

/// Runs one command to its end.
pub fn run(cli: Cli) -> Done {
    quiet_store_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::failed(format!("cannot start threads: {e}")))?;
    let done = runtime.block_on(dispatch(cli));
    // A call that a guest still holds up must not hold up the exit.
    runtime.shutdown_background();
    done
}

async fn dispatch(cli: Cli) -> Done {
    let output = Output { json: cli.json };
    if cli.version {
        println!("sandclock {}", env!("CARGO_PKG_VERSION"));
        if cli.verbose {
            println!("time zones {}", Zone::database());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let store = cli.store.filter(|url| !url.is_empty());
    let Some(command) = cli.command else {
        return Err(Failure { code: 2, text: "no command is given (`sandclock --help` lists them)".to_owned() });
    };
    let home = || -> Done<PathBuf> {
        let home = cli.home.clone().or_else(crate::config::default_home);
        home.ok_or_else(|| Failure::failed("there is no home directory (give one with --home)"))
    };
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sandclock", &mut script);
            // Whoever read it may have gone.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), &script);
            Ok(ExitCode::SUCCESS)
        }
        Command::Plugin(plugin::PluginCommand::New(args)) => project::new(&args, output),
        Command::Plugin(plugin::PluginCommand::Build(args)) => project::build(&args, output),
        Command::Serve(args) => serve::serve(home()?, store, args).await,
        Command::Recover => system::recover(&home()?, output),
        Command::Restore(args) => backup::restore(&home()?, &args, output),
        command => {
            let wanted = std::env::var("SANDCLOCK_LOG").unwrap_or_else(|_| "warn".into());
            log_to_stderr(&wanted, LogFormat::Text)?;
            let client = Client::connect(home()?, store).await?;
            let done = with_client(command, &client, output).await;
            client.close().await?;
            done
        }
    }
}

async fn with_client(command: Command, client: &Client, output: Output) -> Done {
    match command {
        Command::Plugin(command) => plugin::run(command, client, output).await,
        Command::Exec(args) => exec::run(args, client, output).await,
        Command::Job(command) => job::run(command, client, output).await,
        Command::Run(command) => run::run(command, client, output).await,
        Command::Listener(command) => listener::run(command, client, output).await,
        Command::Trigger(command) => trigger::run(command, client, output).await,
        Command::Simulate(args) => simulate::run(args, client, output).await,
        Command::Export(args) => bundle::export(args, client).await,
        Command::Import(args) => bundle::import(args, client, output).await,
        Command::Apply(args) => bundle::apply(args, client, output).await,
        Command::Events(args) => events::run(args, client, output).await,
        Command::Pause => system::shift(client, output, "pause").await,
        Command::Resume => system::shift(client, output, "resume").await,
        Command::Shutdown => system::shift(client, output, "shutdown").await,
        Command::Token(command) => token::run(command, client, output).await,
        Command::Open => token::open(client, output).await,
        Command::Audit(args) => audit::run(args, client, output).await,
        Command::Backup(args) => backup::backup(args, client, output).await,
        Command::Node(command) => node::run(command, client, output).await,
        Command::Secret(command) => grant::secret(command, client, output).await,
        Command::Doctor => system::doctor(client, output).await,
        Command::Status => system::status(client, output).await,
        Command::Serve(_) | Command::Recover | Command::Restore(_) | Command::Completions { .. } => {
            unreachable!("handled without a client")
        }
    }
}

/// A damaged database makes its library panic; that becomes a diagnosis, so the panic's own text
/// would only frighten. A closed pipe is no bug either.
fn quiet_store_panics() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Whoever read our output has gone, as in `sandclock run list | head -1`.
        if info.to_string().contains("failed printing to stdout") {
            std::process::exit(0);
        }
        if std::thread::current().name() != Some(crate::store::OPENER_THREAD) {
            loud(info);
        }
    }));
}
