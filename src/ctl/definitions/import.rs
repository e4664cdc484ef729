//! Making what a file says: one request after the other, on one connection.

use std::io::Write;

use serde_json::json;

use super::Import;
use super::file::Definitions;
use super::plan::{Step, plan};
use super::report::{Entry, Outcome, Summary};
use super::standing::Standing;
use crate::ctl::error::CtlError;
use crate::ctl::manage::Asking;

/// Does it, and prints what became of each object.
pub(super) async fn import(
    import: &Import,
    definitions: Definitions,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let mut asking = Asking::connect(&import.connection).await?;
    let standing = Standing::ask(&mut asking).await?;
    let mut entries = Vec::new();
    for Step { mut entry, request } in plan(definitions, &standing, &import.without) {
        if let Some((address, body)) = request.filter(|_| !import.dry_run) {
            match asking.ask(&address, &body).await {
                Ok(_) => {}
                Err(CtlError::Refused { said, .. }) => entry.outcome = Outcome::Refused(said),
                Err(CtlError::Request(error)) => {
                    entry.outcome = Outcome::Refused(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        print(&entry, json, output).map_err(CtlError::Output)?;
        entries.push(entry);
    }
    asking.end().await?;
    let (summary, dry_run) = (Summary::of(&entries), import.dry_run);
    let said = match (json, dry_run) {
        (true, _) => {
            writeln!(output, "{}", json!({ "summary": summary.to_json(), "dry_run": dry_run }))
        }
        (false, true) => writeln!(output, "{summary}: a dry run, nothing was done"),
        (false, false) => writeln!(output, "{summary}"),
    };
    said.map_err(CtlError::Output)?;
    match summary.not_taken() {
        0 => Ok(()),
        count => {
            let said =
                format!("{count} objects of the file are not here as it has them: see above");
            Err(CtlError::refused(said))
        }
    }
}

fn print(entry: &Entry, json: bool, output: &mut impl Write) -> std::io::Result<()> {
    match json {
        true => writeln!(output, "{}", entry.to_json()),
        false => writeln!(output, "{entry}"),
    }
}
