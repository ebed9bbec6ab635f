//! `hark log import`: reads lines as `hark log export` writes them into a data directory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use super::super::CliError;
use super::super::output::{Output, say};
use super::DirArgs;
use super::line::{self, Line};
use crate::message_log::sled::{ImportError, Importer};

/// No line is longer: a message of 1 MiB with everything in it escaped fits.
const MAX_LINE_BYTES: u64 = 8 * 1024 * 1024;

/// Read exported messages, one a line, into a log.
///
/// Messages are put at the end of their topics in the order of the lines. Their times are kept (time never goes back within
/// a topic), and so are headers, content types, who published them, producers' numbers and message ids. Offsets and epochs are
/// this log's own: cursors of where the messages came from mean nothing here. A producer whose numbers have gone on here goes on
/// from there. A folder that does not exist is made.
///
/// A line that cannot be read ends the import; what stood before it stays imported. Names of the system, and content types with
/// control characters, are refused as in a publish.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// Read these files; `-`, or nothing: standard input.
    files: Vec<PathBuf>,

    #[command(flatten)]
    dir: DirArgs,

    /// Print the summary as JSON also on a terminal.
    #[arg(long)]
    json: bool,
}

/// Why the import ended early.
enum Ended {
    /// This line cannot be read.
    BadLine(String),
    Log(ImportError),
}

pub(super) fn run(args: &ImportArgs) -> Result<(), CliError> {
    let stdin = [PathBuf::from("-")];
    let files = match args.files.is_empty() {
        true => &stdin[..],
        false => &args.files,
    };
    let mut importer = Importer::open(&args.dir.data_dir)?;
    let mut gaps = 0;
    let ended = files
        .iter()
        .try_for_each(|file| import(file, &mut importer, &mut gaps));
    let failed = |e: &ImportError| CliError::failed(e.to_string());
    if let Err(Ended::Log(e)) = &ended {
        return Err(failed(e));
    }
    let records = importer.finish().map_err(|e| failed(&e))?;
    if gaps > 0 {
        say(&format!(
            "{gaps} lines name messages that could not be exported; nothing was imported for them"
        ));
    }
    if let Err(Ended::BadLine(what)) = ended {
        let what = format!("{what}; {records} messages before it were imported, and none after it");
        return Err(CliError::failed(what));
    }
    let mut output = Output::new(args.json);
    let line = match output.json {
        true => serde_json::json!({ "imported": records, "gaps": gaps }).to_string(),
        false => format!("{records} messages imported"),
    };
    // A reader that has gone does not take it back.
    output.line(line.as_bytes())?;
    output.flush()?;
    Ok(())
}

fn import(file: &PathBuf, importer: &mut Importer, gaps: &mut u64) -> Result<(), Ended> {
    let is_stdin = file.as_os_str() == "-";
    let name = match is_stdin {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    };
    let unreadable = |e: io::Error| Ended::BadLine(format!("{name} cannot be read: {e}"));
    let mut input: Box<dyn BufRead> = match is_stdin {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(file).map_err(unreadable)?)),
    };
    let mut bytes = Vec::new();
    for number in 1_u64.. {
        bytes.clear();
        let mut limited = input.by_ref().take(MAX_LINE_BYTES + 1);
        if limited.read_until(b'\n', &mut bytes).map_err(unreadable)? == 0 {
            break;
        }
        let bad = |what: String| Ended::BadLine(format!("line {number} of {name}: {what}"));
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(bad(format!("it has more than {MAX_LINE_BYTES} bytes")));
        }
        let text = bytes.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match line::parse(text).map_err(bad)? {
            Line::Gap => *gaps += 1,
            Line::Message(read) => importer
                .add(&read.topic, read.time_ms, read.record)
                .map_err(Ended::Log)?,
        }
    }
    Ok(())
}
