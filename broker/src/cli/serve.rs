//! `hark serve`: runs the broker.

use std::io::Write;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use super::{CliError, environment};
use crate::config::Config;
use crate::logging;
use crate::server::{self, ServeError};

/// The settings of the broker.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: Config,

    /// Log this much to standard error: error, warn, info, debug, or a filter such as info,hark_broker::session=debug.
    // actix_http calls errors what peers do wrong, and does not say which peer.
    #[arg(
        long,
        env = "HARK_LOG",
        default_value = "info,actix_server=warn,actix_http=off",
        value_name = "FILTER"
    )]
    log: EnvFilter,

    /// Write the log as JSON lines.
    #[arg(long, env = "HARK_LOG_JSON")]
    log_json: bool,
}

impl ServeArgs {
    /// The settings without any flags.
    pub(super) fn from_environment() -> Self {
        #[derive(Parser)]
        #[command(name = "hark")]
        struct Alone {
            #[command(flatten)]
            args: ServeArgs,
        }
        environment::parse::<Alone>(["hark"]).args
    }
}

pub(super) fn run(args: ServeArgs) -> Result<(), CliError> {
    args.config.check().map_err(CliError::usage)?;
    logging::start(args.log, args.log_json);
    let data_dir = args.config.data_dir.display().to_string();
    let announce = move |urls: &str| announce(urls, &data_dir);
    let served = actix_web::rt::System::new().block_on(server::serve(args.config, announce));
    served.map_err(|error: ServeError| CliError::failed(error.to_string()))
}

/// The one line that says where and how. A standard output that is closed is no reason not to serve.
fn announce(urls: &str, data_dir: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let line =
        format!("hark {version} serves {urls}, keeps its log in {data_dir}; stop it with Ctrl-C\n");
    let mut out = std::io::stdout();
    if let Err(error) = out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        tracing::warn!(%error, "standard output is closed");
    }
}
